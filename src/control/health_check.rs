//! One health check of one replica: does it live, and is its model loaded? And, where it is wanted, does it generate?
//!
//! First the engine's health path, then `GET /v1/models`, which must name the model. vLLM and SGLang list the names that
//! they answer to. llama.cpp's server answers with the one model that it loaded, whatever name a call has, and lists it
//! by its file or an alias; there the list must only not be empty. A server of another kind ("openai") has no health path
//! unless the configuration names one: its list of models is its sign of life.
//!
//! A pool whose clients show their own keys leaves the edge without one. A 401 or 403 says nothing there but that
//! somebody is at home, and no call is made.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use super::line::{Connections, Line, Purpose, Question, Reply};
use crate::config::Health;
use crate::domain::ask::Endpoint;
use crate::domain::health_check::Failure;
use crate::domain::topology::{Credential, Engine, Model, Pool, ReplicaAddress};
use crate::wire::checks;

/// Where every dialect lists models.
const MODELS_PATH: &str = "/v1/models";

/// Bytes of an answer on the health path that are read: enough for any word of state; the status is the verdict.
const HEALTH_BYTES_MAX: usize = 64 << 10;

/// Bytes of a list of models, or of an answer of one token: the longest lists, of gateways with a thousand models, have
/// half of that.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// One check, ready to be made.
#[derive(Clone)]
pub(super) struct Check {
    address: ReplicaAddress,
    credential: Credential,
    /// The path asked first, below the replica's base path.
    path: Option<String>,
    models: Models,
    call: Option<(Endpoint, Bytes)>,
    timeout: Duration,
    generation_timeout: Duration,
}

/// What the list of models must hold.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Models {
    /// It is not asked for.
    NotAsked,
    /// Any model.
    Any,
    /// This one.
    One(String),
}

impl Check {
    /// The check of a replica of `pool`, which serves `model`, at `address`.
    pub(super) fn new(pool: &Pool, model: &Model, address: &ReplicaAddress, health: &Health) -> Check {
        let own_path = match pool.engine {
            Engine::Vllm | Engine::Sglang | Engine::LlamaCpp => Some("/health"),
            Engine::OpenAi => None,
        };
        let models = match (health.check_model, pool.engine) {
            (false, _) => Models::NotAsked,
            (true, Engine::LlamaCpp) => Models::Any,
            (true, Engine::Vllm | Engine::Sglang | Engine::OpenAi) => Models::One(model.served_as.clone()),
        };
        let path = match health.path.as_deref().or(own_path) {
            None if models == Models::NotAsked => Some(MODELS_PATH),
            // It is asked anyway.
            Some(MODELS_PATH) if models != Models::NotAsked => None,
            path => path,
        };
        let call = match pool.credential {
            Credential::Pass => None,
            Credential::Key(_) | Credential::None => checks::one_token(pool.dialects, &model.served_as),
        };
        Check {
            address: address.clone(),
            credential: pool.credential.clone(),
            path: path.map(str::to_owned),
            models,
            call,
            timeout: health.timeout,
            generation_timeout: health.generation_timeout,
        }
    }

    /// Makes the check, and tells how soon it was answered. Each of its questions takes at most `health.timeout`.
    pub(super) async fn run(&self, connections: &Connections, at: SocketAddr) -> Result<Duration, Failure> {
        let mut line = Line::new(connections, &self.address, at, Purpose::HealthCheck);
        let mut soonest = Duration::MAX;
        if let Some(path) = &self.path {
            let question = Question { path, body: None, key: self.key_for(path), answer_bytes_max: HEALTH_BYTES_MAX };
            let reply = line.ask(question, self.timeout).await?;
            if !self.is_closed_to_us(&reply) {
                good_status(&reply)?;
            }
            soonest = reply.took;
        }
        if self.models == Models::NotAsked {
            return Ok(soonest);
        }
        let key = self.key_for(MODELS_PATH);
        let question = Question { path: MODELS_PATH, body: None, key, answer_bytes_max: ANSWER_BYTES_MAX };
        let reply = line.ask(question, self.timeout).await?;
        if !self.is_closed_to_us(&reply) {
            self.models.judge(&reply)?;
        }
        Ok(soonest.min(reply.took))
    }

    /// Whether [`Check::generate`] can be made: not without a key of the edge's own.
    pub(super) fn can_generate(&self) -> bool {
        self.call.is_some()
    }

    /// Makes a call of one token in the pool's dialect. Takes at most `health.generation_timeout`.
    ///
    /// An engine that refuses the call's wording, or has too much to do for it, lives; only refused credentials are told,
    /// since every call would meet them.
    pub(super) async fn generate(&self, connections: &Connections, at: SocketAddr) -> Result<(), Failure> {
        let Some((endpoint, body)) = &self.call else { return Ok(()) };
        let path = endpoint.path();
        let body = Some(body.clone());
        let question = Question { path, body, key: self.key_for(path), answer_bytes_max: ANSWER_BYTES_MAX };
        let reply = Line::new(connections, &self.address, at, Purpose::HealthCheck)
            .ask(question, self.generation_timeout)
            .await?;
        match reply.status {
            401 | 403 => Err(Failure::Status(reply.status)),
            400..=499 => Ok(()),
            _ => {
                good_status(&reply)?;
                if checks::is_answer(reply.whole()?) { Ok(()) } else { Err(Failure::Garbage) }
            }
        }
    }

    /// Engines guard /v1 only; a key has no business elsewhere.
    fn key_for(&self, path: &str) -> Option<&str> {
        match &self.credential {
            Credential::Key(key) if path.starts_with("/v1/") => Some(key),
            Credential::Key(_) | Credential::Pass | Credential::None => None,
        }
    }

    fn is_closed_to_us(&self, reply: &Reply) -> bool {
        self.credential == Credential::Pass && matches!(reply.status, 401 | 403)
    }
}

/// Without its bodies, and with the key masked.
impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("address", &self.address).field("path", &self.path).finish_non_exhaustive()
    }
}

impl Models {
    fn judge(&self, reply: &Reply) -> Result<(), Failure> {
        good_status(reply)?;
        let names = checks::models(reply.whole()?).map_err(|checks::Garbled| Failure::Garbage)?;
        match self {
            _ if names.is_empty() => Err(Failure::NotLoaded),
            Models::One(wanted) if !names.contains(wanted) => Err(Failure::wrong_model(&names, wanted)),
            Models::One(_) | Models::Any | Models::NotAsked => Ok(()),
        }
    }
}

/// Redirects are no good ones: traffic does not follow them either.
fn good_status(reply: &Reply) -> Result<(), Failure> {
    match reply.status {
        200..=299 => Ok(()),
        503 if checks::is_loading(&reply.body) => Err(Failure::NotLoaded),
        status => Err(Failure::Status(status)),
    }
}

#[cfg(test)]
mod tests;

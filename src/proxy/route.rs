//! Station 2, identify, continued: which endpoint is called, and what a client is told that asks for what is not there.

use http::Method;
use pingora::protocols::http::ServerSession;

use super::reply::Refusal;
use crate::domain::ask::{Dialect, Endpoint};
use crate::domain::outcome::Outcome;
use crate::domain::topology::Model;
use crate::policy::pool::NoPool;
use crate::policy::resolve;
use crate::wire::reply::ModelEntry;

/// Whether the edge is well.
pub(super) const HEALTH: &str = "/health";

/// Where a request is going.
#[derive(Clone, Copy)]
pub(super) enum Target {
    Endpoint(Endpoint),
    Health,
    Models,
}

impl Target {
    /// What this path is of, if it is one of ours.
    pub(super) fn of_path(path: &str) -> Option<Target> {
        let plain = [Target::Health, Target::Models].into_iter().find(|target| target.path() == path);
        plain.or_else(|| Endpoint::of_path(path).map(Target::Endpoint))
    }

    pub(super) const fn path(self) -> &'static str {
        match self {
            Target::Endpoint(endpoint) => endpoint.path(),
            Target::Health => HEALTH,
            Target::Models => "/v1/models",
        }
    }
}

/// Lets a request to its target, if there is one that takes its method.
pub(super) fn route(session: &ServerSession, target: Option<Target>) -> Result<Target, Refusal> {
    let head = session.req_header();
    let (method, path) = (&head.method, head.uri.path());
    let Some(target) = target else {
        let hint = match meant(path) {
            Some(endpoint) => format!("if {} is meant, see to the /v1 in the base URL", endpoint.path()),
            None => "see GET /v1/models for what is served".to_owned(),
        };
        return Err(Refusal::new(Outcome::NotFound, format!("there is no {}; {hint}", printable(path))));
    };
    let (allow, allowed) = match target {
        Target::Endpoint(_) => ("POST", *method == Method::POST),
        Target::Health | Target::Models => ("GET, HEAD", *method == Method::GET || *method == Method::HEAD),
    };
    if allowed {
        return Ok(target);
    }
    let message = format!("{path} takes {allow}, not {}", printable(method.as_str()));
    Err(Refusal::new(Outcome::MethodNotAllowed, message).allow(allow))
}

/// The endpoint of a path in which `/v1` is missing or stands twice: of OpenAI's SDKs it is part of the base URL, and of
/// Anthropic's not.
fn meant(path: &str) -> Option<Endpoint> {
    let without = path.strip_prefix("/v1").and_then(Endpoint::of_path);
    without.or_else(|| Endpoint::of_path(&format!("/v1{path}")))
}

/// The dialect of a refusal: by the path, and where that does not tell, by the header that Anthropic's clients send.
pub(super) fn dialect_of(session: &ServerSession) -> Dialect {
    let head = session.req_header();
    match Endpoint::of_path(head.uri.path()) {
        Some(endpoint) => endpoint.dialect(),
        None if head.headers.contains_key("anthropic-version") => Dialect::Messages,
        None => Dialect::Chat,
    }
}

pub(super) fn entry(model: &Model) -> ModelEntry<'_> {
    ModelEntry { id: &model.name, created_s: 0, context_tokens: model.context_tokens }
}

/// A client's own text in an error message: short, and nothing that a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().take(100).filter(|c| !c.is_control()).collect()
}

pub(super) fn unknown_model(asked: &str, unknown: &resolve::UnknownModel<'_>) -> Refusal {
    Refusal::new(Outcome::ModelNotFound, unknown.message(&printable(asked))).param("model")
}

pub(super) fn no_pool(no: NoPool, asked: &str, endpoint: Endpoint) -> Refusal {
    let asked = printable(asked);
    match no {
        NoPool::NotServed => Refusal::new(Outcome::NoReplica, format!("no pool serves the model '{asked}'")),
        NoPool::Residency => {
            let message = format!("the model '{asked}' is served in no region where this client's calls may go");
            Refusal::new(Outcome::ResidencyUnavailable, message).param("model")
        }
        NoPool::Dialect => {
            let message = format!("no engine of the model '{asked}' serves {}", endpoint.path());
            Refusal::new(Outcome::DialectNotServed, message).param("model")
        }
    }
}

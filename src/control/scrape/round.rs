//! One question for one replica's metrics.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::line::{Connections, Kept, Line, Purpose, Question};
use crate::domain::health_check::Failure;
use crate::domain::topology::{Credential, Engine, Model, Pool, Replica};
use crate::policy::engine_load::LoadReport;
use crate::roster::Live;
use crate::wire::engine::{PAGE_BYTES_MAX, Page};

/// Where every engine has them, below the replica's base path.
const PATH: &str = "/metrics";

/// One question, ready to be asked.
pub(super) struct Round {
    live: Arc<Live>,
    pool: String,
    replica: String,
    engine: Engine,
    served_as: String,
    credential: Credential,
    timeout: Duration,
    kept: Option<Kept>,
}

/// A question that was answered, or not.
pub(super) struct Answered {
    pub(super) live: Arc<Live>,
    pub(super) pool: String,
    pub(super) replica: String,
    /// What came in, or why nothing did. The report is in the live record already.
    pub(super) result: Result<(), Miss>,
    /// The connection, for the next question.
    pub(super) kept: Option<Kept>,
}

/// Why there are no numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Miss {
    /// No answer, or one that is no page.
    Failed(Failure),
    /// A page without the engine's numbers.
    NoNumbers,
}

impl Miss {
    /// Whether the next answer will be the same: the replica lives and has nothing to tell.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Miss::NoNumbers => true,
            Miss::Failed(Failure::Status(status)) => matches!(status, 400..=499 | 501) && !matches!(status, 408 | 429),
            Miss::Failed(_) => false,
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Failed(Failure::Garbage) => write!(f, "no page of at most {} MiB", PAGE_BYTES_MAX >> 20),
            Miss::Failed(failure) => failure.fmt(f),
            Miss::NoNumbers => f.write_str("its page has no numbers of the pool's engine and model"),
        }
    }
}

impl Round {
    /// The question for this replica of `pool`, which serves `model`; `kept` is the last one's connection.
    pub(super) fn new(
        live: &Arc<Live>,
        (pool, model, replica): (&Pool, &Model, &Replica),
        timeout: Duration,
        kept: Option<Kept>,
    ) -> Round {
        Round {
            live: Arc::clone(live),
            pool: pool.name.clone(),
            replica: replica.name.clone(),
            engine: pool.engine,
            served_as: model.served_as.clone(),
            credential: pool.credential.clone(),
            timeout,
            kept,
        }
    }

    /// Asks, and notes in the live record what the engine says.
    pub(super) async fn ask(mut self, connections: &Connections) -> Answered {
        let Some(at) = self.live.resolved() else {
            return self.answered(Err(Miss::Failed(Failure::Unresolved)), None);
        };
        let kept = self.kept.take();
        let mut line = Line::new(connections, self.live.address(), at, Purpose::Metrics).over(kept);
        let result = self.ask_on(&mut line).await;
        let kept = line.into_kept();
        self.answered(result, kept)
    }

    async fn ask_on(&self, line: &mut Line<'_>) -> Result<(), Miss> {
        // llama.cpp guards this page as it does calls, and so do gateways. The replica is shown the same key with every
        // call; what a client shows is that client's alone.
        let key = match &self.credential {
            Credential::Key(key) => Some(key.as_str()),
            Credential::Pass | Credential::None => None,
        };
        let question = Question { path: PATH, body: None, key, answer_bytes_max: PAGE_BYTES_MAX };
        let own_before = self.live.in_flight();
        let mut page = Page::new(self.engine, &self.served_as);
        let reply = line.ask_into(question, self.timeout, &mut |piece| page.push(piece)).await.map_err(Miss::Failed)?;
        if reply.status != 200 {
            return Err(Miss::Failed(Failure::Status(reply.status)));
        }
        reply.whole().map_err(Miss::Failed)?;
        let load = page.finish().ok_or(Miss::NoNumbers)?;
        // Somewhere on the way it spoke. The larger one, since what is not taken off would pass for others'.
        let own_in_flight = own_before.max(self.live.in_flight());
        self.live.set_engine(LoadReport { load, own_in_flight, at: Instant::now() });
        Ok(())
    }

    pub(super) fn answered(self, result: Result<(), Miss>, kept: Option<Kept>) -> Answered {
        Answered { live: self.live, pool: self.pool, replica: self.replica, result, kept }
    }
}

//! One question for the metrics of one replica or of its GPUs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::line::{Connections, Kept, Line, Purpose, Question};
use crate::domain::health_check::Failure;
use crate::domain::topology::{Credential, Engine, GpuMetrics, Model, Pool, Replica, ReplicaAddress};
use crate::policy::engine_load::LoadReport;
use crate::policy::gpu_load::GpuReport;
use crate::roster::Live;
use crate::wire::engine::{GpuPage, PAGE_BYTES_MAX, Page};

/// Where every engine has them, below the replica's base path.
const PATH: &str = "/metrics";

/// One question, ready to be asked.
pub(super) struct Round {
    live: Arc<Live>,
    pool: String,
    replica: String,
    asked: Asked,
    timeout: Duration,
    kept: Option<Kept>,
}

/// Whom to ask, and what for.
enum Asked {
    /// The engine, for its load.
    Engine { engine: Engine, served_as: String, credential: Credential },
    /// The exporter, for the GPUs; at this address, if its host name was resolved before.
    Gpu { of: GpuMetrics, at: Option<SocketAddr> },
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
    /// The exporter's page and where it was found, when it told.
    pub(super) at: Option<(ReplicaAddress, SocketAddr)>,
}

/// Why there are no numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Miss {
    /// No answer, or one that is no page.
    Failed(Failure),
    /// A page without the engine's numbers.
    NoNumbers,
    /// A page that does not tell of the GPUs.
    NoGpus,
}

impl Miss {
    /// Whether the next answer will be the same: the replica lives and has nothing to tell.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Miss::NoNumbers | Miss::NoGpus => true,
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
            Miss::NoGpus => f.write_str("its page tells no utilisation of the replica's GPUs"),
        }
    }
}

impl Round {
    /// The question for this replica of `pool`, which serves `model`; `kept` is the last one's connection.
    pub(super) fn of_engine(
        live: &Arc<Live>,
        (pool, model, replica): (&Pool, &Model, &Replica),
        timeout: Duration,
        kept: Option<Kept>,
    ) -> Round {
        let (engine, served_as) = (pool.engine, model.served_as.clone());
        let asked = Asked::Engine { engine, served_as, credential: pool.credential.clone() };
        Round::new(live, (pool, replica), asked, timeout, kept)
    }

    /// The question for the GPUs of this replica of `pool`, to the exporter where it was found before.
    pub(super) fn of_gpus(
        live: &Arc<Live>,
        (pool, replica, of): (&Pool, &Replica, &GpuMetrics),
        timeout: Duration,
        (kept, at): (Option<Kept>, Option<SocketAddr>),
    ) -> Round {
        Round::new(live, (pool, replica), Asked::Gpu { of: of.clone(), at }, timeout, kept)
    }

    fn new(
        live: &Arc<Live>,
        (pool, replica): (&Pool, &Replica),
        asked: Asked,
        timeout: Duration,
        kept: Option<Kept>,
    ) -> Round {
        let (pool, replica) = (pool.name.clone(), replica.name.clone());
        Round { live: Arc::clone(live), pool, replica, asked, timeout, kept }
    }

    /// Asks, and notes in the live record what is said.
    pub(super) async fn ask(mut self, connections: &Connections) -> Answered {
        let kept = self.kept.take();
        let (address, at) = match &self.asked {
            Asked::Engine { .. } => (self.live.address(), self.live.resolved()),
            Asked::Gpu { of, at: Some(at) } => (&of.page, Some(*at)),
            Asked::Gpu { of, at: None } => (&of.page, self.resolve(&of.page).await),
        };
        let Some(at) = at else { return self.answered(Err(Miss::Failed(Failure::Unresolved)), None) };
        let mut line = Line::new(connections, address, at, Purpose::Metrics).over(kept);
        let result = match &self.asked {
            Asked::Engine { engine, served_as, credential } => {
                self.ask_engine(&mut line, *engine, served_as, credential).await
            }
            Asked::Gpu { of, .. } => self.ask_gpus(&mut line, of).await,
        };
        let kept = line.into_kept();
        let at = match &self.asked {
            Asked::Gpu { of, .. } if result.is_ok() => Some((of.page.clone(), at)),
            _ => None,
        };
        Answered { at, ..self.answered(result, kept) }
    }

    async fn ask_engine(
        &self,
        line: &mut Line<'_>,
        engine: Engine,
        served_as: &str,
        credential: &Credential,
    ) -> Result<(), Miss> {
        // llama.cpp guards this page as it does calls, and so do gateways. The replica is shown the same key with every
        // call; what a client shows is that client's alone.
        let key = match credential {
            Credential::Key(key) => Some(key.as_str()),
            Credential::Pass | Credential::None => None,
        };
        let own_before = self.live.in_flight();
        let mut page = Page::new(engine, served_as);
        self.read(line, PATH, key, &mut |piece| page.push(piece)).await?;
        let load = page.finish().ok_or(Miss::NoNumbers)?;
        // Somewhere on the way it spoke. The larger one, since what is not taken off would pass for others'.
        let own_in_flight = own_before.max(self.live.in_flight());
        self.live.set_engine(LoadReport { load, own_in_flight, at: Instant::now() });
        Ok(())
    }

    /// An exporter is shown no key: it is none of the pool's replicas.
    async fn ask_gpus(&self, line: &mut Line<'_>, of: &GpuMetrics) -> Result<(), Miss> {
        let mut page = GpuPage::new(&of.gpus);
        self.read(line, "", None, &mut |piece| page.push(piece)).await?;
        let utilization = page.finish().ok_or(Miss::NoGpus)?;
        self.live.set_gpu(GpuReport { utilization, at: Instant::now() });
        Ok(())
    }

    async fn read(
        &self,
        line: &mut Line<'_>,
        path: &str,
        key: Option<&str>,
        page: &mut (dyn FnMut(&[u8]) + Send),
    ) -> Result<(), Miss> {
        let question = Question { path, body: None, key, answer_bytes_max: PAGE_BYTES_MAX };
        let reply = line.ask_into(question, self.timeout, page).await.map_err(Miss::Failed)?;
        if reply.status != 200 {
            return Err(Miss::Failed(Failure::Status(reply.status)));
        }
        reply.whole().map(|_| ()).map_err(Miss::Failed)
    }

    /// Where an exporter's host name points to. Most stand on the replica's own host, whose name the health checks resolve.
    async fn resolve(&self, page: &ReplicaAddress) -> Option<SocketAddr> {
        if let Ok(ip) = page.host.parse::<IpAddr>() {
            return Some(SocketAddr::new(ip, page.port));
        }
        if page.host == self.live.address().host {
            return self.live.resolved().map(|replica| SocketAddr::new(replica.ip(), page.port));
        }
        let lookup = tokio::net::lookup_host((page.host.as_str(), page.port));
        tokio::time::timeout(self.timeout, lookup).await.ok()?.ok()?.next()
    }

    pub(super) fn answered(self, result: Result<(), Miss>, kept: Option<Kept>) -> Answered {
        Answered { live: self.live, pool: self.pool, replica: self.replica, result, kept, at: None }
    }
}

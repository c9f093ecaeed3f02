//! Who is to be asked when: the common schedule, slower for those that do not tell.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::round::{Answered, Round};
use crate::control::line::{KEPT_FOR_METRICS, Kept};
use crate::control::schedule::{Schedule, about_one_later, somewhere_in};
use crate::domain::ids::ReplicaIx;
use crate::domain::topology::{Engine, Replica, ReplicaAddress, Topology};
use crate::roster::Snapshot;

/// How often a replica is asked that does not tell: often enough that one which was restarted with its metrics on is
/// heard soon.
const SLOW: Duration = Duration::from_secs(30);

/// Questions in a row without an answer after which a replica is asked so seldom. A busy engine may miss one.
const MISSES_MAX: u32 = 3;

/// The questions to come to one kind of source.
pub(super) struct Rounds {
    source: Source,
    schedule: Schedule<Past>,
}

/// Who is asked of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// Its engine.
    Engine,
    /// The exporter that tells of its GPUs.
    Gpu,
}

impl Source {
    /// As the log names it, with what it tells.
    const fn told(self) -> (&'static str, &'static str) {
        match self {
            Source::Engine => ("engine", "its load"),
            Source::Gpu => ("GPU exporter", "of its GPUs"),
        }
    }

    /// Whether there is anybody to ask of this replica.
    fn is_there(self, topology: &Topology, replica: &Replica) -> bool {
        match self {
            Source::Engine => topology.pool(replica.pool).engine != Engine::OpenAi,
            Source::Gpu => replica.gpu_metrics.is_some(),
        }
    }
}

/// What is remembered of one's answers.
#[derive(Default)]
struct Past {
    /// Questions in a row without an answer.
    misses: u32,
    /// The connection, and since when it idles.
    kept: Option<(Kept, Instant)>,
    /// Where an exporter's host name pointed to when it last told. One that no longer does is looked up anew.
    at: Option<(ReplicaAddress, SocketAddr)>,
}

impl Past {
    fn is_silent(&self) -> bool {
        self.misses >= MISSES_MAX
    }

    /// How often to ask, where one that tells is asked at this interval.
    fn pace(&self, interval: Duration) -> Duration {
        if self.is_silent() { interval.max(SLOW) } else { interval }
    }
}

impl Rounds {
    /// None yet.
    pub(super) fn new(source: Source) -> Rounds {
        Rounds { source, schedule: Schedule::default() }
    }

    /// Takes up replicas that are new in the snapshot and drops those that are gone or not to be asked.
    pub(super) fn follow(&mut self, snapshot: &Arc<Snapshot>, now: Instant) {
        let (topology, interval) = (&snapshot.config.topology, snapshot.config.engine_metrics.interval);
        let source = self.source;
        let asked = |replica: ReplicaIx| source.is_there(topology, topology.replica(replica));
        self.schedule.follow(
            snapshot,
            now,
            |replica, past| {
                let interval = interval.filter(|_| asked(replica))?;
                Some(past.map_or(interval, |past| past.pace(interval)))
            },
            |_, interval| (somewhere_in(interval, now), Past::default()),
        );
    }

    /// Starts the rounds that are due, at most `room` of them, the longest overdue first.
    pub(super) fn due(&mut self, snapshot: &Snapshot, room: usize, now: Instant) -> Vec<Round> {
        let (config, topology) = (&snapshot.config, &snapshot.config.topology);
        // Without an interval nobody has a place in the schedule.
        let Some(interval) = config.engine_metrics.interval else { return Vec::new() };
        let timeout = config.engine_metrics.timeout;
        let due = self.schedule.due(room, now).into_iter();
        due.filter_map(|slot| {
            slot.due = about_one_later(slot.beside.pace(interval), now);
            let replica = topology.replica(slot.replica);
            let pool = topology.pool(replica.pool);
            let kept = slot.beside.kept.take().filter(|(_, since)| now.duration_since(*since) < KEPT_FOR_METRICS);
            let kept = kept.map(|(kept, _)| kept);
            let Source::Gpu = self.source else {
                let subject = (pool, topology.model(pool.model), replica);
                return Some(Round::of_engine(&slot.live, subject, timeout, kept));
            };
            let exporter = replica.gpu_metrics.as_ref()?;
            // A reload may name another exporter.
            let at = slot.beside.at.as_ref().filter(|(page, _)| *page == exporter.page).map(|(_, at)| *at);
            let kept = kept.filter(|_| at.is_some());
            Some(Round::of_gpus(&slot.live, (pool, replica, exporter), timeout, (kept, at)))
        })
        .collect()
    }

    /// When to look again at the latest.
    pub(super) fn wake(&self, now: Instant) -> Instant {
        self.schedule.wake(now)
    }

    /// Notes how a round has ended, and says so in the log where a replica begins to tell or falls silent.
    pub(super) fn done(&mut self, snapshot: &Snapshot, answered: Answered, now: Instant) {
        let Answered { live, pool, replica, result, kept, at } = answered;
        let (whom, what) = self.source.told();
        let Some(slot) = self.schedule.done(&live) else { return };
        let (past, interval) = (&mut slot.beside, snapshot.config.engine_metrics.interval.unwrap_or(SLOW));
        let was_silent = past.is_silent();
        let Err(miss) = result else {
            // What would not be fresh enough next time is not held open until then.
            let kept = kept.filter(|_| interval < KEPT_FOR_METRICS).map(|kept| (kept, now));
            *past = Past { misses: 0, kept, at };
            if was_silent {
                log::info!("{whom} tells {what} pool={pool} replica={replica}");
            }
            return;
        };
        past.at = None;
        past.misses = if miss.is_final() { MISSES_MAX } else { past.misses.saturating_add(1) };
        if past.is_silent() {
            slot.due = slot.due.max(about_one_later(past.pace(interval), now));
        }
        if past.is_silent() && !was_silent {
            log::info!("{whom} does not tell {what} pool={pool} replica={replica} why=\"{miss}\"");
        } else {
            log::debug!("{whom} did not tell {what} pool={pool} replica={replica} why=\"{miss}\"");
        }
    }
}

//! Closes interactions whose session makes no more calls, and all of them when the edge ends.
//!
//! In the background, so that they are counted and logged soon after they are over, also where nobody scrapes. Once the
//! edge accepts no more, an interaction is over with its last call here: who scrapes an edge that drains sees it counted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;

use crate::observe::access_log::AccessLog;
use crate::observe::interaction::tell;
use crate::observe::metrics::Metrics;
use crate::roster::{Cause, Closed, Roster};

/// How often they are looked at: an interaction is told at most so long after it is over.
const TICK: Duration = Duration::from_secs(1);

/// Closed in one go. The log's queue holds some times as many, and is written out between two goes.
const CLOSED_MAX: usize = 1_024;

/// The pause between two goes, in which the log is written: 20,000 interactions a second.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the end of the process waits for their lines to be written.
const END_MAX: Duration = Duration::from_secs(2);

/// The background service.
#[derive(Debug)]
pub struct Interactions {
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    log: Arc<AccessLog>,
    // Std mutex, never held across an `.await`: whoever finds none left must not be ahead of those that are being told.
    telling: Mutex<()>,
}

impl Interactions {
    /// Closes the interactions of this roster.
    pub fn new(roster: Arc<Roster>, metrics: Arc<Metrics>, log: Arc<AccessLog>) -> Interactions {
        Interactions { roster, metrics, log, telling: Mutex::new(()) }
    }

    /// Closes all of them, for the end of the process: it blocks for as long as the log is slow, at most 2 s. What is not
    /// written by then counts as dropped.
    pub fn close_all(&self) {
        let deadline = Instant::now() + END_MAX;
        loop {
            let closed = self.tell(|| self.roster.interactions.close_any(CLOSED_MAX));
            if closed == 0 && self.roster.interactions.is_empty() {
                return;
            }
            if Instant::now() < deadline {
                self.log.flush();
            }
        }
    }

    /// Closes some of those that idle. `false` when that were all.
    fn close_some(&self) -> bool {
        let idle = self.roster.snapshot().config.sessions.interaction_idle;
        self.tell(|| self.roster.close_idle(idle, Instant::now(), CLOSED_MAX)) == CLOSED_MAX
    }

    /// Closes some of those without a call under way. `false` when that were all.
    fn close_ended(&self) -> bool {
        let ended = || {
            let ended = self.roster.interactions.close_idle(Duration::ZERO, Instant::now(), CLOSED_MAX);
            ended.into_iter().map(|closed| Closed { cause: Cause::End, ..closed }).collect()
        };
        self.tell(ended) == CLOSED_MAX
    }

    /// Tells of those that this closes, and says how many they are.
    fn tell(&self, close: impl FnOnce() -> Vec<Closed>) -> usize {
        let _telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        let (closed, now) = (close(), Instant::now());
        closed.iter().for_each(|closed| tell(closed, &self.metrics, &self.log, now));
        closed.len()
    }
}

#[async_trait]
impl BackgroundService for Interactions {
    /// Goes on while the edge drains; ends with its runtime.
    async fn start(&self, shutdown: ShutdownWatch) {
        loop {
            let ending = *shutdown.borrow();
            let more = if ending { self.close_ended() } else { self.close_some() };
            tokio::time::sleep(if more { PAUSE } else { TICK }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use prometheus::{IntCounter, Registry};

    use super::*;
    use crate::config;
    use crate::control::testing::{Directory, soon};
    use crate::domain::ids::SessionKey;
    use crate::domain::outcome::Outcome;
    use crate::observe::testing;
    use crate::policy::interaction::CallEnd;

    struct World {
        roster: Arc<Roster>,
        registry: Registry,
        service: Arc<Interactions>,
        log: PathBuf,
        _folder: Directory,
    }

    fn world(idle: Duration) -> World {
        let mut config = testing::config(&[1]);
        config.sessions.interaction_idle = idle;
        let (roster, registry, folder) = (testing::roster(config), Registry::new(), Directory::new());
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let path = folder.path().join("access.log");
        let settings = config::AccessLog { file: Some(path.clone()), rotate_at_bytes: u64::MAX, keep: 1 };
        let log = Arc::new(AccessLog::start(&settings, IntCounter::new("dropped", "x").unwrap()).unwrap());
        let service = Arc::new(Interactions::new(Arc::clone(&roster), metrics, log));
        World { roster, registry, service, log: path, _folder: folder }
    }

    impl World {
        fn call(&self, session: u128) {
            let call = CallEnd { outcome: Outcome::Ok, cost_dollars: None, tokens: (0, 0, 0) };
            let (member, _) = self.roster.interactions.begin(SessionKey(session), Instant::now());
            assert_eq!(member.end(&call, Instant::now()), None);
        }

        fn lines(&self) -> usize {
            std::fs::read_to_string(&self.log).unwrap().lines().count()
        }

        fn told(&self) -> bool {
            let page = self.service.metrics.render(&self.registry);
            page.contains("\nagent_interaction_calls_count 5000\n")
        }
    }

    #[tokio::test]
    async fn those_that_idle_are_counted_and_logged_although_nobody_scrapes() {
        let world = world(Duration::ZERO);
        (0..5_000).for_each(|session| world.call(session));
        let service = Arc::clone(&world.service);
        let (_sender, shutdown) = tokio::sync::watch::channel(false);
        tokio::spawn(async move { service.start(shutdown).await });
        soon(|| world.lines() == 5_000).await;
        assert!(world.told() && world.roster.interactions.is_empty());
    }

    #[tokio::test]
    async fn once_nothing_more_is_accepted_those_without_a_call_are_over() {
        let world = world(Duration::from_secs(3_600));
        let (_under_way, _) = world.roster.interactions.begin(SessionKey(5_000), Instant::now());
        (0..5_000).for_each(|session| world.call(session));
        let service = Arc::clone(&world.service);
        let (_sender, shutdown) = tokio::sync::watch::channel(true);
        tokio::spawn(async move { service.start(shutdown).await });
        soon(|| world.lines() == 5_000).await;
        assert!(world.told() && world.roster.interactions.len() == 1);
        let lines = std::fs::read_to_string(&world.log).unwrap();
        assert!(lines.lines().all(|line| line.contains(r#""closed":"end""#)), "{lines}");
    }

    #[test]
    fn at_the_end_none_is_lost() {
        let world = world(Duration::from_secs(3_600));
        (0..5_000).for_each(|session| world.call(session));
        world.service.close_all();
        world.service.log.flush();
        assert!(world.told());
        assert_eq!((world.lines(), world.service.log.dropped()), (5_000, 0));
    }
}

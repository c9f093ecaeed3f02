//! Active health checks of every replica, and the small chores that need a clock.
//!
//! Each replica is checked on its own schedule (`schedule`), one round at a time (`round`): its host name is resolved
//! now and then, it is asked how it is, and where its verdict depends on it, it gets a call of one token. Such calls can
//! take half a minute at a sick replica; so they have a bound of their own, and never hold up the checks of the others.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::task::JoinSet;

use self::round::{Call, Next};
use self::schedule::Schedule;
use super::line::Connections;
use crate::roster::Roster;

mod round;
mod schedule;

/// Checks under way at a time; more would be a burst of connections from one thread.
const CHECKS_MAX: usize = 64;
/// Calls of one token under way at a time. The others wait, at most one for each replica.
const CALLS_MAX: usize = 64;
/// How often the idle sessions are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// The background service.
pub struct Probe {
    roster: Arc<Roster>,
    connections: Connections,
}

impl Probe {
    /// Checks the replicas of this roster.
    pub fn new(roster: Arc<Roster>, connections: Connections) -> Probe {
        Probe { roster, connections }
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

#[async_trait]
impl BackgroundService for Probe {
    /// Goes on while the edge drains, since it still chooses replicas then; ends with its runtime.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut schedule = Schedule::default();
        let (mut checks, mut calls) = (JoinSet::new(), JoinSet::new());
        let mut waiting: VecDeque<Call> = VecDeque::new();
        let mut next_sweep = Instant::now() + SWEEP_EVERY;
        loop {
            let snapshot = self.roster.snapshot();
            let now = Instant::now();
            if now >= next_sweep {
                self.roster.sessions.sweep(snapshot.config.sessions.idle, now);
                self.roster.responses.sweep(snapshot.config.sessions.idle, now);
                next_sweep = now + SWEEP_EVERY;
            }
            schedule.follow(&snapshot, now);
            for round in schedule.due(&snapshot, CHECKS_MAX.saturating_sub(checks.len()), now) {
                let connections = self.connections.clone();
                checks.spawn(async move { round.check(&connections).await });
            }
            for call in waiting.drain(..waiting.len().min(CALLS_MAX.saturating_sub(calls.len()))) {
                let connections = self.connections.clone();
                calls.spawn(async move { call.make(&connections).await });
            }
            let wake = schedule.wake(now);
            let judged = tokio::select! {
                Some(Ok(judged)) = checks.join_next() => match judged.next() {
                    Next::Call(call) => {
                        waiting.push_back(call);
                        continue;
                    }
                    Next::Report(judged) => judged,
                },
                Some(Ok(judged)) = calls.join_next() => judged,
                // At the bound, only an end makes room.
                () = tokio::time::sleep_until(wake.into()), if checks.len() < CHECKS_MAX => continue,
            };
            judged.report();
            if let Some(took) = judged.round_trip {
                snapshot.round_trip(judged.round.live.key(), took);
            }
            schedule.done(&snapshot, &judged, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests;

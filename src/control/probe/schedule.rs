//! Which health checks are to be made when: the common schedule, with what is due beside a check now and then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::round::{Judged, Round};
use crate::control::health_check::Check;
use crate::control::schedule::{self, about_one_later, somewhere_in};
use crate::roster::Snapshot;

/// How often a host name is resolved anew.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// The rounds to come.
#[derive(Default)]
pub(super) struct Schedule {
    slots: schedule::Schedule<Chores>,
}

/// What is due beside a check.
struct Chores {
    resolve_due: Instant,
    /// When it has to generate a token, where that is asked for. What fails stays due.
    generation_due: Option<Instant>,
}

impl Schedule {
    /// Takes up replicas that are new in the snapshot and drops those that are gone.
    pub(super) fn follow(&mut self, snapshot: &Arc<Snapshot>, now: Instant) {
        let health = &snapshot.config.health;
        let interval = Some(health.interval);
        let is_new = self.slots.follow(
            snapshot,
            now,
            |_, _| interval,
            |live, interval| {
                // What has no address yet, or waits for its first check, cannot be used at all: it is looked at at once.
                let waits = live.resolved().is_none() || !live.reading().healthy;
                let due = if waits { now } else { somewhere_in(interval, now) };
                (due, Chores { resolve_due: now, generation_due: None })
            },
        );
        if !is_new {
            return;
        }
        for chores in self.slots.all_beside() {
            chores.generation_due = health.generation_interval.map(|interval| match chores.generation_due {
                Some(due) => due.min(now + interval.mul_f64(1.1)),
                None => somewhere_in(interval, now),
            });
        }
    }

    /// Starts the rounds that are due, at most `room` of them, the longest overdue first.
    pub(super) fn due(&mut self, snapshot: &Snapshot, room: usize, now: Instant) -> Vec<Round> {
        let config = &snapshot.config;
        let due = self.slots.due(room, now).into_iter();
        due.map(|slot| {
            slot.due = about_one_later(config.health.interval, now);
            let replica = config.topology.replica(slot.replica);
            let pool = config.topology.pool(replica.pool);
            Round {
                live: Arc::clone(&slot.live),
                pool: pool.name.clone(),
                replica: replica.name.clone(),
                check: Check::new(pool, config.topology.model(pool.model), &replica.address, &config.health),
                thresholds: config.health.thresholds,
                breaker: config.circuit_breaker,
                resolve: slot.beside.resolve_due <= now,
                warm_up: config.health.warm_up,
                generate: slot.beside.generation_due.is_some_and(|due| due <= now),
            }
        })
        .collect()
    }

    /// When to look again at the latest.
    pub(super) fn wake(&self, now: Instant) -> Instant {
        self.slots.wake(now)
    }

    /// Notes that a round has ended.
    pub(super) fn done(&mut self, snapshot: &Snapshot, judged: &Judged, now: Instant) {
        let Some(slot) = self.slots.done(&judged.round.live) else { return };
        if judged.resolved {
            slot.beside.resolve_due = now + RESOLVE_EVERY;
        }
        if judged.generated {
            let interval = snapshot.config.health.generation_interval;
            slot.beside.generation_due = interval.map(|each| about_one_later(each, now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::testing;

    fn two_hundred() -> Arc<Snapshot> {
        let ports: Vec<u16> = (1..=200).collect();
        testing::roster(testing::config(&ports)).snapshot()
    }

    #[test]
    fn tokens_are_asked_for_at_their_own_interval_and_again_while_that_fails() {
        const EACH: Duration = Duration::from_secs(60);
        let mut config = testing::config(&[1]);
        config.health.generation_interval = Some(EACH);
        let snapshot = testing::roster(config).snapshot();
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.follow(&snapshot, start);
        let mut round_at = |after: Duration, generated: bool| {
            let now = start + after;
            schedule.follow(&snapshot, now);
            let round = schedule.due(&snapshot, 1, now).remove(0);
            let asked = round.generate;
            let mut judged = round.judged(false, Ok(Duration::ZERO));
            judged.generated = asked && generated;
            schedule.done(&snapshot, &judged, now);
            asked
        };
        let calls = (1..=600).filter(|second| round_at(Duration::from_secs(*second), true)).count();
        assert!((9..=11).contains(&calls), "{calls} in ten minutes");
        let mut second = 601;
        while !round_at(Duration::from_secs(second), false) {
            second += 1;
        }
        assert!(second <= 667);
        assert!((second + 1..700).all(|second| round_at(Duration::from_secs(second), false)), "at every check");
        assert!(round_at(Duration::from_secs(700), true));
        assert!(!round_at(Duration::from_secs(701), true));
    }

    #[test]
    fn tokens_are_not_asked_for_unless_the_configuration_says_so() {
        let (snapshot, mut schedule, start) = (two_hundred(), Schedule::default(), Instant::now());
        schedule.follow(&snapshot, start);
        let rounds = schedule.due(&snapshot, usize::MAX, start + Duration::from_secs(86_400));
        assert!(rounds.iter().all(|round| !round.generate));
    }
}

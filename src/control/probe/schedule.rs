//! When each replica is to be checked.
//!
//! The first time at a random point of its first interval, then every `health.interval` ± 10 %, so that neither many
//! replicas nor many edges check at the same moment; the same for calls of one token and their interval. The schedule is
//! laid against the current snapshot again and again, so a reload adds, moves and removes replicas here without a word.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::round::{Judged, Round};
use crate::control::health_check::Check;
use crate::domain::ids::{ReplicaIx, ReplicaKey};
use crate::roster::{Live, Snapshot};

/// How often a host name is resolved anew.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);

/// The rounds to come.
#[derive(Default)]
pub(super) struct Schedule {
    slots: HashMap<ReplicaKey, Slot>,
}

struct Slot {
    live: Arc<Live>,
    replica: ReplicaIx,
    due: Instant,
    busy: bool,
    resolve_due: Instant,
    /// When it has to generate a token, where that is asked for. What fails stays due.
    generation_due: Option<Instant>,
}

impl Schedule {
    /// Takes up replicas that are new in the snapshot and drops those that are gone.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        let health = &snapshot.config.health;
        self.slots.retain(|key, _| snapshot.by_key(*key).is_some());
        for (replica, live) in snapshot.replicas() {
            // A replica that moved to another address has a new record, and with it a new schedule.
            let known = self.slots.get_mut(&live.key()).filter(|slot| Arc::ptr_eq(&slot.live, live));
            if let Some(slot) = known {
                slot.replica = replica;
                // A shorter interval holds from now on, not from the next check on.
                slot.due = slot.due.min(now + health.interval.mul_f64(1.1));
                slot.generation_due = health.generation_interval.map(|interval| match slot.generation_due {
                    Some(due) => due.min(now + interval.mul_f64(1.1)),
                    None => somewhere_in(interval, now),
                });
                continue;
            }
            // What has no address yet, or waits for its first check, cannot be used at all: it is looked at at once.
            let waits = live.resolved().is_none() || !live.reading().healthy;
            let slot = Slot {
                live: Arc::clone(live),
                replica,
                due: if waits { now } else { somewhere_in(health.interval, now) },
                busy: false,
                resolve_due: now,
                generation_due: health.generation_interval.map(|interval| somewhere_in(interval, now)),
            };
            self.slots.insert(live.key(), slot);
        }
    }

    /// Starts the rounds that are due, at most `room` of them, the longest overdue first.
    pub(super) fn due(&mut self, snapshot: &Snapshot, room: usize, now: Instant) -> Vec<Round> {
        let config = &snapshot.config;
        let mut due: Vec<&mut Slot> = self.slots.values_mut().filter(|slot| !slot.busy && slot.due <= now).collect();
        due.sort_by_key(|slot| slot.due);
        due.truncate(room);
        due.into_iter()
            .map(|slot| {
                slot.busy = true;
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
                    resolve: slot.resolve_due <= now,
                    warm_up: config.health.warm_up,
                    generate: slot.generation_due.is_some_and(|due| due <= now),
                }
            })
            .collect()
    }

    /// When the next round is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.slots.values().filter(|slot| !slot.busy).map(|slot| slot.due).min()
    }

    /// Notes that a round has ended.
    pub(super) fn done(&mut self, snapshot: &Snapshot, judged: &Judged, now: Instant) {
        let live = &judged.round.live;
        // The round of a replica that has moved since says nothing of its successor's.
        let Some(slot) = self.slots.get_mut(&live.key()).filter(|slot| Arc::ptr_eq(&slot.live, live)) else { return };
        slot.busy = false;
        if judged.resolved {
            slot.resolve_due = now + RESOLVE_EVERY;
        }
        if judged.generated {
            slot.generation_due = snapshot.config.health.generation_interval.map(|each| about_one_later(each, now));
        }
    }
}

fn somewhere_in(interval: Duration, now: Instant) -> Instant {
    now + interval.mul_f64(rand::rng().random_range(0.0..1.0))
}

fn about_one_later(interval: Duration, now: Instant) -> Instant {
    now + interval.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::observe::testing;

    fn two_hundred() -> Arc<Snapshot> {
        let ports: Vec<u16> = (1..=200).collect();
        testing::roster(testing::config(&ports)).snapshot()
    }

    #[test]
    fn rounds_are_bounded_and_none_starves() {
        let (snapshot, mut schedule, start) = (two_hundred(), Schedule::default(), Instant::now());
        schedule.follow(&snapshot, start);
        let mut seen = HashSet::new();
        let later = start + snapshot.config.health.interval;
        for _ in 0..4 {
            let rounds = schedule.due(&snapshot, 64, later);
            assert!(rounds.len() <= 64);
            for round in rounds {
                seen.insert(round.live.key());
                schedule.done(&snapshot, &round.judged(true, Ok(())), later);
            }
        }
        assert_eq!(seen.len(), 200);
    }

    #[test]
    fn a_round_under_way_is_the_only_one_of_its_replica() {
        let (snapshot, mut schedule, start) = (two_hundred(), Schedule::default(), Instant::now());
        schedule.follow(&snapshot, start);
        let later = start + snapshot.config.health.interval;
        let under_way = schedule.due(&snapshot, usize::MAX, later);
        assert_eq!(under_way.len(), 200);
        assert_eq!(schedule.due(&snapshot, usize::MAX, later + Duration::from_secs(3600)).len(), 0);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn first_checks_are_spread_over_an_interval() {
        let (snapshot, mut schedule, start) = (two_hundred(), Schedule::default(), Instant::now());
        schedule.follow(&snapshot, start);
        let half = start + snapshot.config.health.interval / 2;
        let early = schedule.due(&snapshot, usize::MAX, half).len();
        assert!((50..=150).contains(&early), "{early} of 200 in the first half");
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
            let mut judged = round.judged(false, Ok(()));
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

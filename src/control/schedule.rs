//! When each replica is to be asked next: for health checks, and for engines' metrics.
//!
//! The first time at a random point of its first interval, then every interval ± 10 %, so that neither many replicas nor
//! many edges ask at the same moment; and one question at a time to each replica. The schedule is laid against each new
//! snapshot, so a reload adds, moves and removes replicas here without a word.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;

use crate::domain::ids::{ReplicaIx, ReplicaKey};
use crate::roster::{Live, Snapshot};

/// Longest pause between two looks at the snapshot: how late a new replica is asked for the first time.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The questions to come. `S` is what is remembered of a replica beside.
pub(super) struct Schedule<S> {
    slots: HashMap<ReplicaKey, Slot<S>>,
    /// The snapshot that it was laid against.
    followed: Option<Arc<Snapshot>>,
}

/// One replica's.
pub(super) struct Slot<S> {
    pub(super) live: Arc<Live>,
    pub(super) replica: ReplicaIx,
    pub(super) due: Instant,
    busy: bool,
    pub(super) beside: S,
}

impl<S> Default for Schedule<S> {
    fn default() -> Schedule<S> {
        Schedule { slots: HashMap::new(), followed: None }
    }
}

impl<S> Schedule<S> {
    /// Takes up replicas that are new in the snapshot and drops those that are gone. `interval` is how often a replica is
    /// asked, `None` for never; `fresh` says when one is due that is not known yet. `false` where it is the snapshot of
    /// last time, and nothing is to be done.
    pub(super) fn follow(
        &mut self,
        snapshot: &Arc<Snapshot>,
        now: Instant,
        interval: impl Fn(ReplicaIx, Option<&S>) -> Option<Duration>,
        mut fresh: impl FnMut(&Live, Duration) -> (Instant, S),
    ) -> bool {
        if self.followed.as_ref().is_some_and(|followed| Arc::ptr_eq(followed, snapshot)) {
            return false;
        }
        let mut before = std::mem::take(&mut self.slots);
        for (replica, live) in snapshot.replicas() {
            // A replica that moved to another address has a new record, and with it a new schedule.
            let known = before.remove(&live.key()).filter(|slot| Arc::ptr_eq(&slot.live, live));
            let Some(interval) = interval(replica, known.as_ref().map(|slot| &slot.beside)) else { continue };
            let slot = match known {
                // A shorter interval holds from now on, not from the next time on.
                Some(slot) => Slot { replica, due: slot.due.min(now + interval.mul_f64(1.1)), ..slot },
                None => {
                    let (due, beside) = fresh(live, interval);
                    Slot { live: Arc::clone(live), replica, due, busy: false, beside }
                }
            };
            self.slots.insert(live.key(), slot);
        }
        self.followed = Some(Arc::clone(snapshot));
        true
    }

    /// What is remembered of every replica.
    pub(super) fn all_beside(&mut self) -> impl Iterator<Item = &mut S> {
        self.slots.values_mut().map(|slot| &mut slot.beside)
    }

    /// Those that are due, at most `room` of them, the longest overdue first. They are busy from now on; whoever asks them
    /// says when they are due again.
    pub(super) fn due(&mut self, room: usize, now: Instant) -> Vec<&mut Slot<S>> {
        let mut due: Vec<&mut Slot<S>> = self.slots.values_mut().filter(|slot| !slot.busy && slot.due <= now).collect();
        due.sort_by_key(|slot| slot.due);
        due.truncate(room);
        due.iter_mut().for_each(|slot| slot.busy = true);
        due
    }

    /// When to look again at the latest: the next one is due, or the snapshot may be another.
    pub(super) fn wake(&self, now: Instant) -> Instant {
        self.next().unwrap_or(now + LOOK_EVERY).clamp(now, now + LOOK_EVERY)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.slots.values().filter(|slot| !slot.busy).map(|slot| slot.due).min()
    }

    /// Ends a replica's being busy. `None` where it has gone or moved since: its answer says nothing of its successor.
    pub(super) fn done(&mut self, live: &Arc<Live>) -> Option<&mut Slot<S>> {
        let slot = self.slots.get_mut(&live.key()).filter(|slot| Arc::ptr_eq(&slot.live, live))?;
        slot.busy = false;
        Some(slot)
    }
}

/// At a random point of the interval that begins now.
pub(super) fn somewhere_in(interval: Duration, now: Instant) -> Instant {
    now + interval.mul_f64(rand::rng().random_range(0.0..1.0))
}

/// One interval later, give or take a tenth.
pub(super) fn about_one_later(interval: Duration, now: Instant) -> Instant {
    now + interval.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::observe::testing;

    const INTERVAL: Duration = Duration::from_secs(2);

    fn snapshot(replicas: u16) -> Arc<Snapshot> {
        let ports: Vec<u16> = (1..=replicas).collect();
        testing::roster(testing::config(&ports)).snapshot()
    }

    fn follow(schedule: &mut Schedule<()>, snapshot: &Arc<Snapshot>, now: Instant, interval: Duration) {
        schedule.follow(snapshot, now, |_, _| Some(interval), |_, interval| (somewhere_in(interval, now), ()));
    }

    fn of_two_hundred(start: Instant) -> Schedule<()> {
        let mut schedule = Schedule::default();
        follow(&mut schedule, &snapshot(200), start, INTERVAL);
        schedule
    }

    #[test]
    fn questions_are_bounded_and_no_replica_starves() {
        let start = Instant::now();
        let (mut schedule, later, mut seen) = (of_two_hundred(start), start + INTERVAL, HashSet::new());
        for _ in 0..4 {
            let asked: Vec<_> = schedule
                .due(64, later)
                .into_iter()
                .map(|slot| {
                    slot.due = about_one_later(INTERVAL, later);
                    Arc::clone(&slot.live)
                })
                .collect();
            assert!(asked.len() <= 64);
            for live in asked {
                seen.insert(live.key());
                assert!(schedule.done(&live).is_some());
            }
        }
        assert_eq!(seen.len(), 200);
    }

    #[test]
    fn a_question_under_way_is_the_only_one_of_its_replica() {
        let start = Instant::now();
        let mut schedule = of_two_hundred(start);
        assert_eq!(schedule.due(usize::MAX, start + INTERVAL).len(), 200);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(schedule.due(usize::MAX, much_later).len(), 0);
        assert_eq!((schedule.next(), schedule.wake(start)), (None, start + LOOK_EVERY));
    }

    #[test]
    fn first_questions_are_spread_over_an_interval() {
        let start = Instant::now();
        let early = of_two_hundred(start).due(usize::MAX, start + INTERVAL / 2).len();
        assert!((50..=150).contains(&early), "{early} of 200 in the first half");
    }

    #[test]
    fn a_reload_shortens_intervals_at_once_and_replicas_that_are_not_asked_have_no_place() {
        let (roster, now) = (testing::roster(testing::config(&[1, 2])), Instant::now());
        let mut schedule = Schedule::default();
        follow(&mut schedule, &roster.snapshot(), now, Duration::from_secs(3600));
        let live = Arc::clone(&schedule.due(1, now + Duration::from_secs(3600))[0].live);
        roster.swap(Arc::new(testing::config(&[1, 2])), Arc::new(testing::geo()));
        follow(&mut schedule, &roster.snapshot(), now, INTERVAL);
        assert!(schedule.next().is_some_and(|due| due <= now + INTERVAL.mul_f64(1.1)));
        assert_eq!(schedule.due(usize::MAX, now + 2 * INTERVAL).len(), 1, "the other is under way still");
        roster.swap(Arc::new(testing::config(&[1, 2])), Arc::new(testing::geo()));
        schedule.follow(&roster.snapshot(), now, |_, _| None, |_, _| (now, ()));
        assert!(schedule.next().is_none() && schedule.done(&live).is_none());
    }
}

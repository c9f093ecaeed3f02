//! What of a replica's time is a call's: a price by the hour is shared by the calls that are in flight there.
//!
//! At every moment each of `n` calls has an `n`-th of the replica, so a call's share is the integral of `dt / n` over its
//! life there. That is the difference of two readings of one clock that runs at `1 / n`: exact, whatever comes and goes
//! meanwhile, and two readings are all that a call costs. The shares of all calls together are the time in which the
//! replica was in use; what it costs while it idles is nobody's.
//!
//! Calls of other edges are not seen, so where several edges share a replica each of them counts all of its time. A call
//! that waits in the engine's queue counts like one that runs: it is in flight, and the replica is kept for it.

use std::time::Instant;

/// The clock of one replica.
#[derive(Clone, Copy, Default, Debug)]
pub struct ShareClock {
    /// Calls that have begun and not ended.
    calls: u32,
    /// What one call would have had, had it been there since the replica was last idle; in seconds.
    reading: f64,
    /// When that was read.
    at: Option<Instant>,
}

/// What the clock showed when a call began.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Began(f64);

impl ShareClock {
    /// A call begins at `now`. It must [`end`](ShareClock::end) with what is returned.
    #[must_use]
    pub fn begin(&mut self, now: Instant) -> Began {
        self.advance(now);
        self.calls += 1;
        Began(self.reading)
    }

    /// A call ends at `now`: its share of the replica's time, in seconds.
    pub fn end(&mut self, began: Began, now: Instant) -> f64 {
        self.advance(now);
        let share = self.reading - began.0;
        self.calls = self.calls.saturating_sub(1);
        if self.calls == 0 {
            // Nobody has a reading left, and small numbers add up exactly for longer.
            self.reading = 0.0;
        }
        share
    }

    /// The time of whoever waited for the clock may lie before the last one's; it stands still then.
    fn advance(&mut self, now: Instant) {
        let before = self.at.map_or(now, |at| at.min(now));
        if self.calls > 0 {
            self.reading += now.duration_since(before).as_secs_f64() / f64::from(self.calls);
        }
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn calls_share_the_time_in_which_they_overlap() {
        let (mut clock, start) = (ShareClock::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = clock.begin(at(0));
        let second = clock.begin(at(4));
        assert_eq!(clock.end(first, at(10)), 4.0 + 6.0 / 2.0);
        assert_eq!(clock.end(second, at(11)), 6.0 / 2.0 + 1.0);
        let alone = clock.begin(at(100));
        assert_eq!(clock.end(alone, at(101)), 1.0, "what it idled is nobody's");
    }

    #[test]
    fn time_that_comes_late_changes_nothing() {
        let (mut clock, start) = (ShareClock::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let one = clock.begin(at(10));
        let other = clock.begin(at(5));
        assert_eq!(clock.end(one, at(12)), 1.0);
        assert_eq!(clock.end(other, at(11)), 1.0);
    }

    proptest! {
        /// Calls begin and end at random: each step waits, then one ends that is under way, or a new one begins.
        #[test]
        fn the_shares_of_all_calls_are_the_time_in_which_the_replica_was_in_use(
            steps in prop::collection::vec((0u64..5_000_000, any::<prop::sample::Index>(), 0.0f64..1.0), 1..300),
        ) {
            let (mut clock, start) = (ShareClock::default(), Instant::now());
            let (mut now, mut open, mut shares, mut busy) = (start, Vec::new(), Vec::new(), Duration::ZERO);
            let mut pass = |now: &mut Instant, open: usize, micros| {
                *now += Duration::from_micros(micros);
                if open > 0 {
                    busy += Duration::from_micros(micros);
                }
            };
            for (micros, which, coin) in steps {
                pass(&mut now, open.len(), micros);
                if open.is_empty() || coin < 0.5 {
                    open.push((clock.begin(now), now));
                } else {
                    let (began, since) = open.swap_remove(which.index(open.len()));
                    let share = clock.end(began, now);
                    prop_assert!(share >= 0.0 && share <= now.duration_since(since).as_secs_f64() + 1e-9);
                    shares.push(share);
                }
            }
            while let Some((began, _)) = open.pop() {
                pass(&mut now, open.len() + 1, 1_000);
                shares.push(clock.end(began, now));
            }
            let all: f64 = shares.iter().sum();
            let price_per_s = 2.49 / 3_600.0;
            let (billed, due) = (all * price_per_s, busy.as_secs_f64() * price_per_s);
            prop_assert!((billed - due).abs() <= 1e-9 * due.max(1e-6), "{billed} of {due}");
        }
    }
}

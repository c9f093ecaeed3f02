//! How many of a replica's last attempts went well: those within a window of time, counted in tenths of it.
//!
//! Failures in a row tell a dead replica within seconds, and a sick one hardly: one that fails every second call is
//! found by five in a row after some sixty calls. Until then it costs half a retry for each of its calls, more than the
//! retry budget has when it is one of two. So a breaker trips on its success rate as well, once there are enough attempts
//! to speak of one.

use std::time::{Duration, Instant};

/// Parts of the window; the oldest tenth is forgotten at once.
const SLOTS: usize = 10;

/// The attempts of the last window.
#[derive(Clone, Copy, Default, Debug)]
pub struct Recent {
    slots: [Slot; SLOTS],
    /// The slot that is counted in now.
    at: usize,
    /// When that slot began.
    began: Option<Instant>,
}

#[derive(Clone, Copy, Default, Debug)]
struct Slot {
    succeeded: u32,
    failed: u32,
}

impl Recent {
    /// Counts an attempt that ended.
    pub fn note(&mut self, succeeded: bool, window: Duration, now: Instant) {
        self.turn_to(window, now);
        let slot = &mut self.slots[self.at];
        let count = if succeeded { &mut slot.succeeded } else { &mut slot.failed };
        *count = count.saturating_add(1);
    }

    /// The share that went well, if there are at least so many, as of the last one counted.
    pub fn success_rate(&self, min_requests: u32) -> Option<f64> {
        let sum = |count: fn(&Slot) -> u32| self.slots.iter().map(|slot| u64::from(count(slot))).sum::<u64>();
        let (succeeded, failed) = (sum(|slot| slot.succeeded), sum(|slot| slot.failed));
        let all = succeeded + failed;
        (all >= u64::from(min_requests.max(1))).then(|| succeeded as f64 / all as f64)
    }

    fn turn_to(&mut self, window: Duration, now: Instant) {
        let width = (window / SLOTS as u32).max(Duration::from_nanos(1));
        let began = *self.began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        let steps = passed.as_nanos() / width.as_nanos();
        for _ in 0..steps.min(SLOTS as u128) {
            self.at = (self.at + 1) % SLOTS;
            self.slots[self.at] = Slot::default();
        }
        if steps >= SLOTS as u128 {
            self.began = Some(now);
        } else if steps > 0 {
            self.began = Some(began + width * steps as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    /// After attempts at these seconds (`true`: went well) the rate of at least `min` of them.
    #[track_caller]
    fn check(attempts: &[(u64, bool)], min: u32, rate: Option<f64>) {
        let (mut recent, epoch) = (Recent::default(), Instant::now());
        for (second, succeeded) in attempts {
            recent.note(*succeeded, WINDOW, epoch + Duration::from_secs(*second));
        }
        assert_eq!(recent.success_rate(min), rate, "{attempts:?}");
    }

    #[test]
    fn it_speaks_of_the_last_window_only() {
        check(&[(0, true), (1, false)], 2, Some(0.5));
        check(&[(0, true), (1, false), (29, false)], 2, Some(1.0 / 3.0));
        check(&[(0, true), (3, false), (32, false)], 2, Some(0.0));
        check(&[(0, false), (1, false), (60, true)], 1, Some(1.0));
        check(&[(0, false), (1_000_000, true)], 1, Some(1.0));
    }

    #[test]
    fn too_few_attempts_are_no_rate() {
        check(&[], 0, None);
        check(&[(0, true)], 2, None);
        check(&[(0, false), (0, false), (40, false)], 2, None);
    }

    #[test]
    fn odd_clocks_and_windows_are_no_panic() {
        let (mut recent, now) = (Recent::default(), Instant::now());
        recent.note(true, WINDOW, now);
        recent.note(true, WINDOW, now - Duration::from_secs(99));
        recent.note(true, Duration::ZERO, now + Duration::from_secs(99));
        recent.note(false, Duration::MAX, now + Duration::from_secs(100));
        assert_eq!(recent.success_rate(2), Some(0.5));
    }
}

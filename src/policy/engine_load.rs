//! What an engine's own numbers are worth: the load at a replica that this edge has not sent there itself.
//!
//! An edge knows its own requests to the instant. Of those of other edges, or of whoever else calls the engine, it knows
//! what the engine last said, which is seconds old. Hence two rules. The edge's own requests are taken off, as they were
//! when the engine spoke and not as they are now: what this edge has sent since then is no reason to believe that others
//! went away, nor are those of its own that have ended since then somebody else's. And what is said fades: half of the
//! answers that agents wait for are over after some seconds (216 tokens at 25 a second are nine), so that after ten
//! seconds an old count says nothing of now. It fades to nothing and not to a guess, so that a replica that no longer
//! tells is neither shunned nor sought for that.
//!
//! It errs where the engine counts late or the edge early: requests on their way are taken off although the engine has
//! not seen them yet. Then there seems to be less of others' load than there is, never more.

use std::time::{Duration, Instant};

use crate::domain::engine_load::EngineLoad;

/// So long an engine's word is taken in full: from one answer to the next at the default interval, its jitter and the
/// answer's way included. While an engine answers, nothing fades.
pub const FRESH: Duration = Duration::from_millis(2_500);

/// From this age on it is worth nothing: five answers have failed to come by then.
pub const STALE: Duration = Duration::from_secs(10);

/// What an engine said last.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LoadReport {
    /// Its load.
    pub load: EngineLoad,
    /// This edge's own requests there at that moment.
    pub own_in_flight: u32,
    /// When it said so.
    pub at: Instant,
}

impl LoadReport {
    /// How old it is at `now`.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }

    /// Whether it is worth anything at `now`.
    pub fn tells(&self, now: Instant) -> bool {
        self.age(now) < STALE
    }

    /// Requests of others in the engine's batch, as far as this report tells at `now`.
    pub fn foreign_running(&self, now: Instant) -> f64 {
        foreign_running(&self.load, self.own_in_flight, self.age(now))
    }

    /// Requests of others in the engine's queue, as far as this report tells at `now`.
    pub fn foreign_waiting(&self, now: Instant) -> f64 {
        foreign_waiting(&self.load, self.own_in_flight, self.age(now))
    }

    /// Tokens of the engine's KV cache that requests of others hold, as far as this report tells at `now`; `None` where the
    /// engine does not tell what it holds.
    pub fn foreign_tokens(&self, now: Instant) -> Option<f64> {
        let held = self.kv_usage(now)? * self.load.kv_capacity_tokens? as f64;
        Some(held * foreign_share(&self.load, self.own_in_flight) * trust(self.age(now)))
    }

    /// The share of the engine's KV cache in use, as far as this report tells at `now`.
    pub fn kv_usage(&self, now: Instant) -> Option<f64> {
        kv_usage(&self.load, self.age(now))
    }
}

/// What a word of this age is worth: 1 until [`FRESH`], then falling evenly to 0 at [`STALE`].
pub fn trust(age: Duration) -> f64 {
    let left = STALE.saturating_sub(age).as_secs_f64();
    (left / (STALE - FRESH).as_secs_f64()).min(1.0)
}

/// Requests of others in the batch, weighted by the word's age. `own_in_flight` are this edge's requests there when the
/// engine spoke.
pub fn foreign_running(load: &EngineLoad, own_in_flight: u32, age: Duration) -> f64 {
    f64::from(load.running) * foreign_share(load, own_in_flight) * trust(age)
}

/// Requests of others in the queue, weighted by the word's age. `own_in_flight` are this edge's requests there when the
/// engine spoke.
pub fn foreign_waiting(load: &EngineLoad, own_in_flight: u32, age: Duration) -> f64 {
    f64::from(load.waiting) * foreign_share(load, own_in_flight) * trust(age)
}

/// The share of the KV cache in use, 0 to 1; `None` when it is not told or the word too old. It is a level and no count:
/// a smaller one would be another claim and not a weaker one, so it is not weighted. [`trust`] is there for a cost.
pub fn kv_usage(load: &EngineLoad, age: Duration) -> Option<f64> {
    load.kv_usage.filter(|usage| age < STALE && usage.is_finite()).map(|usage| usage.clamp(0.0, 1.0))
}

/// The share of the engine's requests that are others'. Queue and batch are taken to be mixed alike: engines serve in
/// order of arrival, and nobody tells whose requests wait.
fn foreign_share(load: &EngineLoad, own_in_flight: u32) -> f64 {
    let all = f64::from(load.running) + f64::from(load.waiting);
    let foreign = (all - f64::from(own_in_flight)).max(0.0);
    if all > 0.0 { foreign / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(running: u32, waiting: u32) -> EngineLoad {
        EngineLoad {
            running,
            waiting,
            kv_usage: Some(0.5),
            kv_capacity_tokens: None,
            prefix_queries: None,
            prefix_hits: None,
        }
    }

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[track_caller]
    fn check(told: (u32, u32), own: u32, age: f64, foreign: (f64, f64)) {
        let load = load(told.0, told.1);
        let found = (foreign_running(&load, own, secs(age)), foreign_waiting(&load, own, secs(age)));
        let close = (found.0 - foreign.0).abs() < 1e-9 && (found.1 - foreign.1).abs() < 1e-9;
        assert!(close, "{found:?}, expected {foreign:?}");
    }

    #[test]
    fn what_is_not_the_edges_own_is_foreign_in_batch_and_queue_alike() {
        check((8, 4), 0, 0.0, (8.0, 4.0));
        check((8, 4), 6, 0.0, (4.0, 2.0));
        check((8, 4), 12, 0.0, (0.0, 0.0));
        check((8, 4), u32::MAX, 0.0, (0.0, 0.0));
        check((0, 0), 0, 0.0, (0.0, 0.0));
    }

    #[test]
    fn an_engines_word_is_taken_in_full_until_the_next_is_due_and_then_fades_to_nothing() {
        check((8, 4), 0, 2.5, (8.0, 4.0));
        check((8, 4), 0, 6.25, (4.0, 2.0));
        check((8, 4), 0, 10.0, (0.0, 0.0));
        check((8, 4), 0, 1e6, (0.0, 0.0));
    }

    #[test]
    fn usage_is_told_as_it_is_until_it_is_too_old() {
        assert_eq!(kv_usage(&load(0, 0), secs(9.9)), Some(0.5));
        assert_eq!(kv_usage(&load(0, 0), STALE), None);
        assert_eq!(kv_usage(&EngineLoad { kv_usage: None, ..load(0, 0) }, secs(0.0)), None);
        assert_eq!(kv_usage(&EngineLoad { kv_usage: Some(f64::NAN), ..load(0, 0) }, secs(0.0)), None);
    }

    #[test]
    fn of_the_tokens_held_as_many_are_others_as_of_the_requests() {
        let load = EngineLoad { kv_capacity_tokens: Some(1_000), ..load(8, 0) };
        let report = LoadReport { load, own_in_flight: 2, at: Instant::now() };
        assert_eq!(report.foreign_tokens(report.at), Some(375.0));
        assert_eq!(report.foreign_tokens(report.at + STALE), None);
        let silent = LoadReport { load: EngineLoad { kv_capacity_tokens: None, ..load }, ..report };
        assert_eq!(silent.foreign_tokens(report.at), None);
    }

    #[test]
    fn a_report_speaks_of_its_own_age_and_a_clock_that_stands_before_it_changes_nothing() {
        let at = Instant::now() + STALE;
        let report = LoadReport { load: load(8, 4), own_in_flight: 6, at };
        for now in [at, at - STALE] {
            assert_eq!((report.foreign_running(now), report.foreign_waiting(now)), (4.0, 2.0));
            assert_eq!((report.kv_usage(now), report.tells(now)), (Some(0.5), true));
        }
        let later = at + STALE;
        assert_eq!((report.foreign_running(later), report.kv_usage(later), report.tells(later)), (0.0, None, false));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn foreign_load_is_bounded_and_never_grows_with_age_or_with_the_edges_own(
            running in any::<u32>(), waiting in any::<u32>(), own in any::<u32>(), more in any::<u32>(),
            age_ms in 0u64..15_000, later_ms in 0u64..15_000,
        ) {
            let load = load(running, waiting);
            let (age, later) = (Duration::from_millis(age_ms), Duration::from_millis(age_ms + later_ms));
            for (of, told) in [(foreign_running as fn(&EngineLoad, u32, Duration) -> f64, running), (foreign_waiting, waiting)] {
                let now = of(&load, own, age);
                prop_assert!(now.is_finite() && (0.0..=f64::from(told)).contains(&now), "{now} of {told}");
                prop_assert!(of(&load, own, later) <= now);
                prop_assert!(of(&load, own.saturating_add(more), age) <= now);
                prop_assert_eq!(of(&load, own, STALE + later), 0.0);
            }
            let (fresh, old) = (trust(age), trust(later));
            prop_assert!((0.0..=1.0).contains(&fresh) && old <= fresh);
        }

        #[test]
        fn batch_and_queue_hold_together_what_is_not_the_edges_own(
            running in 0u32..10_000, waiting in 0u32..10_000, own in 0u32..30_000,
        ) {
            let load = load(running, waiting);
            let both = foreign_running(&load, own, Duration::ZERO) + foreign_waiting(&load, own, Duration::ZERO);
            prop_assert!((both - f64::from((running + waiting).saturating_sub(own))).abs() < 1e-6);
        }
    }
}

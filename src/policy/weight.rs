//! A replica's weight in its pool: how large a share of new work it is given, from a tenth to the whole of a usual one.
//!
//! Three things lower it. **Slow start**: a replica that comes back, after its breaker was open or its health checks failed,
//! has a cold cache, perhaps a cold engine, and every reason to fail again; its share grows over `slow_start`. **Outliers**:
//! one that takes three times as long to its first event as the others of its pool gets less in proportion, and is never
//! shut out: slow is better than refused, and only calls can show that it is well again. **Doubt**: one that failed a
//! request which another replica failed too is blamed for nothing, yet others come first until it answers somebody.
//! Without that a session that hashing leads to two broken replicas would be led there with every call.
//!
//! Weights steer new sessions and calls without one. A session at home stays whatever the weight: its cache is there, and
//! computing it anew elsewhere would cost more than most slowness does.

use std::time::{Duration, Instant};

use super::replica::Candidate;
use super::ttft::Typical;

/// The least weight: enough calls that a replica can show what it is.
pub const WEIGHT_MIN: f64 = 0.1;

/// Slower than the others by this factor is an outlier; less is within what different prompts do.
const OUTLIER: f32 = 3.0;

/// The weight of a replica that came back at `back`, if it ever was away.
pub fn slow_start(back: Option<Instant>, slow_start: Duration, now: Instant) -> f64 {
    let Some(back) = back.filter(|_| !slow_start.is_zero()) else { return 1.0 };
    let grown = now.saturating_duration_since(back).as_secs_f64() / slow_start.as_secs_f64();
    (WEIGHT_MIN + (1.0 - WEIGHT_MIN) * grown).min(1.0)
}

/// Lowers the weights of those in a pool that take far longer to their first event than the others.
pub fn lower_outliers(pool: &mut [Candidate]) {
    let at_home = |candidate: &Candidate| candidate.ttft.at_home;
    let elsewhere = |candidate: &Candidate| candidate.ttft.elsewhere;
    let (at_home, elsewhere) = (Others::of(pool, at_home), Others::of(pool, elsewhere));
    if [&at_home, &elsewhere].into_iter().flatten().all(Others::are_even) {
        return;
    }
    for candidate in pool {
        let Typical { at_home: home_s, elsewhere: elsewhere_s } = candidate.ttft;
        let factors = [(&at_home, home_s), (&elsewhere, elsewhere_s)];
        // Slow in all that can be compared: a cold cache alone is no fault.
        let factor =
            factors.into_iter().filter_map(|(others, own)| Some(others.as_ref()?.factor(own?))).reduce(f64::max);
        candidate.weight = (candidate.weight * factor.unwrap_or(1.0)).max(WEIGHT_MIN);
    }
}

/// What is typical of the replicas of a pool, in seconds, in order; nothing when nobody can be an outlier, the usual case,
/// which must cost little.
struct Others(Vec<f32>);

impl Others {
    /// `None` when there is nobody to compare with.
    fn of(pool: &[Candidate], typical: impl Fn(&Candidate) -> Option<f32>) -> Option<Others> {
        let (mut least, mut most, mut count) = (f32::INFINITY, 0.0f32, 0);
        for seconds in pool.iter().filter_map(&typical) {
            (least, most, count) = (least.min(seconds), most.max(seconds), count + 1);
        }
        if count < 2 {
            return None;
        }
        if most < OUTLIER * least {
            return Some(Others(Vec::new()));
        }
        let mut all: Vec<f32> = pool.iter().filter_map(&typical).collect();
        all.sort_by(f32::total_cmp);
        Some(Others(all))
    }

    fn are_even(&self) -> bool {
        self.0.is_empty()
    }

    /// The median of the others beside `own`, when that is an outlier; else 1.
    fn factor(&self, own: f32) -> f64 {
        let Others(all) = self;
        if self.are_even() {
            return 1.0;
        }
        let at = all.partition_point(|seconds| *seconds < own);
        // The upper one of two in the middle: when in doubt, nobody is an outlier.
        let middle = (all.len() - 1) / 2;
        let median = all.get(if middle < at { middle } else { middle + 1 }).copied().unwrap_or(own);
        if own >= OUTLIER * median { f64::from(median / own) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::candidate;

    #[test]
    fn a_replica_that_came_back_grows_from_a_tenth_to_the_whole() {
        let (back, thirty) = (Instant::now(), Duration::from_secs(30));
        for (after_s, weight) in [(0, 0.1), (10, 0.4), (20, 0.7), (30, 1.0), (3_600, 1.0)] {
            let found = slow_start(Some(back), thirty, back + Duration::from_secs(after_s));
            assert!((found - weight).abs() < 1e-9, "{found} after {after_s} s");
        }
        assert_eq!(slow_start(None, thirty, back), 1.0);
        assert_eq!(slow_start(Some(back), Duration::ZERO, back), 1.0, "turned off");
    }

    /// Replicas with these typical times at home and elsewhere (0: not known) have these weights.
    #[track_caller]
    fn check(times: &[(f32, f32)], weights: &[f64]) {
        let known = |seconds: f32| (seconds > 0.0).then_some(seconds);
        let mut pool: Vec<_> = (0..times.len()).map(candidate).collect();
        for (candidate, (at_home, elsewhere)) in pool.iter_mut().zip(times) {
            candidate.ttft = Typical { at_home: known(*at_home), elsewhere: known(*elsewhere) };
        }
        lower_outliers(&mut pool);
        let near = pool.iter().zip(weights).all(|(candidate, weight)| (candidate.weight - weight).abs() < 1e-3);
        assert!(near, "{:?}, expected {weights:?}", pool.iter().map(|candidate| candidate.weight).collect::<Vec<_>>());
    }

    #[test]
    fn three_times_the_others_median_is_an_outlier() {
        check(&[(0.2, 0.0), (0.2, 0.0), (0.2, 0.0), (0.59, 0.0)], &[1.0; 4]);
        check(&[(0.2, 0.0), (0.2, 0.0), (0.2, 0.0), (0.6, 0.0)], &[1.0, 1.0, 1.0, 1.0 / 3.0]);
        check(&[(0.2, 0.0), (9.0, 0.0)], &[1.0, 0.1]);
        check(&[(0.2, 0.0), (0.2, 0.0), (0.8, 0.0), (1.0, 0.0), (0.2, 0.0)], &[1.0, 1.0, 0.25, 0.2, 1.0]);
        check(&[(0.2, 0.0), (1.0, 0.0), (1.0, 0.0)], &[1.0; 3]);
    }

    #[test]
    fn only_like_is_compared_and_whoever_is_slow_in_one_kind_alone_is_no_outlier() {
        check(&[(0.2, 0.0), (0.0, 9.0)], &[1.0; 2]);
        check(&[(0.2, 2.0), (0.2, 9.0)], &[1.0; 2]);
        check(&[(0.2, 2.0), (0.8, 9.0)], &[1.0, 0.25]);
        check(&[(0.2, 2.0), (0.0, 9.0)], &[1.0, 2.0 / 9.0]);
    }

    #[test]
    fn with_nobody_to_compare_with_nobody_is_an_outlier() {
        check(&[(9.0, 9.0)], &[1.0]);
        check(&[(9.0, 0.0), (0.0, 0.0), (0.0, 0.0)], &[1.0; 3]);
        check(&[], &[]);
    }

    #[test]
    fn both_reasons_together_leave_a_tenth() {
        let mut pool = [candidate(0), candidate(1)];
        pool[0].ttft.at_home = Some(0.1);
        pool[1] = Candidate { weight: 0.4, ..pool[1] };
        pool[1].ttft.at_home = Some(1.0);
        lower_outliers(&mut pool);
        assert_eq!(pool.map(|candidate| candidate.weight), [1.0, WEIGHT_MIN]);
    }
}

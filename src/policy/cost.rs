//! What a replica costs a call, in milliseconds to its first event.
//!
//! One unit for all that speaks for or against a replica, so that cache, queue and distance can be weighed:
//!
//! `(queued + uncached) ÷ (speed × weight) + (w − 1) × uncached ÷ speed + load + distance`
//!
//! *Queued* and *uncached* are tokens that the replica has to read before the first event: those of calls before this one,
//! and this one's own that its cache does not hold. The queue is counted in tokens and not in requests, since agents' prompts
//! span a hundredfold. `w` ([`MISS_WEIGHT`]) makes a miss dearer than the call's own wait: it holds up those behind it, and
//! pushes others' caches out. With the own wait alone (w = 1) the cached share falls by 16 points in the laboratory; 2 to 8
//! are all good.
//!
//! So a session leaves its cache exactly when the queue there is longer than elsewhere by more than what its context costs,
//! and a session without a cache goes to the shortest queue, nearest first. Two rules that look alike collapse: to bound
//! the load of each replica, or to leave when the queue is some seconds longer; both move long contexts, whose reading then
//! fills the next queue.

use super::replica::Candidate;

/// What a token that must be read costs beside one that waits to be read (see above). From 4 to 8 the cached share of the
/// recorded sessions grows by two points, and the calls answered in overload by 4 %, while the slowest first events and the
/// spread among replicas grow; 6 is good in all.
pub const MISS_WEIGHT: f64 = 6.0;

/// Tokens of prompt read in a second by a pool that is not known yet. Half or twice the truth makes no difference to the
/// choice among its replicas; other pools are only compared with it once its pace is known.
pub const ASSUMED_TOKENS_PER_S: f32 = 10_000.0;

/// What a full replica costs beside an idle one, in ms: about what a full batch adds to a step, several times over, and as
/// much as 330 tokens that are not cached. A cache worth keeping is not left for it; calls that have none spread by it.
const FULL_MS: f64 = 200.0;

/// Costs that differ by less count as equal, in ms: less than what two edges, or two moments, see differently.
const BAND_MS: f64 = 25.0;

/// The same as a share of the cost: what is estimated is not known better.
const BAND_SHARE: f64 = 0.02;

/// One round trip more, in ms for each km, and what any trip between regions takes besides (fitted over 1,199 pairs of
/// cloud regions, r = 0.88).
const MS_PER_KM: f64 = 0.0143;
const REGION_MS: f64 = 26.0;

/// Distances below are within a region, in km.
const WITHIN_KM: f64 = 100.0;

/// What a candidate costs one call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Until the replica has time for it: what was there before, and how full its batch is.
    pub wait_ms: f64,
    /// Until it has read what its cache does not hold, others' waiting for that included.
    pub read_ms: f64,
}

impl Cost {
    /// Both.
    pub fn ms(self) -> f64 {
        self.wait_ms + self.read_ms
    }
}

/// What this replica costs a call with a prompt of so many tokens.
pub fn of(candidate: &Candidate, prompt_tokens: u32) -> Cost {
    let ms_per_token = 1_000.0 / f64::from(candidate.tokens_per_s.unwrap_or(ASSUMED_TOKENS_PER_S).max(1.0));
    let cached = candidate.cached_tokens.max(candidate.shared_tokens);
    let uncached = f64::from(prompt_tokens.saturating_sub(cached));
    let full = (f64::from(candidate.in_flight) + candidate.others) / f64::from(candidate.cap.max(1));
    let load_ms = FULL_MS * full * full / candidate.weight;
    Cost {
        wait_ms: candidate.queued_tokens as f64 / candidate.weight * ms_per_token + load_ms,
        read_ms: (uncached / candidate.weight + (MISS_WEIGHT - 1.0) * uncached) * ms_per_token,
    }
}

/// Up to which cost, in ms, candidates count as equal to one of this cost.
pub fn band(least_ms: f64) -> f64 {
    least_ms + BAND_MS + BAND_SHARE * least_ms
}

/// Whether waiting so long is as good as not waiting.
pub fn is_free(wait_ms: f64) -> bool {
    wait_ms <= BAND_MS
}

/// What the way to a region at this distance costs, in ms.
pub fn distance_ms(km: f64) -> f64 {
    if km < WITHIN_KM { 0.0 } else { REGION_MS + MS_PER_KM * km }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::candidate;

    fn at(queued_tokens: u64, cached_tokens: u32) -> Candidate {
        Candidate { queued_tokens, cached_tokens, tokens_per_s: Some(10_000.0), ..candidate(0) }
    }

    #[track_caller]
    fn check(candidate: Candidate, tokens: u32, wait_ms: f64, read_ms: f64) {
        let cost = of(&candidate, tokens);
        assert!((cost.wait_ms - wait_ms).abs() < 1e-6 && (cost.read_ms - read_ms).abs() < 1e-6, "{cost:?}");
    }

    #[test]
    fn what_is_not_cached_costs_several_times_what_waits() {
        check(at(0, 0), 0, 0.0, 0.0);
        check(at(10_000, 0), 0, 1_000.0, 0.0);
        check(at(0, 0), 10_000, 0.0, 6_000.0);
        check(at(5_000, 9_000), 10_000, 500.0, 600.0);
        check(at(0, 20_000), 10_000, 0.0, 0.0);
    }

    #[test]
    fn a_replica_of_half_the_weight_reads_at_half_the_speed() {
        check(Candidate { weight: 0.5, ..at(10_000, 0) }, 10_000, 2_000.0, 7_000.0);
    }

    #[test]
    fn a_fuller_batch_costs_more() {
        check(Candidate { in_flight: 1, ..at(0, 0) }, 0, FULL_MS / 16.0, 0.0);
        check(Candidate { in_flight: 4, ..at(0, 0) }, 0, FULL_MS, 0.0);
        check(Candidate { in_flight: 1, others: 1.0, ..at(0, 0) }, 0, FULL_MS / 4.0, 0.0);
        assert!(of(&Candidate { cap: 0, tokens_per_s: Some(0.0), ..at(1, 0) }, 1).ms().is_finite());
    }

    #[test]
    fn distance_costs_nothing_within_a_region_and_a_round_trip_between_them() {
        assert_eq!(distance_ms(30.0), 0.0);
        assert!((distance_ms(10_000.0) - 169.0).abs() < 0.1);
    }
}

//! What a replica costs a call, in milliseconds: to its first event, and what its answer takes longer for those that run
//! beside it.
//!
//! One unit for all that speaks for or against a replica, so that cache, queue, batch and distance can be weighed:
//!
//! `(queued + uncached) ÷ (speed × weight) + (w − 1) × uncached ÷ speed + 20 × (1 + streams) ÷ weight + full + distance`
//!
//! *Queued* and *uncached* are tokens that the replica has to read before the first event: those of calls before this one,
//! and this one's own that its cache does not hold. The queue is counted in tokens and not in requests, since agents' prompts
//! span a hundredfold. `w` ([`MISS_WEIGHT`]) makes a miss dearer than the call's own wait: it holds up those behind it, and
//! pushes others' caches out. With the own wait alone (w = 1) the cached share falls by 16 points in the laboratory; 2 to 8
//! are all good.
//!
//! *Streams* are this edge's own calls there, each of which slows the answer ([`STREAM_MS`]). They are what spreads calls that
//! are short, or the same over and over: no queue speaks against a replica that holds them all, however many run there. A
//! long context stays: to read 10,000 tokens anew, at as many a second, costs as much as 300 streams. Three things are left
//! out: a handful at home ([`HOME_STREAMS`]); others' calls, since what is known of them is seconds old, and edges that all
//! went after it would swing from replica to replica, while edges that each even out their own even out the sum; and all of
//! them where a session starts, since each edge sees its own, and would start it at a replica of its own choice. The call
//! itself counts as one: else a low weight would say nothing where nothing runs, as at a replica that fails all at once.
//!
//! So a session leaves its cache exactly when the queue and the streams there outweigh those elsewhere by more than what its
//! context costs, and a session without a cache goes to the shortest queue, nearest first. Two rules that look alike
//! collapse: to bound the load of each replica, or to leave when the queue is some seconds longer; both move long contexts,
//! whose reading then fills the next queue.

use super::replica::{Call, Candidate};

/// What a token that must be read costs beside one that waits to be read (see above). From 4 to 8 the cached share of the
/// recorded sessions grows by two points, and the calls answered in overload by 4 %, while the slowest first events and the
/// spread among replicas grow; 6 is good in all.
pub const MISS_WEIGHT: f64 = 6.0;

/// Tokens of prompt read in a second by a pool that is not known yet. Half or twice the truth makes no difference to the
/// choice among its replicas; other pools are only compared with it once its pace is known.
pub const ASSUMED_TOKENS_PER_S: f32 = 10_000.0;

/// What each of this edge's calls at a replica costs one more there, in ms: agents' median answer has 216 tokens (the
/// recorded sessions), and a step takes 0.1 ms longer for each request in it (2,500 tokens of KV cache at the 128 KiB of an
/// 8B model, read at the 3.35 TB/s of an H100). Less than what counts as equal, so that no call moves for one stream.
pub const STREAM_MS: f64 = 20.0;

/// So many streams at a session's home count nothing: about what chance makes of an even load. Whoever moved for them would
/// lose its place where edges agree, and where pools read fast its cache too.
pub const HOME_STREAMS: u32 = 4;

/// What a replica at its cap costs beside an idle one, in ms: as much as 330 tokens that are not cached, or a region that is
/// 12,000 km farther. Others' calls count here as well, as far as they are known. It is what sends a session that begins to
/// another region before the nearest is full; within a pool the streams are told apart long before.
const FULL_MS: f64 = 200.0;

/// Costs that differ by less count as equal, in ms: less than what two edges, or two moments, see differently.
const BAND_MS: f64 = 25.0;

/// The same as a share of the cost: what is estimated is not known better.
const BAND_SHARE: f64 = 0.02;

/// One round trip more, in ms for each km (fitted over 1,199 pairs of cloud regions, r = 0.88).
const MS_PER_KM: f64 = 0.0143;

/// What any round trip between regions takes besides, in ms (of the same fit).
pub const REGION_MS: f64 = 26.0;

/// Distances below are within a region, in km.
const WITHIN_KM: f64 = 100.0;

/// What a candidate costs one call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Cost {
    /// Until the replica has time for it: what was there before, and how full its batch is.
    pub wait_ms: f64,
    /// Until it has read what its cache does not hold, others' waiting for that included.
    pub read_ms: f64,
    /// What an answer takes longer for this call, and for those that run beside it.
    pub streams_ms: f64,
}

impl Cost {
    /// All of it.
    pub fn ms(self) -> f64 {
        self.wait_ms + self.read_ms + self.streams_ms
    }
}

/// What this replica costs the call.
pub fn of(candidate: &Candidate, call: Call) -> Cost {
    let ms_per_token = 1_000.0 / f64::from(candidate.tokens_per_s.unwrap_or(ASSUMED_TOKENS_PER_S).max(1.0));
    let cached = candidate.cached_tokens.max(candidate.shared_tokens);
    let uncached = f64::from(call.tokens.saturating_sub(cached));
    let full = (f64::from(candidate.in_flight) + candidate.others) / f64::from(candidate.cap.max(1));
    let load_ms = FULL_MS * full * full / candidate.weight;
    let unfelt = if call.is_home(candidate) { HOME_STREAMS } else { 0 };
    let felt = if call.starts() { 0 } else { candidate.in_flight.saturating_sub(unfelt).saturating_add(1) };
    Cost {
        wait_ms: candidate.queued_tokens as f64 / candidate.weight * ms_per_token + load_ms,
        read_ms: (uncached / candidate.weight + (MISS_WEIGHT - 1.0) * uncached) * ms_per_token,
        streams_ms: STREAM_MS * f64::from(felt) / candidate.weight,
    }
}

/// What it would cost at a replica like this one that is idle, and holds of the prompt what any will hold.
pub fn anew(candidate: &Candidate, call: Call) -> Cost {
    let idle = Candidate { cached_tokens: 0, queued_tokens: 0, in_flight: 0, others: 0.0, weight: 1.0, ..*candidate };
    of(&idle, call)
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
    use crate::policy::replica::SessionView;
    use crate::policy::testing::{candidate, replica_key, session_key};

    fn call(tokens: u32) -> Call {
        Call { tokens, ..Call::default() }
    }

    fn at(queued_tokens: u64, cached_tokens: u32) -> Candidate {
        Candidate { queued_tokens, cached_tokens, tokens_per_s: Some(10_000.0), ..candidate(0) }
    }

    #[track_caller]
    fn check(candidate: Candidate, tokens: u32, wait_ms: f64, read_ms: f64) {
        check_streams(candidate, tokens, wait_ms, read_ms, STREAM_MS / candidate.weight);
    }

    #[track_caller]
    fn check_streams(candidate: Candidate, tokens: u32, wait_ms: f64, read_ms: f64, streams_ms: f64) {
        let cost = of(&candidate, call(tokens));
        let close = |found: f64, wanted: f64| (found - wanted).abs() < 1e-6;
        let parts = close(cost.wait_ms, wait_ms) && close(cost.read_ms, read_ms) && close(cost.streams_ms, streams_ms);
        assert!(parts && close(cost.ms(), wait_ms + read_ms + streams_ms), "{cost:?}");
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
        check_streams(Candidate { in_flight: 1, ..at(0, 0) }, 0, FULL_MS / 16.0, 0.0, 2.0 * STREAM_MS);
        check_streams(Candidate { in_flight: 4, ..at(0, 0) }, 0, FULL_MS, 0.0, 5.0 * STREAM_MS);
        check_streams(Candidate { in_flight: 40, cap: 4_000, ..at(0, 0) }, 0, FULL_MS / 1e4, 0.0, 41.0 * STREAM_MS);
        check_streams(Candidate { in_flight: 1, weight: 0.5, ..at(0, 0) }, 0, FULL_MS / 8.0, 0.0, 4.0 * STREAM_MS);
        check(Candidate { others: 4.0, ..at(0, 0) }, 0, FULL_MS, 0.0);
        check_streams(Candidate { in_flight: 1, others: 1.0, ..at(0, 0) }, 0, FULL_MS / 4.0, 0.0, 2.0 * STREAM_MS);
        assert!(of(&Candidate { cap: 0, tokens_per_s: Some(0.0), ..at(1, 0) }, call(1)).ms().is_finite());
    }

    #[test]
    fn streams_say_nothing_where_a_session_starts_and_a_handful_nothing_at_home() {
        let session = |begun| SessionView { placement: session_key(1), home: None, begun };
        let streams = |session| of(&Candidate { in_flight: 3, ..at(0, 0) }, Call { session, ..call(0) }).streams_ms;
        assert_eq!(
            [None, Some(session(true)), Some(session(false))].map(streams),
            [4.0 * STREAM_MS, 4.0 * STREAM_MS, 0.0]
        );
        let home = Some(SessionView { home: Some(replica_key(0)), ..session(true) });
        let at_home =
            |in_flight| of(&Candidate { in_flight, ..at(0, 0) }, Call { session: home, ..call(0) }).streams_ms;
        assert_eq!([0, 4, 5, 9].map(at_home), [1.0, 1.0, 2.0, 6.0].map(|streams| streams * STREAM_MS));
    }

    #[test]
    fn anew_is_what_an_idle_replica_costs_that_holds_what_many_share() {
        let busy = Candidate { in_flight: 9, others: 3.0, weight: 0.5, shared_tokens: 400, ..at(7_000, 9_000) };
        let anew = anew(&busy, call(10_000));
        assert_eq!((anew.wait_ms, anew.streams_ms), (0.0, STREAM_MS));
        assert!((anew.read_ms - 9_600.0 * MISS_WEIGHT / 10.0).abs() < 1e-6, "{anew:?}");
    }

    #[test]
    fn one_stream_more_makes_no_difference_and_two_do() {
        for ms in [0.0, 40.0, 400.0] {
            assert!(ms + STREAM_MS <= band(ms) && ms + 2.0 * STREAM_MS > band(ms));
        }
    }

    #[test]
    fn a_replica_of_little_weight_is_not_the_cheapest_for_being_idle() {
        let healthy = Candidate { in_flight: 4, cap: 128, ..at(0, 0) };
        let idle = Candidate { in_flight: 0, weight: crate::policy::weight::WEIGHT_MIN, ..healthy };
        for tokens in [10, 50, 100, 200] {
            let (idle, healthy) = (of(&idle, call(tokens)).ms(), of(&healthy, call(tokens)).ms());
            assert!(idle > band(healthy), "{tokens} tokens: idle {idle}, healthy {healthy}");
        }
    }

    #[test]
    fn distance_costs_nothing_within_a_region_and_a_round_trip_between_them() {
        assert_eq!(distance_ms(30.0), 0.0);
        assert!((distance_ms(10_000.0) - 169.0).abs() < 0.1);
    }
}

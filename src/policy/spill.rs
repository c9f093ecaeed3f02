//! Spill-over: when a pool takes no new sessions, and when it does again.
//!
//! Like a waterfall: a pool fills up to its capacity, then what is new flows on to the next nearest one that is not full
//! either, while sessions under way stay where their caches are. It takes new ones again only when it is clearly below its
//! capacity. With one mark for both, each call that ends in a full pool would let one new session in, and sessions that
//! start in the same minute would be strewn over the regions, every other one far from its client. Where all are full the
//! nearest that still has a place is as good as any.
//!
//! How full a pool is, its usable replicas tell, each by the largest share of what bounds it: this edge's calls and others'
//! there beside its cap, and by its engine's own word the KV cache in use and the queue. Their mean counts, so that one
//! replica which is full by chance closes no region; and the pool's own cap, if it has one.
//!
//! That the wait for a first event is longer than the way to another region is another matter ([`cost`](super::cost)): it is
//! weighed for each call, and may draw new sessions away before the pool is full.

use std::time::Instant;

use super::engine_load::{LoadReport, trust};
use super::replica::Candidate;
use crate::domain::topology::Engine;

/// From this share of its capacity on a pool takes no new sessions: nothing has room there.
pub const STARTS_AT: f64 = 1.0;

/// Below this share it takes them again. Calls that come and go at random move the load of a pool of 45 places by 15 % of
/// them (their square root), and that of a larger one by less.
pub const ENDS_BELOW: f64 = 0.85;

/// The share of an engine's KV cache from which on it is full: what is left (75,000 of 1.5 million tokens) no longer holds
/// an agent's context (100,000 at the median of the recorded sessions), and engines begin to preempt.
const KV_FULL: f64 = 0.95;

/// A queue of this share of the batch means that an engine is full. A place there comes free after as large a share of an
/// answer's time, two seconds of nine (216 tokens at 25 a second): many times as long as any way.
const QUEUE_OF_BATCH: f64 = 0.25;

/// A shorter queue never does: two prompts that come together are read one after the other.
const QUEUE_LEAST: f64 = 2.0;

/// Whether a pool takes new sessions.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Level {
    /// It does.
    #[default]
    Within,
    /// It was full, and is not clearly below its capacity yet.
    Past,
}

impl Level {
    /// The level now that its replicas are so, and so large a share of the pool's own cap is taken.
    #[must_use]
    pub fn now(self, replicas: &[Candidate], of_own_cap: f64) -> Level {
        // Nearly always the first replica has room, and no more need be looked at.
        let has_room = |one: &Candidate| one.standing.is_usable() && share(one) < STARTS_AT;
        if self == Level::Within && of_own_cap < STARTS_AT && replicas.iter().any(has_room) {
            return self;
        }
        self.after(fullness(replicas, of_own_cap))
    }

    /// The level once the pool is so full, as a share of its capacity.
    fn after(self, fullness: f64) -> Level {
        let mark = if self == Level::Past { ENDS_BELOW } else { STARTS_AT };
        if fullness >= mark { Level::Past } else { Level::Within }
    }
}

/// How full a pool is, 0 to 1, by its replicas and by the share of its own cap that is taken. A pool of which no replica can
/// be used is not full but down.
fn fullness(pool: &[Candidate], of_own_cap: f64) -> f64 {
    let usable = pool.iter().filter(|candidate| candidate.standing.is_usable());
    let (count, sum) = usable.fold((0u32, 0.0), |(count, sum), candidate| (count + 1, sum + share(candidate)));
    if count == 0 { 0.0 } else { of_own_cap.min(1.0).max(sum / f64::from(count)) }
}

/// How full one replica is, 0 to 1. One that asked to be left alone is full by its own word.
fn share(candidate: &Candidate) -> f64 {
    if candidate.rests || candidate.cap == 0 {
        return 1.0;
    }
    let of_cap = (f64::from(candidate.in_flight) + candidate.others) / f64::from(candidate.cap);
    of_cap.max(candidate.engine_full).min(1.0)
}

/// How full an engine is by its own word, 0 (nothing is known) to 1 and beyond. llama.cpp counts as used what it merely
/// keeps of calls that have ended, so of its cache it is not asked.
pub fn of_engine(engine: Engine, report: &LoadReport, now: Instant) -> f64 {
    let kv_usage = report.kv_usage(now).filter(|_| engine != Engine::LlamaCpp);
    let kv = kv_usage.unwrap_or(0.0) / KV_FULL;
    let queue = f64::from(report.load.waiting) * trust(report.age(now));
    kv.max(queue / (QUEUE_OF_BATCH * f64::from(report.load.running)).max(QUEUE_LEAST))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::RngExt;

    use super::*;
    use crate::domain::engine_load::EngineLoad;
    use crate::policy::replica::Standing;
    use crate::policy::testing::{candidate, rng};

    #[test]
    fn a_pool_closes_when_it_is_full_and_opens_well_below() {
        use Level::{Past, Within};
        for (before, fullness, after) in [
            (Within, 0.0, Within),
            (Within, 0.999, Within),
            (Within, 1.0, Past),
            (Past, 1.0, Past),
            (Past, 0.85, Past),
            (Past, 0.849, Within),
            (Past, 0.0, Within),
        ] {
            assert_eq!(before.after(fullness), after, "{before:?} at {fullness}");
        }
    }

    /// Three replicas of a cap of 4, changed.
    #[track_caller]
    fn check(change: impl Fn(&mut [Candidate]), of_own_cap: f64, expected: f64) {
        let mut pool = [0, 1, 2].map(candidate);
        change(&mut pool);
        let found = fullness(&pool, of_own_cap);
        assert!((found - expected).abs() < 1e-9, "{found}, expected {expected}");
    }

    #[test]
    fn a_pool_is_as_full_as_its_usable_replicas_on_average() {
        check(|_| {}, 0.0, 0.0);
        check(|pool| pool[0].in_flight = 4, 0.0, 1.0 / 3.0);
        check(|pool| pool[0].in_flight = 9, 0.0, 1.0 / 3.0);
        check(|pool| pool[0].others = 2.0, 0.0, 0.5 / 3.0);
        check(|pool| (pool[0].in_flight, pool[0].others) = (1, 1.0), 0.0, 0.5 / 3.0);
        check(|pool| pool[0].rests = true, 0.0, 1.0 / 3.0);
        check(|pool| pool.iter_mut().for_each(|one| one.engine_full = 0.9), 0.0, 0.9);
        check(|pool| pool.iter_mut().for_each(|one| one.engine_full = 3.0), 0.0, 1.0);
        check(|pool| (pool[0].in_flight, pool[1].standing) = (4, Standing::Unhealthy), 0.0, 0.5);
        check(|pool| pool.iter_mut().for_each(|one| one.cap = 0), 0.0, 1.0);
    }

    #[test]
    fn one_replica_with_room_is_enough_to_stay_open_and_not_to_open() {
        let pool =
            |full: [bool; 3]| [0, 1, 2].map(|n| Candidate { in_flight: if full[n] { 4 } else { 0 }, ..candidate(n) });
        use Level::{Past, Within};
        for (before, full, of_own_cap, now) in [
            (Within, [true, true, false], 0.9, Within),
            (Within, [true, true, true], 0.9, Past),
            (Within, [false, false, false], 1.0, Past),
            (Past, [true, true, true], 0.0, Past),
            (Past, [true, true, false], 0.0, Within),
            (Past, [false, false, false], 0.9, Past),
        ] {
            assert_eq!(before.now(&pool(full), of_own_cap), now, "{before:?} {full:?} {of_own_cap}");
        }
        let mut dead = pool([true, true, false]);
        dead[2].standing = Standing::Unhealthy;
        assert_eq!(Within.now(&dead, 0.0), Past, "who is dead has no room");
    }

    #[test]
    fn its_own_cap_bounds_it_too_and_what_is_down_is_not_full() {
        check(|_| {}, 0.9, 0.9);
        check(|_| {}, 7.0, 1.0);
        let down = |pool: &mut [Candidate]| {
            pool.iter_mut().for_each(|one| (one.standing, one.in_flight) = (Standing::BreakerOpen, 4));
        };
        check(down, 1.0, 0.0);
        assert_eq!(fullness(&[], 1.0), 0.0);
    }

    #[test]
    fn an_engine_is_full_by_its_cache_or_by_its_queue() {
        let told = |engine, running, waiting, kv_usage, age_s: f64| {
            let load = EngineLoad {
                running,
                waiting,
                kv_usage,
                kv_capacity_tokens: None,
                prefix_queries: None,
                prefix_hits: None,
            };
            let at = Instant::now();
            of_engine(engine, &LoadReport { load, own_in_flight: 0, at }, at + Duration::from_secs_f64(age_s))
        };
        assert_eq!(told(Engine::LlamaCpp, 4, 1, Some(1.0), 0.0), 0.5);
        for (running, waiting, kv_usage, age_s, expected) in [
            (0, 0, None, 0.0, 0.0),
            (200, 0, Some(0.5), 0.0, 0.5 / KV_FULL),
            (200, 0, Some(0.95), 0.0, 1.0),
            (200, 25, None, 0.0, 0.5),
            (200, 50, Some(0.2), 0.0, 1.0),
            (1, 1, None, 0.0, 0.5),
            (0, 2, None, 0.0, 1.0),
            // Its word fades.
            (200, 50, None, 6.25, 0.5),
            (200, 50, Some(1.0), 10.0, 0.0),
        ] {
            let found = told(Engine::Vllm, running, waiting, kv_usage, age_s);
            assert!((found - expected).abs() < 1e-9, "{running} {waiting} {kv_usage:?} {age_s}: {found}");
        }
    }

    /// How often a pool of so many places closes or opens while a random load hovers around its cap for 100,000 calls.
    fn switches(places: u32, after: impl Fn(Level, f64) -> Level) -> u32 {
        let (mut rng, mut level, mut load, mut switches) = (rng(1), Level::Within, f64::from(places), 0);
        for _ in 0..100_000 {
            // As many come as go, and what is new goes elsewhere while it is closed.
            let comes = rng.random_bool(if level == Level::Within { 0.55 } else { 0.49 });
            load = (load + if comes { 1.0 } else { -1.0 }).clamp(0.0, f64::from(places));
            let next = after(level, load / f64::from(places));
            switches += u32::from(next != level);
            level = next;
        }
        switches
    }

    #[test]
    fn load_around_the_cap_switches_seldom() {
        for places in [48, 128, 1_024] {
            let (held, flapping) =
                (switches(places, Level::after), switches(places, |_, full| Level::default().after(full)));
            // It goes down and up by at least the whole band for each pair of switches.
            let band = (f64::from(places) * (STARTS_AT - ENDS_BELOW)) as u32;
            assert!(held > 2 && held <= 2 * (100_000 / (2 * band) + 1), "{places}: {held}");
            assert!(flapping > 10 * held, "{places}: {held} with two marks, {flapping} with one");
        }
    }
}

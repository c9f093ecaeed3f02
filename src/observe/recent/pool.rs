//! What one pool did in the last quarter of an hour.

use serde::Serialize;

use super::histogram::Histogram;
use super::ring::Ring;
use super::{Call, MINUTE_SLOTS, SLOT_S, SLOTS};
use crate::domain::code::Code;
use crate::domain::place::Middle;
use crate::observe::metrics::CacheState;
use crate::policy::countries;

/// What is counted of one pool. Nothing is allocated before its first call, and what is idle for long gives its room back
/// with the next one.
#[derive(Default, Debug)]
pub(super) struct PoolRecent {
    slots: Ring<Tally, SLOTS>,
    flows: Ring<Vec<Flow>, MINUTE_SLOTS>,
}

/// What is counted in one slot, or in several.
#[derive(Clone, Default, Debug)]
struct Tally {
    calls: u32,
    errors: u32,
    /// By [`CacheState`], in the order of its members.
    ttft: [Histogram; CacheState::ALL.len()],
    cached_tokens: u64,
    computed_tokens: u64,
    completion_tokens: u64,
}

/// Calls from one country.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// One that exists; `None` for all others, so that no client can make more of them than there are countries.
    pub(super) country: Option<Code>,
    pub(super) calls: u32,
    pub(super) errors: u32,
    /// Where they came from.
    pub(super) from: Middle,
}

/// Some time up to now, in sums.
#[derive(Serialize, Debug)]
pub struct Recent {
    /// How long it is: the whole slots in it, and the one under way; less while the edge is younger.
    seconds: u64,
    /// Calls that ended.
    calls: u64,
    /// Those that the edge or a replica failed.
    errors: u64,
    /// Times to first token.
    ttft_ms: ByCache,
    /// Tokens of prompts, as replicas report them.
    prompt_tokens: PromptTokens,
    /// Tokens of answers, likewise.
    completion_tokens: u64,
}

/// Times to first token by whether the prompt was cached.
#[derive(Serialize, Debug)]
struct ByCache {
    /// All of them.
    all: Quantiles,
    warm: Quantiles,
    cold: Quantiles,
    unknown: Quantiles,
}

/// How many, and the times in ms that half of them, and 99 of 100, did not exceed; `null` of none. They are off by 9.1 %
/// at most.
#[derive(Serialize, Debug)]
struct Quantiles {
    count: u64,
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Tokens of prompts.
#[derive(Serialize, Debug)]
struct PromptTokens {
    cached: u64,
    computed: u64,
}

/// One slot of a pool's history.
#[derive(Serialize, Debug)]
pub struct Point {
    calls: u64,
    errors: u64,
    warm: Option<Quantiles>,
    cold: Option<Quantiles>,
    unknown: Option<Quantiles>,
    cached: u64,
    computed: u64,
    completion: u64,
}

impl PoolRecent {
    pub(super) fn count(&mut self, call: &Call<'_>, slot: u64) {
        self.slots.at(slot).count(call);
        let flows = self.flows.at(slot);
        let country = call.country.filter(|country| countries::of(*country).is_some());
        let at = flows.binary_search_by_key(&country, |flow| flow.country).unwrap_or_else(|at| {
            flows.insert(at, Flow { country, calls: 0, errors: 0, from: Middle::default() });
            at
        });
        let flow = &mut flows[at];
        flow.calls += 1;
        flow.errors += u32::from(!call.ok);
        // Unknown countries have no middle.
        if let (Some(place), Some(_)) = (call.place, country) {
            flow.from.add(place);
        }
    }

    /// Whether anything was counted so lately that somebody might still see it.
    pub(super) fn is_alive(&self, slot: u64) -> bool {
        self.slots.newest().is_some_and(|newest| newest + SLOTS as u64 > slot)
    }

    /// The last `slots` slots up to `now_s`, seconds since the start.
    pub(super) fn recent(&self, slots: usize, now_s: u64) -> Recent {
        together([self], slots, now_s)
    }

    /// The flows of the last minute, by country.
    pub(super) fn flows(&self, slot: u64) -> Vec<Flow> {
        let mut sum: Vec<Flow> = Vec::new();
        for flow in self.flows.last(MINUTE_SLOTS, slot).flat_map(|(_, flows)| flows) {
            match sum.binary_search_by_key(&flow.country, |known| known.country) {
                Err(at) => sum.insert(at, *flow),
                Ok(at) => {
                    let known = &mut sum[at];
                    known.calls = known.calls.saturating_add(flow.calls);
                    known.errors = known.errors.saturating_add(flow.errors);
                    known.from.merge(flow.from);
                }
            }
        }
        sum
    }

    /// Every slot, oldest first; the last one is under way.
    pub(super) fn history(&self, slot: u64) -> Vec<Point> {
        let mut points = idle_history();
        for (own, tally) in self.slots.last(SLOTS, slot) {
            // Those that were counted between this clock's reading and the lock are in the slot after it.
            let age = usize::try_from(slot.saturating_sub(own)).unwrap_or(SLOTS);
            if let Some(point) = SLOTS.checked_sub(age + 1).and_then(|at| points.get_mut(at)) {
                *point = tally.point();
            }
        }
        points
    }
}

/// The last `slots` slots of several pools, up to `now_s`, seconds since the start.
pub(super) fn together<'a>(pools: impl IntoIterator<Item = &'a PoolRecent>, slots: usize, now_s: u64) -> Recent {
    let mut sum = Tally::default();
    for pool in pools {
        pool.slots.last(slots, now_s / SLOT_S).for_each(|(_, tally)| sum.merge(tally));
    }
    sum.told(seconds(slots, now_s))
}

/// The history of a pool without a call.
pub(super) fn idle_history() -> Vec<Point> {
    (0..SLOTS).map(|_| Tally::default().point()).collect()
}

/// The sums of a pool without a call.
pub(super) fn idle(slots: usize, now_s: u64) -> Recent {
    Tally::default().told(seconds(slots, now_s))
}

/// How long the last `slots` slots have lasted, of which the last is under way.
fn seconds(slots: usize, now_s: u64) -> u64 {
    let whole = (slots as u64 - 1) * SLOT_S;
    // At least one, since rates are divided by it.
    (whole + now_s % SLOT_S).min(now_s).max(1)
}

impl Quantiles {
    fn of(times: &Histogram) -> Quantiles {
        let ms = |part| times.quantile(part).map(|ms| (ms * 10.0).round() / 10.0);
        Quantiles { count: times.count(), p50: ms(0.5), p99: ms(0.99) }
    }
}

impl Tally {
    fn count(&mut self, call: &Call<'_>) {
        self.calls = self.calls.saturating_add(1);
        self.errors = self.errors.saturating_add(u32::from(!call.ok));
        if let Some((cache, ttft)) = call.ttft {
            self.ttft[cache as usize].add(ttft.as_secs_f64() * 1_000.0);
        }
        // As the metrics count them: without a word on the cache all were computed.
        if let Some((prompt, cached, completion)) = call.tokens {
            let cached = cached.unwrap_or(0).min(prompt);
            self.cached_tokens = self.cached_tokens.saturating_add(cached);
            self.computed_tokens = self.computed_tokens.saturating_add(prompt - cached);
            self.completion_tokens = self.completion_tokens.saturating_add(completion);
        }
    }

    fn merge(&mut self, other: &Tally) {
        self.calls = self.calls.saturating_add(other.calls);
        self.errors = self.errors.saturating_add(other.errors);
        self.ttft.iter_mut().zip(&other.ttft).for_each(|(own, more)| own.merge(more));
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.computed_tokens = self.computed_tokens.saturating_add(other.computed_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
    }

    fn quantiles(&self, cache: CacheState) -> Quantiles {
        Quantiles::of(&self.ttft[cache as usize])
    }

    fn all_quantiles(&self) -> Quantiles {
        let mut all = Histogram::default();
        self.ttft.iter().for_each(|times| all.merge(times));
        Quantiles::of(&all)
    }

    fn told(&self, seconds: u64) -> Recent {
        Recent {
            seconds,
            calls: self.calls.into(),
            errors: self.errors.into(),
            ttft_ms: ByCache {
                all: self.all_quantiles(),
                warm: self.quantiles(CacheState::Warm),
                cold: self.quantiles(CacheState::Cold),
                unknown: self.quantiles(CacheState::Unknown),
            },
            prompt_tokens: PromptTokens { cached: self.cached_tokens, computed: self.computed_tokens },
            completion_tokens: self.completion_tokens,
        }
    }

    fn point(&self) -> Point {
        let quantiles = |cache| Some(self.quantiles(cache)).filter(|quantiles| quantiles.count > 0);
        Point {
            calls: self.calls.into(),
            errors: self.errors.into(),
            warm: quantiles(CacheState::Warm),
            cold: quantiles(CacheState::Cold),
            unknown: quantiles(CacheState::Unknown),
            cached: self.cached_tokens,
            computed: self.computed_tokens,
            completion: self.completion_tokens,
        }
    }
}

//! The samples of one model's series, added up.

use super::series::{Family, Sample};
use crate::domain::engine_load::EngineLoad;

/// From this usage on, the tokens held tell how many there is room for: SGLang has rounded it to hundredths, so that the
/// result is exact to 2.5 % here, and at a twentieth of it to a half.
const USAGE_THAT_TELLS: f64 = 0.2;

/// What was read so far; `None` is what no series told.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    running: Option<f64>,
    waiting: Option<f64>,
    kv_usage: Option<f64>,
    /// How many usages are in the sum.
    kv_usages: u32,
    kv_capacity: Option<f64>,
    kv_held: Option<f64>,
    prefix_queries: Option<f64>,
    prefix_hits: Option<f64>,
    older_prefix_queries: Option<f64>,
    older_prefix_hits: Option<f64>,
}

impl Tally {
    /// Takes in one sample.
    pub(super) fn add(&mut self, family: Family, sample: &Sample<'_>) {
        let (sum, value) = match family {
            Family::Running => (&mut self.running, sample.value),
            Family::Waiting => (&mut self.waiting, sample.value),
            Family::KvUsage => {
                self.kv_usages += 1;
                (&mut self.kv_usage, sample.value.min(1.0))
            }
            Family::CacheConfig => match capacity(sample) {
                Some(tokens) => (&mut self.kv_capacity, tokens),
                None => return,
            },
            Family::KvCapacity => (&mut self.kv_capacity, sample.value),
            Family::KvHeld => (&mut self.kv_held, sample.value),
            Family::PrefixQueries => (&mut self.prefix_queries, sample.value),
            Family::PrefixHits => (&mut self.prefix_hits, sample.value),
            Family::OlderPrefixQueries => (&mut self.older_prefix_queries, sample.value),
            Family::OlderPrefixHits => (&mut self.older_prefix_hits, sample.value),
        };
        *sum = Some(sum.unwrap_or(0.0) + value);
    }

    /// All of it; `None` when nothing was told of requests.
    pub(super) fn load(&self) -> Option<EngineLoad> {
        if self.running.is_none() && self.waiting.is_none() {
            return None;
        }
        let kv_usage = self.kv_usage.map(|sum| sum / f64::from(self.kv_usages));
        let derived = kv_usage.zip(self.kv_held).filter(|(usage, _)| *usage >= USAGE_THAT_TELLS);
        let kv_capacity = self.kv_capacity.or(derived.map(|(usage, held)| held / usage));
        Some(EngineLoad {
            // These conversions saturate.
            running: self.running.unwrap_or(0.0).round() as u32,
            waiting: self.waiting.unwrap_or(0.0).round() as u32,
            kv_usage,
            // An engine that has none yet tells 0.
            kv_capacity_tokens: kv_capacity.map(|tokens| tokens.round() as u64).filter(|tokens| *tokens > 0),
            prefix_queries: self.prefix_queries.or(self.older_prefix_queries).map(|tokens| tokens as u64),
            prefix_hits: self.prefix_hits.or(self.older_prefix_hits).map(|tokens| tokens as u64),
        })
    }
}

/// Tokens of the cache that a `cache_config_info` of vLLM describes. Newer versions tell them; elsewhere they are the
/// blocks' (which is not exact where layers differ). Before it has measured its memory an engine tells `None`.
fn capacity(sample: &Sample<'_>) -> Option<f64> {
    let blocks = || Some(sample.number(b"block_size")? as f64 * sample.number(b"num_gpu_blocks")? as f64);
    sample.number(b"kv_cache_size_tokens").map(|tokens| tokens as f64).or_else(blocks)
}

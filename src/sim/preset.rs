//! What one simulated engine can do, and the presets that stand for real hardware.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Speed and size of one engine replica.
#[derive(Debug, Clone, PartialEq)]
pub struct Params {
    /// Tokens in one KV-cache block. vLLM's default is 16; the routing laboratory uses 512.
    pub block_tokens: u32,
    /// Blocks in the KV cache.
    pub kv_blocks: u32,
    /// Requests that run at once, as vLLM's `--max-num-seqs`.
    pub max_num_seqs: usize,
    /// Requests that may wait; one more is refused.
    pub waiting_max: usize,
    /// Uncached prompt tokens computed in one step beside the decoding requests, as vLLM's `--max-num-batched-tokens`.
    pub chunk_tokens: u32,
    /// Fixed cost of a request's prefill: scheduling, launch, first sample.
    pub prefill_overhead: Duration,
    /// Cost of one uncached prompt token, in nanoseconds.
    pub prefill_token_ns: f64,
    /// Time of one decode step (one token for every running request) with a single running request.
    pub decode_step: Duration,
    /// What every further running request adds to a decode step.
    pub decode_step_per_request: Duration,
    /// Whether [`super::engine::Event::Tokens`] is reported. Without it many steps are taken at once.
    pub report_tokens: bool,
    /// Tokens of a text that are told together, as SGLang's `--stream-interval`; at least 1. The first is always told at once.
    pub stream_interval: u32,
}

impl Params {
    /// An engine that takes no time and holds 64M tokens: for tests of bytes and bodies, not of speed.
    pub fn instant() -> Self {
        Self {
            prefill_overhead: Duration::ZERO,
            prefill_token_ns: 0.0,
            chunk_tokens: u32::MAX,
            decode_step: Duration::ZERO,
            decode_step_per_request: Duration::ZERO,
            ..Preset::Measured.params()
        }
        .with_cache(64_000_000, 512)
    }

    /// The same engine with every duration divided by `factor`: demos and tests have no minutes to spare.
    #[must_use]
    pub fn faster(mut self, factor: f64) -> Self {
        if factor.is_finite() && factor > 0.0 {
            self.prefill_overhead = self.prefill_overhead.div_f64(factor);
            self.prefill_token_ns /= factor;
            self.decode_step = self.decode_step.div_f64(factor);
            self.decode_step_per_request = self.decode_step_per_request.div_f64(factor);
        }
        self
    }

    /// The same engine with a KV cache of at least `tokens`, in blocks of `block_tokens`.
    #[must_use]
    pub fn with_cache(mut self, tokens: u64, block_tokens: u32) -> Self {
        self.block_tokens = block_tokens.max(1);
        let blocks = tokens.div_ceil(u64::from(self.block_tokens)).max(1);
        self.kv_blocks = u32::try_from(blocks).unwrap_or(u32::MAX - 1);
        self
    }

    /// Time to the first token of a prompt with so many uncached tokens on an idle engine.
    pub fn ttft_idle(&self, uncached_tokens: u64) -> Duration {
        let compute_ns = (uncached_tokens as f64 * self.prefill_token_ns).round() as u64;
        self.prefill_overhead + Duration::from_nanos(compute_ns)
    }
}

/// A named engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Llama 3.1 8B on one H100, fitted to the guide's published TTFT: 18 ms at 2K tokens, 35 ms at 8K.
    Guide8b,
    /// Llama 3.1 70B on two H100, fitted to the guide's published TTFT: 45 ms at 2K tokens, 120 ms at 8K.
    Guide70b,
    /// 12,000 uncached tokens per second, which is what long agent prompts show on H100-class engines (FACTS, sections 3
    /// and 7). The demo's and the laboratory's default.
    Measured,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 3] = [Self::Guide8b, Self::Guide70b, Self::Measured];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Guide8b => "guide-8b",
            Self::Guide70b => "guide-70b",
            Self::Measured => "measured",
        }
    }

    /// What it can do.
    ///
    /// Prefill is the line through the two published points. Decode is bound by memory: one step reads the weights once, so
    /// its least time is bytes of weights ÷ memory bandwidth (H100 SXM data sheet: 3.35 TB/s); 8B in BF16 is 16 GB, 4.8 ms;
    /// 70B in FP8 on two is 70 GB ÷ 6.7 TB/s, 10.4 ms; kernels reach about 70 % of that. Each request adds the reading of
    /// its own KV cache (128 KiB a token at 8B, 320 KiB at 70B, some thousand tokens). The cache is what remains of 90 % of
    /// the memory after the weights.
    pub fn params(self) -> Params {
        match self {
            Self::Guide8b => fitted((2048, 18.0), (8192, 35.0), Decode { step_us: 7_000, per_request_us: 100 })
                .with_cache(400_000, 16),
            Self::Guide70b => fitted((2048, 45.0), (8192, 120.0), Decode { step_us: 15_000, per_request_us: 150 })
                .with_cache(220_000, 16),
            Self::Measured => Params {
                prefill_overhead: Duration::from_millis(20),
                prefill_token_ns: 1e9 / 12_000.0,
                ..fitted((0, 0.0), (1, 0.0), Decode { step_us: 15_000, per_request_us: 150 })
            }
            .with_cache(1_500_000, 16),
        }
    }
}

struct Decode {
    step_us: u64,
    per_request_us: u64,
}

/// An engine whose idle TTFT (milliseconds) goes through two points (tokens).
fn fitted(short: (u64, f64), long: (u64, f64), decode: Decode) -> Params {
    let slope_ms = (long.1 - short.1) / (long.0 - short.0) as f64;
    let overhead_ms = short.1 - slope_ms * short.0 as f64;
    Params {
        block_tokens: 16,
        kv_blocks: 1,
        max_num_seqs: 256,
        waiting_max: 65_536,
        chunk_tokens: 2_048,
        prefill_overhead: Duration::from_secs_f64(overhead_ms.max(0.0) / 1e3),
        prefill_token_ns: slope_ms * 1e6,
        decode_step: Duration::from_micros(decode.step_us),
        decode_step_per_request: Duration::from_micros(decode.per_request_us),
        report_tokens: true,
        stream_interval: 1,
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name() == name)
            .ok_or_else(|| format!("no preset {name}; known are guide-8b, guide-70b, measured"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_match_the_published_ttft() {
        let published = [
            (Preset::Guide8b, 2048, 18.0),
            (Preset::Guide8b, 8192, 35.0),
            (Preset::Guide70b, 2048, 45.0),
            (Preset::Guide70b, 8192, 120.0),
        ];
        for (preset, tokens, ms) in published {
            let ours_ms = preset.params().ttft_idle(tokens).as_secs_f64() * 1e3;
            assert!((ours_ms / ms - 1.0).abs() < 0.05, "{preset} {tokens}: {ours_ms} ms");
        }
    }

    #[test]
    fn measured_prefills_twelve_thousand_tokens_in_a_second() {
        let params = Preset::Measured.params();
        let s = params.ttft_idle(12_000).as_secs_f64();
        assert!((s - 1.02).abs() < 0.001, "{s}");
        assert!(u64::from(params.kv_blocks) * 16 >= 1_500_000);
    }

    #[test]
    fn names_are_read_back() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(preset));
        }
        assert!("gpu".parse::<Preset>().is_err());
    }
}

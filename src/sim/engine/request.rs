//! What an engine is asked and what it tells.

use std::time::Duration;

/// What the caller names a request; unique among those not yet finished.
pub type RequestId = u64;

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Submit {
    /// Its name.
    pub id: RequestId,
    /// Chained hashes of the full blocks of the prompt and then, when known, of the answer.
    pub chain: Vec<u64>,
    /// Tokens of the prompt; at least one is always computed.
    pub prompt_tokens: u64,
    /// Tokens of the answer, at least 1.
    pub output_tokens: u64,
    /// How much longer than usual its prefill takes, rounded up to a step; the engine is busy with it, and decodes for others.
    pub prefill_extra: Duration,
    /// A forced pace, for tests: such a request takes a seat and blocks but no share of the engine's time.
    pub pace: Option<Pace>,
}

/// A forced pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From admission to the first token.
    pub first: Duration,
    /// From each token to the next.
    pub each: Duration,
}

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its prompt is computed and token 0 of the answer is there.
    FirstToken {
        /// Which request.
        id: RequestId,
        /// Prompt tokens that were found in the cache.
        cached_tokens: u64,
        /// When.
        at: Duration,
    },
    /// The answer's tokens `index .. index + count` are there.
    Tokens {
        /// Which request.
        id: RequestId,
        /// The first of them, at least 1.
        index: u64,
        /// How many.
        count: u64,
    },
    /// The answer is whole; its blocks are free.
    Finished {
        /// Which request.
        id: RequestId,
        /// When.
        at: Duration,
    },
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Prompt and answer together exceed the whole cache.
    #[error("the request needs {needed} KV-cache blocks and the engine has {total}")]
    TooLarge {
        /// Blocks that it needs.
        needed: u64,
        /// Blocks that there are.
        total: u64,
    },
    /// `waiting_max` requests wait already.
    #[error("too many requests wait")]
    QueueFull,
    /// A request of this name is not finished yet.
    #[error("a request of this name is not finished yet")]
    SameId,
}

/// The engine's gauges and counters, under vLLM's meanings.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Requests that are admitted and not finished.
    pub running: usize,
    /// Requests that wait for admission.
    pub waiting: usize,
    /// Share of the blocks that running requests hold, 0 to 1.
    pub kv_usage_ratio: f64,
    /// Prompt tokens of all admitted requests so far.
    pub prefix_queries: u64,
    /// Those of them that were found in the cache.
    pub prefix_hits: u64,
    /// Answer tokens so far (of running requests: as far as reported).
    pub output_tokens: u64,
    /// Blocks of the cache.
    pub num_gpu_blocks: u32,
    /// Tokens in one block.
    pub block_size: u32,
}

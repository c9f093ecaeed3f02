//! What an engine says of its own load.

/// The load of one replica at one moment, by its own metrics. Of several engines in one replica, all together.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EngineLoad {
    /// Requests in its batch, whoever sent them.
    pub running: u32,
    /// Requests in its queue, whoever sent them.
    pub waiting: u32,
    /// The share of its KV cache that requests hold, 0 to 1.
    pub kv_usage: Option<f64>,
    /// Tokens that its KV cache holds.
    pub kv_capacity_tokens: Option<u64>,
    /// Prompt tokens that were looked up in its prefix cache, since it started.
    pub prefix_queries: Option<u64>,
    /// Those of them that were found there.
    pub prefix_hits: Option<u64>,
}

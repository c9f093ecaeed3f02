//! What Nearpool is given in the laboratory: its configuration.

use anyhow::Result;
use nearpool::config::{Config, Sessions};
use nearpool::roster::Snapshot;

use super::super::one_pool;

/// What the edge's configuration has besides.
#[derive(Clone, Debug, Default)]
pub(crate) struct Besides {
    /// What a replica's cache is said to hold.
    pub(crate) kv_cache_tokens: Option<u64>,
    /// Lines of `[sessions]`.
    pub(crate) sessions: String,
}

/// The lines of `[sessions]` as the edge reads them, and its defaults for the others.
pub(crate) fn sessions(besides: &Besides) -> Result<Sessions> {
    Ok(config(1, besides)?.sessions)
}

/// The replicas of one pool, of which nothing is known yet.
pub(super) fn snapshot(engines: usize, besides: &Besides) -> Result<Snapshot> {
    one_pool::snapshot(config(engines, besides)?)
}

fn config(engines: usize, besides: &Besides) -> Result<Config> {
    let told = besides.kv_cache_tokens.map_or(String::new(), |tokens| format!("kv_cache_tokens = {tokens}"));
    one_pool::config(engines, &besides.sessions, &told)
}

//! What Nearpool is given in the laboratory: its configuration.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use nearpool::config::{self, Config, Sessions};
use nearpool::roster::Snapshot;
use nearpool::wire::geoip::GeoDb;

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
    let config = config(engines, besides)?;
    // Nobody is looked up in it.
    let geo = GeoDb::from_bytes(include_bytes!("../../../../tests/data/mini-city.mmdb").as_slice())?;
    Ok(Snapshot::new(Arc::new(config), Arc::new(geo), None))
}

fn config(engines: usize, besides: &Besides) -> Result<Config> {
    let parsed = config::parse("laboratory.toml", &text(engines, besides), Path::new(""), &|_| None);
    parsed.map_err(|errors| anyhow!("{errors}"))
}

fn text(engines: usize, besides: &Besides) -> String {
    let replica = |n: usize| format!("{{ name = \"r{n}\", url = \"http://127.0.0.1:{}\" }},", 20_000 + n);
    let replicas: String = (0..engines).map(replica).collect();
    let told = besides.kv_cache_tokens.map_or(String::new(), |tokens| format!("kv_cache_tokens = {tokens}"));
    let sessions = &besides.sessions;
    format!(
        r#"
        [edge]
        name = "laboratory"
        region = "here"
        listen = ["127.0.0.1:8080"]
        [regions]
        here = {{ latitude = 0.0, longitude = 0.0 }}
        [models.small]
        [sessions]
        {sessions}
        [[pools]]
        name = "pool"
        region = "here"
        model = "small"
        engine = "vllm"
        replicas = [{replicas}]
        {told}
        "#
    )
}

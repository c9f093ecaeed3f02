//! An edge's configuration for what runs without sockets: one model, one pool, replicas `r0`, `r1`, ….

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use nearpool::config::{self, Config};
use nearpool::roster::Snapshot;
use nearpool::wire::geoip::GeoDb;

/// The configuration of so many replicas, with these lines in `[sessions]` and in the pool besides.
pub(crate) fn config(replicas: usize, sessions: &str, pool: &str) -> Result<Config> {
    let parsed = config::parse("one-pool.toml", &text(replicas, sessions, pool), Path::new(""), &|_| None);
    parsed.map_err(|errors| anyhow!("{errors}"))
}

/// Its replicas, of which nothing is known yet.
pub(crate) fn snapshot(config: Config) -> Result<Snapshot> {
    // Nobody is looked up in it.
    let geo = GeoDb::from_bytes(include_bytes!("../../tests/data/mini-city.mmdb").as_slice())?;
    Ok(Snapshot::new(Arc::new(config), Arc::new(geo), None))
}

fn text(replicas: usize, sessions: &str, pool: &str) -> String {
    let replica = |n: usize| format!("{{ name = \"r{n}\", url = \"http://127.0.0.1:{}\" }},", 20_000 + n);
    let replicas: String = (0..replicas).map(replica).collect();
    format!(
        r#"
        [edge]
        name = "edge"
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
        {pool}
        "#
    )
}

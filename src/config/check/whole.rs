//! The whole file: each section in the order that others refer to it.

use super::outside::Outside;
use super::{access_log, edge, geo, knobs, models, pools, tracing};
use crate::config::raw::Table;
use crate::config::values::Config;
use crate::domain::topology::Topology;

/// Checks the whole file.
pub(in crate::config) fn config(root: &Table<'_>, outside: Outside<'_>, hash: String) -> Config {
    let (regions, region_names) = geo::regions(root);
    let edge = edge::check(root, &region_names, &outside);
    let geo = geo::check(root, &outside, &region_names);
    let mut models = models::check(root);
    let (pools, replicas) = pools::check(root, &region_names, &models.names, &edge.listeners(), &outside);
    models::attach_pools(&mut models, &pools, root.report());
    let timeouts = knobs::timeouts(root);
    let (retry, retry_budget) = knobs::retry(root);
    Config {
        hash,
        topology: Topology {
            edge: edge.name,
            home: edge.home,
            regions,
            models: models.list,
            pools: pools.list,
            replicas,
            model_names: models.by_name,
            steps: models.steps,
        },
        listen: edge.listen,
        tls: edge.tls,
        proxy_protocol: edge.proxy_protocol,
        trusted_proxies: edge.trusted_proxies,
        admin: edge.admin,
        admin_token: edge.admin_token,
        geo,
        sessions: knobs::sessions(root),
        health: knobs::health(root),
        engine_metrics: knobs::engine_metrics(root),
        circuit_breaker: knobs::circuit_breaker(root),
        retry,
        retry_budget,
        hedging: knobs::hedging(root),
        timeouts,
        limits: knobs::limits(root),
        access_log: access_log::check(root, &outside),
        tracing: tracing::check(root, &outside),
        references: outside.into_references(),
    }
}

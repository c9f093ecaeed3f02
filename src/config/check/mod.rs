//! The file's meaning: section by section into plain values, with every error noted on the way.
//!
//! A check that fails goes on with a stand-in value, so that one run finds all errors; what is made of stand-ins never
//! leaves, since a single error refuses the whole.

mod edge;
mod geo;
mod knobs;
mod models;
mod names;
mod outside;
mod pools;
mod replicas;
mod tls;
mod url;

pub(super) use outside::Outside;

use super::raw::Table;
use super::values::Config;
use crate::domain::topology::Topology;

/// Checks the whole file.
pub(super) fn config(root: &Table<'_>, outside: Outside<'_>, hash: String) -> Config {
    let (regions, region_names) = geo::regions(root);
    let edge = edge::check(root, &region_names, &outside);
    let geo = geo::check(root, &outside);
    let mut models = models::check(root);
    let (pools, replicas) = pools::check(root, &region_names, &models.names, &outside);
    models::attach_pools(&mut models, &pools, root.report());
    let timeouts = knobs::timeouts(root);
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
        trusted_proxies: edge.trusted_proxies,
        admin: edge.admin,
        admin_token: edge.admin_token,
        geo,
        sessions: knobs::sessions(root),
        health: knobs::health(root),
        circuit_breaker: knobs::circuit_breaker(root),
        retry: knobs::retry(root),
        timeouts,
        limits: knobs::limits(root),
        references: outside.into_references(),
    }
}

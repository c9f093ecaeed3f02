//! Station 4: in which pools may this call be served, nearest first?
//!
//! Geography decides where a session starts. The order is by distance from the client's place (or from the edge, when
//! the place is unknown), then by the file's order; it does not look at health, so that it is the same at every edge.
//! Which of the pools can serve right now is seen by whoever walks the order.

use crate::domain::ask::Dialect;
use crate::domain::ids::{ModelIx, PoolIx, RegionIx};
use crate::domain::place::Place;
use crate::domain::topology::Topology;

/// A pool that may serve a call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PoolCandidate {
    /// The pool.
    pub pool: PoolIx,
    /// Its region.
    pub region: RegionIx,
    /// The model it serves: the one asked for, or a fallback.
    pub model: ModelIx,
    /// From the client's place (or the edge's) to the region, in km.
    pub distance_km: f64,
    /// Whether the model is another than the one asked for.
    pub fallback: bool,
}

/// Why no pool may serve a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoPool {
    /// The model has no pool at all.
    NotServed,
    /// No engine of the model's pools speaks the dialect.
    Dialect,
}

/// The pools that may serve `model` in `dialect` to a client at `from`: those of the model nearest first, then those of
/// its fallbacks, model by model.
pub fn order(
    topology: &Topology,
    model: ModelIx,
    dialect: Dialect,
    from: Option<Place>,
) -> Result<Vec<PoolCandidate>, NoPool> {
    let from = from.unwrap_or(topology.region(topology.home).place);
    let mut candidates = Vec::new();
    let mut any_pool = false;
    let fallbacks = topology.model(model).fallbacks.iter().copied();
    for candidate_model in std::iter::once(model).chain(fallbacks) {
        let start = candidates.len();
        for &pool in &topology.model(candidate_model).pools {
            any_pool = true;
            if topology.pool(pool).dialects.contains(dialect) {
                let region = topology.pool(pool).region;
                candidates.push(PoolCandidate {
                    pool,
                    region,
                    model: candidate_model,
                    distance_km: from.distance_km(topology.region(region).place),
                    fallback: candidate_model != model,
                });
            }
        }
        // Stable, so that pools of one region keep the file's order.
        candidates[start..].sort_by(|a, b| a.distance_km.total_cmp(&b.distance_km));
    }
    match (candidates.is_empty(), any_pool) {
        (false, _) => Ok(candidates),
        (true, true) => Err(NoPool::Dialect),
        (true, false) => Err(NoPool::NotServed),
    }
}

/// Moves the pool that holds the session's cache to the front: geography decides where a session starts, the cache where
/// it stays. A pool of a fallback model stays at its place, since its model is not the one asked for.
pub fn home_first(candidates: &mut [PoolCandidate], home: Option<PoolIx>) {
    let at = candidates.iter().position(|candidate| Some(candidate.pool) == home && !candidate.fallback);
    if let Some(at) = at {
        candidates[..=at].rotate_right(1);
    }
}

//! What agents have without an edge: a plain load balancer in each region, which sends every call to the next replica in turn.
//!
//! It is kinder than most: it is no hop of its own, since agents ask it where to call and then call there.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::places::{Place, distance_km};
use super::regions::{Pool, Region, World};
use super::report::Step;
use super::target::Destination;

/// Whose turn it is in every pool of a world.
#[derive(Debug)]
pub struct RoundRobin {
    regions: Vec<Balanced>,
    model_of: fn(Step) -> &'static str,
}

#[derive(Debug)]
struct Balanced {
    at: (f64, f64),
    pools: Vec<Turns>,
}

#[derive(Debug)]
struct Turns {
    short: String,
    served_as: String,
    urls: Vec<String>,
    calls: AtomicUsize,
}

impl RoundRobin {
    /// Over all replicas of a world, dead ones included. `model_of` gives the short name of a step's model, as
    /// [`ModelSpec::short`](super::ModelSpec::short).
    pub fn over(world: &World, model_of: fn(Step) -> &'static str) -> Self {
        Self { regions: world.regions().iter().map(Balanced::new).collect(), model_of }
    }

    /// The next replica of this step's model in the region nearest to the place; of the first region for an agent that is
    /// nowhere. `None` when there is none.
    pub(super) fn next(&self, place: Option<&Place>, step: Step) -> Option<Destination<'_>> {
        let short = (self.model_of)(step);
        self.nearest(place)?.pools.iter().find(|pool| pool.short == short)?.next()
    }

    fn nearest(&self, place: Option<&Place>) -> Option<&Balanced> {
        let Some(place) = place else { return self.regions.first() };
        let km = |region: &&Balanced| distance_km((place.latitude, place.longitude), region.at);
        self.regions.iter().min_by(|one, other| km(one).total_cmp(&km(other)))
    }
}

impl Balanced {
    fn new(region: &Region) -> Self {
        let at = (region.spec.latitude, region.spec.longitude);
        Self { at, pools: region.pools.iter().map(Turns::new).collect() }
    }
}

impl Turns {
    fn new(pool: &Pool) -> Self {
        let model = &pool.model;
        Self {
            short: model.short.clone(),
            served_as: model.served_as.clone(),
            urls: pool.replicas.iter().map(|replica| replica.url()).collect(),
            calls: AtomicUsize::new(0),
        }
    }

    fn next(&self) -> Option<Destination<'_>> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let url = self.urls.get(call.checked_rem(self.urls.len())?)?;
        Some(Destination { url, model: &self.served_as })
    }
}

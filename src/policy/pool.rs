//! Station 4: in which pools may this call be served, nearest first?
//!
//! Geography decides where a session starts. The order is the regions' ([`region`](super::region)), then the file's; it does
//! not look at health, so that it is the same at every edge.
//! Which of the pools can serve right now, and where a session's cache is, is seen by whoever walks the order
//! ([`select`](super::select::select)).

use super::region::Standings;
use crate::domain::ask::Dialect;
use crate::domain::ids::{ModelIx, PoolIx, RegionIx};
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
    /// From where distances are measured to the region, in km.
    pub distance_km: f64,
    /// What the way there counts, in ms; never less than that of the pool before it of the same model.
    pub way_ms: f64,
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
    /// None of those pools is in a region where the client's calls may be served.
    Residency,
}

/// The pools that may serve `model` in `dialect` to a client to whom the regions stand so: those of the model nearest first,
/// then those of its fallbacks, model by model. Fallbacks of fallbacks are not followed: the list in the config is the whole
/// list.
pub fn order(
    topology: &Topology,
    model: ModelIx,
    dialect: Dialect,
    standings: &Standings,
) -> Result<Vec<PoolCandidate>, NoPool> {
    let mut candidates = Vec::new();
    let (mut any_pool, mut any_speaks) = (false, false);
    let fallbacks = &topology.model(model).fallbacks;
    for (position, candidate_model) in std::iter::once(model).chain(fallbacks.iter().copied()).enumerate() {
        // A model that is named twice, or falls back to itself, is walked once.
        if position > 0 && (candidate_model == model || fallbacks[..position - 1].contains(&candidate_model)) {
            continue;
        }
        let start = candidates.len();
        for &pool in &topology.model(candidate_model).pools {
            any_pool = true;
            let region = topology.pool(pool).region;
            let speaks = topology.pool(pool).dialects.contains(dialect);
            any_speaks |= speaks;
            if speaks && standings.of(region).allowed {
                let fallback = candidate_model != model;
                candidates.push(PoolCandidate {
                    pool,
                    region,
                    model: candidate_model,
                    distance_km: 0.0,
                    way_ms: 0.0,
                    fallback,
                });
            }
        }
        standings.sort(topology, &mut candidates[start..]);
    }
    match (candidates.is_empty(), any_pool, any_speaks) {
        (false, ..) => Ok(candidates),
        (true, _, true) => Err(NoPool::Residency),
        (true, true, false) => Err(NoPool::Dialect),
        (true, false, false) => Err(NoPool::NotServed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::place::Place;
    use crate::policy::testing::Fleet;
    use crate::policy::testing::standings;

    const BERLIN: Option<Place> = Some(Place { latitude: 52.5, longitude: 13.4 });
    const TOKYO: Option<Place> = Some(Place { latitude: 35.7, longitude: 139.7 });

    /// The edge stands in the first region, us.
    fn fleet() -> Fleet {
        Fleet::new()
            .region("us", 45.8, -119.7)
            .region("eu", 50.1, 8.7)
            .region("ap", 1.4, 103.8)
            .model("8b", &[])
            .model("70b", &[])
    }

    /// The pools in order, as `name` or, for those of fallbacks, `name*`.
    #[track_caller]
    fn check(fleet: Fleet, model: &str, from: Option<Place>, expected: &[&str]) {
        let topology = fleet.build();
        let candidates =
            order(&topology, topology.model_names[model], Dialect::Chat, &standings(&topology, from)).unwrap();
        let star = |candidate: &PoolCandidate| if candidate.fallback { "*" } else { "" };
        let names: Vec<_> = candidates.iter().map(|c| format!("{}{}", topology.pool(c.pool).name, star(c))).collect();
        assert_eq!(names, expected);
        for candidate in candidates {
            assert_eq!(candidate.region, topology.pool(candidate.pool).region);
            assert_eq!(candidate.model, topology.pool(candidate.pool).model);
        }
    }

    fn three_regions() -> Fleet {
        fleet().pool("us-8b", "us", "8b", 1).pool("eu-8b", "eu", "8b", 1).pool("ap-8b", "ap", "8b", 1)
    }

    #[test]
    fn pools_stand_in_order_of_distance_from_the_client() {
        check(three_regions(), "8b", BERLIN, &["eu-8b", "us-8b", "ap-8b"]);
        check(three_regions(), "8b", TOKYO, &["ap-8b", "us-8b", "eu-8b"]);
    }

    #[test]
    fn a_client_of_unknown_place_stands_at_the_edge() {
        check(three_regions(), "8b", None, &["us-8b", "eu-8b", "ap-8b"]);
    }

    #[test]
    fn pools_of_one_region_keep_the_order_of_the_file() {
        let fleet = fleet().pool("z", "eu", "8b", 1).pool("far", "ap", "8b", 1).pool("a", "eu", "8b", 1);
        check(fleet, "8b", BERLIN, &["z", "a", "far"]);
    }

    #[test]
    fn pools_of_fallbacks_come_last_however_near() {
        let fleet = fleet().model("1b", &[]).fallback("70b", "1b").fallback("70b", "8b");
        let fleet = fleet.pool("eu-8b", "eu", "8b", 1).pool("us-70b", "us", "70b", 1).pool("ap-1b", "ap", "1b", 1);
        check(fleet, "70b", BERLIN, &["us-70b", "ap-1b*", "eu-8b*"]);
    }

    #[test]
    fn a_model_without_a_pool_is_served_by_its_fallback() {
        check(three_regions().fallback("70b", "8b"), "70b", TOKYO, &["ap-8b*", "us-8b*", "eu-8b*"]);
    }

    #[test]
    fn fallbacks_of_fallbacks_are_not_followed() {
        let fleet = fleet().model("1b", &[]).fallback("70b", "8b").fallback("8b", "1b");
        let fleet = fleet.pool("a", "us", "70b", 1).pool("b", "us", "8b", 1).pool("c", "us", "1b", 1);
        check(fleet, "70b", None, &["a", "b*"]);
    }

    #[test]
    fn no_pool_stands_twice_whatever_the_fallbacks() {
        let fleet = three_regions().fallback("8b", "8b").fallback("8b", "70b").fallback("8b", "70b");
        check(fleet.pool("us-70b", "us", "70b", 1), "8b", None, &["us-8b", "eu-8b", "ap-8b", "us-70b*"]);
    }

    #[test]
    fn pools_whose_engine_does_not_speak_the_dialect_are_left_out() {
        let fleet = fleet().pool("us-8b", "us", "8b", 1).speaking(&[Dialect::Embeddings]).pool("eu-8b", "eu", "8b", 1);
        check(fleet, "8b", None, &["eu-8b"]);
    }

    #[test]
    fn to_have_no_pool_is_an_answer_that_says_why() {
        let topology = fleet().pool("us-8b", "us", "8b", 1).speaking(&[Dialect::Chat]).build();
        let refusal = |model: &str| {
            order(&topology, topology.model_names[model], Dialect::Messages, &standings(&topology, None)).unwrap_err()
        };
        assert_eq!(refusal("8b"), NoPool::Dialect);
        assert_eq!(refusal("70b"), NoPool::NotServed);
    }

    proptest! {
        #[test]
        fn from_anywhere_every_pool_stands_once_and_distances_never_fall(
            latitude in -90.0f64..=90.0, longitude in -180.0f64..=180.0,
        ) {
            let topology = three_regions().pool("eu-8b-2", "eu", "8b", 1).build();
            let place = Some(Place { latitude, longitude });
            let candidates = order(&topology, topology.model_names["8b"], Dialect::Chat, &standings(&topology, place)).unwrap();
            prop_assert_eq!(candidates.len(), 4);
            prop_assert!(candidates.is_sorted_by(|a, b| a.distance_km <= b.distance_km));
            let regions: Vec<_> = candidates.iter().map(|candidate| candidate.region).collect();
            prop_assert_eq!(regions.chunk_by(|a, b| a == b).count(), 3, "regions stay together");
        }
    }
}

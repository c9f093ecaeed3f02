//! Has the client come to the edge that is nearest to it?
//!
//! DNS brings clients to edges, and it knows only their resolvers. An edge that sees where a client is tells it of a nearer
//! one (it cannot send it there: HTTP clients drop their credential when they are redirected to another host), and counts,
//! so that the operator can mend the DNS.
//!
//! Only what is certain is told: a place may be off by its accuracy radius, so the other edge must be nearer from wherever
//! within it the client stands. A client of which only a large country is known is told of another continent's edge at most.

use crate::domain::ids::RegionIx;
use crate::domain::topology::Topology;
use crate::domain::whereabouts::Whereabouts;

/// The region whose edge is nearest to this client, if that is another one than here, and certainly nearer.
pub fn nearer_edge(topology: &Topology, at: &Whereabouts) -> Option<RegionIx> {
    let from = at.place?.point();
    let others = topology.regions.iter().enumerate().filter(|(ix, region)| {
        RegionIx(*ix) != topology.home && region.edge.as_ref().is_some_and(|edge| *edge != topology.edge)
    });
    let distances = others.map(|(ix, region)| (RegionIx(ix), from.distance_km(region.point())));
    let (nearest, distance_km) = distances.min_by(|a, b| a.1.total_cmp(&b.1))?;
    // From elsewhere within the radius, the one may be farther by it and the other nearer by it.
    let doubt_km = 2.0 * f64::from(at.accuracy_radius_km.unwrap_or(0));
    (distance_km + doubt_km < from.distance_km(topology.region(topology.home).point())).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::place::Place;
    use crate::domain::whereabouts::Source;
    use crate::policy::testing::Fleet;

    /// This edge is in us; eu and ap have one each, and mars has none.
    fn topology() -> Topology {
        let fleet = Fleet::new().region("us", 45.8, -119.7).region("eu", 53.4, -6.3).region("ap", 1.4, 103.8);
        let mut topology = fleet.region("none", 35.7, 139.7).build();
        for (region, edge) in [(0, "other-us"), (1, "eu-1"), (2, "ap-1")] {
            topology.regions[region].edge = Some(edge.into());
        }
        topology
    }

    fn at(latitude: f64, longitude: f64, accuracy_radius_km: Option<u16>) -> Whereabouts {
        let place = Some(Place { latitude, longitude });
        Whereabouts { place, accuracy_radius_km, ..Whereabouts::unknown(None, Source::Peer) }
    }

    #[track_caller]
    fn check(at: &Whereabouts, region: Option<usize>) {
        assert_eq!(nearer_edge(&topology(), at), region.map(RegionIx));
    }

    #[test]
    fn a_client_that_is_nearer_to_another_edge_is_told_of_it() {
        check(&at(52.5, 13.4, Some(20)), Some(1)); // Berlin
        check(&at(13.8, 100.5, None), Some(2)); // Bangkok
        check(&at(37.3, -121.9, Some(20)), None); // San Jose: at home
        check(&at(35.7, 139.7, Some(20)), Some(2)); // Tokyo: its region has no edge; Singapore's is nearer than ours
        check(&Whereabouts::unknown(None, Source::Peer), None);
    }

    #[test]
    fn what_is_in_doubt_is_not_told() {
        // Halifax, 4,300 km from the one and 4,200 from the other.
        let halifax = |radius| at(44.65, -63.57, radius);
        let (home, eu) = (topology().regions[0].place(), topology().regions[1].place());
        let nearer_km = halifax(None).place.map(|place| place.distance_km(home) - place.distance_km(eu)).unwrap();
        assert!((50.0..500.0).contains(&nearer_km), "{nearer_km}");
        check(&halifax(Some(20)), Some(1));
        check(&halifax(Some(300)), None);
        // Of an American only the country is known.
        check(&at(38.79, -93.52, Some(2302)), None);
    }

    #[test]
    fn the_running_edge_is_the_one_of_its_region_and_no_other() {
        let mut topology = topology();
        topology.regions[1].edge = Some(topology.edge.clone());
        assert_eq!(nearer_edge(&topology, &at(53.4, -6.3, None)), None);
        topology.regions[0].edge = None;
        assert_eq!(nearer_edge(&topology, &at(45.8, -119.7, None)), None);
    }

    proptest! {
        #[test]
        fn nobody_is_sent_farther_from_wherever_he_stands(
            latitude in -90.0f64..=90.0, longitude in -180.0f64..=180.0, radius in 0..3000u16,
        ) {
            let topology = topology();
            let whereabouts = at(latitude, longitude, Some(radius));
            if let (Some(other), Some(place)) = (nearer_edge(&topology, &whereabouts), whereabouts.place) {
                let km = |region: RegionIx| place.distance_km(topology.region(region).place());
                prop_assert!(km(other) + 2.0 * f64::from(radius) < km(topology.home));
                prop_assert!(km(other) <= km(RegionIx(1)) && km(other) <= km(RegionIx(2)));
            }
        }
    }
}

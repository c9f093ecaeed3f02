use proptest::prelude::*;

use super::*;
use crate::domain::ask::Dialect;
use crate::domain::code::Code;
use crate::domain::place::Place;
use crate::domain::topology::Region;
use crate::domain::whereabouts::{Source, Unions, Whereabouts};
use crate::policy::client_rule::Union;
use crate::policy::pool::{self, NoPool};
use crate::policy::testing::Fleet;

/// A pool in each of four regions; the edge stands in Oregon.
fn topology() -> Topology {
    let fleet = Fleet::new().region("us", 45.8, -119.7).region("eu", 53.3, -6.3).region("de", 50.1, 8.7);
    let fleet = fleet.region("ap", 1.4, 103.8).model("m", &[]);
    let pools = ["us", "eu", "de", "ap"].into_iter().fold(fleet, |fleet, name| fleet.pool(name, name, "m", 1));
    pools.build()
}

const US: RegionIx = RegionIx(0);
const EU: RegionIx = RegionIx(1);
const DE: RegionIx = RegionIx(2);
const AP: RegionIx = RegionIx(3);

fn code(text: &str) -> Code {
    Code::new(text).unwrap()
}

fn in_berlin() -> Whereabouts {
    Whereabouts {
        place: Some(Place { latitude: 52.5, longitude: 13.4 }),
        country: Some(code("DE")),
        continent: Some(code("EU")),
        unions: Unions { eu: true, eea: true },
        ..Whereabouts::unknown("203.0.113.9".parse().ok(), Source::Peer)
    }
}

/// The pools' names in order, by what is measured of the regions, in ms.
fn names(topology: &Topology, rules: &Rules, client: &Whereabouts, rtt_ms: [Option<f64>; 4]) -> Vec<String> {
    let asker = Asker { whereabouts: client, keys: &["00ff00ff00ff00ff".into()] };
    let standings = rules.standings(topology, asker, |region| rtt_ms[region.0]);
    let pools = match pool::order(topology, topology.model_names["m"], Dialect::Chat, &standings) {
        Ok(pools) => pools,
        Err(no) => return vec![format!("{no:?}")],
    };
    assert!(pools.is_sorted_by(|a, b| a.way_ms <= b.way_ms), "ways never shrink");
    pools.iter().map(|pool| topology.pool(pool.pool).name.clone()).collect()
}

#[track_caller]
fn check(change: impl Fn(&mut Topology, &mut Rules), client: Whereabouts, rtt_ms: [Option<f64>; 4], expected: &str) {
    let mut topology = topology();
    let mut rules = Rules::default();
    change(&mut topology, &mut rules);
    assert_eq!(names(&topology, &rules, &client, rtt_ms).join(" "), expected);
}

const UNMEASURED: [Option<f64>; 4] = [None; 4];

#[test]
fn from_the_client_distance_decides_whatever_is_measured() {
    check(|_, _| {}, in_berlin(), UNMEASURED, "de eu us ap");
    check(|_, _| {}, in_berlin(), [Some(1.0), Some(9.0), Some(900.0), Some(2.0)], "de eu us ap");
    check(|_, _| {}, Whereabouts::NOWHERE, UNMEASURED, "us eu de ap");
}

#[test]
fn from_the_edge_the_round_trip_decides_among_those_that_are_about_as_near() {
    let edge_in_dublin = |topology: &mut Topology, rules: &mut Rules| {
        topology.home = EU;
        rules.nearest_to = NearestTo::Edge;
    };
    // The client's place is no matter.
    check(edge_in_dublin, in_berlin(), UNMEASURED, "eu de us ap");
    check(edge_in_dublin, Whereabouts::NOWHERE, [Some(70.0), Some(0.4), Some(25.0), Some(170.0)], "eu de us ap");
    // Its own region does not answer as fast as one farther away.
    check(edge_in_dublin, in_berlin(), [Some(70.0), Some(40.0), Some(25.0), None], "eu de us ap");
    let no_own_pool = |topology: &mut Topology, rules: &mut Rules| {
        edge_in_dublin(topology, rules);
        topology.models[0].pools.retain(|pool| topology.pools[pool.0].region != EU);
    };
    // Nearest is Frankfurt, 1,090 km away: the shortlist ends at 2,640 km, and no measurement makes Oregon nearer.
    check(no_own_pool, in_berlin(), [Some(1.0), None, Some(25.0), None], "de us ap");
    let between = |topology: &mut Topology, rules: &mut Rules| {
        no_own_pool(topology, rules);
        topology.regions[AP.0] = Region::new("ap", Place { latitude: 40.4, longitude: -3.7 });
    };
    // Madrid, 1,450 km away, is on it.
    check(between, in_berlin(), [None, None, Some(30.0), Some(20.0)], "ap de us");
    check(between, in_berlin(), [None, None, Some(30.0), None], "de ap us");
}

#[test]
fn a_bias_makes_a_region_count_as_nearer_or_farther() {
    check(|topology, _| topology.regions[EU.0].bias = 90, in_berlin(), UNMEASURED, "eu de us ap");
    check(|topology, _| topology.regions[DE.0].bias = -99, in_berlin(), UNMEASURED, "eu us ap de");
    let edge = |topology: &mut Topology, rules: &mut Rules| {
        topology.home = DE;
        topology.regions[EU.0].bias = 50;
        rules.nearest_to = NearestTo::Edge;
    };
    check(edge, in_berlin(), [None, Some(24.0), Some(13.0), None], "eu de us ap");
    check(edge, in_berlin(), [None, Some(24.0), Some(11.0), None], "de eu us ap");
}

#[test]
fn overrides_stand_before_all_and_the_first_that_means_a_client_holds() {
    let listed = |topology: &mut Topology, rules: &mut Rules| {
        let _ = topology;
        rules.overrides = vec![
            (Selector::Network("203.0.113.0/24".parse().unwrap()), vec![AP, US]),
            (Selector::Country(code("DE")), vec![EU]),
        ];
    };
    check(listed, in_berlin(), UNMEASURED, "ap us de eu");
    let elsewhere = Whereabouts { address: "192.0.2.1".parse().ok(), ..in_berlin() };
    check(listed, elsewhere, UNMEASURED, "eu de us ap");
    check(listed, Whereabouts::NOWHERE, UNMEASURED, "us eu de ap");
}

#[test]
fn of_what_is_equally_near_the_cheapest_comes_first_where_that_is_wanted() {
    let prices = |within_ms: f64| {
        move |topology: &mut Topology, rules: &mut Rules| {
            for (pool, price) in [(US, Some(9.0)), (EU, Some(2.0)), (DE, Some(3.0)), (AP, None)] {
                topology.pools[pool.0].cost_per_hour = price;
            }
            rules.cheaper_within_ms = within_ms;
        }
    };
    check(prices(0.0), in_berlin(), UNMEASURED, "de eu us ap");
    // 32 ms to Frankfurt, 45 to Dublin, 145 to Oregon, 168 to Singapore.
    check(prices(10.0), in_berlin(), UNMEASURED, "de eu us ap");
    check(prices(20.0), in_berlin(), UNMEASURED, "eu de us ap");
    check(prices(1_000.0), in_berlin(), UNMEASURED, "eu de us ap");
}

#[test]
fn residency_leaves_out_what_it_does_not_allow() {
    let rule = |selector: Selector, regions: &[RegionIx]| (selector, regions.iter().copied().collect::<RegionSet>());
    let europe = |unknown: ResidencyUnknown| {
        move |_: &mut Topology, rules: &mut Rules| {
            rules.residency = vec![rule(Selector::Union(Union::Eu), &[EU, DE])];
            rules.residency_unknown = unknown;
        }
    };
    check(europe(ResidencyUnknown::Common), in_berlin(), UNMEASURED, "de eu");
    check(europe(ResidencyUnknown::Common), Whereabouts::NOWHERE, UNMEASURED, "eu de");
    check(europe(ResidencyUnknown::Any), Whereabouts::NOWHERE, UNMEASURED, "us eu de ap");
    let only = [US].into_iter().collect();
    check(europe(ResidencyUnknown::Only(only)), Whereabouts::NOWHERE, UNMEASURED, "us");
    let american = Whereabouts { country: Some(code("US")), unions: Unions::default(), ..in_berlin() };
    check(europe(ResidencyUnknown::Common), american, UNMEASURED, "de eu us ap");
    let two = |_: &mut Topology, rules: &mut Rules| {
        rules.residency = vec![
            rule(Selector::Union(Union::Eu), &[EU, DE]),
            rule(Selector::Key("00ff00ff00ff00ff".into()), &[DE, US]),
        ];
    };
    check(two, in_berlin(), UNMEASURED, "de");
    check(two, american, UNMEASURED, "de us");
    let none = |_: &mut Topology, rules: &mut Rules| {
        rules.residency = vec![rule(Selector::Country(code("DE")), &[EU]), rule(Selector::Union(Union::Eu), &[DE])];
    };
    check(none, in_berlin(), UNMEASURED, "Residency");
}

#[test]
fn an_override_lists_nothing_that_residency_leaves_out() {
    let both = |_: &mut Topology, rules: &mut Rules| {
        rules.overrides = vec![(Selector::Country(code("DE")), vec![AP, DE])];
        rules.residency = vec![(Selector::Country(code("DE")), [EU, DE].into_iter().collect())];
    };
    check(both, in_berlin(), UNMEASURED, "de eu");
}

#[test]
fn no_pool_is_told_apart_from_no_region() {
    let topology = topology();
    let residency = vec![(Selector::Country(code("DE")), RegionSet::from_iter([]))];
    let rules = Rules { residency, ..Rules::default() };
    let berlin = in_berlin();
    let standings = rules.standings(&topology, Asker { whereabouts: &berlin, keys: &[] }, |_| None);
    assert!(standings.leave_out());
    assert_eq!(pool::order(&topology, topology.model_names["m"], Dialect::Chat, &standings), Err(NoPool::Residency));
    let standings = rules.standings(&topology, Asker::NOBODY, |_| None);
    assert!(standings.leave_out(), "who is not known to be elsewhere might be meant");
}

proptest! {
    #[test]
    fn a_region_that_is_left_out_is_never_a_candidate_and_every_other_is(
        allowed in 0u8..16, unknown in 0u8..3, latitude in -90.0f64..=90.0, longitude in -180.0f64..=180.0,
        country in prop::option::of(prop::sample::select(vec!["DE", "US", "SG"])), edge: bool,
        rtt_ms in prop::array::uniform4(prop::option::of(0.1f64..400.0)), listed in 0usize..4,
    ) {
        let topology = topology();
        let set: RegionSet = (0..4).filter(|n| allowed >> n & 1 == 1).map(RegionIx).collect();
        let rules = Rules {
            nearest_to: if edge { NearestTo::Edge } else { NearestTo::Client },
            residency: vec![(Selector::Country(code("DE")), set)],
            residency_unknown: [ResidencyUnknown::Common, ResidencyUnknown::Any, ResidencyUnknown::Only(set)][usize::from(unknown)],
            overrides: vec![(Selector::Country(code("DE")), vec![RegionIx(listed)])],
            ..Rules::default()
        };
        let place = Some(Place { latitude, longitude });
        let client = Whereabouts { place, country: country.map(code), ..Whereabouts::NOWHERE };
        let bound = country == Some("DE") || (country.is_none() && unknown != 1);
        let expected = if bound { allowed.count_ones() as usize } else { 4 };
        let found = names(&topology, &rules, &client, rtt_ms);
        prop_assert_eq!(found.iter().filter(|name| *name != "Residency").count(), expected);
        for (n, name) in ["us", "eu", "de", "ap"].into_iter().enumerate() {
            let is_candidate = found.iter().any(|found| found == name);
            prop_assert_eq!(is_candidate, !bound || allowed >> n & 1 == 1, "{}", name);
        }
    }
}

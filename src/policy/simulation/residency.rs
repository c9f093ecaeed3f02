//! Clients who may not go everywhere, under random failures of replicas and regions, with retries, fallbacks, hedges and
//! resumes. The law is asserted wherever an attempt is sent.

use std::net::IpAddr;
use std::time::Duration;

use rand::RngExt;

use super::world::{Fault, Seed, Tally, World};
use crate::domain::code::Code;
use crate::domain::ids::{RegionIx, ReplicaIx};
use crate::domain::place::Place;
use crate::domain::topology::Topology;
use crate::domain::whereabouts::{Source, Unions, Whereabouts};
use crate::policy::client_rule::{Selector, Union};
use crate::policy::region::{NearestTo, RegionSet, ResidencyUnknown, Rules};
use crate::policy::select::Reason;
use crate::policy::testing::Fleet;

const SEEDS: u64 = 200;
const SESSIONS: usize = 60;
const CALLS_PER_SESSION: u32 = 12;
const BUSY_FOR: Duration = Duration::from_secs(300);

/// Regions by a letter: Oregon, Ireland, Frankfurt, Singapore, Mumbai.
const REGIONS: [(char, f64, f64); 5] =
    [('o', 45.8, -119.7), ('i', 53.4, -6.3), ('f', 50.1, 8.7), ('s', 1.4, 103.8), ('m', 19.1, 72.9)];

/// The SHA-256 of a key that rules name by its beginning.
const KEY: &str = "00ff00ff00ff00ff00ff";

fn fleet() -> Topology {
    let mut fleet = Fleet::new().model("8b", &[]).model("70b", &[]).fallback("70b", "8b");
    for (name, latitude, longitude) in REGIONS {
        fleet = fleet.region(&name.to_string(), latitude, longitude);
    }
    for (name, ..) in REGIONS {
        for model in ["8b", "70b"] {
            fleet = fleet.pool(&format!("{name}-{model}"), &name.to_string(), model, 2);
        }
    }
    fleet.build()
}

/// Regions by their letters.
fn regions(letters: &str) -> Vec<RegionIx> {
    let at = |letter| REGIONS.iter().position(|(name, ..)| *name == letter).unwrap();
    letters.chars().map(|letter| RegionIx(at(letter))).collect()
}

fn only(letters: &str) -> RegionSet {
    regions(letters).into_iter().collect()
}

/// What the operator wrote, in one of three ways.
fn rules(variant: usize) -> Rules {
    let code = |text| Code::new(text).unwrap();
    let everywhere = vec![
        (Selector::Union(Union::Eu), only("if")),
        (Selector::Country(code("DE")), only("fo")),
        (Selector::Network("203.0.113.0/24".parse().unwrap()), only("o")),
        (Selector::Key(KEY[..16].into()), only("im")),
    ];
    let asia = (Selector::Continent(code("AS")), only("sm"));
    let (residency, residency_unknown) = match variant {
        0 => (everywhere, ResidencyUnknown::Common),
        1 => ([everywhere, vec![asia]].concat(), ResidencyUnknown::Only(only("s"))),
        _ => ([everywhere, vec![asia]].concat(), ResidencyUnknown::Any),
    };
    Rules {
        // What is preferred is not for that allowed.
        overrides: vec![(Selector::Country(code("DE")), regions("of")), (Selector::Country(code("JP")), regions("i"))],
        nearest_to: if variant == 1 { NearestTo::Edge } else { NearestTo::Client },
        residency,
        residency_unknown,
        ..Rules::default()
    }
}

/// A client, and the regions that may serve it under each variant of the rules, worked out by hand.
struct Client {
    whereabouts: Whereabouts,
    key: &'static str,
    allowed: [&'static str; 3],
}

fn clients() -> Vec<Client> {
    let client = |place: Option<(f64, f64)>, country: &str, continent: &str, (eu, eea), address: &str, key, allowed| {
        let whereabouts = Whereabouts {
            place: place.map(|(latitude, longitude)| Place { latitude, longitude }),
            country: Code::new(country),
            continent: Code::new(continent),
            unions: Unions { eu, eea },
            ..Whereabouts::unknown(address.parse::<IpAddr>().ok(), Source::Peer)
        };
        Client { whereabouts, key, allowed }
    };
    let (eu, eea, none) = ((true, true), (false, true), (false, false));
    let (dublin, berlin, oslo) = (Some((53.3, -6.2)), Some((52.5, 13.4)), Some((59.9, 10.7)));
    let (tokyo, austin) = (Some((35.7, 139.7)), Some((30.3, -97.7)));
    vec![
        client(dublin, "IE", "EU", eu, "192.0.2.1", "", ["if"; 3]),
        client(berlin, "DE", "EU", eu, "192.0.2.2", "", ["f"; 3]),
        client(oslo, "NO", "EU", eea, "192.0.2.3", "", ["oifsm"; 3]),
        client(tokyo, "JP", "AS", none, "192.0.2.4", "", ["oifsm", "sm", "sm"]),
        client(tokyo, "JP", "AS", none, "192.0.2.4", KEY, ["im", "m", "m"]),
        client(dublin, "IE", "EU", eu, "192.0.2.5", KEY, ["i"; 3]),
        client(berlin, "DE", "EU", eu, "192.0.2.6", KEY, [""; 3]),
        client(austin, "US", "NA", none, "203.0.113.9", "", ["o"; 3]),
        client(austin, "US", "NA", none, "::ffff:203.0.113.9", KEY, [""; 3]),
        // Of unknown place; the last one's address is unknown, too.
        client(None, "", "", none, "10.0.0.1", "", ["f", "s", "oifsm"]),
        client(None, "", "", none, "10.0.0.1", KEY, ["", "", "im"]),
        client(None, "", "AS", none, "192.0.2.7", "", ["f", "s", "sm"]),
        client(None, "", "", none, "unix", "", ["", "s", "oifsm"]),
    ]
}

fn run(seed: u64) -> Tally {
    let _seed = Seed(seed);
    let mut world = World::new(seed, fleet());
    let variant = seed as usize % 3;
    world.rules = rules(variant);
    (world.noisy, world.streams) = (true, true);
    let clients = clients();
    for session in 0..SESSIONS {
        let client = &clients[session % clients.len()];
        let known = world.rng.random_bool(0.8);
        let agent = world.agent(RegionIx(0), CALLS_PER_SESSION, BUSY_FOR);
        agent.keys = Some(client.key).filter(|key| !key.is_empty()).map(str::to_owned).into_iter().collect();
        (agent.whereabouts, agent.known) = (client.whereabouts, known);
        agent.allowed = regions(client.allowed[variant]);
    }
    for outage in 0..20 {
        let replicas = match outage {
            // Every pool of a region, else one replica.
            0..6 => {
                let region = RegionIx(world.rng.random_range(0..REGIONS.len()));
                (0..20).filter(|n| world.pool_of(ReplicaIx(*n)).region == region).collect()
            }
            _ => vec![world.rng.random_range(0..20)],
        };
        let faults = [Fault::Dead, Fault::Stalls, Fault::Errs, Fault::BrownsOut, Fault::Slow, Fault::Cuts];
        let fault = faults[world.rng.random_range(0..faults.len())];
        let lasts = Duration::from_secs(world.rng.random_range(5..120));
        let start = world.random_time(BUSY_FOR);
        world.outage(replicas, fault, start, lasts);
    }
    world.run().tally
}

#[test]
fn of_100_000_calls_none_reaches_a_region_that_is_not_allowed() {
    let mut total = Tally::default();
    for seed in 0..SEEDS {
        total += run(seed);
    }
    assert!(total.calls - total.nowhere >= 100_000, "{total:?}");
    // The law would hold of a world in which nothing happens, too.
    let happens =
        [total.kept, total.nowhere, total.attempts - total.calls, total.hedges, total.resumes, total.last_resorts];
    assert!(happens.iter().all(|count| *count > 1_000), "{total:?}");
    assert!(total.hedges_won > 1_000 && total.refused > 100, "{total:?}");
    for reason in Reason::ALL {
        assert!(total.reasons.get(&reason).is_some_and(|count| *count > 100), "{reason:?} hardly occurs: {total:?}");
    }
}

//! Random outages of replicas and regions under agents that go on calling.

use std::time::Duration;

use rand::RngExt;

use super::world::{Fault, Seed, Tally, World};
use crate::domain::ids::{RegionIx, ReplicaIx};
use crate::domain::topology::Topology;
use crate::policy::select::Reason;
use crate::policy::testing::Fleet;

const SEEDS: u64 = 256;
const SESSIONS: usize = 60;
const CALLS_PER_SESSION: u32 = 12;
/// Sessions start, and outages begin, within this time.
const BUSY_FOR: Duration = Duration::from_secs(300);

/// Two models in each of three regions, three replicas a pool.
fn fleet() -> Topology {
    let mut fleet = Fleet::new().region("us", 45.8, -119.7).region("eu", 50.1, 8.7).region("ap", 1.4, 103.8);
    fleet = fleet.model("8b", &[]).model("70b", &[]).fallback("70b", "8b");
    for region in ["us", "eu", "ap"] {
        for model in ["8b", "70b"] {
            fleet = fleet.pool(&format!("{region}-{model}"), region, model, 3);
        }
    }
    fleet.build()
}

fn run(seed: u64) -> Tally {
    let _seed = Seed(seed);
    let mut world = World::new(seed, fleet());
    world.noisy = true;
    for session in 0..SESSIONS {
        // Half of the agents are in one region, so that it fills up.
        let region = if session % 2 == 0 { RegionIx(0) } else { RegionIx(world.rng.random_range(0..3)) };
        let known = world.rng.random_bool(0.8);
        world.agent(region, CALLS_PER_SESSION, BUSY_FOR).known = known;
    }
    for outage in 0..14 {
        let replicas = match outage {
            // Every pool of a region, else one replica.
            0..3 => {
                let region = RegionIx(world.rng.random_range(0..3));
                (0..18).filter(|n| world.pool_of(ReplicaIx(*n)).region == region).collect()
            }
            _ => vec![world.rng.random_range(0..18)],
        };
        let fault = [Fault::Dead, Fault::Stalls, Fault::Errs, Fault::BrownsOut][world.rng.random_range(0..4)];
        let lasts = Duration::from_secs(world.rng.random_range(5..120));
        let start = world.random_time(BUSY_FOR);
        world.outage(replicas, fault, start, lasts);
    }
    world.run().tally
}

#[test]
fn the_laws_hold_for_every_seed() {
    let mut total = Tally::default();
    for seed in 0..SEEDS {
        total += run(seed);
    }
    // The laws would hold of a world in which nothing happens, too.
    for reason in Reason::ALL {
        assert!(total.reasons.get(&reason).is_some_and(|count| *count > 100), "{reason:?} hardly occurs: {total:?}");
    }
    assert!(total.refused > 10 && total.probes > 100 && total.last_resorts > 100, "{total:?}");
    assert!(total.served > total.calls * 9 / 10, "{total:?}");
}

#[test]
fn a_seed_repeats_exactly() {
    assert_eq!(run(42), run(42));
}

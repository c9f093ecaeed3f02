//! One trouble at a time, and what must come of it.

use std::time::Duration;

use super::world::{BUDGET, Fault, Oddity, Seed, World};
use crate::domain::ids::RegionIx;
use crate::domain::outcome::Outcome;
use crate::policy::testing::Fleet;

const SEEDS: u64 = 256;
const MINUTE: Duration = Duration::from_secs(60);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A pool of so many replicas in each of two regions.
fn two_regions(replicas: usize) -> Fleet {
    let fleet = Fleet::new().region("us", 45.8, -119.7).region("eu", 50.1, 8.7).model("8b", &[]);
    fleet.pool("us-8b", "us", "8b", replicas).pool("eu-8b", "eu", "8b", replicas)
}

fn one_region(replicas: usize) -> Fleet {
    Fleet::new().region("us", 45.8, -119.7).model("8b", &[]).pool("us-8b", "us", "8b", replicas)
}

/// For every seed: puts the trouble into a world, runs it, and checks what came of it.
fn check(fleet: impl Fn() -> Fleet, trouble: impl Fn(&mut World), holds: impl Fn(&World)) {
    for seed in 0..SEEDS {
        let _seed = Seed(seed);
        let mut world = World::new(seed, fleet().build());
        trouble(&mut world);
        holds(&world.run());
    }
}

fn agents(world: &mut World, count: usize, calls: u32) {
    for _ in 0..count {
        world.agent(RegionIx(0), calls, Duration::from_secs(4));
    }
}

#[test]
fn a_body_that_kills_stops_at_the_second_replica_however_fast_it_kills() {
    for kills_after in [ms(0), ms(3), ms(240), ms(900), ms(5_000)] {
        check(
            || two_regions(4),
            |world| {
                agents(world, 6, 10);
                world.agent(RegionIx(0), 1, MINUTE).odd = Some(Oddity::Kills(kills_after));
            },
            |world| {
                let dead = world.replicas.iter().filter(|live| live.record.breaker != Default::default()).count();
                // Every one of the others is served, also those whose replica was killed under them.
                let tally = &world.tally;
                assert!(dead <= 2 && tally.crashed <= 1 + tally.failed, "{tally:?}");
                assert!(tally.served >= 60 - 1 && tally.failed <= 2, "{tally:?}");
            },
        );
    }
}

#[test]
fn a_region_that_dies_within_a_moment_is_left_by_every_call_and_taken_for_no_deadly_body() {
    for dies_within in [ms(1), ms(20), ms(200)] {
        check(
            || two_regions(4),
            |world| {
                agents(world, 12, 8);
                for replica in 0..4 {
                    let start = ms(10_000) + world.random_time(dies_within);
                    world.outage(vec![replica], Fault::Dead, start, 10 * MINUTE);
                }
            },
            |world| assert_eq!((world.tally.served, world.tally.crashed), (96, 0), "{:?}", world.tally),
        );
    }
}

#[test]
fn a_brown_out_of_everything_makes_no_more_attempts_than_the_budget_allows() {
    check(
        || two_regions(3),
        |world| {
            world.outage((0..6).collect(), Fault::BrownsOut, Duration::ZERO, 60 * MINUTE);
            agents(world, 20, 30);
        },
        |world| {
            let tally = &world.tally;
            let floor = f64::from(BUDGET.floor_per_s) * (world.now.as_secs() + 1) as f64;
            let most = f64::from(tally.calls) * (1.0 + BUDGET.share) + floor;
            assert!(f64::from(tally.attempts) <= most, "{tally:?}, at most {most}");
            assert!(tally.attempts > tally.calls && tally.served > tally.calls / 2, "{tally:?}");
        },
    );
}

#[test]
fn a_client_whose_calls_fail_everywhere_opens_no_breaker() {
    let silent = Oddity::Ends(Outcome::FirstByteTimeout, ms(30_000));
    let failing = Oddity::Ends(Outcome::ServerError, ms(5));
    let impatient = Oddity::Ends(Outcome::ClientGone, ms(5));
    let wrong = Oddity::Ends(Outcome::ClientError, ms(5));
    for odd in [silent, failing, impatient, wrong] {
        check(
            || two_regions(3),
            |world| {
                agents(world, 4, 10);
                for _ in 0..4 {
                    world.agent(RegionIx(0), 40, MINUTE).odd = Some(odd);
                }
            },
            |world| assert_eq!((world.tally.opened, world.tally.served), (0, 40), "{odd:?}: {:?}", world.tally),
        );
    }
}

#[test]
fn a_replica_that_fails_alone_loses_its_calls_and_no_client_notices() {
    for fault in [Fault::Errs, Fault::Stalls, Fault::Dead] {
        check(
            || one_region(3),
            |world| {
                world.outage(vec![0], fault, Duration::ZERO, 10 * MINUTE);
                agents(world, 6, 20);
            },
            |world| assert_eq!(world.tally.served, 120, "{fault:?}: {:?}", world.tally),
        );
    }
}

#[test]
fn when_most_of_a_pool_fails_its_calls_go_to_the_rest() {
    check(
        || one_region(4),
        |world| {
            world.outage(vec![0, 1, 2], Fault::Errs, Duration::ZERO, 60 * MINUTE);
            agents(world, 3, 60);
        },
        // Two of three breakers must open first, at the cost of some attempts.
        |world| assert!(world.tally.served >= 180 - 9, "{:?}", world.tally),
    );
}

#[test]
fn a_slow_replica_is_given_less_and_never_nothing() {
    let (mut slow, mut all) = (0, 0);
    for seed in 0..SEEDS {
        let _seed = Seed(seed);
        let mut world = World::new(seed, one_region(4).build());
        world.outage(vec![0], Fault::Slow, Duration::ZERO, 60 * MINUTE);
        for _ in 0..4 {
            world.agent(RegionIx(0), 100, MINUTE).known = false;
        }
        let world = world.run();
        assert_eq!(world.tally.served, 400);
        assert!(world.replicas[0].served > 0);
        slow += world.replicas[0].served;
        all += 400;
    }
    assert!(slow * 8 < all, "{slow} of {all} calls, a fair share is a quarter");
}

#[test]
fn load_around_the_cap_of_the_nearest_region_strews_no_sessions() {
    let (mut turns, mut switches, mut starts, mut spilled) = (0, 0, 0, 0);
    for seed in 0..16 {
        let _seed = Seed(seed);
        let mut world = World::new(seed, two_regions(12).build());
        // 48 places, and on average some calls more than those: in ten minutes 2,700 sessions of 4 calls, 3 s each.
        for _ in 0..2_700 {
            world.agent(RegionIx(0), 4, 10 * MINUTE);
        }
        let world = world.run();
        assert_eq!(world.tally.served, 4 * 2_700, "{:?}", world.tally);
        turns += world.starts.windows(2).filter(|two| two[0] != two[1]).count();
        switches += world.switches.get() as usize;
        spilled += world.starts.iter().filter(|region| region.0 == 1).count();
        starts += world.starts.len();
    }
    assert!(spilled * 10 > starts && spilled * 10 < starts * 9, "{spilled} of {starts} start in the next region");
    // In a row, and not by turns: from one switch to the next some ten sessions start. With one mark it is three.
    assert!(turns * 10 < starts && switches * 10 < starts, "{turns} turns, {switches} switches of {starts} starts");
}

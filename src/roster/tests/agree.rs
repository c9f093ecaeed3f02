//! Edges that never talk start sessions at the same replicas.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::agents::{body, name, text};
use super::edge::Call;
use super::world::World;
use crate::domain::ids::ReplicaIx;

const SESSIONS: usize = 10_000;
const REPLICAS: u16 = 8;

/// Calls that each edge has under way, all read: the load is even in what waits, not in numbers.
const UNDER_WAY: usize = 64;

/// From one new session to the next at each edge.
const EVERY: Duration = Duration::from_secs(1);

/// Sends every session's first call through two edges, in an order of each one's own. Tells where they started.
fn starts(calls: &[Call]) -> [Vec<ReplicaIx>; 2] {
    let mut world = World::new(2, REPLICAS);
    let orders = [1, 2].map(|seed| {
        let mut order: Vec<usize> = (0..calls.len()).collect();
        order.shuffle(&mut SmallRng::seed_from_u64(seed));
        order
    });
    let mut starts = [(); 2].map(|()| vec![ReplicaIx(usize::MAX); calls.len()]);
    for both in orders[0].iter().zip(&orders[1]) {
        for (edge, session) in [*both.0, *both.1].into_iter().enumerate() {
            starts[edge][session] = world.send(edge, &calls[session], EVERY * UNDER_WAY as u32).replica;
        }
        world.pass(EVERY);
    }
    assert_eq!(world.under_way(), 2 * UNDER_WAY);
    starts
}

/// At least 99 of 100 start alike, and every replica gets about its share.
#[track_caller]
fn check(calls: &[Call]) {
    let [one, other] = starts(calls);
    let same = one.iter().zip(&other).filter(|(one, other)| one == other).count();
    assert!(same * 100 >= calls.len() * 99, "{same} of {} alike", calls.len());
    for replica in 0..usize::from(REPLICAS) {
        let share = one.iter().filter(|start| start.0 == replica).count() * usize::from(REPLICAS);
        assert!(share * 100 >= calls.len() * 85 && share * 100 <= calls.len() * 115, "{replica}: {share}");
    }
}

#[test]
fn two_edges_start_sessions_alike() {
    let opening = |n: usize| body("", &[text(&n.to_string(), 400)]);
    check(&(0..SESSIONS).map(|n| Call::read("client", name(n).as_deref(), &opening(n))).collect::<Vec<_>>());
}

#[test]
fn two_edges_start_sessions_alike_that_share_their_instructions() {
    let kinds = ["planner", "coder", "reviewer", "researcher"].map(|kind| text(kind, 3_000));
    let opening = |n: usize| body(&kinds[n / 2 % 4], &[text(&n.to_string(), 400)]);
    check(&(0..SESSIONS).map(|n| Call::read("client", name(n).as_deref(), &opening(n))).collect::<Vec<_>>());
}

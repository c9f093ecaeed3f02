//! An edge that is started anew sends sessions that are under way to where they were.

use std::time::Duration;

use super::agents::{INSTRUCTIONS_TOKENS, call, size};
use super::world::World;
use crate::domain::ids::ReplicaIx;

const SESSIONS: usize = 10_000;
const REPLICAS: u16 = 8;

/// What an agent's call adds, in tokens.
const ADDED_TOKENS: u32 = 700;

/// Where each session's call goes that follows so many answers; one comes `every` so often, and its replica holds all of it
/// but what is new.
fn round(world: &mut World, answers: usize, tokens: impl Fn(usize) -> u32, every: Duration) -> Vec<ReplicaIx> {
    let places = (0..SESSIONS).map(|n| {
        world.pass(every);
        world.send_warm(0, &call(n, answers, tokens(n)), ADDED_TOKENS, 64 * every).replica
    });
    places.collect()
}

#[test]
fn sessions_under_way_are_found_where_they_were_after_a_restart() {
    let mut world = World::new(1, REPLICAS);
    let begun = round(&mut world, 0, |_| INSTRUCTIONS_TOKENS + ADDED_TOKENS, Duration::from_secs(1));
    let before = round(&mut world, 1, size, Duration::from_millis(300));
    world.restart(0);
    let after = round(&mut world, 2, |n| size(n) + ADDED_TOKENS, Duration::from_millis(300));
    // One that load moved is at a place which only the edge knew that moved it.
    let (mut moved, mut found, mut left) = (0, 0, 0);
    for n in 0..SESSIONS {
        match (before[n] == begun[n], after[n] == before[n]) {
            (false, _) => moved += 1,
            (true, true) => found += 1,
            (true, false) => left += 1,
        }
    }
    println!("{found} found, {left} not, {moved} had moved");
    assert!(found * 100 >= (found + left) * 99, "{found} found, {left} not, {moved} had moved");
    assert!(moved * 100 <= SESSIONS, "{moved} had moved");
}

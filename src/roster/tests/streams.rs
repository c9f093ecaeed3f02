//! Calls that are much alike spread over the replicas; one with a long context stays with it.

use std::time::{Duration, Instant};

use super::agents::{body, call, text};
use super::edge::{Call, Edge};
use super::world::World;
use crate::policy::select::Reason;

const REPLICAS: u16 = 4;
const CALLS: usize = 800;

/// As many at a time.
const CLIENTS: usize = 64;

/// An answer of 216 tokens at 15 ms each.
const ANSWER: Duration = Duration::from_millis(216 * 15);

/// From one call to the next while there are fewer than that.
const EVERY: Duration = Duration::from_millis(5);

/// Sends this call over and over: none of the replicas gets more than 1.3 times the mean.
#[track_caller]
fn check(call: &Call) {
    let mut world = World::new(1, REPLICAS);
    let mut served = [0; REPLICAS as usize];
    for _ in 0..CALLS {
        world.pass(EVERY);
        while world.under_way() == CLIENTS {
            world.pass(EVERY);
        }
        served[world.send(0, call, ANSWER).replica.0] += 1;
    }
    let most = CALLS * 13 / 10 / served.len();
    assert!(served.iter().all(|served| *served <= most), "{served:?}");
}

#[test]
fn the_same_short_call_spreads_over_all_replicas() {
    for tokens in [10, 100, 400] {
        let body = body("Be of use.", &[text("weather", 4 * tokens)]);
        let told = Call::read("client", None, &body);
        check(&told);
        check(&Call::read("client", Some("everybody"), &body));
        check(&Call { identity: None, ..told });
    }
}

#[test]
fn a_long_context_stays_where_dozens_of_streams_are() {
    let now = Instant::now();
    for n in 0..20 {
        let mut edge = Edge::start(REPLICAS, 1, now);
        let home = edge.call(&call(n, 0, 60_000), now).replica;
        let live = edge.snapshot.live(home);
        let params = edge.snapshot.config.circuit_breaker;
        let _streams: Vec<_> = (0..40).map(|_| live.begin(u32::MAX, params, false, now).unwrap()).collect();
        let next = edge.call(&call(n, 1, 60_700), now);
        assert_eq!((next.replica, next.reason), (home, Reason::Session));
    }
}

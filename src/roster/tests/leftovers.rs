//! What calls leave in the caches' index that came to nothing, or that outlasted a reload.

use std::time::Instant;

use super::agents::{INSTRUCTIONS_TOKENS, call};
use super::edge::{Call, Edge, PORT};
use crate::domain::outcome::Outcome;

/// An edge, and a call of some thousand tokens.
fn edge(replicas: u16, now: Instant) -> (Edge, Call) {
    (Edge::start(replicas, 1, now), call(0, 1, INSTRUCTIONS_TOKENS))
}

#[test]
fn an_attempt_without_a_first_event_leaves_nothing_in_the_index() {
    let now = Instant::now();
    let (mut edge, call) = edge(2, now);
    for outcome in [Outcome::ConnectFailed, Outcome::Busy, Outcome::Reset, Outcome::FirstByteTimeout] {
        let placed = edge.place(&call, now);
        assert!(edge.cached(&call, now).iter().any(|tokens| *tokens > 0), "while it is read there");
        edge.fail(placed, outcome, now);
        assert_eq!(edge.cached(&call, now), [0, 0], "{outcome:?}");
    }
    drop(edge.place(&call, now));
    assert_eq!(edge.cached(&call, now), [0, 0], "nor does one whose client goes away");
    let mut placed = edge.place(&call, now);
    edge.first_event(&mut placed, now);
    edge.fail(placed, Outcome::Cut, now);
    assert!(edge.cached(&call, now).iter().any(|tokens| *tokens > 0), "what was read stays, however the answer ends");
}

#[test]
fn what_a_call_of_an_older_snapshot_reads_is_not_taken_to_be_in_another_replicas_cache() {
    let now = Instant::now();
    let (mut edge, call) = edge(1, now);
    // It was chosen before the reload that puts another machine under the name, and is sent after it.
    let before = edge.snapshot.clone();
    edge.reload(&[PORT + 1]);
    let current = std::mem::replace(&mut edge.snapshot, before);
    let mut placed = edge.place(&call, now);
    edge.first_event(&mut placed, now);
    edge.end(placed, now);
    assert_eq!(edge.cached(&call, now), [0], "nor is it looked up by the older one");
    edge.snapshot = current;
    assert_eq!(edge.cached(&call, now), [0]);
    edge.call(&call, now);
    assert_ne!(edge.cached(&call, now), [0]);
    edge.reload(&[PORT + 1, PORT + 2]);
    assert_ne!(edge.cached(&call, now)[0], 0, "a replica that stays keeps what it holds");
}

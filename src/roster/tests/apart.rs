//! Which sessions share a place, and which know nothing of each other.

use std::time::Instant;

use super::agents::{body, call, text};
use super::edge::{Call, Edge};
use crate::policy::select::Reason;
use crate::roster::Prefilling;

fn told(client: &str, said: &[&str]) -> Call {
    let said: Vec<_> = said.iter().map(|said| text(said, 100)).collect();
    Call::read(client, None, &body("Be of use.", &said))
}

#[test]
fn those_that_open_alike_start_together_and_part_when_they_differ() {
    let now = Instant::now();
    let mut edge = Edge::start(8, 1, now);
    for n in 0..100 {
        let opening = n.to_string();
        let first = edge.call(&told("client", &[&opening]), now);
        assert_eq!(first.reason, Reason::New);
        let again = edge.call(&told("client", &[&opening]), now);
        assert_eq!((again.replica, again.reason), (first.replica, Reason::Session), "the same call again");
        let one = edge.call(&told("client", &[&opening, "yes", "go on"]), now);
        assert_eq!((one.replica, one.reason), (first.replica, Reason::Session));
        let other = edge.call(&told("client", &[&opening, "no", "why"]), now);
        assert_eq!((other.replica, other.reason), (first.replica, Reason::New), "another session that opened alike");
        for said in [["yes", "go on", "done", "thanks"], ["no", "why", "so", "well"]] {
            let said: Vec<_> = [opening.as_str()].into_iter().chain(said).collect();
            assert_eq!(edge.call(&told("client", &said), now).reason, Reason::Session);
        }
    }
}

/// Where a sub-agent's first call goes when its parent's replica has so many tokens to read.
#[track_caller]
fn check_branch(queued_tokens: u64, with_parent: bool) {
    let now = Instant::now();
    for n in (0..200).step_by(2) {
        let mut edge = Edge::start(8, 1, now);
        let home = edge.call(&call(n, 1, 60_000), now).replica;
        let _queue = Prefilling::begin(edge.snapshot.live(home), queued_tokens, now);
        let branch =
            Call { prompt: call(n + 1, 0, 22_000).prompt, ..Call::read("client", Some("branch"), &body("", &[])) };
        let placed = edge.call(&branch.of_parent("client", &format!("session-{n}")), now);
        assert_eq!(
            (placed.replica == home, placed.reason),
            (with_parent, if with_parent { Reason::New } else { placed.reason })
        );
    }
}

#[test]
fn a_branch_starts_with_its_parent_while_load_allows() {
    // The instructions, 20,480 tokens, are cached there and weigh six times as many that wait.
    check_branch(0, true);
    check_branch(110_000, true);
    check_branch(130_000, false);
}

#[test]
fn another_clients_same_conversation_is_another_session() {
    let now = Instant::now();
    for n in 0..100 {
        let (opening, alone) = (n.to_string(), &mut Edge::start(8, 1, now));
        let first = |client| told(client, &[&opening]);
        let later = |client| told(client, &[&opening, "yes", "go on"]);
        let alone = [alone.call(&first("b"), now), alone.call(&later("b"), now)];
        let mut edge = Edge::start(8, 1, now);
        let home = edge.call(&first("a"), now).replica;
        edge.call(&later("a"), now);
        // Too short for the caches to speak: the receipts are what they are without the other.
        assert_eq!([edge.call(&first("b"), now), edge.call(&later("b"), now)], alone);
        let again = edge.call(&later("a"), now);
        assert_eq!((again.replica, again.reason), (home, Reason::Session));
    }
}

#[test]
fn another_clients_session_is_new_also_where_the_same_was_read() {
    let now = Instant::now();
    for n in 0..100 {
        let mut edge = Edge::start(8, 1, now);
        let said = [text(&n.to_string(), 8_000)];
        let home = edge.call(&Call::read("a", None, &body("Be of use.", &said)), now).replica;
        let other = edge.call(&Call::read("b", None, &body("Be of use.", &said)), now);
        assert_eq!((other.replica, other.reason), (home, Reason::New), "it goes to what it would find cached");
    }
}

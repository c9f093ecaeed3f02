//! Conversations without any name: told apart and continued by what was said.

use std::collections::HashSet;

use nearpool::sim::server::ReplicaHandle;

use super::agent::{Agent, Dialect, Step};
use crate::support::{Edge, EdgeConfig, sim_with};

/// Tokens of a block of the engines' caches.
const BLOCK: u64 = 16;

async fn four() -> [ReplicaHandle; 4] {
    let sim =
        |name: &'static str| sim_with(name, |params| params.engine = params.engine.clone().with_cache(1 << 20, 16));
    [sim("a").await, sim("b").await, sim("c").await, sim("d").await]
}

async fn edge_of(sims: &[ReplicaHandle; 4]) -> Edge {
    Edge::start(EdgeConfig::of(&sims.each_ref()).set("circuit_breaker", "reset_timeout", "\"50ms\"")).await
}

/// One step of every agent.
async fn all_step(agents: &mut [Agent], edge: &Edge) -> Vec<Step> {
    let mut steps = Vec::new();
    for agent in agents {
        steps.push(agent.steps(edge).await);
    }
    steps
}

/// Every step stayed where the one before was, and all but a block of what that one read was there already.
#[track_caller]
fn check_warm(before: &[Step], after: &[Step]) {
    for (before, after) in before.iter().zip(after) {
        assert_eq!((&after.replica, after.reason.as_str()), (&before.replica, "session"), "{before:?}");
        assert_eq!(after.session, before.session);
        assert!(after.cached + BLOCK > before.prompt && after.cached < after.prompt, "{before:?} {after:?}");
    }
}

#[tokio::test]
async fn conversations_keep_their_replica_in_every_dialect_and_move_once_when_it_dies() {
    let sims = four().await;
    let edge = edge_of(&sims).await;
    let both = |dialect| [Agent::new(dialect, false), Agent::new(dialect, true)];
    let mut agents: Vec<Agent> = Dialect::ALL.into_iter().flat_map(both).collect();
    let mut last = all_step(&mut agents, &edge).await;
    assert!(last.iter().all(|step| step.reason == "new"), "{last:?}");
    let sessions: HashSet<String> = last.iter().map(|step| step.session.to_string()).collect();
    assert_eq!(sessions.len(), agents.len());
    for _ in 1..6 {
        let next = all_step(&mut agents, &edge).await;
        check_warm(&last, &next);
        last = next;
    }
    assert_eq!(edge.metric("nearpool_sessions").await, agents.len() as f64);
    assert_eq!(edge.metric("nearpool_affinity_total{reason=\"session\"}").await, 5.0 * agents.len() as f64);
    let hits: u64 = sims.iter().map(|sim| sim.stats().engine.prefix_hits).sum();
    let queries: u64 = sims.iter().map(|sim| sim.stats().engine.prefix_queries).sum();
    // Of six prompts each longer by the first one's length, 15 parts of 21 were there before.
    assert!(hits as f64 / queries as f64 > 0.7, "the engines found {hits} of {queries} tokens");

    let dead = sims.iter().find(|sim| sim.name() == last[0].replica).unwrap();
    let elsewhere = last.iter().filter(|step| step.replica != dead.name()).count();
    assert!(elsewhere > 0, "all conversations began at one replica");
    dead.stop().await;
    let moved = all_step(&mut agents, &edge).await;
    for (before, after) in last.iter().zip(&moved) {
        if before.replica == dead.name() {
            assert!(after.replica != before.replica && after.reason == "moved", "{before:?} {after:?}");
            assert!(after.cached < before.prompt / 2, "its cache was elsewhere");
        } else {
            check_warm(std::slice::from_ref(before), std::slice::from_ref(after));
        }
    }
    let settled = all_step(&mut agents, &edge).await;
    check_warm(&moved, &settled);
    dead.restart().await.unwrap();
    let breaker = format!("nearpool_breaker_state{{pool=\"near\",replica=\"{}\"}}", dead.name());
    edge.wait_for_metric(&breaker, |state| state < 2.0).await;
    check_warm(&settled, &all_step(&mut agents, &edge).await);
}

#[tokio::test]
async fn a_conversation_is_known_to_its_own_client_only() {
    let sims = four().await;
    let edge = edge_of(&sims).await;
    for dialect in Dialect::ALL {
        let mut mine = Agent::new(dialect, false);
        assert_eq!(mine.steps(&edge).await.reason, "new");
        let first = mine.steps(&edge).await;
        // Word for word the same, under another key.
        mine.hears(600);
        let mut theirs = mine.clone().with_key("Bearer other");
        let other = theirs.calls(&edge).await;
        assert_eq!(other.reason, "new", "{dialect:?}");
        assert_ne!(other.session, first.session);
        check_warm(&[first], &[mine.calls(&edge).await]);
        check_warm(&[other], &[theirs.steps(&edge).await]);
    }
}

#[tokio::test]
async fn a_user_refines_what_was_said_and_gathers_nothing() {
    let sims = four().await;
    let edge = edge_of(&sims).await;
    let mut one = Agent::new(Dialect::Chat, false).of_user("one");
    one.hears(600);
    let mut two = one.clone().of_user("two");
    let (first, second) = (one.calls(&edge).await, two.calls(&edge).await);
    assert_eq!((first.reason.as_str(), second.reason.as_str()), ("new", "new"));
    assert_ne!(first.session, second.session, "the same words of two users");
    let mut another = Agent::new(Dialect::Chat, false).of_user("one");
    let third = another.steps(&edge).await;
    assert_eq!(third.reason, "new", "other words of the same user");
    check_warm(&[first], &[one.steps(&edge).await]);
    check_warm(&[second], &[two.steps(&edge).await]);
    check_warm(&[third], &[another.steps(&edge).await]);
}

#[tokio::test]
async fn a_system_prompt_alone_is_no_session_and_begins_none() {
    let sims = four().await;
    let edge = edge_of(&sims).await;
    for dialect in [Dialect::Chat, Dialect::Responses] {
        for _ in 0..3 {
            let step = Agent::new(dialect, false).calls(&edge).await;
            assert_eq!((step.reason.as_str(), step.session.is_null()), ("none", true), "{dialect:?}");
        }
        assert_eq!(Agent::new(dialect, false).steps(&edge).await.reason, "new");
    }
    assert_eq!(edge.metric("nearpool_sessions").await, 2.0);
}

#[tokio::test]
async fn conversations_that_open_alike_start_at_one_replica_and_part() {
    let sims = four().await;
    let edge = edge_of(&sims).await;
    for dialect in Dialect::ALL {
        let mut one = Agent::new(dialect, false);
        one.hears(600);
        let mut two = one.clone();
        let opened = one.calls(&edge).await;
        assert_eq!(opened.reason, "new");
        let alike = two.calls(&edge).await;
        assert_eq!(alike.replica, opened.replica, "what they share is cached there");
        // From here on they say different things.
        let first = one.steps(&edge).await;
        check_warm(&[opened], std::slice::from_ref(&first));
        let parted = two.steps(&edge).await;
        assert_eq!((parted.reason.as_str(), &parted.replica), ("new", &first.replica), "{dialect:?}");
        assert_ne!(parted.session, first.session);
        check_warm(&[first], &[one.steps(&edge).await]);
        check_warm(&[parted], &[two.steps(&edge).await]);
    }
}

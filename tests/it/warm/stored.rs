//! A stored response has one replica that can go on with it: neither queues nor full caches keep its calls from there.

use nearpool::sim::server::ReplicaHandle;
use serde_json::{Value, json};

use super::admission::{ONE, near, small};
use super::call::{begun_at, call, hold, of_pool, prompt, send, text, told, until_waiting};
use crate::support::{Answer, Edge, EdgeConfig, Http1, json_body, post_with, sim, with};

/// A call of a session with this name.
async fn respond(edge: &Edge, session: &str, body: Value) -> Answer {
    let body = with(json!({"model": "m", "sim": {"tokens": 4}}), body);
    let bytes = post_with("/v1/responses", &[("x-session-id", session)], &body);
    let answer = Http1::connect(edge.agents()).await.call(&bytes).await;
    assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (200, Some("1")), "{answer:?}");
    answer
}

/// A stored response: its owner, and its id.
async fn stored<'a>(edge: &Edge, sims: &'a [ReplicaHandle]) -> (&'a ReplicaHandle, String) {
    let answer = respond(edge, "first", json!({"input": text(10)})).await;
    let owner = sims.iter().find(|sim| sim.name() == told(&answer).0).unwrap();
    (owner, json_body(&answer)["id"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn it_is_gone_on_with_at_its_owner_however_long_the_queue_there() {
    let sims = [sim("a").await, sim("b").await];
    let edge = Edge::start(EdgeConfig::of(&sims.each_ref())).await;
    let (owner, mut id) = stored(&edge, &sims).await;
    let neighbour = begun_at(&edge, owner, "neighbour").await;
    let light = begun_at(&edge, owner, "light").await;
    let queue = hold(&edge, owner, &neighbour, 400_000).await;
    assert_eq!(told(&call(&edge, &light, &prompt(10)).await).1, "moved", "whoever can leaves");
    for _ in 0..3 {
        let answer = respond(&edge, "next", json!({"input": text(100), "previous_response_id": id})).await;
        assert_eq!(told(&answer).0, owner.name());
        id = json_body(&answer)["id"].as_str().unwrap().to_owned();
    }
    drop(queue);
}

#[tokio::test]
async fn it_is_gone_on_with_while_its_pool_takes_no_session_on_and_counts_for_none() {
    let sims = [sim("a").await, sim("b").await];
    let pool = near().sims(&sims.each_ref());
    let edge = Edge::start(small(pool).set("sessions", "active", "\"10m\"")).await;
    let (owner, id) = stored(&edge, &sims).await;
    // Two caches are full, or as good as that.
    for session in ["a", "a", "b", "b"] {
        call(&edge, session, &prompt(ONE)).await;
    }
    let _waits = send(&edge, "c", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    let context = edge.metric(&of_pool("sessions_context_tokens", "near")).await;
    for stream in [false, true] {
        let body = json!({"input": text(ONE), "previous_response_id": id, "stream": stream});
        assert_eq!(told(&respond(&edge, "next", body).await).0, owner.name());
    }
    assert_eq!(edge.metric(&of_pool("sessions_context_tokens", "near")).await, context);
    assert_eq!(edge.metric(&of_pool("sessions_waiting", "near")).await, 1.0, "and lets nobody in");
}

//! A replica that passes its health checks and refuses every call at once: it is the idlest there is, and must not draw
//! the calls of the others for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Edge, EdgeConfig, Http1, Pool, chat, json_body, post, sim, unheard, with};

const REPLICAS: usize = 4;
const CLIENTS: usize = 60;

/// Calls that are answered before it ends: enough that what the first calls of each client find out weighs little.
const ANSWERED: usize = 1_200;

/// What the clients saw.
#[derive(Default)]
struct Seen {
    answered: AtomicUsize,
    refused: AtomicUsize,
}

/// A conversation that grows with each answer. One that was refused is tried again at once.
async fn converse(edge: std::net::SocketAddr, seen: Arc<Seen>) {
    let mut client = Http1::connect(edge).await;
    let mut body = with(chat(&unheard(), 10), json!({"sim": {"tokens": 10, "itl_ms": 20, "prefill_ms": 20}}));
    while seen.answered.load(Ordering::Relaxed) < ANSWERED {
        if client.call(&post("/v1/chat/completions", &body)).await.status != 200 {
            seen.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        seen.answered.fetch_add(1, Ordering::Relaxed);
        let Some(messages) = body["messages"].as_array_mut() else { return };
        let said = |role, content| -> Value { json!({"role": role, "content": content}) };
        messages.extend([said("assistant", "ok"), said("user", "go on")]);
    }
}

/// One of four replicas answers so: no larger share of the calls is refused than the one that it would have.
async fn check(status: u16) {
    let mut sims = Vec::new();
    for name in ["one", "two", "three", "four"] {
        sims.push(sim(name).await);
    }
    let pool = Pool::new("near", "here", "m").sims(&sims.iter().collect::<Vec<_>>());
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    sims[0].set_fault(FaultPlan::from(Fault::Status { status, retry_after_s: None })).await.unwrap();
    let seen = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(converse(edge.agents(), Arc::clone(&seen)));
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let (answered, refused) = (seen.answered.load(Ordering::Relaxed), seen.refused.load(Ordering::Relaxed));
    println!("{status}: {answered} answered, {refused} refused");
    assert!(refused * REPLICAS <= answered + refused, "{status}: {answered} answered, {refused} refused");
}

#[tokio::test]
async fn a_replica_that_knows_no_model_draws_no_calls() {
    check(404).await;
}

#[tokio::test]
async fn a_replica_that_is_always_busy_draws_no_calls() {
    check(429).await;
}

async fn refuses(replica: &ReplicaHandle, status: u16) {
    replica.set_fault(FaultPlan::from(Fault::Status { status, retry_after_s: None })).await.unwrap();
}

#[tokio::test]
async fn what_may_be_a_replicas_own_fault_is_asked_of_others_before_the_client_hears_of_it() {
    for status in [401, 403, 404] {
        let (one, other) = (sim("one").await, sim("other").await);
        let edge = Edge::start(EdgeConfig::of(&[&one, &other])).await;
        refuses(&one, status).await;
        let mut client = Http1::connect(edge.agents()).await;
        let mut calls = 0;
        while one.stats().faults_total < 3 {
            assert!(calls < 200, "{status}: the replica is not asked any more");
            let body = with(chat(&unheard(), 2), json!({"stream": calls % 2 == 0}));
            assert_eq!(client.call(&post("/v1/chat/completions", &body)).await.status, 200, "{status}");
            calls += 1;
        }
        let lines = edge.wait_for_logs(calls, |line| line["outcome"] == "ok" && line["replica"] == "other").await;
        assert!(lines.iter().all(|line| line["attempts"].as_u64() <= Some(2)), "{lines:?}");
        let refused = "nearpool_attempts_total{outcome=\"client_error\",pool=\"near\",replica=\"one\"}";
        assert_eq!(edge.metric(refused).await, 3.0);
        assert_eq!(edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"one\"}").await, 0.0);
    }
}

#[tokio::test]
async fn what_all_refuse_is_refused_in_their_own_words() {
    let sims = [sim("a").await, sim("b").await, sim("c").await, sim("d").await];
    let edge = Edge::start(EdgeConfig::of(&sims.iter().collect::<Vec<_>>())).await;
    let mut client = Http1::connect(edge.agents()).await;
    let mut call = async |expected: (u16, &str)| {
        let answer = client.call(&post("/v1/chat/completions", &chat(&unheard(), 1))).await;
        assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (expected.0, Some(expected.1)));
        assert_eq!(json_body(&answer)["error"]["message"], "told to fail");
    };
    // Three are enough to be believed; and of what another would say no more, one is.
    for (status, attempts) in [(404, "3"), (401, "3"), (400, "1"), (422, "1")] {
        for sim in &sims {
            refuses(sim, status).await;
        }
        call((status, attempts)).await;
    }
    // Whoever fails in another way knows no better.
    refuses(&sims[0], 404).await;
    for sim in &sims[1..] {
        sim.stop().await;
    }
    for _ in 0..5 {
        let answer = client.call(&post("/v1/chat/completions", &chat(&unheard(), 1))).await;
        assert_eq!((answer.status, &json_body(&answer)["error"]["message"]), (404, &json!("told to fail")));
    }
}

#[tokio::test]
async fn a_key_that_is_passed_on_and_refused_is_the_clients() {
    let (a, b) = (sim("a").await, sim("b").await);
    let pool = Pool::new("near", "here", "m").sims(&[&a, &b]).line("api_key = \"pass\"");
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    for sim in [&a, &b] {
        refuses(sim, 401).await;
    }
    let answer = Http1::connect(edge.agents()).await.call(&post("/v1/chat/completions", &chat("x", 1))).await;
    assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (401, Some("1")));
}

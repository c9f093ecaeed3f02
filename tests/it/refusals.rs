//! A replica that passes its health checks and refuses every call at once: it is the idlest there is, and must not draw
//! the calls of the others for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Edge, EdgeConfig, Http1, Pool, chat, post, sim, unheard, with};

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

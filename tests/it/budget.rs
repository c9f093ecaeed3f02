//! The retry budget: what everybody may retry together when everything fails.

use std::time::Instant;

use nearpool::sim::server::{Fault, FaultPlan};

use crate::support::{Edge, EdgeConfig, Http1, Pool, chat, post_with, sim, soon};

const CLIENTS: usize = 8;
const CALLS: usize = 60;

/// Sends calls one after the other, as an agent with this key does.
async fn agent(edge: std::net::SocketAddr, key: String, more: Vec<(&'static str, &'static str)>) {
    let mut client = Http1::connect(edge).await;
    let headers: Vec<_> = [("authorization", key.as_str())].into_iter().chain(more).collect();
    for _ in 0..CALLS {
        let answer = client.call(&post_with("/v1/chat/completions", &headers, &chat("x", 1))).await;
        assert_eq!(answer.status, 500);
    }
}

/// Every replica fails every call. How many attempts are made, and what the budget allows at most?
async fn brown_out(more: Vec<(&'static str, &'static str)>, share: f64) {
    let sims = [sim("a").await, sim("b").await, sim("c").await, sim("d").await];
    for sim in &sims {
        sim.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
    }
    let pool = Pool::new("near", "here", "m").sims(&sims.each_ref());
    let config = EdgeConfig::new().pool(pool).set("retry", "attempts_per_pool", "4");
    let edge = Edge::start(config.set("circuit_breaker", "failure_threshold", "1000")).await;
    let start = Instant::now();
    let agents: Vec<_> =
        (0..CLIENTS).map(|n| tokio::spawn(agent(edge.agents(), format!("Bearer {n}"), more.clone()))).collect();
    for agent in agents {
        soon(agent).await.unwrap();
    }
    let attempts: u64 = sims.iter().map(|sim| sim.stats().faults_total).sum();
    let calls = (CLIENTS * CALLS) as f64;
    let most = calls * (1.0 + share) + 10.0 * (start.elapsed().as_secs_f64().floor() + 1.0);
    assert!(attempts as f64 <= most, "{attempts} attempts of {calls} calls, at most {most}");
    assert!(attempts as f64 > calls, "nothing was tried again at all");
    assert!(edge.metric("nearpool_retries_denied_total").await > 0.0);
}

#[tokio::test]
async fn a_brown_out_is_not_made_worse_by_more_than_the_budget() {
    brown_out(Vec::new(), 0.2).await;
}

#[tokio::test]
async fn an_sdks_own_retries_earn_nothing() {
    brown_out(vec![("x-stainless-retry-count", "999999")], 0.0).await;
}

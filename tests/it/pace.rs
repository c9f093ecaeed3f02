//! What the edge learns of a pool's pace: second attempts beside late ones, and deadlines that grow with the prompt.

use std::sync::Arc;
use std::time::Duration;

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Edge, EdgeConfig, Exchange, Http1, Pool, Scripted, chat, json_body, post, sim, with};

const CHAT: &str = "/v1/chat/completions";

/// Answers that are seen before the edge says anything of a pool's pace.
const ENOUGH: usize = 40;

fn streamed(text: &str) -> Value {
    with(chat(text, 2), json!({"stream": true}))
}

async fn whole_stream(edge: &Edge, n: usize) {
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(&post(CHAT, &streamed(&format!("call {n}")))).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"), "{}", String::from_utf8_lossy(&answer.body));
}

#[tokio::test]
async fn a_late_stream_is_tried_at_a_second_replica_and_the_first_event_wins() {
    let (a, b) = (sim("a").await, sim("b").await);
    let config = EdgeConfig::of(&[&a, &b]).set("hedging", "enabled", "true").set("hedging", "budget", "0.5");
    let edge = Edge::start(config).await;
    for n in 0..ENOUGH {
        whole_stream(&edge, n).await;
    }
    // From here on one replica takes calls and says nothing. Without a hedge each would wait for `first_byte`, 30 s.
    a.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    for n in 0..16 {
        whole_stream(&edge, ENOUGH + n).await;
    }
    let won = edge.metric("nearpool_hedges_total{result=\"won\"}").await;
    assert!(won >= 1.0, "{won}");
    let status = json_body(&edge.admin_get("/status").await);
    let told = status["failovers"].as_array().unwrap().iter().filter(|failover| failover["kind"] == "hedge");
    let told: Vec<_> = told.map(|failover| (&failover["from"]["replica"], &failover["to"]["replica"])).collect();
    assert_eq!(told, vec![(&json!("a"), &json!("b")); won as usize], "{status:#}");
    edge.wait_until_idle("near", "a").await;
    let breaker = edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"a\"}").await;
    assert_eq!(breaker, 0.0, "to be overtaken is no failure");
}

#[tokio::test]
async fn hedges_stay_within_their_budget() {
    let (a, b) = (sim("a").await, sim("b").await);
    let config = EdgeConfig::of(&[&a, &b]).set("hedging", "enabled", "true").set("hedging", "budget", "0.0").set(
        "timeouts",
        "first_byte",
        "\"300ms\"",
    );
    let edge = Edge::start(config).await;
    for n in 0..ENOUGH {
        whole_stream(&edge, n).await;
    }
    a.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    // One a second is free; the others wait for `first_byte` and are retried.
    let edge = Arc::new(edge);
    let mut calls = JoinSet::new();
    for n in 0..24 {
        let edge = Arc::clone(&edge);
        calls.spawn(async move { whole_stream(&edge, ENOUGH + n).await });
    }
    calls.join_all().await;
    assert!(edge.metric("nearpool_hedges_total{result=\"denied\"}").await >= 1.0);
}

/// Answers a streamed call whose prompt of so many tokens was not cached.
async fn answer(exchange: &mut Exchange, prompt_tokens: u64) {
    let usage = json!({"prompt_tokens": prompt_tokens, "completion_tokens": 1, "total_tokens": prompt_tokens + 1,
        "prompt_tokens_details": {"cached_tokens": 0}});
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}], "usage": usage});
    exchange.begin_stream().await;
    exchange.chunk(format!("data: {chunk}\n\ndata: [DONE]\n\n")).await;
    exchange.send("0\r\n\r\n").await;
}

#[tokio::test]
async fn a_deadline_grows_with_the_prompt_once_the_pools_speed_is_known() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("slow", &replica.url());
    let config = EdgeConfig::new().pool(pool).set("timeouts", "first_byte", "\"500ms\"").set(
        "circuit_breaker",
        "failure_threshold",
        "1000",
    );
    let edge = Edge::start(config).await;
    // 200 KB are about 50,000 tokens.
    let long = streamed(&"word ".repeat(40_000));
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &long)).await;
    let silent = replica.next().await;
    assert_eq!(client.answer().await.status, 504, "nothing is known yet");
    drop(silent);
    // The pool reads 1,000 tokens in 20 ms: 50,000 a second at most.
    for n in 0..ENOUGH {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(CHAT, &streamed(&format!("call {n}")))).await;
        let mut exchange = replica.next().await;
        // The pace of a slow engine is what is tested.
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer(&mut exchange, 1_024).await;
        assert_eq!(client.answer().await.status, 200);
        drop(exchange);
    }
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &long)).await;
    let mut exchange = replica.next().await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    answer(&mut exchange, 50_000).await;
    assert_eq!(client.answer().await.status, 200, "its deadline has grown to 1.5 s at the least");
}

#[tokio::test]
async fn a_call_that_leaves_state_behind_is_not_sent_twice() {
    for (store, attempts) in [(true, "1"), (false, "2")] {
        let (a, b) = (sim("a").await, sim("b").await);
        let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
        for sim in [&a, &b] {
            sim.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
        }
        let body = json!({"model": "m", "input": "hi", "store": store});
        let answer = Http1::connect(edge.agents()).await.call(&post("/v1/responses", &body)).await;
        assert!(answer.status >= 500);
        assert_eq!(answer.header("x-nearpool-attempts"), Some(attempts), "store: {store}");
    }
}

//! Interactions and costs: what a session's calls come to is counted and logged when it idles, and when the edge ends.

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use crate::support::{Edge, EdgeConfig, Http1, Pool, SERVED, chat, post, post_with, request, sim, soon, unheard, with};

const CHAT: &str = "/v1/chat/completions";

/// One pool of these replicas, at $3.60 an hour: a tenth of a cent a second.
fn priced(sims: &[&nearpool::sim::server::ReplicaHandle]) -> EdgeConfig {
    EdgeConfig::new().pool(Pool::new("near", "here", "m").sims(sims).line("cost_per_hour = 3.6"))
}

fn idling(config: EdgeConfig) -> EdgeConfig {
    config.set("sessions", "interaction_idle", "\"1s\"")
}

fn is_interaction(line: &Value) -> bool {
    line["kind"] == "interaction"
}

async fn call(edge: &Edge, session: &str, body: &Value) -> u16 {
    Http1::connect(edge.agents()).await.call(&post_with(CHAT, &[("x-session-id", session)], body)).await.status
}

/// The sum of a field over some lines.
fn sum(lines: &[Value], pointer: &str) -> f64 {
    lines.iter().map(|line| line.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0)).sum()
}

#[track_caller]
fn close(found: f64, expected: f64) {
    // Lines tell billionths of a dollar.
    assert!((found - expected).abs() < 2e-8, "{found}, not {expected}");
}

#[tokio::test]
async fn what_a_sessions_calls_come_to_is_told_when_it_idles() {
    let replica = sim("a").await;
    let edge = Edge::start(idling(priced(&[&replica])).step("planner", "m")).await;
    for n in 0..3 {
        let body = with(chat(&unheard(), 20), json!({"stream": n == 1, "sim": {"tokens": 20, "itl_ms": 2}}));
        assert_eq!(call(&edge, "one", &body).await, 200);
    }
    replica.set_fault(FaultPlan::from(Fault::Status { status: 400, retry_after_s: None })).await.unwrap();
    assert_eq!(call(&edge, "one", &chat("x", 1)).await, 400);
    replica.set_fault(None).await.unwrap();
    // These belong to none.
    Http1::connect(edge.agents()).await.call(&request("GET", "/v1/models", &[], b"")).await;
    Http1::connect(edge.agents()).await.call(&post("/v1/embeddings", &json!({"model": "m", "input": "x"}))).await;
    let told = edge.wait_for_log(is_interaction).await;
    let calls: Vec<_> = edge.log().into_iter().filter(|line| line["endpoint"] == CHAT).collect();
    assert_eq!(calls.len(), 4);
    assert!(calls.iter().all(|line| line["session"] == told["session"] && line["kind"].is_null()), "{calls:?}");
    assert_eq!((&told["calls"], &told["errors"], &told["closed"]), (&json!(4), &json!(1), &json!("idle")));
    assert_eq!(told["tokens"]["completion"], json!(60));
    for field in ["/tokens/prompt", "/tokens/cached"] {
        assert_eq!(told.pointer(field).unwrap().as_f64().unwrap(), sum(&calls, field), "{field}");
    }
    assert!(told["ts"].as_str() <= calls[0]["ts"].as_str() && told["seconds"].as_f64() >= Some(0.1), "{told}");
    close(told["cost_dollars"].as_f64().unwrap(), sum(&calls, "/cost_dollars"));
    // One call of it at a time has all of the replica, from before the first byte is sent until the last is there.
    assert!(sum(&calls, "/cost_dollars") <= 0.001 * sum(&calls, "/ms/total") / 1_000.0, "{calls:?}");
    assert!(sum(&calls, "/cost_dollars") >= 0.001 * 3.0 * 0.038, "{calls:?}");
    assert_eq!(edge.metric("agent_interaction_calls_sum").await, 4.0);
    assert_eq!(edge.metric("agent_interaction_calls_count").await, 1.0);
    assert_eq!(edge.metric("agent_interaction_cost_dollars_count").await, 1.0);
    close(edge.metric("agent_interaction_seconds_sum").await, told["seconds"].as_f64().unwrap());
    let embedding = edge.wait_for_log(|line| line["endpoint"] == "/v1/embeddings").await;
    let all = sum(&calls, "/cost_dollars") + embedding["cost_dollars"].as_f64().unwrap();
    close(edge.metric("nearpool_cost_dollars_total{model=\"m\",step_type=\"none\"}").await, all);
    let interactions: Vec<_> = edge.log().into_iter().filter(is_interaction).collect();
    assert_eq!(interactions.len(), 1);
}

/// An agent's steps go to models of different size, and no SDK names a session: what was said tells that they are one.
#[tokio::test]
async fn the_steps_of_a_conversation_are_one_interaction_whichever_models_do_them() {
    let (large, small) = (sim("large").await, sim("small").await);
    let served = format!("served_as = \"{SERVED}\"");
    let config = EdgeConfig::new().model("s", &[&served]);
    let config = config.pool(Pool::new("large", "here", "m").sims(&[&large]));
    let config = config.pool(Pool::new("small", "here", "s").sims(&[&small]));
    let config = config.step("planner", "m").step("tool_caller", "s");
    let edge = Edge::start(idling(config)).await;
    let mut messages = vec![json!({"role": "system", "content": unheard()}), json!({"role": "user", "content": "Go"})];
    for step in ["planner", "tool_caller", "planner", "tool_caller"] {
        let body = json!({"model": step, "messages": messages, "max_tokens": 2});
        let answer = Http1::connect(edge.agents()).await.call(&post(CHAT, &body)).await;
        assert_eq!(answer.status, 200);
        messages.push(json!({"role": "assistant", "content": "Done"}));
        messages.push(json!({"role": "user", "content": unheard()}));
    }
    // Another one meanwhile.
    let body = json!({"model": "m", "messages": [{"role": "user", "content": unheard()}], "max_tokens": 2});
    assert_eq!(Http1::connect(edge.agents()).await.call(&post(CHAT, &body)).await.status, 200);
    let mut told = edge.wait_for_logs(2, is_interaction).await;
    told.sort_by_key(|line| line["calls"].as_u64());
    assert_eq!((&told[0]["calls"], &told[1]["calls"]), (&json!(1), &json!(4)));
    let steps = edge.log().into_iter().filter(|line| line["session"] == told[1]["session"] && !is_interaction(line));
    assert_eq!(steps.count(), 4);
}

#[tokio::test]
async fn an_interaction_outlives_a_reload_and_is_told_when_the_edge_ends() {
    let replica = sim("a").await;
    let config = priced(&[&replica]);
    let mut edge = Edge::start(config.clone()).await;
    assert_eq!(call(&edge, "one", &chat("x", 1)).await, 200);
    assert_eq!(edge.reload_with(&config.set("retry", "attempts", "3").toml(edge.address())).await.status, 200);
    assert_eq!(call(&edge, "one", &chat("y", 1)).await, 200);
    assert_eq!(call(&edge, "other", &chat("z", 1)).await, 200);
    assert!(!edge.log().iter().any(is_interaction));
    edge.signal("TERM");
    assert!(edge.wait_for_end().await.success());
    let mut told = edge.wait_for_logs(2, is_interaction).await;
    told.sort_by_key(|line| line["calls"].as_u64());
    assert_eq!((&told[0]["calls"], &told[1]["calls"]), (&json!(1), &json!(2)));
    assert!(told.iter().all(|line| line["closed"] == "end" && line["cost_dollars"].is_f64()), "{told:?}");
}

#[tokio::test]
async fn an_attempt_that_came_to_nothing_is_paid_for_too() {
    let (stalls, serves) = (sim("stalls").await, sim("serves").await);
    stalls.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    let edge = Edge::start(priced(&[&stalls, &serves]).set("timeouts", "first_byte", "\"300ms\"")).await;
    let mut line = Value::Null;
    // Where a call starts is a matter of a hash: of so many one starts at the replica that stalls.
    for n in 1..=20 {
        let body = with(chat(&unheard(), 1), json!({"stream": true}));
        assert_eq!(call(&edge, &unheard().replace(' ', "-"), &body).await, 200);
        line = edge.wait_for_logs(n, |_| true).await.pop().unwrap();
        if line["attempts"] == 2 {
            break;
        }
    }
    assert_eq!(line["attempts"], 2, "{line}");
    assert!(line["cost_dollars"].as_f64().unwrap() >= 0.001 * 0.3, "{line}");
    // One that its client gives up.
    let lines = edge.log().len();
    serves.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    let before = [&stalls, &serves].map(|replica| replica.stats().requests_total);
    client.send(&post(CHAT, &chat(&unheard(), 1))).await;
    soon(async {
        tokio::select! {
            _ = stalls.wait_for(|stats| stats.requests_total > before[0]) => {}
            _ = serves.wait_for(|stats| stats.requests_total > before[1]) => {}
        }
    })
    .await;
    client.reset();
    let gone = edge.wait_for_logs(lines + 1, |_| true).await.pop().unwrap();
    assert_eq!(gone["outcome"], "client_gone");
    assert!(gone["cost_dollars"].as_f64().unwrap() > 0.0, "{gone}");
}

#[tokio::test]
async fn a_price_per_token_is_what_calls_cost_and_without_a_price_nothing_is_claimed() {
    let (tokens, free) = (sim("tokens").await, sim("free").await);
    let pool = Pool::new("tokens", "here", "m").sims(&[&tokens]).line("cost_per_hour = 3600.0");
    let pool = pool.line("price_per_million_tokens = { prompt = 1000.0, cached = 100.0, completion = 5000.0 }");
    let config = EdgeConfig::new().model("free", &[]).pool(pool).pool(Pool::new("free", "here", "free").sims(&[&free]));
    let edge = Edge::start(idling(config)).await;
    assert_eq!(call(&edge, "one", &chat(&unheard().repeat(400), 20)).await, 200);
    let line = edge.wait_for_log(|line| line["pool"] == "tokens").await;
    let tokens = |name: &str| line["tokens"][name].as_f64().unwrap();
    let expected = (tokens("prompt") - tokens("cached")) / 1e3 + tokens("cached") / 1e4 + tokens("completion") / 200.0;
    close(line["cost_dollars"].as_f64().unwrap(), expected);
    call(&edge, "other", &with(chat("x", 1), json!({"model": "free"}))).await;
    let line = edge.wait_for_log(|line| line["pool"] == "free").await;
    assert!(line.get("cost_dollars").is_none(), "{line}");
    let told = edge.wait_for_logs(2, is_interaction).await;
    assert_eq!(told.iter().filter(|line| line["cost_dollars"].is_null()).count(), 1, "{told:?}");
    close(edge.metric("nearpool_cost_dollars_total{model=\"m\",step_type=\"none\"}").await, expected);
    let page = String::from_utf8(edge.admin_get("/metrics").await.body.to_vec()).unwrap();
    assert_eq!(page.matches("\nnearpool_cost_dollars_total{").count(), 1);
    assert!(page.contains("\nagent_interaction_cost_dollars_count 1\n"));
}

//! What engines tell of themselves: others' load is avoided while it is news, and their caches' size is believed.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::call::{call, hold, of_pool, prompt, send, told, until_waiting};
use crate::support::{Edge, EdgeConfig, Pool, SERVED, Scripted, sim, sim_with};

fn asked(config: EdgeConfig) -> EdgeConfig {
    config.set("engine_metrics", "interval", "\"500ms\"").set("engine_metrics", "timeout", "\"500ms\"")
}

/// An engine that serves calls, and tells of 50 requests that wait there until it says nothing more of that.
async fn crowded(silent: Arc<AtomicBool>) -> String {
    let mut engine = Scripted::start().await;
    let url = engine.url();
    let series = |name: &str, value: u32| format!("vllm:{name}{{model_name=\"{SERVED}\"}} {value}\n");
    let page = series("num_requests_running", 50) + &series("num_requests_waiting", 50);
    tokio::spawn(async move {
        let mut hanging = Vec::new();
        while let Some(mut exchange) = engine.try_next().await {
            match exchange.line.starts_with("GET ") {
                true if silent.load(Ordering::Relaxed) => hanging.push(exchange),
                true => exchange.answer(200, "connection: close\r\n", &page).await,
                false => exchange.answer(200, "connection: close\r\n", "{}").await,
            }
        }
    });
    url
}

/// Where new sessions start, so many of them.
async fn starts(edge: &Edge, name: &str) -> HashSet<String> {
    let mut replicas = HashSet::new();
    for n in 0..12 {
        let answer = call(edge, &format!("{name}-{n}"), &prompt(10)).await;
        assert_eq!(told(&answer).1, "new");
        replicas.insert(told(&answer).0.to_owned());
    }
    replicas
}

#[tokio::test]
async fn a_replica_that_others_crowd_is_avoided_while_its_word_is_fresh_and_no_longer() {
    let silent = Arc::new(AtomicBool::new(false));
    let (url, quiet) = (crowded(Arc::clone(&silent)).await, sim("quiet").await);
    let pool = Pool::new("near", "here", "m").replica("crowded", &url).sims(&[&quiet]);
    let edge = Edge::start(asked(EdgeConfig::new().pool(pool))).await;
    let waiting = "nearpool_replica_waiting{pool=\"near\",replica=\"crowded\"}";
    edge.wait_for_metric(waiting, |waiting| waiting == 50.0).await;
    assert_eq!(starts(&edge, "crowded").await, HashSet::from(["quiet".to_owned()]));
    silent.store(true, Ordering::Relaxed);
    edge.wait_for_metric(waiting, |waiting| waiting == 0.0).await;
    assert_eq!(starts(&edge, "silent").await.len(), 2, "what nobody tells of is no reason");
    assert_eq!(edge.metric("nearpool_replica_up{pool=\"near\",replica=\"crowded\"}").await, 1.0);
}

#[tokio::test]
async fn the_size_of_caches_is_what_config_says_and_else_what_engines_tell() {
    let of = |name: &'static str| sim_with(name, |params| params.engine = params.engine.clone().with_cache(2_048, 16));
    let (small, configured, foreign) = (of("told").await, of("configured").await, of("foreign").await);
    let pool = |name: &str, model: &str| Pool::new(name, "here", model);
    let served = format!("served_as = \"{SERVED}\"");
    let config = EdgeConfig::new()
        .model("n", &[&served])
        .model("o", &[&served])
        .pool(pool("near", "m").sims(&[&small]))
        .pool(pool("configured", "n").sims(&[&configured]).line("kv_cache_tokens = 5000"))
        .pool(pool("foreign", "o").sims(&[&foreign]).line("engine = \"openai\""))
        .set("sessions", "active", "\"1s\"")
        .set("sessions", "admission_wait", "\"2m\"");
    let edge = Edge::start(asked(config)).await;
    edge.wait_for_metric(&of_pool("kv_cache_tokens", "near"), |tokens| tokens == 2_048.0).await;
    edge.wait_for_metric("nearpool_replica_running{pool=\"configured\",replica=\"configured\"}", |n| n == 0.0).await;
    assert_eq!(edge.metric(&of_pool("kv_cache_tokens", "configured")).await, 5_000.0);
    assert_eq!(edge.metric(&of_pool("kv_cache_tokens", "foreign")).await, 0.0, "its engine has no such numbers");
    // What the engine tells is what sessions are taken on by.
    call(&edge, "a", &prompt(1_800)).await;
    let held = hold(&edge, &small, "a", 1_800).await;
    let mut waits = send(&edge, "b", &prompt(1_800)).await;
    until_waiting(&edge, 1).await;
    drop(held);
    assert_eq!(waits.answer().await.status, 200);
}

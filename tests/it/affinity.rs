//! A session stays where its cache is.

use std::collections::HashMap;

use nearpool::sim::server::ReplicaHandle;
use serde_json::{Value, json};

use crate::support::{Answer, Edge, EdgeConfig, H2, Http1, chat, post, post_with, sim, with};

const SESSIONS: usize = 40;

async fn four() -> [ReplicaHandle; 4] {
    [sim("a").await, sim("b").await, sim("c").await, sim("d").await]
}

fn config(sims: &[ReplicaHandle; 4]) -> EdgeConfig {
    EdgeConfig::of(&sims.each_ref()).set("circuit_breaker", "reset_timeout", "\"50ms\"")
}

async fn call(client: &mut Http1, key: &str, session: &str) -> Answer {
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str()), ("x-session-id", session)];
    let answer = client.call(&post_with("/v1/chat/completions", &headers, &chat("x", 1))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Where each session's call goes now, with its reason.
async fn homes(edge: &Edge, key: &str) -> Vec<(String, String)> {
    let mut client = Http1::connect(edge.agents()).await;
    let mut homes = Vec::new();
    for n in 0..SESSIONS {
        let answer = call(&mut client, key, &format!("session-{n}")).await;
        let header = |name| answer.header(name).unwrap().to_owned();
        homes.push((header("x-nearpool-replica"), header("x-nearpool-reason")));
    }
    homes
}

fn replicas(homes: &[(String, String)]) -> Vec<&str> {
    homes.iter().map(|(replica, _)| replica.as_str()).collect()
}

#[tokio::test]
async fn a_session_stays_at_one_replica_over_calls_connections_and_protocols() {
    let sims = four().await;
    let edge = Edge::start(config(&sims)).await;
    let first = homes(&edge, "key").await;
    assert!(first.iter().all(|(_, reason)| reason == "new"));
    for _ in 0..3 {
        let again = homes(&edge, "key").await;
        assert_eq!(replicas(&again), replicas(&first));
        assert!(again.iter().all(|(_, reason)| reason == "session"));
    }
    let mut client = H2::connect(edge.agents()).await;
    for (n, (replica, _)) in first.iter().enumerate() {
        let session = format!("session-{n}");
        let headers = [("authorization", "Bearer key"), ("x-session-id", session.as_str())];
        let answer = client.call("/v1/chat/completions", &headers, &chat("x", 1)).await;
        assert_eq!(answer.header("x-nearpool-replica"), Some(replica.as_str()));
    }
    assert_eq!(edge.metric("nearpool_sessions").await, SESSIONS as f64);
    assert_eq!(edge.metric("nearpool_affinity_total{reason=\"session\"}").await, 4.0 * SESSIONS as f64);
    let used: std::collections::HashSet<_> = replicas(&first).into_iter().collect();
    assert_eq!(used.len(), 4, "sessions spread");
}

#[tokio::test]
async fn the_same_session_id_under_another_key_is_another_session() {
    let sims = four().await;
    let edge = Edge::start(config(&sims)).await;
    let mine = homes(&edge, "key").await;
    let theirs = homes(&edge, "other").await;
    assert!(theirs.iter().all(|(_, reason)| reason == "new"));
    assert_ne!(replicas(&mine), replicas(&theirs));
    assert_eq!(edge.metric("nearpool_sessions").await, 2.0 * SESSIONS as f64);
}

#[tokio::test]
async fn two_edges_start_sessions_at_the_same_replicas_and_so_does_one_that_was_restarted() {
    let sims = four().await;
    let one = Edge::start(config(&sims)).await;
    let two = Edge::start(config(&sims).named("two")).await;
    let first = homes(&one, "key").await;
    let elsewhere = homes(&two, "key").await;
    assert_eq!(replicas(&first), replicas(&elsewhere));
    assert!(elsewhere.iter().all(|(_, reason)| reason == "new"));
    let address = one.address();
    drop(one);
    let again = Edge::start_at(address, config(&sims)).await;
    assert_eq!(replicas(&homes(&again, "key").await), replicas(&first));
}

#[tokio::test]
async fn a_dead_replica_moves_only_its_own_sessions_and_they_stay_at_their_new_homes() {
    let sims = four().await;
    let edge = Edge::start(config(&sims)).await;
    let first = homes(&edge, "key").await;
    let dead = &sims[1];
    dead.stop().await;
    let moved = homes(&edge, "key").await;
    for ((before, _), (after, reason)) in first.iter().zip(&moved) {
        if before == dead.name() {
            assert!(after != before && reason == "moved", "{before} {after} {reason}");
        } else {
            assert_eq!((after, reason.as_str()), (before, "session"));
        }
    }
    let targets: HashMap<&str, usize> = first
        .iter()
        .zip(replicas(&moved))
        .filter(|((before, _), _)| before == dead.name())
        .fold(HashMap::new(), |mut all, (_, to)| {
            *all.entry(to).or_default() += 1;
            all
        });
    assert!(targets.len() > 1, "they spread over the others: {targets:?}");
    dead.restart().await.unwrap();
    edge.wait_for_metric("nearpool_breaker_state{pool=\"near\",replica=\"b\"}", |state| state < 2.0).await;
    let healed = homes(&edge, "key").await;
    assert_eq!(replicas(&healed), replicas(&moved), "no session flaps back to a cold cache");
    assert!(healed.iter().all(|(_, reason)| reason == "session"));
    // New sessions use it again.
    let fresh = homes(&edge, "another key").await;
    assert!(replicas(&fresh).contains(&dead.name()));
}

#[tokio::test]
async fn calls_that_nothing_tells_apart_and_embeddings_carry_the_reason_none() {
    let sims = four().await;
    let edge = Edge::start(config(&sims)).await;
    let mut client = Http1::connect(edge.agents()).await;
    let session = [("x-session-id", "s")];
    let embeddings = post_with("/v1/embeddings", &session, &json!({"model": "m", "input": "x"}));
    assert_eq!(client.call(&embeddings).await.header("x-nearpool-reason"), Some("none"));
    let mut system_alone = chat("x", 1);
    system_alone["messages"][0]["role"] = json!("system");
    let bare = post_with("/v1/chat/completions", &[], &system_alone);
    assert_eq!(client.call(&bare).await.header("x-nearpool-reason"), Some("none"));
    // The embeddings did not begin the session.
    let first = post_with("/v1/chat/completions", &session, &chat("x", 1));
    assert_eq!(client.call(&first).await.header("x-nearpool-reason"), Some("new"));
}

#[tokio::test]
async fn agents_are_known_by_their_own_headers_and_bodies_and_never_by_a_requests_id() {
    let sims = four().await;
    let edge = Edge::start(config(&sims)).await;
    let mut client = Http1::connect(edge.agents()).await;
    let request = |headers: Vec<(&'static str, &'static str)>, more: Value| {
        let mut body = chat("x", 1);
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        post_with("/v1/chat/completions", &headers, &body)
    };
    let user_id = "user_1_account_2_session_0b9f6a1e";
    for (call, expected) in [
        (request(vec![("x-claude-code-session-id", "0b9f6a1e")], json!({})), "new"),
        (request(vec![], json!({"metadata": {"user_id": user_id}})), "session"),
        (request(vec![("x-claude-code-session-id", "0b9f6a1e"), ("x-claude-code-agent-id", "a")], json!({})), "new"),
        (request(vec![("session-id", "t"), ("thread-id", "t")], json!({"prompt_cache_key": "t"})), "new"),
        (request(vec![("session_id", "t")], json!({})), "session"),
        (request(vec![("x-amp-thread-id", "caf\u{e9}")], json!({"session_id": "s"})), "new"),
        (request(vec![], json!({"session_id": "s", "user": "me"})), "session"),
        // What was said tells it, and the user refines that.
        (request(vec![("x-request-id", "r"), ("traceparent", "00-1-2-01")], json!({"user": "me"})), "new"),
        (request(vec![("x-request-id", "r"), ("traceparent", "00-1-2-01")], json!({"user": "you"})), "new"),
        (request(vec![("x-request-id", "q"), ("traceparent", "00-3-4-01")], json!({"user": "me"})), "session"),
    ] {
        assert_eq!(client.call(&call).await.header("x-nearpool-reason"), Some(expected));
    }
}

#[tokio::test]
async fn the_same_short_call_over_and_over_spreads_by_the_streams_under_way() {
    let sims = four().await;
    let edge = Edge::start(config(&sims)).await;
    let endless = json!({"stream": true, "sim": {"tokens": 10_000, "itl_ms": 1_000}});
    let endless = post("/v1/chat/completions", &with(chat("What is the weather?", 1), endless));
    let (mut streams, mut at) = (Vec::new(), HashMap::<String, usize>::new());
    for _ in 0..64 {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&endless).await;
        let head = client.head().await;
        assert_eq!(head.status, 200, "{head:?}");
        *at.entry(head.header("x-nearpool-replica").unwrap().to_owned()).or_default() += 1;
        streams.push(client);
    }
    // 1.3 times the mean.
    assert!(at.len() == 4 && at.values().all(|streams| *streams <= 20), "{at:?}");
}

//! A replica is killed again and again under load, in prefill and in mid-stream, and no client notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;

use crate::support::{Edge, EdgeConfig, Http1, chat, post_with, sim, soon, with};

const CLIENTS: usize = 64;
const KILLS: usize = 12;
/// Calls that one client makes at most, so that the test ends also when the kills do not get on.
const CALLS_MAX: usize = 2_000;

#[tokio::test]
async fn no_client_sees_an_error_while_a_replica_is_killed_again_and_again() {
    let (a, b) = (sim("a").await, sim("b").await);
    let config = EdgeConfig::of(&[&a, &b]).set("circuit_breaker", "reset_timeout", "\"20ms\"");
    // The replica that is killed is to be given its whole share again at once, so that every kill falls on many calls.
    let config = config.set("circuit_breaker", "slow_start", "\"0s\"");
    let edge = Edge::start(config).await;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(client(n, edge.agents(), Arc::clone(&over)))).collect();
    for _ in 0..KILLS {
        soon(a.wait_for(|stats| stats.engine.running >= 16)).await;
        a.stop().await;
        a.restart().await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for client in clients {
        calls += soon(client).await.unwrap();
    }
    assert!(edge.metric("nearpool_resumes_total{result=\"ok\"}").await >= 1.0, "streams were cut as well");
    let lines = edge.wait_for_logs(calls, |line| line["outcome"] == "ok").await;
    assert_eq!(lines.len(), calls);
    // Of a stream that was cut the answer's head knows one attempt; the log knows all.
    let retried = lines.iter().filter(|line| line["attempts"].as_u64() > Some(1)).count();
    assert!(retried >= 10 * KILLS, "{retried} of {calls} calls were tried again");
    assert_eq!(edge.log().len(), calls, "nothing else is in the log");
    edge.wait_until_idle("near", "a").await;
    edge.wait_until_idle("near", "b").await;
}

/// Calls until it is over; tells how often.
async fn client(n: usize, edge: std::net::SocketAddr, over: Arc<AtomicBool>) -> usize {
    let mut client = Http1::connect(edge).await;
    let session = format!("s{n}");
    for call in 0..CALLS_MAX {
        if over.load(Ordering::Relaxed) {
            return call;
        }
        let stream = (n + call).is_multiple_of(2);
        let pace = json!({"tokens": 3, "prefill_ms": 10 + n % 20, "itl_ms": 10});
        let body = with(chat("x", 3), json!({"stream": stream, "sim": pace}));
        // Some with a session, which is at home at one replica; some without.
        let headers: Vec<_> = n.is_multiple_of(3).then_some(("x-session-id", session.as_str())).into_iter().collect();
        let answer = client.call(&post_with("/v1/chat/completions", &headers, &body)).await;
        assert_eq!(answer.status, 200, "client {n}: {answer:?}");
        let end = if stream { &b"data: [DONE]\n\n"[..] } else { b"}" };
        assert!(answer.body.ends_with(end), "client {n}: {answer:?}");
    }
    CALLS_MAX
}

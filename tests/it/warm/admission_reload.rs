//! A new configuration counts for those too who wait to be taken on.

use super::admission::{ONE, admissions, begun_and_held, near, order, small};
use super::call::{prompt, send, until_waiting};
use crate::support::{Edge, sim};

/// Three sessions wait while one is held, until the configuration holds `new` in place of `old`.
async fn check(old: &str, new: &str) {
    let replica = sim("one").await;
    let config =
        small(near().sims(&[&replica])).set("sessions", "active", "\"10m\"").set("sessions", "admission", "true");
    let edge = Edge::start(config.clone()).await;
    let held = begun_and_held(&edge, &replica).await;
    let mut waiting = Vec::new();
    for (n, session) in ["b", "c", "d"].into_iter().enumerate() {
        waiting.push(send(&edge, session, &prompt(ONE)).await);
        until_waiting(&edge, n + 1).await;
    }
    let text = config.toml(edge.address());
    assert!(text.contains(old));
    assert_eq!(edge.reload_with(&text.replace(old, new)).await.status, 200);
    for client in &mut waiting {
        assert_eq!(client.answer().await.status, 200);
    }
    let mut order = order(&replica);
    order.sort();
    assert_eq!(order, ["a", "a", "b", "c", "d"]);
    assert_eq!(admissions(&edge).await, (3.0, 0.0));
    drop(held);
}

#[tokio::test]
async fn larger_caches_let_in_those_who_wait() {
    check("kv_cache_tokens = 1024", "kv_cache_tokens = 8192").await;
}

#[tokio::test]
async fn where_sessions_are_not_kept_out_any_more_nobody_waits() {
    check("admission = true", "admission = false").await;
}

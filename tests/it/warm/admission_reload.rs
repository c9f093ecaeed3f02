//! A new configuration counts for those too who wait to be taken on.

use super::admission::{ONE, admissions, check_sent_away, near, order, small};
use super::call::{call, prompt, send, told, until_waiting};
use crate::support::{Edge, Pool, sim};

/// Three sessions wait, until the configuration holds `new` in place of `old`.
async fn check(old: &str, new: &str) {
    let replica = sim("one").await;
    let config =
        small(near().sims(&[&replica])).set("sessions", "active", "\"10m\"").set("sessions", "admission", "true");
    let edge = Edge::start(config.clone()).await;
    for _ in 0..2 {
        call(&edge, "a", &prompt(ONE)).await;
    }
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
}

#[tokio::test]
async fn larger_caches_let_in_those_who_wait() {
    check("kv_cache_tokens = 1024", "kv_cache_tokens = 8192").await;
}

#[tokio::test]
async fn sessions_that_cease_to_be_active_sooner_let_in_those_who_wait() {
    check("active = \"10m\"", "active = \"1s\"").await;
}

#[tokio::test]
async fn one_more_replica_lets_in_those_who_wait_and_they_hold_up_nobody_behind() {
    let (one, two) = (sim("one").await, sim("two").await);
    let config = |pool: Pool| small(pool).set("sessions", "active", "\"10m\"");
    let edge = Edge::start(config(near().sims(&[&one]))).await;
    for _ in 0..2 {
        call(&edge, "a", &prompt(ONE)).await;
    }
    let mut before = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    let text = config(near().sims(&[&one, &two])).toml(edge.address());
    assert_eq!(edge.reload_with(&text).await.status, 200);
    assert_eq!(before.answer().await.status, 200);
    assert_eq!(told(&call(&edge, "c", &prompt(50)).await).1, "new");
}

#[tokio::test]
async fn where_sessions_are_not_kept_out_any_more_nobody_waits() {
    check("admission = true", "admission = false").await;
}

#[tokio::test]
async fn those_who_wait_at_a_pool_that_is_gone_are_told_to_come_again_and_find_their_way_anew() {
    let replica = sim("one").await;
    let config = |pool: Pool| small(pool.sims(&[&replica])).set("sessions", "active", "\"10m\"");
    let edge = Edge::start(config(near())).await;
    for _ in 0..2 {
        call(&edge, "a", &prompt(ONE)).await;
    }
    let mut waits = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    let text = config(Pool::new("other", "here", "m")).toml(edge.address());
    assert_eq!(edge.reload_with(&text).await.status, 200);
    let answer = waits.answer().await;
    check_sent_away(&answer);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(told(&call(&edge, "b", &prompt(ONE)).await).0, "one");
}

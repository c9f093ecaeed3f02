//! Nobody keeps others out for longer than it has a right to: not by a prompt that never fits, nor by many sessions, nor
//! by the bodies of those that wait.

use serde_json::{Value, json};

use super::admission::{ONE, admissions, agents_were_here, begun_and_held, check_sent_away, near, small};
use super::call::{CHAT, call, prompt, send, text, told, until_waiting};
use crate::support::{Edge, Http1, calls, json_body, post, post_with, sim, sim_with, soon, with};

/// Sends a call of a session of this client.
async fn send_as(edge: &Edge, client: &str, session: &str, body: &Value) -> Http1 {
    let mut http = Http1::connect(edge.agents()).await;
    let key = format!("Bearer {client}");
    http.send(&post_with(CHAT, &[("x-session-id", session), ("authorization", &key)], body)).await;
    http
}

#[tokio::test]
async fn a_prompt_that_never_fits_is_passed_once_it_was_sent_away_twice() {
    let replica = sim("one").await;
    let config = small(near().sims(&[&replica]));
    let edge = Edge::start(config.clone().set("sessions", "admission_wait", "\"100ms\"")).await;
    let held = begun_and_held(&edge, &replica).await;
    for _ in 0..2 {
        check_sent_away(&send(&edge, "large", &prompt(100 * ONE)).await.answer().await);
    }
    assert_eq!(edge.reload_with(&config.toml(edge.address())).await.status, 200);
    let mut large = send(&edge, "large", &prompt(100 * ONE)).await;
    until_waiting(&edge, 1).await;
    assert_eq!(told(&call(&edge, "small", &prompt(50)).await).1, "new");
    assert_eq!(admissions(&edge).await, (0.0, 2.0));
    // It has its turn where there is room for one cache's worth.
    drop(held);
    assert_eq!(large.answer().await.status, 200);
}

#[tokio::test]
async fn a_client_within_its_share_passes_one_that_has_more() {
    let replica = sim("one").await;
    let edge = Edge::start(small(near().sims(&[&replica]))).await;
    let held = begun_and_held(&edge, &replica).await;
    let _waits = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    let mut other = send_as(&edge, "other", "c", &prompt(100)).await;
    assert_eq!(told(&other.answer().await).1, "new");
    let _waits_too = send(&edge, "d", &prompt(100)).await;
    until_waiting(&edge, 2).await;
    drop(held);
}

#[tokio::test]
async fn whoever_is_let_in_and_finds_no_place_keeps_its_number() {
    let replica = sim_with("one", |params| params.log_requests = 1_024).await;
    let pool = near().sims(&[&replica]).line("max_in_flight = 2").line("queue = 0");
    let (lasting, brief) = (small(pool.clone()).set("sessions", "active", "\"10m\""), small(pool));
    let edge = Edge::start(brief.clone()).await;
    agents_were_here(&edge).await;
    let reload = async |config: &crate::support::EdgeConfig| {
        assert_eq!(edge.reload_with(&config.toml(edge.address())).await.status, 200);
    };
    reload(&lasting).await;
    for _ in 0..2 {
        call(&edge, "a", &prompt(ONE)).await;
    }
    // Calls of no session take both places.
    let endless = json!({"stream": true, "sim": {"tokens": 2, "prefill_ms": 600_000}});
    let alone = with(json!({"model": "m", "messages": [{"role": "system", "content": text(10)}]}), endless);
    let mut taken = Vec::new();
    for running in 1..=2 {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(CHAT, &alone)).await;
        soon(replica.wait_for(|stats| stats.engine.running == running)).await;
        taken.push(client);
    }
    let mut first = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    reload(&brief).await;
    let refused = first.answer().await;
    assert_eq!(refused.status, 429);
    assert!(json_body(&refused)["error"]["message"].as_str().unwrap().contains("at its capacity"), "{refused:?}");
    // There is a place again, and room no more.
    reload(&lasting).await;
    drop(taken);
    soon(replica.wait_for(|stats| stats.engine.running == 0)).await;
    for _ in 0..2 {
        call(&edge, "a", &prompt(ONE)).await;
    }
    let mut later = send(&edge, "c", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    let mut again = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 2).await;
    reload(&brief).await;
    for client in [&mut again, &mut later] {
        assert_eq!(client.answer().await.status, 200);
    }
    let named = |session: &str| {
        let of = |request: &nearpool::sim::server::LoggedRequest| {
            request.headers.get("x-session-id").is_some_and(|value| value == session)
        };
        calls(&replica).iter().position(of).unwrap()
    };
    assert!(named("b") < named("c"));
}

#[tokio::test]
async fn bodies_of_those_who_wait_leave_room_for_others_and_one_clients_for_other_clients() {
    let replica = sim("one").await;
    // Two such bodies of one client may wait, and four in all.
    let config =
        small(near().sims(&[&replica])).set("limits", "body", "\"8KiB\"").set("limits", "buffered", "\"64KiB\"");
    let edge = Edge::start(config).await;
    let _held = begun_and_held(&edge, &replica).await;
    let mut waiting = Vec::new();
    for (n, (client, session)) in [("x", "b"), ("x", "c"), ("y", "d"), ("y", "e")].into_iter().enumerate() {
        if n == 2 {
            check_sent_away(&send_as(&edge, "x", "more", &prompt(ONE)).await.answer().await);
        }
        waiting.push(send_as(&edge, client, session, &prompt(ONE)).await);
        until_waiting(&edge, n + 1).await;
    }
    check_sent_away(&send_as(&edge, "z", "f", &prompt(ONE)).await.answer().await);
    assert_eq!(told(&call(&edge, "a", &prompt(ONE)).await).1, "session");
    // What one gave up is for the next.
    waiting.remove(0).reset();
    until_waiting(&edge, 3).await;
    waiting.push(send_as(&edge, "z", "f", &prompt(ONE)).await);
    until_waiting(&edge, 4).await;
}

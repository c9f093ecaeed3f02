//! How the wait to be taken on ends, if not by being taken on.

use serde_json::json;

use super::admission::{ONE, admissions, agents_were_here, begun_and_held, check_sent_away, near, order, small};
use super::call::{call, of_pool, prompt, send, told, until_waiting};
use crate::support::{Edge, json_body, sim, sim_with, with};

#[tokio::test]
async fn whoever_waited_in_vain_is_sent_away_and_stands_where_it_stood_when_it_comes_again() {
    let replica = sim_with("one", |params| params.log_requests = 1_024).await;
    let config = small(near().sims(&[&replica]));
    let edge = Edge::start(config.clone().set("sessions", "admission_wait", "\"100ms\"")).await;
    agents_were_here(&edge).await;
    let held = begun_and_held(&edge, &replica).await;
    check_sent_away(&send(&edge, "b", &prompt(ONE)).await.answer().await);
    assert_eq!(admissions(&edge).await, (0.0, 1.0));
    assert_eq!(edge.metric(&of_pool("sessions_waiting", "near")).await, 0.0);
    // From here on one waits for as long as it takes.
    assert_eq!(edge.reload_with(&config.toml(edge.address())).await.status, 200);
    let mut later = send(&edge, "c", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    let mut again = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 2).await;
    drop(held);
    for client in [&mut again, &mut later] {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(order(&replica), ["a", "a", "b", "c"]);
    assert_eq!(admissions(&edge).await, (2.0, 1.0));
}

#[tokio::test]
async fn a_stream_that_waited_in_vain_is_told_by_an_event_and_has_no_clean_end() {
    let replica = sim("one").await;
    let config = small(near().sims(&[&replica])).set("timeouts", "keep_alive_comment", "\"20ms\"").set(
        "sessions",
        "admission_wait",
        "\"300ms\"",
    );
    let edge = Edge::start(config).await;
    let held = begun_and_held(&edge, &replica).await;
    let mut waits = send(&edge, "b", &with(prompt(ONE), json!({"stream": true}))).await;
    let head = waits.head().await;
    let (body, ended) = waits.body(&head).await;
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.starts_with(": keep-alive\n\n") && body.contains("\"code\":\"at_capacity\""), "{body}");
    assert!(ended.is_err() && !body.contains("[DONE]"), "an SDK would take it for whole: {body}");
    edge.wait_for_log(|line| line["outcome"] == "at_capacity" && line["replica"].is_null()).await;
    drop(held);
}

#[tokio::test]
async fn no_wait_at_all_can_be_configured() {
    let replica = sim("one").await;
    let edge = Edge::start(small(near().sims(&[&replica])).set("sessions", "admission_wait", "\"0s\"")).await;
    let held = begun_and_held(&edge, &replica).await;
    for _ in 0..3 {
        check_sent_away(&send(&edge, "b", &prompt(ONE)).await.answer().await);
    }
    assert_eq!(told(&call(&edge, "a", &prompt(ONE)).await).1, "session");
    drop(held);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_waits_lets_the_next_one_in() {
    let replica = sim("one").await;
    let edge = Edge::start(small(near().sims(&[&replica]))).await;
    let held = begun_and_held(&edge, &replica).await;
    let large = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    // It has room beside the one that is held, and stands behind one that has not.
    let mut small = send(&edge, "c", &prompt(50)).await;
    until_waiting(&edge, 2).await;
    large.reset();
    assert_eq!(small.answer().await.status, 200);
    edge.wait_for_log(|line| line["outcome"] == "client_gone").await;
    assert_eq!(edge.metric(&of_pool("sessions_waiting", "near")).await, 0.0);
    assert_eq!(order(&replica), ["a", "a", "c"]);
    drop(held);
}

#[tokio::test]
async fn an_edge_that_ends_tells_those_who_wait() {
    let replica = sim("one").await;
    let mut edge = Edge::start(small(near().sims(&[&replica])).set("timeouts", "drain", "\"1s\"")).await;
    let held = begun_and_held(&edge, &replica).await;
    let mut waits = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    edge.signal("TERM");
    let answer = waits.answer().await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(json_body(&answer)["error"]["code"], "drained");
    assert_eq!(edge.wait_for_end().await.code(), Some(0));
    drop(held);
}

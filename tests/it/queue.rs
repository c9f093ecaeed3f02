//! Every replica at its cap: calls wait in line for a while, those of sessions under way first, and are then shed.

use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use crate::support::{Answer, Edge, EdgeConfig, Exchange, Http1, Pool, Scripted, chat, json_body, post_with};

const CHAT: &str = "/v1/chat/completions";

/// Who takes the place that an answer frees may be faster than the answer's connection is given back, and then opens another:
/// so each call has one of its own.
const CLOSE: &str = "connection: close\r\n";

/// One replica that takes one call at a time, and a line of so many.
async fn edge_of(replica: &Scripted, queue: usize, timeout: &str) -> Edge {
    let pool = Pool::new("near", "here", "m")
        .replica("one", &replica.url())
        .line("max_in_flight = 1")
        .line(&format!("queue = {queue}"))
        .line(&format!("queue_timeout = \"{timeout}\""));
    Edge::start(EdgeConfig::new().pool(pool)).await
}

/// Sends a call of a session, and waits until the edge has it in line.
async fn queue_up(edge: &Edge, session: &str, waiting: usize) -> Http1 {
    let client = send(edge, session).await;
    edge.wait_for_metric("nearpool_queued{pool=\"near\"}", |n| n == waiting as f64).await;
    client
}

async fn send(edge: &Edge, session: &str) -> Http1 {
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(CHAT, &[("x-session-id", session)], &chat(session, 1))).await;
    client
}

/// Which session a request at the replica is of.
fn session_of(exchange: &Exchange) -> String {
    exchange.request.header("x-session-id").unwrap().to_owned()
}

fn check_shed(answer: &Answer) {
    assert_eq!(answer.status, 429);
    assert_eq!(json_body(answer)["error"]["code"], "at_capacity");
    let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=120).contains(&seconds), "{seconds} s");
}

#[tokio::test]
async fn calls_of_sessions_under_way_come_before_first_calls_and_each_in_its_turn() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&replica, 8, "60s").await;
    // Two sessions begin.
    for session in ["begun-1", "begun-2"] {
        let mut client = send(&edge, session).await;
        replica.next().await.answer(200, CLOSE, "{}").await;
        assert_eq!(client.answer().await.status, 200);
    }
    // The only place is taken, and the line fills: new ones and others.
    let mut first = send(&edge, "busy").await;
    let mut at = replica.next().await;
    assert_eq!(session_of(&at), "busy");
    let mut waiting = Vec::new();
    for (n, session) in ["new-1", "begun-1", "new-2", "begun-2"].into_iter().enumerate() {
        waiting.push((session, queue_up(&edge, session, n + 1).await));
    }
    at.answer(200, CLOSE, "{}").await;
    assert_eq!(first.answer().await.status, 200);
    for session in ["begun-1", "begun-2", "new-1", "new-2"] {
        at = replica.next().await;
        assert_eq!(session_of(&at), session);
        at.answer(200, CLOSE, "{}").await;
        let client = &mut waiting.iter_mut().find(|(name, _)| *name == session).unwrap().1;
        assert_eq!(client.answer().await.status, 200);
    }
    let line = edge.wait_for_log(|line| line["ms"]["queue"] != Value::Null).await;
    assert!(line["ms"]["overhead"].as_f64() < line["ms"]["queue"].as_f64(), "to wait is no overhead: {line}");
    edge.wait_for_metric("nearpool_queued{pool=\"near\"}", |n| n == 0.0).await;
}

#[tokio::test]
async fn beyond_the_line_and_its_time_calls_are_shed_with_retry_after() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&replica, 1, "300ms").await;
    let mut first = send(&edge, "a").await;
    let mut at = replica.next().await;
    let mut second = queue_up(&edge, "b", 1).await;
    // The line is full.
    check_shed(&send(&edge, "c").await.answer().await);
    // And so is the time of the one in it.
    check_shed(&second.answer().await);
    at.answer(200, CLOSE, "{}").await;
    assert_eq!(first.answer().await.status, 200);
    // A session under way takes the place in line of one that is new.
    let mut busy = send(&edge, "b").await;
    let mut at = replica.next().await;
    let mut new = queue_up(&edge, "d", 1).await;
    let mut under_way = send(&edge, "a").await;
    check_shed(&new.answer().await);
    at.answer(200, CLOSE, "{}").await;
    assert_eq!(busy.answer().await.status, 200);
    let mut at = replica.next().await;
    assert_eq!(session_of(&at), "a");
    at.answer(200, CLOSE, "{}").await;
    assert_eq!(under_way.answer().await.status, 200);
}

#[tokio::test]
async fn one_that_leaves_the_line_hands_its_turn_on() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&replica, 8, "60s").await;
    let mut first = send(&edge, "a").await;
    let mut at = replica.next().await;
    let gone = queue_up(&edge, "b", 1).await;
    let mut third = queue_up(&edge, "c", 2).await;
    gone.reset();
    edge.wait_for_metric("nearpool_queued{pool=\"near\"}", |n| n == 1.0).await;
    at.answer(200, CLOSE, "{}").await;
    assert_eq!(first.answer().await.status, 200);
    let mut at = replica.next().await;
    assert_eq!(session_of(&at), "c");
    at.answer(200, CLOSE, "{}").await;
    assert_eq!(third.answer().await.status, 200);
}

#[tokio::test]
async fn a_pool_may_have_a_cap_of_its_own() {
    let (mut a, mut b) = (Scripted::start().await, Scripted::start().await);
    let pool = Pool::new("near", "here", "m")
        .replica("a", &a.url())
        .replica("b", &b.url())
        .line("max_in_flight_total = 1")
        .line("queue = 0");
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    let mut first = send(&edge, "x").await;
    let mut at = tokio::select! { at = a.next() => at, at = b.next() => at };
    for session in ["y", "z"] {
        check_shed(&send(&edge, session).await.answer().await);
    }
    at.answer(200, CLOSE, "{}").await;
    assert_eq!(first.answer().await.status, 200);
}

#[tokio::test]
async fn many_clients_through_few_places_all_get_their_answer() {
    let replica = crate::support::sim("one").await;
    let pool =
        Pool::new("near", "here", "m").sims(&[&replica]).line("max_in_flight = 2").line("queue_timeout = \"2m\"");
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    let mut clients = JoinSet::new();
    for n in 0..32 {
        let agents = edge.agents();
        clients.spawn(async move {
            let mut client = Http1::connect(agents).await;
            for call in 0..8 {
                let (session, text) = (format!("s{n}"), format!("call {call} of {n}"));
                let answer = client.call(&post_with(CHAT, &[("x-session-id", &session)], &chat(&text, 2))).await;
                assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            }
        });
    }
    let all = async {
        while let Some(client) = clients.join_next().await {
            client.unwrap()
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all).await.expect("no call waits for ever");
    assert_eq!(edge.metric("nearpool_replica_in_flight{pool=\"near\",replica=\"one\"}").await, 0.0);
}

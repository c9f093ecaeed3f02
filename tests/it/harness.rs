//! That the harness itself works: one call through an edge, seen from all sides.

use crate::support::{Edge, EdgeConfig, Http1, chat, json_body, post, sim};

#[tokio::test]
async fn one_call_goes_through_and_is_seen_from_all_sides() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &chat("Hello", 3))).await;
    let answer = client.answer().await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-nearpool-replica"), Some("a"));
    assert_eq!(json_body(&answer)["usage"]["completion_tokens"], 3);
    let line = edge.wait_for_log(|line| line["status"] == 200).await;
    assert_eq!(line["outcome"], "ok");
    let counted = edge.metric("nearpool_attempts_total{outcome=\"ok\",pool=\"near\",replica=\"a\"}").await;
    assert_eq!(counted, 1.0);
}

//! What the edge takes on in all: connections, and bytes of bodies.

use serde_json::json;

use crate::support::{Edge, EdgeConfig, H2, Http1, Pool, Scripted, chat, json_body, post, request, sim, with};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn connections_over_the_cap_are_closed_and_the_others_go_on() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica]).set("limits", "connections", "3")).await;
    let mut first = Http1::connect(edge.agents()).await;
    assert_eq!(first.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
    let mut second = H2::connect(edge.agents()).await;
    assert_eq!(second.call(CHAT, &[], &chat("hi", 1)).await.status, 200);
    let silent = Http1::connect(edge.agents()).await;
    // Connections are accepted in the order in which they were made.
    for _ in 0..5 {
        let mut over = Http1::connect(edge.agents()).await;
        assert!(over.until_closed().await.is_empty());
    }
    assert_eq!(first.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
    assert_eq!(second.call(CHAT, &[], &chat("hi", 1)).await.status, 200);
    // A place that becomes free is given away again.
    silent.close().await;
    let mut served = false;
    for _ in 0..1000 {
        let mut next = Http1::connect(edge.agents()).await;
        if next.try_send(&request("GET", "/health", &[], b"")).await.is_ok() && next.try_head().await.is_ok() {
            served = true;
            break;
        }
    }
    assert!(served);
}

#[tokio::test]
async fn bodies_over_what_the_edge_may_hold_are_503_until_there_is_room() {
    let replica = sim("a").await;
    let config = EdgeConfig::of(&[&replica]).set("limits", "body", "\"64KiB\"").set("limits", "buffered", "\"64KiB\"");
    let edge = Edge::start(config).await;
    let body = with(chat("hi", 1), json!({"padding": "x".repeat(40_000)})).to_string();
    let whole = request("POST", CHAT, &[], body.as_bytes());
    let (most, rest) = whole.split_at(whole.len() - 100);
    // Most of a body is held for as long as its client pleases. Which of two is read first is not told, so the second one
    // may pass and the first be refused; then it is done again.
    let mut held = None;
    for _ in 0..100 {
        let mut holder = Http1::connect(edge.agents()).await;
        holder.send(most).await;
        let mut client = Http1::connect(edge.agents()).await;
        let _ = client.try_send(&whole).await;
        let answer = client.answer().await;
        if answer.status != 200 {
            held = Some((holder, answer));
            break;
        }
    }
    let (mut holder, refused) = held.expect("a refusal");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(json_body(&refused)["error"]["code"], "overloaded");
    // The holder itself still passes, and then everything has been given back.
    holder.send(rest).await;
    assert_eq!(holder.answer().await.status, 200);
    for _ in 0..3 {
        assert_eq!(holder.call(&whole).await.status, 200);
    }
}

#[tokio::test]
async fn a_body_is_given_back_when_its_answer_begins() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let config = EdgeConfig::new().pool(pool).set("limits", "body", "\"64KiB\"").set("limits", "buffered", "\"64KiB\"");
    let edge = Edge::start(config).await;
    let body = with(chat("hi", 1), json!({"stream": true, "padding": "x".repeat(40_000)}));
    let mut under_way = Vec::new();
    for _ in 0..3 {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(CHAT, &body)).await;
        let mut exchange = replica.next().await;
        exchange.begin_stream().await;
        exchange.chunk("data: {\"choices\":[]}\n\n").await;
        assert_eq!(client.head().await.status, 200);
        // Both stay open.
        under_way.push((client, exchange));
    }
}

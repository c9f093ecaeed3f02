//! A stream that waits long: its head and comments go down, retries go on behind them, and what fails later is an event.
//! And a client that says how long it waits.

use serde_json::{Value, json};

use crate::support::raw_h2::{DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, WINDOW_UPDATE, frame, post_block};
use crate::support::{
    Answer, Edge, EdgeConfig, Frame, H2, Http1, Pool, RawH2, Scripted, chat, json_body, post, post_with, whole, with,
};

const CHAT: &str = "/v1/chat/completions";
const COMMENT: &str = ": keep-alive\n\n";

fn streamed() -> Value {
    with(chat("hello", 8), json!({"stream": true}))
}

async fn edge_of(replicas: &[&Scripted], set: impl Fn(EdgeConfig) -> EdgeConfig) -> Edge {
    let pool = replicas
        .iter()
        .enumerate()
        .fold(Pool::new("near", "here", "m"), |pool, (n, replica)| pool.replica(&format!("r{n}"), &replica.url()));
    let config = EdgeConfig::new().pool(pool).set("timeouts", "keep_alive_comment", "\"50ms\"");
    Edge::start(set(config)).await
}

/// Reads a stream's first comments, and returns the head.
async fn comments(client: &mut Http1, count: usize) -> Answer {
    let head = client.head().await;
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    for _ in 0..count {
        assert_eq!(client.chunk().await.unwrap().expect("a comment").bytes, COMMENT);
    }
    head
}

/// Reads the rest of a stream without the comments that still come; and whether it ended in good order.
async fn rest(client: &mut Http1) -> (String, bool) {
    let mut got = String::new();
    loop {
        match client.chunk().await {
            Ok(Some(piece)) => got.push_str(std::str::from_utf8(&piece.bytes).unwrap()),
            ended => return (got.replace(COMMENT, ""), ended.is_ok()),
        }
    }
}

const EVENTS: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hi\"}}]}\n\ndata: [DONE]\n\n";

#[tokio::test]
async fn a_stream_that_waits_gets_comments_and_then_its_answer_with_the_receipt_behind_it() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&[&replica], |config| config).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(CHAT, &[("x-request-id", "r-7")], &streamed())).await;
    let mut upstream = replica.next().await;
    let head = comments(&mut client, 2).await;
    assert!(head.header("content-type").unwrap().starts_with("text/event-stream"));
    assert_eq!((head.header("x-nearpool-edge"), head.header("x-request-id")), (Some("it"), Some("r-7")));
    assert_eq!(head.header("x-nearpool-replica"), None, "nobody knows yet");
    upstream.begin_stream().await;
    // The replica's head alone is no sign of life: comments go on.
    assert_eq!(client.chunk().await.unwrap().unwrap().bytes, COMMENT);
    upstream.chunk(EVENTS).await;
    upstream.send("0\r\n\r\n").await;
    let (got, whole) = rest(&mut client).await;
    let receipt = ": region=here pool=near replica=r0 model=m reason=new attempts=1\n\n";
    assert_eq!((got, whole), (format!("{EVENTS}{receipt}"), true));
    let line = edge.wait_for_log(|line| line["outcome"] == "ok").await;
    assert_eq!((&line["status"], &line["replica"]), (&json!(200), &json!("r0")));
    // The connection is kept.
    client.send(&post(CHAT, &chat("again", 1))).await;
    upstream.next().await.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn retries_go_on_behind_the_comments() {
    let (mut a, mut b) = (Scripted::start().await, Scripted::start().await);
    let edge = edge_of(&[&a, &b], |config| config).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &streamed())).await;
    let (mut first, other) = tokio::select! {
        first = a.next() => (first, &mut b),
        first = b.next() => (first, &mut a),
    };
    comments(&mut client, 1).await;
    first.answer(500, "", "{\"error\":{\"message\":\"oh\"}}").await;
    let mut second = other.next().await;
    second.begin_stream().await;
    second.chunk(EVENTS).await;
    second.send("0\r\n\r\n").await;
    let (got, whole) = rest(&mut client).await;
    assert!(whole && got.starts_with(EVENTS) && got.contains("attempts=2"), "{got}");
}

#[tokio::test]
async fn what_fails_behind_a_comment_is_an_event_and_no_clean_end() {
    let overlong = r#"{"error":{"message":"too long","type":"BadRequestError","param":null,"code":"context_length"}}"#;
    for (status, body, expected, outcome) in [
        (400, overlong, "\"code\":\"context_length\"", "client_error"),
        (500, "{\"error\":{\"message\":\"oh\",\"code\":500}}", "\"message\":\"oh\"", "server_error"),
        (200, "{\"choices\":[]}", "without streaming", "garbage"),
    ] {
        let mut replica = Scripted::start().await;
        let edge = edge_of(&[&replica], |config| config).await;
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(CHAT, &streamed())).await;
        let mut upstream = replica.next().await;
        comments(&mut client, 1).await;
        upstream.answer(status, "", body).await;
        let (got, whole) = rest(&mut client).await;
        assert!(got.starts_with("data: {\"error\":") && got.contains(expected), "{status}: {got}");
        assert!(!whole && !got.contains("[DONE]"), "{status}: an SDK would take it for whole");
        assert!(
            got.ends_with("replica=r0 model=m reason=new attempts=1\n\n"),
            "{status}: the receipt is missing: {got}"
        );
        let line = edge.wait_for_log(|line| line["outcome"] != Value::Null).await;
        assert_eq!((&line["outcome"], &line["status"]), (&json!(outcome), &json!(200)), "{status}");
    }
}

#[tokio::test]
async fn when_nobody_answers_at_all_the_open_stream_is_told() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&[&replica], |config| config.set("timeouts", "first_byte", "\"400ms\"")).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &streamed())).await;
    let silent = replica.next().await;
    comments(&mut client, 2).await;
    let (got, whole) = rest(&mut client).await;
    assert!(got.contains("\"code\":\"first_byte_timeout\"") && !whole, "{got}");
    drop(silent);
}

#[tokio::test]
async fn comments_go_over_http2_too() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&[&replica], |config| config).await;
    let mut h2 = H2::connect(edge.agents()).await;
    let response = h2.send(CHAT, &[], streamed().to_string()).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut upstream = replica.next().await;
    upstream.begin_stream().await;
    upstream.chunk(EVENTS).await;
    upstream.send("0\r\n\r\n").await;
    let answer = whole(response).await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.starts_with(COMMENT) && text.replace(COMMENT, "").starts_with(EVENTS), "{text}");
}

#[tokio::test]
async fn a_client_that_takes_no_comment_holds_up_no_retry() {
    let (mut a, mut b) = (Scripted::start().await, Scripted::start().await);
    let edge = edge_of(&[&a, &b], |config| config.set("timeouts", "first_byte", "\"300ms\"")).await;
    let mut client = RawH2::connect(edge.agents()).await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0: not a byte of a body may be sent.
    client.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    client.send(&frame(HEADERS, END_HEADERS, 1, &post_block(CHAT, &[]))).await;
    client.send(&frame(DATA, END_STREAM, 1, streamed().to_string().as_bytes())).await;
    let (first, mut second) = tokio::select! {
        first = a.next() => (first, b.next().await),
        first = b.next() => (first, a.next().await),
    };
    second.begin_stream().await;
    second.chunk(EVENTS).await;
    client.send(&frame(WINDOW_UPDATE, 0, 1, &(1u32 << 16).to_be_bytes())).await;
    let done = |frame: &Frame| frame.payload.windows(6).any(|bytes| bytes == b"[DONE]");
    assert!(client.until(done).await.is_some());
    drop(first);
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_gets_no_comments() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&[&replica], |config| config.set("timeouts", "answer", "\"400ms\"")).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &chat("hello", 8))).await;
    let silent = replica.next().await;
    assert_eq!(client.answer().await.status, 504);
    drop(silent);
}

#[tokio::test]
async fn the_clients_own_deadline_ends_its_call_and_counts_against_nobody() {
    let mut replica = Scripted::start().await;
    let set = |config: EdgeConfig| {
        config.set("timeouts", "keep_alive_comment", "\"0s\"").set("circuit_breaker", "failure_threshold", "1")
    };
    let edge = edge_of(&[&replica], set).await;
    for (header, body) in [
        ("x-stainless-read-timeout", streamed()),
        ("x-stainless-read-timeout", chat("hello", 8)),
        ("x-request-timeout", streamed()),
        ("x-request-timeout", chat("hello", 8)),
    ] {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post_with(CHAT, &[(header, "0.1")], &body)).await;
        let silent = replica.next().await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 504, "{header}");
        assert_eq!(json_body(&answer)["error"]["code"], "client_deadline");
        assert_eq!(answer.header("x-nearpool-attempts"), Some("1"), "no time is left to try again");
        drop(silent);
    }
    let breaker = edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"r0\"}").await;
    assert_eq!(breaker, 0.0, "closed");
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(CHAT, &[("x-stainless-read-timeout", "nonsense")], &chat("hello", 8))).await;
    replica.next().await.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);
}

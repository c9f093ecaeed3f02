//! Bad input over HTTP/2 in plain text.

use serde_json::json;

use crate::support::raw_h2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, frame, post_block,
};
use crate::support::{Edge, EdgeConfig, H2, RawH2, chat, json_body, sim};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn refusals_have_the_same_status_and_envelope_as_over_http1() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica]).set("limits", "body", "\"64KiB\"")).await;
    let mut client = H2::connect(edge.agents()).await;
    let large = json!({"model": "m", "x": "x".repeat(100_000)}).to_string();
    for (path, headers, body, status, code) in [
        (CHAT, vec![], "{", 400, "bad_json"),
        (CHAT, vec![], r#"{"model":"m","model":"m"}"#, 400, "bad_json"),
        (CHAT, vec![], r#"{"model":"x"}"#, 404, "model_not_found"),
        ("/v1/nothing", vec![], "", 404, "not_found"),
        ("/health", vec![], "", 405, "method_not_allowed"),
        (CHAT, vec![("content-encoding", "gzip")], "{}", 400, "bad_header"),
        (CHAT, vec![("x-session-id", "a"), ("x-session-id", "b")], "{}", 400, "bad_header"),
        (CHAT, vec![], large.as_str(), 413, "body_too_large"),
    ] {
        let answer = client.send(path, &headers, body.to_owned()).await.unwrap();
        let answer = crate::support::whole(answer).await;
        let body = json_body(&answer);
        assert_eq!((answer.status, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    }
    let answer = client.call("/v1/messages", &[], &json!({"model": "x"})).await;
    assert_eq!(json_body(&answer)["error"]["type"], "not_found_error");
    // The connection has borne all of it.
    assert_eq!(client.call(CHAT, &[], &chat("hi", 1)).await.status, 200);
    assert_eq!(replica.requests().len(), 1);
}

#[tokio::test]
async fn too_large_a_header_list_is_refused_and_other_streams_go_on() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = RawH2::connect(edge.agents()).await;
    let lines: Vec<(String, String)> = (0..10).map(|n| (format!("x-{n}"), "v".repeat(8000))).collect();
    let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let block = post_block(CHAT, &lines);
    let mut parts = block.chunks(16_000);
    let mut bytes = frame(HEADERS, END_STREAM, 1, parts.next().unwrap());
    let rest: Vec<_> = parts.collect();
    for (n, part) in rest.iter().enumerate() {
        let flags = if n + 1 == rest.len() { END_HEADERS } else { 0 };
        bytes.extend(frame(CONTINUATION, flags, 1, part));
    }
    let _ = client.try_send(&bytes).await;
    // 431 on the stream, its reset, or the connection's end: whichever it is, it is refused.
    let refused = client.until(|frame| frame.stream == 1 || frame.kind == GOAWAY).await;
    assert!(refused.is_none_or(|frame| matches!(frame.kind, HEADERS | RST_STREAM | GOAWAY)));
    assert_eq!(H2::connect(edge.agents()).await.call(CHAT, &[], &chat("hi", 1)).await.status, 200);
    assert_eq!(replica.requests().len(), 1);
}

#[tokio::test]
async fn many_headers_are_431() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let names: Vec<String> = (0..120).map(|n| format!("x-{n}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let answer = H2::connect(edge.agents()).await.call(CHAT, &headers, &chat("hi", 1)).await;
    assert_eq!(answer.status, 431);
    assert_eq!(json_body(&answer)["error"]["code"], "headers_too_large");
    assert!(replica.requests().is_empty());
}

#[tokio::test]
async fn a_body_of_another_length_than_stated_is_never_forwarded() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let body = chat("hi", 1).to_string();
    for stated in [body.len() - 1, body.len() + 1] {
        let mut client = RawH2::connect(edge.agents()).await;
        let block = post_block(CHAT, &[("content-length", &stated.to_string())]);
        client.send(&frame(HEADERS, END_HEADERS, 1, &block)).await;
        let _ = client.try_send(&frame(DATA, END_STREAM, 1, body.as_bytes())).await;
        // It is reset, or the connection ends; no answer of a replica comes.
        let end = client.until(|frame| frame.stream == 1 || frame.kind == GOAWAY).await;
        assert!(end.as_ref().is_none_or(|frame| matches!(frame.kind, RST_STREAM | GOAWAY)), "{stated}: {end:?}");
    }
    assert!(replica.requests().is_empty());
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_and_the_others_are_served() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = RawH2::connect(edge.agents()).await;
    // 150 heads without their bodies: each holds a stream open.
    let mut bytes = Vec::new();
    for n in 0..150_u32 {
        bytes.extend(frame(HEADERS, END_HEADERS, 2 * n + 1, &post_block(CHAT, &[])));
    }
    client.send(&bytes).await;
    let refused = client.until(|frame| frame.kind == RST_STREAM || frame.kind == GOAWAY).await.unwrap();
    assert!(refused.kind == GOAWAY || refused.stream > 200, "{refused:?}");
    if refused.kind == RST_STREAM {
        // REFUSED_STREAM: it may be sent again.
        assert_eq!(&refused.payload[..], [0, 0, 0, 7]);
        client.send(&frame(DATA, END_STREAM, 1, chat("hi", 1).to_string().as_bytes())).await;
        client.until(|frame| frame.kind == HEADERS && frame.stream == 1).await.expect("an answer on the first stream");
    }
}

#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut bystander = H2::connect(edge.agents()).await;
    let mut client = RawH2::connect(edge.agents()).await;
    let mut ended = false;
    for n in 0..20_000_u32 {
        let stream = 2 * n + 1;
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &post_block(CHAT, &[]));
        bytes.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        if client.try_send(&bytes).await.is_err() {
            ended = true;
            break;
        }
    }
    let goaway = ended || client.until(|frame| frame.kind == GOAWAY).await.is_none_or(|frame| frame.payload[7] != 0);
    assert!(goaway, "20,000 resets were borne");
    assert_eq!(bystander.call(CHAT, &[], &chat("hi", 1)).await.status, 200);
    assert_eq!(replica.requests().len(), 1);
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let cases: [(&str, Vec<u8>); 6] = [
        ("data on a stream that is not there", frame(DATA, END_STREAM, 1, b"x")),
        ("an even stream", frame(HEADERS, END_HEADERS, 2, &post_block(CHAT, &[]))),
        ("a frame larger than allowed", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("settings of odd length", frame(SETTINGS, 0, 0, b"abc")),
        ("garbage compressed headers", frame(HEADERS, END_HEADERS, 1, &[0xff; 40])),
        ("continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, b"")),
    ];
    for (name, bytes) in cases {
        let mut client = RawH2::connect(edge.agents()).await;
        let _ = client.try_send(&bytes).await;
        let answer = client.until(|frame| frame.kind == HEADERS).await;
        assert!(answer.is_none(), "{name}: {answer:?}");
    }
    assert!(replica.requests().is_empty());
}

//! How long a client may take over each part of a request, on fresh and on reused connections. The limits are short here;
//! that they are met is seen by the connection's end, and only a hang is timed.

use serde_json::json;
use tokio::net::TcpSocket;
use tokio::time::Instant;

use crate::support::raw_h2::{DATA, END_HEADERS, END_STREAM, HEADERS, frame, post_block};
use crate::support::{
    Answer, Edge, EdgeConfig, H2, Http1, PATIENCE, RawH2, calls, chat, json_body, pair, post, sim, sim_with, soon, with,
};

const CHAT: &str = "/v1/chat/completions";

fn hurried(config: EdgeConfig) -> EdgeConfig {
    config
        .set("limits", "header_timeout", "\"300ms\"")
        .set("limits", "keepalive", "\"300ms\"")
        .set("limits", "body_idle", "\"300ms\"")
        .set("limits", "body_timeout", "\"600ms\"")
}

/// Sends byte after byte until the other side ends the connection, and returns what it said. A byte leaves every 20 ms,
/// far more often than any pause that is allowed.
async fn drip(client: &mut Http1, bytes: &[u8]) -> Option<Answer> {
    let deadline = Instant::now() + PATIENCE;
    for byte in bytes.iter().cycle() {
        assert!(Instant::now() < deadline, "the drip is borne without end");
        if client.try_send(&[*byte]).await.is_err() {
            return client.try_head().await.ok();
        }
        // The pace of a slow client is what is tested.
        if let Ok(head) = tokio::time::timeout(std::time::Duration::from_millis(20), client.try_head()).await {
            return head.ok();
        }
    }
    None
}

#[tokio::test]
async fn a_head_that_drips_is_ended_on_fresh_and_on_reused_connections() {
    let replica = sim("a").await;
    let edge = Edge::start(hurried(EdgeConfig::of(&[&replica]))).await;
    for reused in [false, true] {
        let mut client = Http1::connect(edge.agents()).await;
        if reused {
            assert_eq!(client.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
        }
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: edge\r\nx-a: ").await;
        let head = drip(&mut client, b"a").await;
        assert!(head.is_none_or(|head| head.status == 408), "reused: {reused}");
        client.until_closed().await;
    }
}

#[tokio::test]
async fn a_head_that_stops_is_told_408_on_fresh_and_on_reused_connections() {
    let replica = sim("a").await;
    let edge = Edge::start(hurried(EdgeConfig::of(&[&replica]))).await;
    for reused in [false, true] {
        let mut client = Http1::connect(edge.agents()).await;
        if reused {
            assert_eq!(client.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
        }
        client.send(b"POST /v1/chat/completions HTTP/1.1\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "reused: {reused}");
        assert_eq!(json_body(&answer)["error"]["code"], "body_timeout");
        assert!(client.until_closed().await.is_empty());
    }
}

#[tokio::test]
async fn silence_ends_a_connection_before_between_and_behind_requests() {
    let replica = sim("a").await;
    let edge = Edge::start(hurried(EdgeConfig::of(&[&replica]))).await;
    let mut silent = Http1::connect(edge.agents()).await;
    assert!(silent.until_closed().await.is_empty());
    let mut idle = Http1::connect(edge.agents()).await;
    for _ in 0..2 {
        assert_eq!(idle.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
    }
    assert!(idle.until_closed().await.is_empty());
    // The line that ends a head is missing, or the head is only begun as HTTP/2.
    for begun in ["G", "PR", "PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(begun.as_bytes()).await;
        client.until_closed().await;
    }
    let mut client = Http1::connect(edge.agents()).await;
    drip(&mut client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r").await;
    client.until_closed().await;
}

#[tokio::test]
async fn http2_that_falls_silent_is_ended() {
    let replica = sim("a").await;
    let edge = Edge::start(hurried(EdgeConfig::of(&[&replica]))).await;
    // After the preface and its settings.
    let mut silent = RawH2::connect(edge.agents()).await;
    silent.until(|_| false).await;
    // In the middle of a head, of which the continuation is owed.
    let mut half = RawH2::connect(edge.agents()).await;
    half.send(&frame(HEADERS, 0, 1, &post_block(CHAT, &[]))).await;
    half.until(|_| false).await;
    // In the middle of a body: the request is told so, and the connection goes when it has nothing else to do.
    let mut body = RawH2::connect(edge.agents()).await;
    let begun = [frame(HEADERS, END_HEADERS, 1, &post_block(CHAT, &[])), frame(DATA, 0, 1, b"{\"model\":")].concat();
    body.send(&begun).await;
    body.until(|frame| frame.kind == HEADERS && frame.stream == 1).await.expect("an answer");
    let line = edge.wait_for_log(|line| line["status"] == 408).await;
    assert_eq!(line["outcome"], "body_timeout");
    body.until(|_| false).await;
    assert!(calls(&replica).is_empty());
}

#[tokio::test]
async fn a_body_that_stops_or_drips_is_408_on_fresh_and_on_reused_connections() {
    let replica = sim("a").await;
    let edge = Edge::start(hurried(EdgeConfig::of(&[&replica]))).await;
    for reused in [false, true] {
        for chunked in [false, true] {
            let framing = if chunked { "transfer-encoding: chunked" } else { "content-length: 100000" };
            let begin = format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\n{framing}\r\n\r\n");
            // Behind a long beginning the framework does not read the body itself.
            for (drips, beginning) in [(false, 0), (true, 0), (false, 5_000), (true, 5_000)] {
                let mut client = Http1::connect(edge.agents()).await;
                if reused {
                    assert_eq!(client.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
                }
                let begun = format!("{{\"{}", "a".repeat(beginning));
                let begun = if chunked { format!("{:x}\r\n{begun}\r\n", begun.len()) } else { begun };
                let begun = if drips || beginning > 0 { begun } else { String::new() };
                client.send((begin.clone() + &begun).as_bytes()).await;
                let name = format!("reused: {reused}, chunked: {chunked}, drips: {drips}, behind {beginning}");
                if drips {
                    let head = drip(&mut client, if chunked { b"1\r\na\r\n" } else { b"a" }).await;
                    assert!(head.is_none_or(|head| head.status == 408), "{name}");
                } else {
                    let answer = client.answer().await;
                    assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{name}");
                }
                client.until_closed().await;
            }
        }
    }
    assert_eq!(replica.requests().len(), 8, "only the requests that were whole");
}

#[tokio::test]
async fn tls_connections_have_the_same_deadlines() {
    let replica = sim("a").await;
    let address = crate::support::own_address();
    let folder = Edge::folder_of(address);
    std::fs::create_dir_all(&folder).unwrap();
    let (certificate, key) = pair("edge.test").write(&folder);
    let config = hurried(EdgeConfig::of(&[&replica])).tls(certificate.to_str().unwrap(), key.to_str().unwrap());
    let edge = Edge::start_at(address, config).await;
    for reused in [false, true] {
        for begun in ["", "POST /v1/chat/completions HTTP/1.1\r\nhost:"] {
            let mut client = Http1::over_any(crate::support::connect_tls(edge.tls(), &["http/1.1"]).await);
            if reused {
                assert_eq!(client.call(&post(CHAT, &chat("hi", 1))).await.status, 200);
            }
            client.send(begun.as_bytes()).await;
            client.until_closed().await;
        }
    }
}

/// A client of a long stream that stops reading: what it was sent fills its buffers, then the edge's, and then nothing
/// moves. The buffers are made small, so that little is needed.
#[tokio::test]
async fn a_client_that_stops_reading_does_not_hold_its_replica() {
    let replica = sim_with("a", |params| params.answer_tokens = (200_000, 200_000)).await;
    let config = EdgeConfig::of(&[&replica]).set("timeouts", "idle", "\"500ms\"");
    let edge = Edge::start(config).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut client = Http1::over(soon(socket.connect(edge.agents())).await.unwrap());
    let body = with(chat("hi", 200_000), json!({"stream": true}));
    client.send(&post(CHAT, &body)).await;
    assert_eq!(client.head().await.status, 200);
    let line = edge.wait_for_log(|line| line["path"] == CHAT || line["status"] == 200).await;
    assert_eq!(line["outcome"], "client_gone", "{line}");
    edge.wait_until_idle("near", "a").await;
    soon(replica.wait_for(|stats| stats.cancelled_total == 1 || stats.engine.running == 0)).await;
    let rest = client.until_closed().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the cut answer looks whole");
}

#[tokio::test]
async fn an_http2_client_that_stops_reading_does_not_hold_its_replica() {
    let replica = sim_with("a", |params| params.answer_tokens = (200_000, 200_000)).await;
    let config = EdgeConfig::of(&[&replica]).set("timeouts", "idle", "\"500ms\"");
    let edge = Edge::start(config).await;
    // It never gives a window back, so 64 KiB is all that it can be sent.
    let mut client = RawH2::connect(edge.agents()).await;
    let body = with(chat("hi", 200_000), json!({"stream": true})).to_string();
    let request = [frame(HEADERS, END_HEADERS, 1, &post_block(CHAT, &[])), frame(DATA, END_STREAM, 1, body.as_bytes())];
    client.send(&request.concat()).await;
    edge.wait_for_log(|line| line["outcome"] == "client_gone").await;
    edge.wait_until_idle("near", "a").await;
    let whole = client.until(|frame| frame.kind == DATA && frame.flags & END_STREAM != 0 || frame.kind == 3).await;
    assert!(whole.is_none_or(|frame| frame.kind == 3), "the cut answer looks whole");
    assert_eq!(H2::connect(edge.agents()).await.call(CHAT, &[], &chat("hi", 1)).await.status, 200);
}

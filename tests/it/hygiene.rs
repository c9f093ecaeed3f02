//! What a proxy owes to HTTP: headers that end here, framing, pipelining, expectations, TLS.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{
    Answer, Edge, EdgeConfig, Http1, Pool, Scripted, calls, chat, connect_tls, json_body, post, post_with, request,
    sim, with,
};

async fn edge_of(replica: &Scripted, lines: &[&str]) -> Edge {
    let mut pool = Pool::new("near", "here", "m").replica("scripted", &replica.url());
    for line in lines {
        pool = pool.line(line);
    }
    Edge::start(EdgeConfig::new().pool(pool)).await
}

#[tokio::test]
async fn headers_of_one_connection_end_there_and_credentials_end_at_the_edge() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&replica, &["api_key = { env = \"NEARPOOL_IT_KEY\" }"]).await;
    let mut client = Http1::connect(edge.agents()).await;
    let headers = [
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("proxy-authorization", "Basic x"),
        ("upgrade", "h2c"),
        ("authorization", "Bearer clients-own-key"),
        ("x-api-key", "clients-own-key"),
        ("x-nearpool-region", "mine"),
        ("x-forwarded-for", "198.51.100.7"),
        ("x-forwarded-host", "evil"),
        ("accept-encoding", "gzip"),
        ("anthropic-version", "2023-06-01"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-request-id", "mine-1"),
        ("X-Custom", "Kept As It Is"),
    ];
    client.send(&post_with("/v1/chat/completions?beta=true&x=%20y", &headers, &chat("x", 1))).await;
    let mut upstream = replica.next().await;
    assert_eq!(upstream.line, "POST /v1/chat/completions?beta=true&x=%20y HTTP/1.1");
    let got = &upstream.request;
    let mut names: Vec<_> = got.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let kept = [
        "anthropic-version",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "traceparent",
        "x-custom",
        "x-forwarded-for",
        "x-request-id",
    ];
    assert_eq!(names, kept);
    assert_eq!(got.header("authorization"), Some("Bearer pools-own-key"));
    assert_eq!(got.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got.header("x-request-id"), Some("mine-1"));
    assert_eq!(got.header("x-custom"), Some("Kept As It Is"));
    assert_eq!(Some(got.header("host").unwrap()), replica.url().strip_prefix("http://"));
    let back = "connection: x-theirs\r\nx-theirs: 1\r\nkeep-alive: timeout=5\r\nx-nearpool-pool: forged\r\n\
                x-request-id: theirs\r\nset-cookie: a=1\r\nset-cookie: b=2\r\nx-engine: yes\r\n";
    upstream.answer(200, back, "{}").await;
    let answer = client.answer().await;
    assert_eq!(answer.header("x-nearpool-pool"), Some("near"));
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    assert_eq!(answer.header("x-engine"), Some("yes"));
    assert!(answer.header("x-theirs").is_none() && answer.header("keep-alive").is_none());
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "x-nearpool-pool").count(), 1);
    assert!(!edge.log().iter().any(|line| line.to_string().contains("own-key")), "keys are not logged");
}

#[tokio::test]
async fn informational_heads_are_passed_over_and_trailers_are_dropped() {
    let mut replica = Scripted::start().await;
    let edge = edge_of(&replica, &[]).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &chat("x", 1))).await;
    let mut upstream = replica.next().await;
    upstream.send("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n").await;
    upstream
        .send(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\ncontent-type: application/json\r\n\r\n",
        )
        .await;
    upstream.chunk("{\"a\":").await;
    upstream.chunk("1}").await;
    upstream.send("0\r\nx-sum: 7\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"a\":1}"[..]));
    assert!(answer.header("trailer").is_none() && answer.header("x-sum").is_none());
    // The client's connection goes on, whatever became of the replica's.
    client.send(&post("/v1/chat/completions", &chat("x", 1))).await;
    let mut upstream = match tokio::time::timeout(std::time::Duration::from_secs(5), replica.next()).await {
        Ok(upstream) => upstream,
        Err(_) => upstream.next().await,
    };
    upstream.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::connect(edge.agents()).await;
    let mut all = Vec::new();
    for n in 0..20 {
        // Slow ones before fast ones, streams before whole answers, and answers of the edge's own between them.
        let body =
            with(chat("x", 1 + n % 3), json!({"stream": n % 4 == 0, "sim": {"tokens": 2, "prefill_ms": 20 * (n % 2)}}));
        let id = n.to_string();
        all.extend(match n % 5 {
            3 => request("GET", "/health", &[("x-request-id", &id)], b""),
            4 => post_with("/v1/chat/completions", &[("x-request-id", &id)], &with(body, json!({"model": "nobody"}))),
            _ => post_with("/v1/chat/completions", &[("x-request-id", &id)], &body),
        });
    }
    client.send(&all).await;
    for n in 0..20 {
        let answer = client.answer().await;
        assert_eq!(answer.header("x-request-id"), Some(n.to_string().as_str()));
        assert_eq!(answer.status, if n % 5 == 4 { 404 } else { 200 });
    }
    assert_eq!(replica.stats().cancelled_total, 0);
}

#[tokio::test]
async fn an_expectation_is_met_and_the_connection_is_kept() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::connect(edge.agents()).await;
    for _ in 0..3 {
        let body = chat("x", 1).to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        client.send(head.as_bytes()).await;
        assert_eq!(client.head().await.status, 100);
        client.send(body.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 200);
        assert_ne!(answer.header("connection"), Some("close"));
    }
    assert!(calls(&replica).iter().all(|call| !call.headers.contains_key("expect")));
    // What would be refused anyway is refused before the body is asked for, and the connection closed.
    let head =
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\nexpect: 100-continue\r\ncontent-length: 99999999999\r\n\r\n";
    let answer = client.call(head).await;
    assert_eq!((answer.status, code(&answer)), (413, json!("body_too_large")));
    assert_eq!(answer.header("connection"), Some("close"));
}

fn code(answer: &Answer) -> Value {
    json_body(answer)["error"]["code"].clone()
}

/// A request that the edge refuses; whether the connection can be used afterwards.
async fn refused(edge: &Edge, bytes: &[u8], status: u16, error: &str, kept: bool) {
    let what = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(bytes).await;
    assert_eq!((answer.status, code(&answer)), (status, json!(error)), "{what}");
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{what}");
    assert_eq!(answer.header("x-nearpool-edge"), Some("it"), "{what}");
    assert_eq!(answer.header("connection") == Some("close"), !kept, "{what}");
    if kept {
        assert_eq!(client.call(&post("/v1/chat/completions", &chat("x", 1))).await.status, 200, "{what}");
    } else {
        assert_eq!(client.until_closed().await.len(), 0, "{what}");
    }
}

#[tokio::test]
async fn bad_requests_get_a_clear_4xx_and_reach_no_replica() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica]).set("limits", "body", "\"64KiB\"")).await;
    let chat_of = |body: &str| request("POST", "/v1/chat/completions", &[], body.as_bytes());
    let raw = |head: &str| format!("POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n").into_bytes();
    let long = "x".repeat(70_000);
    let many: String = (0..120).map(|n| format!("x-{n}: 1\r\n")).collect();
    let cases: Vec<(Vec<u8>, u16, &str, bool)> = vec![
        (chat_of("no json"), 400, "bad_json", true),
        (chat_of("[]"), 400, "bad_json", true),
        (chat_of(""), 400, "bad_json", true),
        (chat_of("{\"model\":\"m\""), 400, "bad_json", true),
        (chat_of("{\"model\":\"m\",\"model\":\"m\"}"), 400, "bad_json", true),
        (chat_of("{\"messages\":[]}"), 400, "missing_model", true),
        (chat_of("{\"model\":7}"), 400, "bad_json", true),
        (chat_of("{\"model\":\"nobody\"}"), 404, "model_not_found", true),
        (chat_of(&format!("{{\"model\":\"m\",\"x\":\"{long}\"}}")), 413, "body_too_large", false),
        (request("GET", "/v1/chat/completions", &[], b""), 405, "method_not_allowed", true),
        (request("POST", "/health", &[], b""), 405, "method_not_allowed", true),
        (request("POST", "/v1/nothing", &[], b"{}"), 404, "not_found", false),
        (request("GET", "/", &[], b""), 404, "not_found", true),
        (request("POST", "/v1/../metrics", &[], b"{}"), 404, "not_found", false),
        (raw("host: e\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n"), 400, "ambiguous_framing", false),
        (raw("host: e\r\ncontent-length: 2\r\ncontent-length: 2\r\n"), 400, "ambiguous_framing", false),
        (raw("content-length: 2\r\n"), 400, "ambiguous_framing", false),
        (raw(&format!("host: e\r\nx: {long}\r\n")), 431, "headers_too_large", true),
        (raw(&format!("host: e\r\n{many}")), 431, "headers_too_large", true),
        (
            post_with("/v1/chat/completions", &[("x-session-id", &"s".repeat(300))], &chat("x", 1)),
            400,
            "bad_header",
            false,
        ),
        (b"GARBAGE\r\n\r\n".to_vec(), 400, "bad_header", false),
    ];
    for (bytes, status, error, kept) in cases {
        let before = calls(&replica).len();
        refused(&edge, &bytes, status, error, kept).await;
        assert_eq!(calls(&replica).len(), before + usize::from(kept));
    }
    // A body whose framing breaks.
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&raw("host: e\r\ntransfer-encoding: chunked\r\n")).await;
    client.send(b"zz\r\n{}\r\n0\r\n\r\n").await;
    assert_eq!(client.head().await.status, 400);
}

#[tokio::test]
async fn tls_speaks_http1_and_h2_by_alpn() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/files");
    let file = |name: &str| files.join(name).display().to_string();
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica]).tls(&file("edge.pem"), &file("edge.key"))).await;
    let stream = connect_tls(edge.tls(), &["http/1.1"]).await;
    let mut client = Http1::over_any(stream);
    for stream in [false, true, false] {
        let answer = client.call(&post("/v1/chat/completions", &with(chat("x", 3), json!({"stream": stream})))).await;
        assert_eq!(answer.status, 200);
    }
    let stream = connect_tls(edge.tls(), &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = crate::support::H2::over(stream).await;
    let answer = client.call("/v1/chat/completions", &[], &with(chat("x", 3), json!({"stream": true}))).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"));
    edge.wait_for_log(|line| line["http"] == "HTTP/2").await;
}

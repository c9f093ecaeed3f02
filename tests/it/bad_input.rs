//! Bad input over HTTP/1.1: a clear 4xx in the dialect's envelope, nothing forwarded, no panic, no 5xx.

use nearpool::sim::server::ReplicaHandle;
use serde_json::{Value, json};

use crate::support::{Answer, Edge, EdgeConfig, Http1, chat, json_body, post, post_with, request, sim, with};

const CHAT: &str = "/v1/chat/completions";

/// An edge with one replica that must never be asked.
struct Quiet {
    edge: Edge,
    replica: ReplicaHandle,
}

impl Quiet {
    async fn start() -> Quiet {
        Quiet::start_with(|config| config).await
    }

    async fn start_with(change: impl FnOnce(EdgeConfig) -> EdgeConfig) -> Quiet {
        let replica = sim("a").await;
        let edge = Edge::start(change(EdgeConfig::of(&[&replica]))).await;
        Quiet { edge, replica }
    }

    async fn connect(&self) -> Http1 {
        Http1::connect(self.edge.agents()).await
    }

    /// Sends these bytes on a connection of their own and reads the answer.
    async fn ask(&self, bytes: &[u8]) -> Answer {
        let mut client = self.connect().await;
        // It may be refused before it is sent whole.
        let _ = client.try_send(bytes).await;
        client.answer().await
    }

    #[track_caller]
    fn nothing_was_forwarded(&self) {
        let asked: Vec<String> = self.replica.requests().iter().map(|request| request.path.clone()).collect();
        assert!(
            asked.iter().all(|path| ["/health", "/v1/models"].contains(&path.as_str())),
            "the replica was asked {asked:?}"
        );
        let log = self.edge.log();
        assert!(log.iter().all(|line| line["status"].as_u64() < Some(500)), "{log:#?}");
    }
}

/// The answer is this refusal, in OpenAI's envelope. Returns the message.
#[track_caller]
fn refused(answer: &Answer, status: u16, code: &str) -> String {
    let body = json_body(answer);
    assert_eq!((answer.status, body["error"]["code"].as_str()), (status, Some(code)), "{body}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert!(answer.header("x-request-id").is_some() && answer.header("x-nearpool-edge") == Some("it"));
    body["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_400_and_says_where() {
    let quiet = Quiet::start().await;
    let deep = format!("{{\"model\":\"m\",\"messages\":{}{}}}", "[".repeat(128), "]".repeat(128));
    let cases: &[(&[u8], &str)] = &[
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b"model=m", "byte 0"),
        (b"[{\"model\":\"m\"}]", "not a JSON object"),
        (b"\"m\"", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{\"model\":\"m\",\"messages\":[{\"role\":\"us", "ends after"),
        (b"{\"model\":\"m\"} {}", "byte 14"),
        (b"{\"model\":\"m\",}", "byte 13"),
        (b"{'model':'m'}", "byte 1"),
        (b"{\"model\":\"m\",\"x\":01}", "byte"),
        (b"{\"model\":\"m\",\"x\":\"\x01\"}", "byte"),
        (b"{\"model\":\"m\",\"x\":NaN}", "byte"),
        (b"\xef\xbb\xbf{\"model\":\"m\"}", "byte 0"),
        (b"\x1f\x8b\x08\x00\x00", "byte 0"),
        (b"\x00", "byte 0"),
        (deep.as_bytes(), "deeper than 128"),
    ];
    let mut client = quiet.connect().await;
    for (body, says) in cases {
        // One connection for all of them: a body that was read whole leaves no doubt of where the next request begins.
        let answer = client.call(&request("POST", CHAT, &[], body)).await;
        let message = refused(&answer, 400, "bad_json");
        assert!(message.contains(says), "{message}");
    }
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn keys_that_steer_routing_stand_once_and_have_their_type() {
    let quiet = Quiet::start().await;
    let mut client = quiet.connect().await;
    for (body, says) in [
        (r#"{"model":"m","model":"m"}"#, "'model' stands twice"),
        (r#"{"model":"m","\u006dodel":"n"}"#, "'model' stands twice"),
        (r#"{"model":"m","mode\u006C":"n"}"#, "'model' stands twice"),
        (r#"{"model":"m","stream":true,"stream":false}"#, "'stream' stands twice"),
        (r#"{"model":"m","stream":true,"str\u0065am":true}"#, "'stream' stands twice"),
        (r#"{"model":"m","stream":"true"}"#, "true or false"),
        (r#"{"model":"m","stream":1}"#, "true or false"),
        (r#"{"model":7}"#, "must be a string"),
        (r#"{"model":null}"#, "must be a string"),
        (r#"{"model":["m"]}"#, "must be a string"),
        (r#"{"model":"\ud800"}"#, "not Unicode"),
    ] {
        let answer = client.call(&request("POST", CHAT, &[], body.as_bytes())).await;
        let message = refused(&answer, 400, "bad_json");
        assert!(message.contains(says), "{body}: {message}");
    }
    let long = json!({"model": "m".repeat(100_000), "messages": []});
    let message = refused(&client.call(&post(CHAT, &long)).await, 400, "bad_json");
    assert!(message.contains("longer than"), "{message}");
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn a_missing_or_unknown_model_is_told_with_the_known_ones() {
    let quiet = Quiet::start_with(|config| config.model("m", &["served_as = \"x\"", "aliases = [\"small\"]"])).await;
    let mut client = quiet.connect().await;
    let missing = client.call(&post(CHAT, &json!({"messages": []}))).await;
    assert!(refused(&missing, 400, "missing_model").contains("model"));
    assert_eq!(json_body(&missing)["error"]["param"], "model");
    for asked in ["gpt-4", "", "M", "m ", "<script>\u{1b}[31m"] {
        let answer = client.call(&post(CHAT, &json!({"model": asked, "messages": []}))).await;
        let message = refused(&answer, 404, "model_not_found");
        assert!(message.contains("known names: m"), "{message}");
        assert!(!message.contains('\u{1b}'), "{message:?}");
    }
    let auto = client.call(&post(CHAT, &json!({"model": "auto", "messages": []}))).await;
    assert!(refused(&auto, 404, "model_not_found").contains("[steps]"));
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn anthropics_clients_get_their_envelope() {
    let quiet = Quiet::start().await;
    let version = ("anthropic-version", "2023-06-01");
    let calls: Vec<(Vec<u8>, u16, &str)> = vec![
        (request("POST", "/v1/messages", &[], b"{"), 400, "invalid_request_error"),
        (post("/v1/messages", &json!({"model": "x"})), 404, "not_found_error"),
        (request("POST", "/v1/messages", &[("content-length", "99999999999")], b""), 400, "invalid_request_error"),
        (b"POST /v1/messages HTTP/1.1\r\nhost: e\r\ncontent-length: 99999999\r\n\r\n".into(), 413, "request_too_large"),
        (request("GET", "/v1/messages", &[], b""), 405, "invalid_request_error"),
        (request("GET", "/v1/nothing", &[version], b""), 404, "not_found_error"),
        (request("DELETE", "/v1/models", &[version], b""), 405, "invalid_request_error"),
    ];
    for (bytes, status, kind) in calls {
        let answer = quiet.ask(&bytes).await;
        let body = json_body(&answer);
        assert_eq!(answer.status, status, "{body}");
        assert_eq!(body["type"], "error", "{body}");
        assert_eq!(body["error"]["type"], kind, "{body}");
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()));
        assert_eq!(body["request_id"].as_str(), answer.header("x-request-id"));
    }
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn the_log_says_who_asked_for_what_also_where_no_model_was_asked_for() {
    let quiet = Quiet::start().await;
    for (method, path, status, told) in [
        ("GET", "/health", 200, "/health"),
        ("GET", "/v1/models", 200, "/v1/models"),
        ("GET", CHAT, 405, CHAT),
        // A path that is none of ours may hold anything.
        ("GET", "/secret", 404, ""),
    ] {
        assert_eq!(quiet.ask(&request(method, path, &[("x-request-id", path)], b"")).await.status, status);
        let line = quiet.edge.wait_for_log(|line| line["request_id"] == path).await;
        assert_eq!((line["endpoint"].as_str(), line["client"].is_string()), (Some(told), true), "{line}");
    }
}

#[tokio::test]
async fn only_the_contracts_paths_and_methods_are_served() {
    let quiet = Quiet::start().await;
    let body = chat("hi", 1).to_string();
    for path in [
        "/",
        "/v1",
        "/v1/chat",
        "/v1/chat/completions/",
        "/v1//chat/completions",
        "/v1/chat/completions/../completions",
        "/V1/chat/completions",
        "/v1/chat%2fcompletions",
        "/metrics",
        "/status",
        "/config",
        "/sim/fault",
        "/v1/chat/completions;x",
        "/v1/chat/completions\0",
    ] {
        let answer = quiet.ask(&request("POST", path, &[], body.as_bytes())).await;
        refused(&answer, 404, "not_found");
    }
    // A base URL with its /v1 left out, or twice in it.
    for (path, meant) in [
        ("/chat/completions", Some(CHAT)),
        ("/v1/v1/messages", Some("/v1/messages")),
        ("/v1/v1", None),
        ("/v2/messages", None),
    ] {
        let message = refused(&quiet.ask(&request("POST", path, &[], body.as_bytes())).await, 404, "not_found");
        assert_eq!(message.contains("base URL"), meant.is_some(), "{message}");
        assert!(meant.is_none_or(|meant| message.contains(&format!("if {meant} is meant"))), "{message}");
    }
    for (method, path, allow) in [
        ("GET", CHAT, "POST"),
        ("PUT", CHAT, "POST"),
        ("OPTIONS", CHAT, "POST"),
        ("TRACE", CHAT, "POST"),
        ("post", CHAT, "POST"),
        ("BREW", CHAT, "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/v1/models", "GET, HEAD"),
    ] {
        let answer = quiet.ask(&request(method, path, &[], b"")).await;
        refused(&answer, 405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
    refused(&quiet.ask(&request("OPTIONS", "*", &[], b"")).await, 404, "not_found");
    let mut tunnel = quiet.connect().await;
    let answer = tunnel.call(b"CONNECT replica:8000 HTTP/1.1\r\nhost: replica:8000\r\n\r\n").await;
    refused(&answer, 405, "method_not_allowed");
    assert!(answer.header("allow").is_some());
    assert!(tunnel.until_closed().await.is_empty());
    quiet.nothing_was_forwarded();
}

/// Heads that can be read in two ways or in none. Whatever follows them on the connection must not be served.
const AMBIGUOUS: &[(&str, &str)] = &[
    ("length and chunked", "content-length: 5\r\ntransfer-encoding: chunked"),
    ("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
    ("length 0 and chunked", "content-length: 0\r\ntransfer-encoding: chunked"),
    ("equal lengths", "content-length: 5\r\ncontent-length: 5"),
    ("equal lengths of nothing", "content-length: 0\r\ncontent-length: 0"),
    ("differing lengths", "content-length: 5\r\ncontent-length: 6"),
    ("lengths in a list", "content-length: 5, 6"),
    ("equal lengths in a list", "content-length: 5, 5"),
    ("chunked, then identity", "transfer-encoding: chunked, identity"),
    ("gzip, then chunked", "transfer-encoding: gzip, chunked"),
    ("chunked twice", "transfer-encoding: chunked\r\ntransfer-encoding: chunked"),
    ("chunked twice in a list", "transfer-encoding: chunked, chunked"),
    ("identity, then chunked", "transfer-encoding: identity\r\ntransfer-encoding: chunked"),
    ("xchunked", "transfer-encoding: xchunked"),
    ("quoted chunked", "transfer-encoding: \"chunked\""),
    ("vertical tab", "transfer-encoding: \x0bchunked"),
    ("no coding", "transfer-encoding:"),
    ("negative length", "content-length: -5"),
    ("signed length", "content-length: +5"),
    ("hexadecimal length", "content-length: 0x5"),
    ("length with a space", "content-length: 5 5"),
    ("no number", "content-length: five"),
    ("no length at all", "content-length:"),
    ("huge length", "content-length: 99999999999999999999999999"),
    ("space before the colon", "content-length : 5"),
    ("tab before the colon", "transfer-encoding\t: chunked"),
    ("folded line", "x-a: b\r\n content-length: 5"),
    ("folded coding", "transfer-encoding:\r\n chunked"),
    ("bare carriage return", "x-a: b\rcontent-length: 5"),
    ("nul", "x-a: b\0c"),
    ("nul in a name", "x\0a: b"),
    ("no colon", "x-a"),
    ("empty name", ": b"),
    ("two hosts", "host: other"),
    ("the same host twice", "host: edge"),
];

#[tokio::test]
async fn a_head_that_can_be_read_in_two_ways_is_400_and_ends_the_connection() {
    let quiet = Quiet::start().await;
    for (name, lines) in AMBIGUOUS {
        let mut client = quiet.connect().await;
        let smuggled = String::from_utf8(post(CHAT, &chat("smuggled", 1))).unwrap();
        let bytes = format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\n{lines}\r\n\r\n0\r\n\r\n{smuggled}{smuggled}");
        let _ = client.try_send(bytes.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{name}: {}", json_body(&answer));
        assert!(json_body(&answer)["error"]["code"].is_string(), "{name}");
        assert_eq!(answer.header("connection"), Some("close"), "{name}");
        assert!(client.until_closed().await.is_empty(), "{name}: something was answered after it");
    }
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn a_request_line_that_is_none_is_400_and_ends_the_connection() {
    let quiet = Quiet::start().await;
    let cases: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/0.9\r\n\r\n",
        b"GET /health HTTP/3.0\r\nhost: e\r\n\r\n",
        b"GET /health HTTP/1.1.1\r\nhost: e\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello over tls\r\n\r\n",
        b"\0\0\0\0\r\n\r\n",
        b"\xff\xfe\xfd GET / HTTP/1.1\r\nhost: e\r\n\r\n",
        b"G\0T /health HTTP/1.1\r\nhost: e\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.0\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST http://other/v1/chat/completions HTTP/1.1\r\nhost: edge\r\ncontent-length: 0\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ];
    for bytes in cases {
        let name = bytes.escape_ascii().to_string();
        let mut client = quiet.connect().await;
        let _ = client.try_send(bytes).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 400, "{name}");
        assert!(json_body(&answer)["error"]["code"].is_string(), "{name}");
        assert!(client.until_closed().await.is_empty(), "{name}");
    }
    let lines = quiet.edge.wait_for_logs(cases.len(), |line| line["status"] == 400).await;
    assert!(lines.iter().all(|line| line["client"].is_string()), "{lines:?}");
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn the_absolute_form_of_a_target_is_served_as_its_path() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(&post("http://localhost/v1/chat/completions?a=b", &chat("hi", 1))).await;
    assert_eq!(answer.status, 200);
    let asked = replica.requests().pop().unwrap();
    assert_eq!(asked.path, "/v1/chat/completions?a=b");
    assert_eq!(asked.headers["host"], replica.addr().to_string());
}

#[tokio::test]
async fn heads_over_their_limits_are_431_and_the_answer_arrives() {
    let quiet = Quiet::start().await;
    let body = chat("hi", 1).to_string();
    let long = "a".repeat(70_000);
    let many: Vec<String> = (0..120).map(|n| format!("x-{n}")).collect();
    let too_many: Vec<String> = (0..400).map(|n| format!("x-{n}")).collect();
    let lines = |names: &[String]| names.iter().map(|name| format!("{name}: v\r\n")).collect::<String>();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\ncontent-length: {}\r\n", body.len());
    for (name, bytes) in [
        ("one long header", format!("{head}x-long: {long}\r\n\r\n{body}")),
        ("many headers", format!("{head}{}\r\n{body}", lines(&many))),
        ("more than the framework reads", format!("{head}{}\r\n{body}", lines(&too_many))),
        (
            "a long target",
            format!("POST /{} HTTP/1.1\r\nhost: edge\r\nx: {}\r\n\r\n", &long[..60_000], &long[..10_000]),
        ),
        ("a head without end", format!("{head}x-long: {}", "a".repeat(3 << 20))),
    ] {
        let mut client = quiet.connect().await;
        let _ = client.try_send(bytes.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 431, "{name}: {}", json_body(&answer));
        refused(&answer, 431, "headers_too_large");
    }
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn a_body_over_its_limit_is_413_before_it_is_sent() {
    let quiet = Quiet::start_with(|config| config.set("limits", "body", "\"64KiB\"")).await;
    let head = |more: &str| format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\n{more}\r\n\r\n");
    for more in ["content-length: 65537", "content-length: 65537\r\nexpect: 100-continue"] {
        let mut client = quiet.connect().await;
        client.send(head(more).as_bytes()).await;
        // No `100 Continue` comes before it.
        let answer = client.answer().await;
        let message = refused(&answer, 413, "body_too_large");
        assert!(message.contains("65536"), "{message}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(client.until_closed().await.is_empty());
    }
    // By count: a chunked body tells no length.
    let mut client = quiet.connect().await;
    client.send(head("transfer-encoding: chunked").as_bytes()).await;
    let chunk = format!("4000\r\n{}\r\n", "a".repeat(0x4000));
    client.send(format!("4000\r\n{{\"a\":\"{}\r\n", "a".repeat(0x4000 - 6)).as_bytes()).await;
    for _ in 0..64 {
        if client.try_send(chunk.as_bytes()).await.is_err() {
            break;
        }
    }
    refused(&client.answer().await, 413, "body_too_large");
    // Exactly at the limit it passes on to the next check.
    let padding = "x".repeat(65_536 - r#"{"model":"none","x":""}"#.len());
    let body = format!(r#"{{"model":"none","x":"{padding}"}}"#);
    assert_eq!(body.len(), 65_536);
    refused(&quiet.ask(&request("POST", CHAT, &[], body.as_bytes())).await, 404, "model_not_found");
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn a_client_that_sends_on_after_a_refusal_still_reads_it() {
    let quiet = Quiet::start_with(|config| config.set("limits", "body", "\"64KiB\"")).await;
    let mut client = quiet.connect().await;
    // Eight MiB, of which the edge wants nothing: were it to close at once, a reset would overtake its answer.
    let bytes = request("POST", CHAT, &[], &vec![b'a'; 8 << 20]);
    let _ = client.try_send(&bytes).await;
    refused(&client.answer().await, 413, "body_too_large");
}

#[tokio::test]
async fn broken_chunks_are_400_and_end_the_connection() {
    let quiet = Quiet::start().await;
    let body = chat("hi", 1).to_string();
    let smuggled = String::from_utf8(post(CHAT, &chat("smuggled", 1))).unwrap();
    let size = body.len();
    for (name, bytes) in [
        ("no hexadecimal size", format!("zz\r\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("empty size", format!("\r\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("negative size", format!("-1\r\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("prefixed size", format!("0x{size:x}\r\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("size over 64 bits", format!("1{size:016x}\r\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("largest size", format!("ffffffffffffffff\r\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("chunk longer than its size", format!("1\r\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("chunk without its end", format!("{size:x}\r\n{body}0\r\n\r\n{smuggled}")),
        ("line feed in an extension", format!("{size:x};a\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("bare line feed after a size", format!("{size:x}\n{body}\r\n0\r\n\r\n{smuggled}")),
        ("nul size", format!("\0\r\n{body}\r\n0\r\n\r\n{smuggled}")),
    ] {
        let mut client = quiet.connect().await;
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\ntransfer-encoding: chunked\r\n\r\n");
        let _ = client.try_send(format!("{head}{bytes}").as_bytes()).await;
        client.half_close().await;
        let text = client.until_closed().await.escape_ascii().to_string();
        // Of a chunk that never comes whole there is nothing to say: the client has gone.
        assert!(text.starts_with("HTTP/1.1 4") || name == "largest size" && text.is_empty(), "{name}: {text}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), usize::from(!text.is_empty()), "{name}: {text}");
    }
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn what_follows_chunks_is_never_taken_for_a_request() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let body = chat("outer", 1).to_string();
    let smuggled = String::from_utf8(post(CHAT, &chat("smuggled", 1))).unwrap();
    let size = body.len();
    // The framework reads an empty line as the last chunk's size.
    for end in ["0\r\n\r\n", "\r\n\r\n", "00000\r\n\r\n", "0;a=b\r\nx: y\r\n\r\n"] {
        let mut client = Http1::connect(edge.agents()).await;
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\ntransfer-encoding: chunked\r\n\r\n");
        client.send(format!("{head}{size:x}\r\n{body}\r\n{end}{smuggled}").as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.header("connection"), Some("close"), "{end:?}: {}", answer.status);
        assert!(client.until_closed().await.is_empty(), "{end:?}");
    }
    assert!(replica.requests().iter().all(|request| request.body.windows(5).any(|five| five == b"outer")));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_forwarded() {
    let quiet = Quiet::start().await;
    let body = chat("hi", 1).to_string();
    let large = chat(&"hi ".repeat(50_000), 1).to_string();
    let cases = [
        format!("content-length: {}\r\n\r\n{body}", body.len() + 1),
        format!("content-length: {}\r\n\r\n{large}", large.len() + 1),
        format!("content-length: {}\r\n\r\n{}", large.len(), &large[..4090]),
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len()),
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n", body.len()),
        format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}", body.len() + 5),
    ];
    for bytes in &cases {
        let mut client = quiet.connect().await;
        client.send(format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\n{bytes}").as_bytes()).await;
        client.half_close().await;
        let rest = client.until_closed().await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 4"), "{}", rest.escape_ascii());
    }
    let lines = quiet.edge.wait_for_logs(cases.len(), |line| line["outcome"] == "client_gone").await;
    assert_eq!(lines.len(), cases.len());
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn a_compressed_body_is_400() {
    let quiet = Quiet::start().await;
    let body = chat("hi", 1);
    for coding in ["gzip", "br", "zstd", "deflate", "identity, gzip"] {
        let answer = quiet.ask(&post_with(CHAT, &[("content-encoding", coding)], &body)).await;
        assert!(refused(&answer, 400, "bad_header").contains("Content-Encoding"));
    }
    let both = [("content-encoding", "identity"), ("content-encoding", "gzip")];
    refused(&quiet.ask(&post_with(CHAT, &both, &body)).await, 400, "bad_header");
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn a_header_that_steers_routing_is_short_single_and_visible() {
    let quiet = Quiet::start().await;
    let body = chat("hi", 1).to_string();
    for (name, lines) in [
        ("too long", format!("x-session-id: {}\r\n", "s".repeat(257))),
        ("tab inside", "x-session-id: a\tb\r\n".to_owned()),
        ("beyond ascii", "x-session-id: caf\u{e9}\r\n".to_owned()),
        ("two values", "x-session-id: a\r\nx-session-id: b\r\n".to_owned()),
        ("two steps", "x-agent-step: planner\r\nx-agent-step: evaluator\r\n".to_owned()),
        ("long step", format!("x-agent-step: {}\r\n", "s".repeat(257))),
        ("unknown expectation", "expect: 200-ok\r\n".to_owned()),
    ] {
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\n{lines}content-length: {}\r\n\r\n", body.len());
        let answer = quiet.ask(format!("{head}{body}").as_bytes()).await;
        let message = refused(&answer, 400, "bad_header");
        assert!(!message.contains('\u{e9}'), "{name}: {message}");
    }
    for control in ["\x01", "\x7f", "\x0b", "\x1b[31m"] {
        let head =
            format!("POST {CHAT} HTTP/1.1\r\nhost: edge\r\nx-session-id: a{control}b\r\ncontent-length: 0\r\n\r\n");
        let answer = quiet.ask(head.as_bytes()).await;
        assert_eq!(answer.status, 400, "{control:?}");
    }
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn the_next_request_is_never_read_out_of_a_body() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let smuggled = String::from_utf8(post(CHAT, &chat("smuggled", 1))).unwrap();
    let inside = |text: &str| with(chat("outer", 1), json!({"padding": text}));
    // A whole request as part of a body is nothing but text.
    let mut client = Http1::connect(edge.agents()).await;
    let large = smuggled.repeat(30);
    for text in [&smuggled, &large] {
        assert_eq!(client.call(&post(CHAT, &inside(text))).await.status, 200);
    }
    // A refused body's rest is not taken for a request either: the connection ends.
    let refusals = [
        format!("POST /v1/nothing HTTP/1.1\r\nhost: e\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("GET /health HTTP/1.1\r\nhost: e\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("POST {CHAT} HTTP/1.1\r\nhost: e\r\ncontent-length: {}\r\n\r\nxx{smuggled}", smuggled.len() + 2),
        format!("POST {CHAT} HTTP/1.1\r\nhost: e\r\ncontent-length: {}\r\n\r\nxx{large}", large.len() + 2),
        format!("POST {CHAT} HTTP/1.1\r\nhost: e\r\ncontent-length: {}\r\n\r\n{{}}{large}", large.len() + 2),
        format!("POST /v1/nothing HTTP/1.1\r\nhost: e\r\ncontent-length: {}\r\n\r\n{large}", large.len()),
        format!("POST {CHAT} HTTP/1.1\r\nhost: e\r\nexpect: x\r\ncontent-length: {}\r\n\r\n{smuggled}", smuggled.len()),
        format!("GET /v1/models HTTP/1.1\r\nhost: e\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"),
    ];
    for bytes in &refusals {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(bytes.as_bytes()).await;
        client.half_close().await;
        let text = String::from_utf8(client.until_closed().await.to_vec()).unwrap();
        let answers = text.matches("HTTP/1.1 ").count();
        assert_eq!(answers, 1, "{bytes}\n{text}");
    }
    let prompts: Vec<Value> =
        replica.requests().iter().filter_map(|request| serde_json::from_slice(&request.body).ok()).collect();
    let asked = |text: &str| prompts.iter().filter(|body| body["messages"][0]["content"] == text).count();
    assert_eq!(asked("outer"), 2);
    assert_eq!(asked("smuggled"), 0, "{prompts:?}");
}

/// What stands behind one body is the next head, wherever the reads end: at the head's end, within it, within the body.
#[tokio::test]
async fn bodies_of_every_length_are_read_to_their_end_and_no_further() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let text = |len: usize| "0123456789abcdef".repeat(len / 16 + 1)[..len].to_owned();
    let lengths = [0, 3_900, 4_000, 4_100, 8_192, 65_300, 65_536, 69_632, 200_000];
    let asked = |len: usize| post_with(CHAT, &[("x-request-id", &format!("of-{len}"))], &chat(&text(len), 1));
    let all = lengths.map(asked).concat();
    for piece in [all.len(), 4_096, 1_000] {
        let mut client = Http1::connect(edge.agents()).await;
        for bytes in all.chunks(piece) {
            client.send(bytes).await;
        }
        for len in lengths {
            let answer = client.answer().await;
            let id = format!("of-{len}");
            assert_eq!((answer.status, answer.header("x-request-id")), (200, Some(id.as_str())), "{piece}");
        }
    }
    let got: Vec<usize> = replica
        .requests()
        .iter()
        .filter_map(|request| serde_json::from_slice::<Value>(&request.body).ok())
        .filter_map(|body| {
            body["messages"][0]["content"].as_str().map(|got| (got == text(got.len())).then_some(got.len()))
        })
        .map(|len| len.expect("the text that was sent"))
        .collect();
    assert_eq!(got, lengths.repeat(3));
}

/// The framework rewrites a target with spaces, and takes bare line feeds for line ends: neither may shift where the body of
/// a request is looked for, however the lengths fall.
#[tokio::test]
async fn a_rewritten_target_does_not_move_the_body() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let inside = "GET /health HTTP/1.1\r\nhost: smuggled\r\n\r\n";
    let json = with(chat("outer", 1), json!({"padding": "p".repeat(6_000)})).to_string();
    // Each space becomes three bytes: with half as many as stand before a blank line in the body, the lengths are the same.
    for (spaces, body) in [
        (inside.len() / 2, format!("{inside}{json}")),
        (inside.len() / 2 - 1, format!("{inside}{json}")),
        (2, format!("\r\n\r\n{json}")),
        (3, json.clone()),
    ] {
        for line in ["\n", "\r\n"] {
            let target = format!("{CHAT}?a{}b", " ".repeat(spaces));
            let head = format!("POST {target} HTTP/1.1{line}host: e{line}content-length: {}{line}{line}", body.len());
            let mut client = Http1::connect(edge.agents()).await;
            let answer = client.call(format!("{head}{body}").as_bytes()).await;
            let expected = if body.trim_start().starts_with('{') { 200 } else { 400 };
            assert_eq!(answer.status, expected, "{spaces} {line:?}");
            client.half_close().await;
            let more = client.until_closed().await;
            assert!(more.is_empty(), "{spaces} {line:?}: {}", more.escape_ascii());
        }
    }
}

/// A body that was read to its end is no reason to close, whatever its last byte is.
#[tokio::test]
async fn a_body_that_is_refused_at_its_end_leaves_its_connection() {
    let quiet = Quiet::start().await;
    for len in [3_000, 5_000, 20_000, 200_000] {
        let mut client = quiet.connect().await;
        let body = format!("{{\"a\":\"{}\"]", "x".repeat(len));
        for _ in 0..2 {
            let head = format!("POST {CHAT} HTTP/1.1\r\nhost: e\r\ncontent-length: {}\r\n\r\n", body.len());
            let answer = client.call(format!("{head}{body}").as_bytes()).await;
            refused(&answer, 400, "bad_json");
            assert_ne!(answer.header("connection"), Some("close"), "{len}");
        }
    }
    quiet.nothing_was_forwarded();
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::connect(edge.agents()).await;
    let bytes = [
        post_with(CHAT, &[("x-request-id", "one")], &chat("1", 1)),
        request("GET", "/v1/nothing", &[("x-request-id", "two")], b""),
        post_with(CHAT, &[("x-request-id", "three")], &with(chat("3", 2), json!({"stream": true}))),
        request("GET", "/health", &[("x-request-id", "four")], b""),
    ];
    client.send(&bytes.concat()).await;
    for (id, status) in [("one", 200), ("two", 404), ("three", 200), ("four", 200)] {
        let answer = client.answer().await;
        assert_eq!((answer.header("x-request-id"), answer.status), (Some(id), status));
    }
}

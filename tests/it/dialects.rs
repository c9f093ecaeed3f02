//! Every dialect from end to end, and what engines' own errors become.

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use crate::support::{
    Answer, Edge, EdgeConfig, H2, Http1, Pool, SERVED, Scripted, calls, chat, json_body, post, post_with, request, sim,
};

/// Every endpoint with a request and a word that its answer must hold.
fn endpoints() -> [(&'static str, Value, &'static str); 6] {
    let messages = json!([{"role": "user", "content": "Hello"}]);
    [
        ("/v1/chat/completions", json!({"model": "m", "messages": messages}), "chat.completion"),
        ("/v1/completions", json!({"model": "m", "prompt": "Hello"}), "text_completion"),
        ("/v1/responses", json!({"model": "m", "input": "Hello"}), "output_text"),
        ("/v1/embeddings", json!({"model": "m", "input": ["a", "b"]}), "embedding"),
        (
            "/v1/messages",
            json!({"model": "m", "messages": messages, "max_tokens": 9}),
            "end_turn\":null|max_tokens|end_turn",
        ),
        ("/v1/messages/count_tokens", json!({"model": "m", "messages": messages}), "input_tokens"),
    ]
}

#[track_caller]
fn check_receipt(answer: &Answer, routed: bool) {
    assert_eq!(answer.header("x-nearpool-edge"), Some("it"));
    assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()));
    assert!(answer.header("x-nearpool-attempts").is_some());
    let route = ["region", "pool", "replica", "model", "reason"];
    for name in route {
        assert_eq!(answer.header(&format!("x-nearpool-{name}")).is_some(), routed, "{name}: {answer:?}");
    }
    assert!(!answer.headers.iter().any(|(name, value)| name.starts_with("x-nearpool") && value.contains("127.")));
}

#[tokio::test]
async fn every_endpoint_is_served_over_http1_and_http2() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut http1 = Http1::connect(edge.agents()).await;
    let mut http2 = H2::connect(edge.agents()).await;
    for (path, body, word) in endpoints() {
        for answer in [http1.call(&post(path, &body)).await, http2.call(path, &[], &body).await] {
            assert_eq!(answer.status, 200, "{path}");
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            assert!(word.split('|').any(|word| text.contains(word)), "{path}: {text}");
            check_receipt(&answer, true);
            let got = calls(&replica).pop().unwrap();
            assert_eq!(got.path, path);
            assert_eq!(serde_json::from_slice::<Value>(&got.body).unwrap()["model"], SERVED);
        }
        let line = edge.wait_for_log(|line| line["endpoint"] == path).await;
        assert_eq!(line["outcome"], "ok");
    }
}

#[tokio::test]
async fn a_dialect_is_served_only_where_the_engine_speaks_it() {
    let replica = sim("a").await;
    let pool = Pool::new("near", "here", "m").sims(&[&replica]).line("engine = \"sglang\"");
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    let mut client = Http1::connect(edge.agents()).await;
    let (path, body, _) = &endpoints()[4];
    let answer = client.call(&post(path, body)).await;
    assert_eq!(answer.status, 400);
    assert_eq!(json_body(&answer)["type"], "error");
    assert_eq!(json_body(&answer)["error"]["type"], "invalid_request_error");
    check_receipt(&answer, false);
    assert_eq!(client.call(&post("/v1/chat/completions", &chat("x", 1))).await.status, 200);
}

#[tokio::test]
async fn models_are_listed_in_both_shapes_and_health_is_told() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(&request("GET", "/v1/models", &[], b"")).await;
    assert_eq!(json_body(&answer)["object"], "list");
    assert_eq!(json_body(&answer)["data"][0]["id"], "m");
    check_receipt(&answer, false);
    let answer = client.call(&request("GET", "/v1/models?limit=20", &[("anthropic-version", "2023-06-01")], b"")).await;
    assert_eq!(json_body(&answer)["data"][0]["type"], "model");
    let answer = client.call(&request("GET", "/health", &[], b"")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"ok\n"[..]));
    client.send(&request("HEAD", "/health", &[], b"")).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("3")));
    // No body follows a HEAD: the next answer does.
    assert_eq!(client.call(&request("GET", "/health", &[], b"")).await.body, "ok\n");
    assert_eq!(calls(&replica).len(), 0);
}

#[tokio::test]
async fn errors_come_in_the_dialects_envelope_with_the_known_names() {
    let replica = sim("a").await;
    let edge = Edge::start(
        EdgeConfig::of(&[&replica]).model("m", &[&format!("served_as = \"{SERVED}\""), "aliases = [\"small\"]"]),
    )
    .await;
    let mut client = Http1::connect(edge.agents()).await;
    for (path, mut body, _) in endpoints() {
        body["model"] = json!("nobody");
        let answer = client.call(&post(path, &body)).await;
        assert_eq!(answer.status, 404);
        check_receipt(&answer, false);
        let error = json_body(&answer);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("nobody") && message.ends_with("known names: m, small"), "{message}");
        if path.starts_with("/v1/messages") {
            assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!("not_found_error")));
        } else {
            assert_eq!(
                (&error["error"]["code"], &error["error"]["param"]),
                (&json!("model_not_found"), &json!("model"))
            );
        }
    }
}

#[tokio::test]
async fn an_engines_4xx_passes_as_it_is_and_is_never_held_against_it() {
    let mut replica = Scripted::start().await;
    let edge = Edge::start(EdgeConfig::scripted(&replica).set("circuit_breaker", "failure_threshold", "1")).await;
    let mut client = Http1::connect(edge.agents()).await;
    let mut upstream = None;
    for status in [400, 401, 403, 404, 409, 413, 422, 400, 451] {
        client.send(&post("/v1/chat/completions", &chat("x", 1))).await;
        let mut now = match upstream {
            None => replica.next().await,
            Some(upstream) => crate::support::Exchange::next(upstream).await,
        };
        let body = format!("{{\"own words\":{status}}}");
        now.answer(status, "x-engine: 1\r\n", &body).await;
        upstream = Some(now);
        let answer = client.answer().await;
        assert_eq!((answer.status, &answer.body[..], answer.header("x-engine")), (status, body.as_bytes(), Some("1")));
        assert_eq!(answer.header("x-nearpool-attempts"), Some("1"));
        check_receipt(&answer, true);
    }
    assert_eq!(edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"scripted\"}").await, 0.0);
    let line = edge.wait_for_log(|line| line["status"] == 451).await;
    assert_eq!((&line["outcome"], &line["blame"]), (&json!("client_error"), &json!("client")));
}

#[tokio::test]
async fn the_last_replicas_own_words_pass_when_all_fail() {
    let (a, b) = (sim("a").await, sim("b").await);
    let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
    for (status, retry_after_s, outcome) in
        [(503, Some(7), "busy"), (429, Some(7), "busy"), (500, None, "server_error")]
    {
        for replica in [&a, &b] {
            replica.set_fault(FaultPlan::from(Fault::Status { status, retry_after_s })).await.unwrap();
        }
        let mut client = Http1::connect(edge.agents()).await;
        for path in ["/v1/chat/completions", "/v1/messages"] {
            let body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1});
            let answer = client.call(&post(path, &body)).await;
            assert_eq!(answer.status, status);
            assert_eq!(json_body(&answer)["error"]["message"], "told to fail");
            assert_eq!(answer.header("retry-after"), retry_after_s.map(|_| "7"));
            assert_eq!(answer.header("x-nearpool-attempts"), Some("2"));
            check_receipt(&answer, true);
        }
        let lines = edge.wait_for_logs(2, |line| line["status"] == status).await;
        assert!(lines.iter().all(|line| line["outcome"] == outcome), "{lines:?}");
    }
    // Nothing to pass on: the edge's own words.
    a.set_fault(FaultPlan::from(Fault::Refuse)).await.unwrap();
    b.set_fault(FaultPlan::from(Fault::Refuse)).await.unwrap();
    let answer =
        Http1::connect(edge.agents()).await.call(&post("/v1/messages", &json!({"model": "m", "messages": []}))).await;
    assert_eq!((answer.status, &json_body(&answer)["error"]["type"]), (502, &json!("api_error")));
    check_receipt(&answer, true);
}

#[tokio::test]
async fn a_busy_replica_is_left_alone_and_never_counts_as_broken() {
    let (a, b) = (sim("a").await, sim("b").await);
    let edge = Edge::start(EdgeConfig::of(&[&a, &b]).set("circuit_breaker", "failure_threshold", "1")).await;
    a.set_fault(FaultPlan::from(Fault::Status { status: 503, retry_after_s: Some(3_600) })).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    let mut met = 0;
    for n in 0..30 {
        let headers = [("x-session-id", format!("s{n}"))];
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let answer = client.call(&post_with("/v1/chat/completions", &headers, &chat("x", 1))).await;
        assert_eq!((answer.status, answer.header("x-sim-replica")), (200, Some("b")));
        met += usize::from(answer.header("x-nearpool-attempts") == Some("2"));
    }
    assert_eq!(met, 1, "it was asked again before its time");
    assert_eq!(edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"a\"}").await, 0.0);
}

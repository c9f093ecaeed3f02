//! A client that goes away cancels its request at the replica, at once and at any point.

use nearpool::sim::server::ReplicaHandle;
use serde_json::{Value, json};

use crate::support::{Edge, EdgeConfig, H2, Http1, Pool, Scripted, chat, post, sim, soon, with};

/// When the client goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// While the replica computes the prompt.
    BeforeTheFirstByte,
    /// Between two events.
    MidStream,
}

/// How the client goes.
#[derive(Clone, Copy, Debug)]
enum How {
    Fin,
    Rst,
    /// An HTTP/2 stream is reset.
    StreamReset,
    /// An HTTP/2 connection ends.
    ConnectionEnd,
}

/// A call that takes minutes, to the first event or from event to event.
fn endless(when: When, stream: bool) -> Value {
    let pace = match when {
        When::BeforeTheFirstByte => json!({"tokens": 100, "prefill_ms": 600_000}),
        When::MidStream => json!({"tokens": 100_000, "itl_ms": 20}),
    };
    with(chat("x", 1), json!({"stream": stream, "sim": pace}))
}

async fn check(edge: &Edge, replica: &ReplicaHandle, when: When, how: How, stream: bool) {
    let what = format!("{when:?} {how:?} stream {stream}");
    let before = replica.stats();
    let lines = edge.log().len();
    let body = endless(when, stream);
    let begun = || soon(replica.wait_for(|stats| stats.engine.running == before.engine.running + 1));
    match how {
        How::Fin | How::Rst => {
            let mut client = Http1::connect(edge.agents()).await;
            client.send(&post("/v1/chat/completions", &body)).await;
            begun().await;
            if when == When::MidStream {
                assert_eq!(client.head().await.status, 200);
                client.chunk().await.unwrap().unwrap();
            }
            match how {
                How::Fin => client.close().await,
                _ => client.reset(),
            }
        }
        How::StreamReset | How::ConnectionEnd => {
            let mut client = H2::connect(edge.agents()).await;
            let answer = tokio::spawn(client.send("/v1/chat/completions", &[], body.to_string()));
            begun().await;
            let mut kept = None;
            if when == When::MidStream {
                kept = Some(answer.await.unwrap().unwrap());
            } else if matches!(how, How::StreamReset) {
                answer.abort();
            }
            match how {
                How::StreamReset => drop(kept),
                _ => client.close(),
            }
        }
    }
    soon(replica.wait_for(|stats| stats.cancelled_total == before.cancelled_total + 1)).await;
    let all = edge.wait_for_logs(lines + 1, |_| true).await;
    let line = all.last().unwrap();
    assert_eq!((&line["outcome"], &line["blame"]), (&json!("client_gone"), &json!("client")), "{what}");
    let status = if when == When::MidStream { 200 } else { 499 };
    assert_eq!(line["status"], status, "{what}");
    assert_eq!(line["attempts"], 1, "{what}");
}

async fn cancels(http2: bool) {
    let replica = sim("a").await;
    let pool = Pool::new("near", "here", "m").sims(&[&replica]).line(&format!("http2 = {http2}"));
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    for how in [How::Fin, How::Rst, How::StreamReset, How::ConnectionEnd] {
        check(&edge, &replica, When::BeforeTheFirstByte, how, false).await;
        check(&edge, &replica, When::BeforeTheFirstByte, how, true).await;
        check(&edge, &replica, When::MidStream, how, true).await;
    }
    edge.wait_until_idle("near", "a").await;
    soon(replica.wait_for(|stats| stats.engine.running == 0)).await;
    // None of it was the replica's fault.
    assert_eq!(edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"a\"}").await, 0.0);
    let answer = Http1::connect(edge.agents()).await.call(&post("/v1/chat/completions", &chat("x", 1))).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    cancels(false).await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request_over_http2() {
    cancels(true).await;
}

#[tokio::test]
async fn a_client_that_leaves_between_two_attempts_is_noticed() {
    let replica = sim("a").await;
    let fault = nearpool::sim::server::Fault::Stall;
    replica.set_fault(nearpool::sim::server::FaultPlan::from(fault)).await.unwrap();
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &chat("x", 1))).await;
    soon(replica.wait_for(|stats| stats.faults_total == 1)).await;
    client.close().await;
    edge.wait_for_log(|line| line["outcome"] == "client_gone").await;
    edge.wait_until_idle("near", "a").await;
}

#[tokio::test]
async fn a_client_that_leaves_within_its_body_is_logged_and_reaches_no_replica() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    for reset in [false, true] {
        let mut client = Http1::connect(edge.agents()).await;
        client
            .send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 1000\r\n\r\n{\"model\":\"m\",")
            .await;
        if reset { client.reset() } else { client.close().await }
    }
    let lines = edge.wait_for_logs(2, |line| line["outcome"] == "client_gone").await;
    assert!(lines.iter().all(|line| line["attempts"] == 0));
    assert_eq!(crate::support::calls(&replica).len(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_behind_a_pipelined_request_is_noticed_while_the_replica_is_silent() {
    let mut replica = Scripted::start().await;
    let edge = Edge::start(EdgeConfig::scripted(&replica)).await;
    let next = post("/v1/chat/completions", &chat("next", 1));
    let mut logged = 0;
    for stream in [true, false] {
        for begun in [false, true] {
            for sent in [&next[..1], &next[..next.len() - 1], &next[..], &next.repeat(20)[..]] {
                for how in [How::Fin, How::Rst] {
                    let what = format!("stream {stream}, begun {begun}, {} bytes, {how:?}", sent.len());
                    let mut client = Http1::connect(edge.agents()).await;
                    client.send(&post("/v1/chat/completions", &with(chat("x", 1), json!({"stream": stream})))).await;
                    let mut upstream = replica.next().await;
                    match (begun, stream) {
                        (true, true) => {
                            upstream.begin_stream().await;
                            upstream.chunk("data: {\"choices\":[]}\n\n").await;
                            assert_eq!(client.head().await.status, 200);
                            client.chunk().await.unwrap().unwrap();
                        }
                        (true, false) => upstream.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{").await,
                        (false, _) => {}
                    }
                    client.send(sent).await;
                    match how {
                        How::Fin => client.close().await,
                        _ => client.reset(),
                    }
                    // The replica says nothing, and hears that nobody waits.
                    soon(upstream.connection.until_closed()).await;
                    logged += 1;
                    let lines = edge.wait_for_logs(logged, |_| true).await;
                    assert_eq!(lines[logged - 1]["outcome"], "client_gone", "{what}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_a_client_sends_during_a_stream_is_answered_behind_it() {
    let mut replica = Scripted::start().await;
    let edge = Edge::start(EdgeConfig::scripted(&replica)).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &with(chat("x", 1), json!({"stream": true})))).await;
    let mut upstream = replica.next().await;
    upstream.begin_stream().await;
    upstream.chunk("data: 1\n\n").await;
    let head = client.head().await;
    client.chunk().await.unwrap().unwrap();
    // One whole, one longer than all that is kept, and one that ends later.
    let long = post("/v1/chat/completions", &chat(&"long ".repeat(60_000), 1));
    let last = post("/v1/chat/completions", &chat("last", 1));
    let (sent, later) = last.split_at(last.len() - 5);
    let behind = [&post("/v1/chat/completions", &chat("whole", 1)), &long[..], sent].concat();
    let sending = tokio::spawn(async move {
        client.send(&behind).await;
        client
    });
    upstream.chunk("data: 2\n\n").await;
    upstream.chunk("data: [DONE]\n\n").await;
    upstream.send("0\r\n\r\n").await;
    let mut bodies = Vec::new();
    for n in 0..2 {
        upstream = replica.next_after(upstream).await;
        bodies.push(upstream.request.body.clone());
        upstream.answer(200, "", &format!("{{\"n\":{n}}}")).await;
    }
    let mut client = sending.await.unwrap();
    client.send(later).await;
    upstream = replica.next_after(upstream).await;
    bodies.push(upstream.request.body.clone());
    upstream.answer(200, "", "{\"n\":2}").await;
    let (rest, ended) = client.body(&head).await;
    ended.unwrap();
    assert_eq!(rest, "data: 2\n\ndata: [DONE]\n\n");
    for n in 0..3 {
        assert_eq!(client.answer().await.body, format!("{{\"n\":{n}}}").as_bytes());
    }
    for (body, sent) in bodies.iter().zip(["whole", "long long", "last"]) {
        assert!(body.windows(sent.len()).any(|part| part == sent.as_bytes()), "{sent}");
    }
}

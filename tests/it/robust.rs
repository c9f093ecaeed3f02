//! What only happens now and then: stale connections, early answers, huge answers, slow clients, old clients.

use std::time::Duration;

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{
    Edge, EdgeConfig, Exchange, H2, Http1, Pool, Scripted, calls, chat, json_body, own_address, post, request, sim,
    soon, whole, with,
};

const PATH: &str = "/v1/chat/completions";

async fn scripted_edge(replica: &Scripted) -> Edge {
    Edge::start(EdgeConfig::scripted(replica).set("circuit_breaker", "failure_threshold", "1")).await
}

/// An edge whose calls go to the replica at this URL first, and then to a good one in the next region.
async fn near_and_far(url: &str, far: &ReplicaHandle) -> Edge {
    let near = Pool::new("near", "here", "m").replica("near", url);
    let far = Pool::new("far", "far", "m").sims(&[far]);
    Edge::start(EdgeConfig::new().region("far", 1.0, 1.0).pool(near).pool(far)).await
}

#[tokio::test]
async fn a_connection_that_the_replica_closed_is_no_failure() {
    let mut replica = Scripted::start().await;
    let edge = scripted_edge(&replica).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(PATH, &chat("x", 1))).await;
    let mut upstream = replica.next().await;
    upstream.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);
    // Closed just when the next request is on its way: FIN, then RST.
    for reset in [false, true] {
        client.send(&post(PATH, &chat("x", 1))).await;
        let second = upstream.next().await;
        if reset {
            second.connection.reset()
        } else {
            second.connection.close().await
        }
        let mut again = replica.next().await;
        again.answer(200, "", "{\"n\":2}").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (200, Some("1")));
        upstream = again;
    }
    // Closed while it idles, and by announcement.
    upstream.connection.close().await;
    client.send(&post(PATH, &chat("x", 1))).await;
    let mut upstream = replica.next().await;
    upstream.answer(200, "connection: close\r\n", "{}").await;
    assert_eq!(client.answer().await.status, 200);
    client.send(&post(PATH, &chat("x", 1))).await;
    let mut upstream = replica.next().await;
    upstream.answer(200, "", "{}").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (200, Some("1")));
    assert_eq!(edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"scripted\"}").await, 0.0);
    assert_eq!(edge.metric("nearpool_attempts_total{outcome=\"ok\",pool=\"near\",replica=\"scripted\"}").await, 5.0);
}

/// A replica that answers as soon as it has read the head, and closes without reading the rest.
async fn early(answer: &'static str) -> String {
    let listener = TcpListener::bind((own_address(), 8000)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 64];
            // A client that is gone need not be answered.
            let _ = stream.read(&mut head).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_read_counts() {
    let body = with(chat(&"x".repeat(4 << 20), 1), json!({"stream": false}));
    let url = early("HTTP/1.1 413 X\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig").await;
    let edge = Edge::start(EdgeConfig::new().pool(Pool::new("p", "here", "m").replica("early", &url))).await;
    let answer = Http1::connect(edge.agents()).await.call(&post(PATH, &body)).await;
    assert_eq!((answer.status, &answer.body[..]), (413, &b"big"[..]));

    let url = early("HTTP/1.1 503 X\r\ncontent-length: 3\r\nconnection: close\r\n\r\nno!").await;
    let other = sim("other").await;
    let edge = near_and_far(&url, &other).await;
    let answer = Http1::connect(edge.agents()).await.call(&post(PATH, &body)).await;
    assert_eq!((answer.status, answer.header("x-sim-replica")), (200, Some("other")));
    assert_eq!(answer.header("x-nearpool-reason"), Some("failover"));
}

#[tokio::test]
async fn a_huge_answer_goes_down_as_it_comes_and_a_cut_one_ends_uncleanly() {
    let mut replica = Scripted::start().await;
    let edge = scripted_edge(&replica).await;
    let mebibyte = "y".repeat(1 << 20);
    for cut in [false, true] {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(PATH, &chat("x", 1))).await;
        let mut upstream = replica.next().await;
        let length = 12 << 20;
        upstream
            .send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"))
            .await;
        let reader = tokio::spawn(async move {
            let head = client.head().await;
            assert_eq!(head.status, 200);
            client.body(&head).await
        });
        for _ in 0..if cut { 10 } else { 12 } {
            upstream.send(&mebibyte).await;
        }
        if cut {
            upstream.connection.close().await;
        }
        let (body, ended) = soon(reader).await.unwrap();
        assert_eq!(ended.is_err(), cut);
        assert_eq!(body.len(), if cut { 10 << 20 } else { length });
        assert!(body.iter().all(|byte| *byte == b'y'));
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_the_connection_is_whole_only_if_it_is_whole_json() {
    let other = sim("other").await;
    for (body, whole) in [("{\"choices\":[{\"message\":{}}]}", true), ("{\"choices\":[{\"message\":{}}", false)] {
        let mut replica = Scripted::start().await;
        let edge = near_and_far(&replica.url(), &other).await;
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(PATH, &chat("x", 1))).await;
        let mut upstream = replica.next().await;
        upstream.send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{body}")).await;
        upstream.connection.close().await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("x-sim-replica").is_none()), (200, whole), "{body}");
        assert_eq!(answer.body == body, whole);
    }
}

#[tokio::test]
async fn a_client_of_http10_gets_no_chunks() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    for stream in [false, true] {
        let body = with(chat("x", 3), json!({"stream": stream})).to_string();
        let mut client = Http1::connect(edge.agents()).await;
        client.send(format!("POST {PATH} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).await;
        let head = client.head().await;
        assert_eq!((head.status, head.header("transfer-encoding")), (200, None));
        let rest = client.until_closed().await;
        let (start, end) = if stream { (&b"data: {"[..], &b"data: [DONE]\n\n"[..]) } else { (&b"{"[..], &b"}"[..]) };
        assert!(rest.starts_with(start) && rest.ends_with(end), "{rest:?}");
    }
}

#[tokio::test]
async fn a_connection_that_is_to_be_closed_is_closed() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    for stream in [false, true] {
        let mut client = Http1::connect(edge.agents()).await;
        let body = with(chat("x", 3), json!({"stream": stream})).to_string();
        client.send(&request("POST", PATH, &[("connection", "close")], body.as_bytes())).await;
        assert_eq!(client.answer().await.status, 200);
        assert_eq!(client.until_closed().await.len(), 0);
    }
}

#[tokio::test]
async fn slow_clients_are_not_waited_for_on_fresh_and_on_reused_connections() {
    let replica = sim("a").await;
    let config = ["header_timeout", "body_idle", "body_timeout", "keepalive"]
        .iter()
        .fold(EdgeConfig::of(&[&replica]), |config, key| config.set("limits", key, "\"300ms\""));
    let edge = Edge::start(config).await;
    for reused in [false, true] {
        let client = async || {
            let mut client = Http1::connect(edge.agents()).await;
            if reused {
                assert_eq!(client.call(&post(PATH, &chat("x", 1))).await.status, 200);
            }
            client
        };
        // Nothing at all.
        assert_eq!(client().await.until_closed().await.len(), 0, "reused {reused}");
        // Half a head.
        let mut half = client().await;
        half.send(b"POST /v1/chat/completions HT").await;
        let said = half.until_closed().await;
        assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 408 "), "reused {reused}: {said:?}");
        // Half a body.
        let mut half = client().await;
        half.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-length: 50\r\n\r\n{\"model\":").await;
        let answer = half.answer().await;
        assert_eq!((answer.status, &json_body(&answer)["error"]["code"]), (408, &json!("body_timeout")));
    }
    assert!(calls(&replica).iter().all(|call| !call.body.is_empty()));
}

#[tokio::test]
async fn a_request_that_takes_too_long_in_all_is_given_up() {
    let replica = sim("a").await;
    replica.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    let edge = Edge::start(EdgeConfig::of(&[&replica]).set("timeouts", "total", "\"300ms\"").set(
        "timeouts",
        "connect",
        "\"200ms\"",
    ))
    .await;
    let mut client = Http1::connect(edge.agents()).await;
    for stream in [false, true] {
        let answer = client.call(&post(PATH, &with(chat("x", 1), json!({"stream": stream})))).await;
        assert_eq!((answer.status, &json_body(&answer)["error"]["code"]), (504, &json!("total_timeout")));
    }
    edge.wait_until_idle("near", "a").await;
}

#[tokio::test]
async fn many_streams_share_one_http2_connection() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut client = H2::connect(edge.agents()).await;
    let mut answers = tokio::task::JoinSet::new();
    for n in 0..90_u64 {
        let body = with(chat("x", 1), json!({"stream": n % 2 == 0, "sim": {"tokens": 5, "itl_ms": n % 7}}));
        let sent = client.send(PATH, &[], body.to_string());
        answers.spawn(async move { whole(sent.await.unwrap()).await });
    }
    while let Some(answer) = answers.join_next().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status, 200);
        assert!(answer.body.ends_with(b"}") || answer.body.ends_with(b"data: [DONE]\n\n"));
    }
}

#[tokio::test]
async fn an_http2_client_reads_why_its_body_is_not_taken() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica]).set("limits", "body", "\"64KiB\"")).await;
    let mut client = H2::connect(edge.agents()).await;
    let answer = client.call(PATH, &[], &chat(&"x".repeat(100_000), 1)).await;
    assert_eq!((answer.status, &json_body(&answer)["error"]["code"]), (413, &json!("body_too_large")));
    // The connection goes on.
    assert_eq!(client.call(PATH, &[], &chat("x", 1)).await.status, 200);
}

#[tokio::test]
async fn garbage_from_a_replica_is_tried_elsewhere() {
    for garbage in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
    ] {
        let mut replica = Scripted::start().await;
        let other = sim("other").await;
        let edge = near_and_far(&replica.url(), &other).await;
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(PATH, &chat("x", 1))).await;
        let mut upstream: Exchange = replica.next().await;
        upstream.send(garbage).await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("x-sim-replica")), (200, Some("other")), "{garbage}");
        // Nothing of it was waited out.
        tokio::time::timeout(Duration::from_secs(20), upstream.connection.until_closed()).await.unwrap();
    }
}

//! Connections that one request after the other takes, and that die in between or under it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;

use crate::support::raw_h2::{DATA, END_HEADERS, END_STREAM, HEADERS, block, frame};
use crate::support::{Edge, EdgeConfig, Http1, Pool, RawH2, Scripted, chat, json_body, own_address, post};

const PATH: &str = "/v1/chat/completions";

/// Above the time within which a connection may break for having been closed before, on this machine, and below the
/// half second that is allowed to the farthest.
const LATER: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_kept_alive_connection_that_breaks_at_once_is_replaced_and_one_that_breaks_later_broke_over_the_request() {
    let mut replica = Scripted::start().await;
    let edge = Edge::start(EdgeConfig::new().pool(Pool::new("near", "here", "m").replica("a", &replica.url()))).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(PATH, &chat("first", 1))).await;
    let mut kept = replica.next().await;
    kept.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);

    client.send(&post(PATH, &chat("at once", 1))).await;
    drop(kept.next().await);
    let mut kept = replica.next().await;
    assert!(String::from_utf8_lossy(&kept.request.body).contains("at once"));
    kept.answer(200, "", "{}").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (200, Some("1")));

    client.send(&post(PATH, &chat("later", 1))).await;
    let kept = kept.next().await;
    // A replica that dies over a request takes a while to do so; that is what is tested.
    tokio::time::sleep(LATER).await;
    drop(kept);
    let answer = client.answer().await;
    assert_eq!((answer.status, json_body(&answer)["error"]["code"].as_str()), (502, Some("reset")));

    client.send(&post(PATH, &chat("last", 1))).await;
    let mut next = replica.next().await;
    assert!(String::from_utf8_lossy(&next.request.body).contains("last"), "it was given the other request twice");
    next.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);
}

/// Speaks HTTP/2, and never answers over the first connection that brings a body (health checks bring none). It counts
/// what came over that.
async fn dead_at_first() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((own_address(), 8000)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (asked, first) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(usize::MAX)));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let (count, first) = (Arc::clone(&count), Arc::clone(&first));
            tokio::spawn(async move {
                let Some(mut connection) = RawH2::accept(stream).await else { return };
                while let Some(next) = connection.until(|frame| matches!(frame.kind, HEADERS | DATA)).await {
                    if next.kind == DATA && !next.payload.is_empty() {
                        // Taken once; what it holds then is looked at below.
                        let _ = first.compare_exchange(usize::MAX, n, Ordering::Relaxed, Ordering::Relaxed);
                    }
                    if next.flags & END_STREAM == 0 {
                        continue;
                    }
                    if first.load(Ordering::Relaxed) == n {
                        count.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let head = block(&[(":status", "200"), ("content-type", "application/json")]);
                    let head = frame(HEADERS, END_HEADERS, next.stream, &head);
                    let body = frame(DATA, END_STREAM, next.stream, b"{}");
                    // The edge may be gone.
                    let _ = connection.try_send(&[head, body].concat()).await;
                }
            });
        }
    });
    (url, asked)
}

#[tokio::test]
async fn an_http2_connection_on_which_nothing_came_in_time_takes_no_other_request() {
    let (url, asked) = dead_at_first().await;
    let pool = Pool::new("near", "here", "m").replica("a", &url).line("http2 = true");
    let config = EdgeConfig::new().pool(pool).set("timeouts", "connect", "\"1s\"").set("timeouts", "answer", "\"1s\"");
    let edge = Edge::start(config).await;
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(&post(PATH, &chat("x", 1))).await;
    assert_eq!((answer.status, json_body(&answer)["error"]["code"].as_str()), (504, Some("answer_timeout")));
    for _ in 0..3 {
        assert_eq!(client.call(&post(PATH, &chat("x", 1))).await.status, 200);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

//! How an edge ends: by SIGTERM, by SIGINT, and by giving its listeners to a successor.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::json;
use tokio::task::JoinSet;

use crate::support::{
    Edge, EdgeConfig, H2, Http1, Pool, Scripted, chat, json_body, post, post_with, request, sim, whole, with,
};

const CHAT: &str = "/v1/chat/completions";

fn streaming() -> serde_json::Value {
    with(chat("hi", 1), json!({"stream": true}))
}

#[tokio::test]
async fn a_terminated_edge_goes_on_accepting_then_finishes_what_it_has() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let config =
        EdgeConfig::new().pool(pool).set("timeouts", "drain_delay", "\"1s\"").set("timeouts", "drain", "\"1m\"");
    let mut edge = Edge::start(config).await;
    let mut http1 = Http1::connect(edge.agents()).await;
    http1.send(&post(CHAT, &streaming())).await;
    let mut first = replica.next().await;
    first.begin_stream().await;
    first.chunk("data: 1\n\n").await;
    let first_head = http1.head().await;
    let mut h2 = H2::connect(edge.agents()).await;
    let begun = tokio::spawn(h2.send(CHAT, &[], streaming().to_string()));
    let mut second = replica.next().await;
    second.begin_stream().await;
    second.chunk("data: 1\n\n").await;
    let h2_answer = begun.await.unwrap().unwrap();
    let mut idle = Http1::connect(edge.agents()).await;
    assert_eq!(idle.call(&request("GET", "/health", &[], b"")).await.header("connection"), Some("keep-alive"));
    assert_eq!(edge.admin_get("/readyz").await.status, 200);

    edge.signal("TERM");
    edge.wait_for_metric("nearpool_draining", |value| value == 1.0).await;
    let ready = edge.admin_get("/readyz").await;
    assert_eq!((ready.status, &json_body(&ready)["reason"]), (503, &json!("draining")));
    assert_eq!(edge.admin_get("/healthz").await.status, 200);
    // New and kept connections are served, and told to go.
    for client in [&mut idle, &mut Http1::connect(edge.agents()).await] {
        let answer = client.call(&request("GET", "/health", &[], b"")).await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(client.until_closed().await.is_empty());
    }
    // After the delay nothing is accepted any more, and the streams go on.
    edge.wait_until_closed().await;
    for exchange in [&mut first, &mut second] {
        exchange.chunk("data: 2\n\n").await;
    }
    first.chunk("data: [DONE]\n\n").await;
    first.send("0\r\n\r\n").await;
    let (body, ended) = http1.body(&first_head).await;
    ended.unwrap();
    assert_eq!(body, "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n");
    // Large, so that it is not all in the sockets when the request has ended.
    let large = format!("data: {}\n\n", "x".repeat(300_000));
    second.chunk(&large).await;
    second.chunk("data: [DONE]\n\n").await;
    second.send("0\r\n\r\n").await;
    let answer = whole(h2_answer).await;
    assert_eq!(answer.body, format!("data: 1\n\ndata: 2\n\n{large}data: [DONE]\n\n"));
    let status = edge.wait_for_end().await;
    assert_eq!(status.code(), Some(0), "{}", edge.stderr());
    edge.wait_for_stderr("drained: every request has ended").await;
    edge.wait_for_logs(2, |line| line["path"] == CHAT || line["outcome"] == "ok").await;
}

#[tokio::test]
async fn who_is_connected_when_the_edge_ends_is_answered() {
    let replica = sim("a").await;
    for _ in 0..3 {
        let mut edge = Edge::start(EdgeConfig::of(&[&replica])).await;
        // It finds all of this at once: connections that nobody has accepted, and the signal.
        edge.signal("STOP");
        let mut clients = Vec::new();
        for _ in 0..400 {
            let mut client = Http1::connect(edge.agents()).await;
            client.send(&request("GET", "/health", &[], b"")).await;
            clients.push(client);
        }
        edge.signal("TERM");
        edge.signal("CONT");
        for client in &mut clients {
            assert_eq!(client.answer().await.status, 200);
        }
        assert_eq!(edge.wait_for_end().await.code(), Some(0), "{}", edge.stderr());
    }
}

#[tokio::test]
async fn while_streams_drain_the_admin_listener_shows_them_end() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let mut edge = Edge::start(EdgeConfig::new().pool(pool).set("timeouts", "drain", "\"1m\"")).await;
    let mut streams = Vec::new();
    for session in ["one", "other"] {
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post_with(CHAT, &[("x-session-id", session)], &streaming())).await;
        let mut exchange = replica.next().await;
        exchange.begin_stream().await;
        exchange.chunk("data: 1\n\n").await;
        let head = client.head().await;
        streams.push((client, exchange, head));
    }
    let mut viewer = Http1::connect(edge.admin()).await;
    viewer.send(&request("GET", "/events", &[], b"")).await;
    assert_eq!(viewer.head().await.status, 200);

    edge.signal("TERM");
    edge.wait_until_closed().await;
    assert_eq!(edge.metric("nearpool_draining").await, 1.0);
    let ready = edge.admin_get("/readyz").await;
    assert_eq!((ready.status, &json_body(&ready)["reason"]), (503, &json!("draining")));
    assert_eq!(edge.admin_get("/healthz").await.status, 200);
    let status = json_body(&edge.admin_get("/status").await);
    assert_eq!((&status["draining"], &status["totals"]["in_flight"]), (&json!(true), &json!(2)));
    // Who watches goes on watching.
    while !String::from_utf8_lossy(&viewer.chunk().await.unwrap().unwrap().bytes).contains("\"draining\":true") {}

    let (mut client, mut exchange, head) = streams.remove(0);
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.send("0\r\n\r\n").await;
    client.body(&head).await.1.unwrap();
    // The call and, although the session could go on for minutes, its interaction.
    edge.wait_for_metric("agent_llm_calls_total{model=\"m\",step_type=\"none\"}", |calls| calls == 1.0).await;
    edge.wait_for_metric("agent_interaction_calls_count", |interactions| interactions == 1.0).await;

    // The last call ends the process, whoever still watches; what nobody could scrape any more is in the log.
    let (mut client, mut exchange, head) = streams.remove(0);
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.send("0\r\n\r\n").await;
    client.body(&head).await.1.unwrap();
    assert_eq!(edge.wait_for_end().await.code(), Some(0), "{}", edge.stderr());
    edge.wait_for_logs(2, |line| line["outcome"] == "ok").await;
    edge.wait_for_logs(2, |line| line["closed"] == "end").await;
}

#[tokio::test]
async fn after_a_hand_over_only_the_successor_answers_at_the_admin_address() {
    const IN_FLIGHT: &str = "nearpool_replica_in_flight{pool=\"near\",replica=\"a\"}";
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let mut old = Edge::start(EdgeConfig::new().pool(pool).set("timeouts", "drain", "\"1m\"")).await;
    let mut client = Http1::connect(old.agents()).await;
    client.send(&post(CHAT, &streaming())).await;
    let mut exchange = replica.next().await;
    exchange.begin_stream().await;
    exchange.chunk("data: 1\n\n").await;
    let head = client.head().await;
    assert_eq!(old.metric(IN_FLIGHT).await, 1.0);
    let mut viewer = Http1::connect(old.admin()).await;
    viewer.send(&request("GET", "/events", &[], b"")).await;
    assert_eq!(viewer.head().await.status, 200);

    let successor = old.spawn_successor();
    old.wait_until(|| {
        old.signal("QUIT");
        old.stderr().contains("handing over")
    })
    .await;
    // Ended, not cut: the old process has let go of the listener, while the stream goes on in it.
    while viewer.chunk().await.unwrap().is_some() {}
    successor.wait_for_metric(IN_FLIGHT, |calls| calls == 0.0).await;
    for _ in 0..20 {
        assert_eq!((successor.admin_get("/readyz").await.status, successor.metric(IN_FLIGHT).await), (200, 0.0));
    }
    exchange.chunk("data: [DONE]\n\n").await;
    exchange.send("0\r\n\r\n").await;
    let (body, ended) = client.body(&head).await;
    ended.unwrap();
    assert_eq!(body, "data: 1\n\ndata: [DONE]\n\n");
    assert_eq!(old.wait_for_end().await.code(), Some(0), "{}", old.stderr());
    assert_eq!(successor.admin_get("/readyz").await.status, 200);
}

#[tokio::test]
async fn what_outlasts_the_drain_is_told_so_and_looks_cut() {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let mut edge = Edge::start(EdgeConfig::new().pool(pool).set("timeouts", "drain", "\"1s\"")).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &streaming())).await;
    let mut exchange = replica.next().await;
    exchange.begin_stream().await;
    exchange.chunk("data: 1\n\n").await;
    let head = client.head().await;
    // And one that waits for its first event, and one that is not streamed.
    let mut waiting = Http1::connect(edge.agents()).await;
    waiting.send(&post(CHAT, &chat("hi", 1))).await;
    let silent = replica.next().await;
    edge.signal("TERM");
    let (body, ended) = client.body(&head).await;
    assert!(ended.is_err(), "the cut answer looks whole");
    let body = String::from_utf8_lossy(&body);
    assert!(body.starts_with("data: 1\n\ndata: {\"error\":") && body.contains("\"code\":\"drained\""), "{body}");
    let answer = waiting.answer().await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(json_body(&answer)["error"]["code"], "drained");
    assert_eq!(edge.wait_for_end().await.code(), Some(0));
    edge.wait_for_stderr("2 requests were still open").await;
    edge.wait_for_logs(2, |line| line["outcome"] == "drained").await;
    drop(silent);
}

#[tokio::test]
async fn an_interrupt_and_a_second_terminate_end_at_once() {
    for signals in [&["INT"][..], &["TERM", "TERM"], &["TERM", "INT"]] {
        let mut replica = Scripted::start().await;
        let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
        let config =
            EdgeConfig::new().pool(pool).set("timeouts", "drain_delay", "\"5m\"").set("timeouts", "drain", "\"1h\"");
        let mut edge = Edge::start(config).await;
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(CHAT, &streaming())).await;
        let mut exchange = replica.next().await;
        exchange.begin_stream().await;
        exchange.chunk("data: 1\n\n").await;
        let head = client.head().await;
        edge.signal(signals[0]);
        if let Some(second) = signals.get(1) {
            edge.wait_for_stderr("draining").await;
            edge.signal(second);
        }
        let (body, ended) = client.body(&head).await;
        let body = String::from_utf8_lossy(&body);
        assert!(ended.is_err() && body.contains("\"code\":\"drained\""), "{signals:?}: {body}");
        edge.wait_for_end().await;
    }
}

#[tokio::test]
async fn while_streams_drain_an_interrupt_still_ends_at_once() {
    for second in ["INT", "TERM"] {
        let mut replica = Scripted::start().await;
        let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
        let mut edge = Edge::start(EdgeConfig::new().pool(pool).set("timeouts", "drain", "\"1h\"")).await;
        let mut client = Http1::connect(edge.agents()).await;
        client.send(&post(CHAT, &streaming())).await;
        let mut exchange = replica.next().await;
        exchange.begin_stream().await;
        exchange.chunk("data: 1\n\n").await;
        client.head().await;
        edge.signal("TERM");
        // No listener: the delay is over, and the streams have the drain.
        edge.wait_until_closed().await;
        edge.signal(second);
        edge.wait_for_end().await;
    }
}

#[tokio::test]
async fn a_quit_with_no_successor_changes_nothing() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    edge.signal("QUIT");
    edge.wait_for_stderr("no process waits").await;
    // The socket of a process that was killed: the file is there, and nobody listens.
    drop(UnixListener::bind(edge.upgrade_socket()).unwrap());
    assert!(edge.upgrade_socket().exists());
    edge.signal("QUIT");
    edge.wait_until(|| edge.stderr().matches("no process waits").count() == 2).await;
    assert_eq!(edge.admin_get("/readyz").await.status, 200);
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(&post(CHAT, &chat("hi", 1))).await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("keep-alive")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_loses_no_request() {
    let replica = sim("a").await;
    let config = EdgeConfig::of(&[&replica]).set("timeouts", "drain", "\"1m\"");
    let mut old = Edge::start(config).await;
    // The file of a predecessor that was killed is in nobody's way.
    drop(UnixListener::bind(old.upgrade_socket()).unwrap());
    let to = old.agents();
    let (stop, calls, mut agents) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), JoinSet::new());
    for n in 0..6 {
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        agents.spawn(async move {
            let body = with(chat("hi", 5), json!({"stream": true, "sim": {"tokens": 5, "itl_ms": 5}}));
            let mut client = Http1::connect(to).await;
            while !stop.load(Ordering::Relaxed) {
                let answer = client.call(&post(CHAT, &body)).await;
                assert!(answer.status == 200 && answer.body.ends_with(b"data: [DONE]\n\n"));
                // Half of them make a new connection for each call.
                if n % 2 == 0 || answer.header("connection") == Some("close") {
                    client = Http1::connect(to).await;
                }
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // Who watches the edge from outside sees it ready all the while, whichever process answers.
    let (watched, admin) = (Arc::clone(&stop), old.admin());
    agents.spawn(async move {
        while !watched.load(Ordering::Relaxed) {
            let ready = Http1::connect(admin).await.call(&request("GET", "/readyz", &[], b"")).await;
            assert_eq!(ready.status, 200, "{}", json_body(&ready));
        }
    });
    // One stream lasts longer than the overlap of the two.
    let mut long = Http1::connect(to).await;
    let body = with(chat("hi", 100), json!({"stream": true, "sim": {"tokens": 100, "itl_ms": 80}}));
    long.send(&post(CHAT, &body)).await;
    let head = long.head().await;
    let successor = old.spawn_successor();
    // It listens at the socket; until then the signal is refused.
    old.wait_until(|| {
        old.signal("QUIT");
        old.stderr().contains("handing over")
    })
    .await;
    let (body, ended) = long.body(&head).await;
    ended.unwrap();
    assert!(body.ends_with(b"data: [DONE]\n\n"));
    assert_eq!(old.wait_for_end().await.code(), Some(0), "{}", old.stderr());
    let before = calls.load(Ordering::Relaxed);
    successor.wait_until(|| calls.load(Ordering::Relaxed) >= before + 50).await;
    stop.store(true, Ordering::Relaxed);
    agents.join_all().await;
    assert_eq!(successor.admin_get("/readyz").await.status, 200);
    assert!(successor.log().len() >= 50, "the successor serves");
}

#[tokio::test]
async fn a_successor_that_nobody_hands_anything_to_gives_up_with_a_word() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let mut successor = edge.spawn_successor();
    let status = successor.wait_for_end().await;
    assert_eq!(status.code(), Some(1));
    let (said, socket) = (successor.stderr(), edge.upgrade_socket().display().to_string());
    let told = said
        .split_once("no listeners have come")
        .is_some_and(|(_, why)| why.contains(&socket) && why.contains("SIGQUIT"));
    assert!(told && !said.contains("try again"), "{said}");
    assert_eq!(edge.admin_get("/readyz").await.status, 200);
}

//! Streams: every event at once, every byte as it came, and no cut that looks like an end.

use bytes::Bytes;
use http_body_util::BodyExt;
use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use crate::support::{
    Edge, EdgeConfig, Exchange, H2, Http1, SERVED, Scripted, chat, chunk, post, post_with, sim, sim_with, soon, with,
};

/// The dialects that stream: path, a request that streams, and what the error event of a cut must hold.
fn dialects() -> [(&'static str, Value); 4] {
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let sim = json!({"tokens": 40});
    [
        ("/v1/chat/completions", json!({"model": "m", "stream": true, "sim": sim, "messages": messages})),
        ("/v1/completions", json!({"model": "m", "stream": true, "sim": sim, "prompt": "Hello"})),
        ("/v1/responses", json!({"model": "m", "stream": true, "sim": sim, "input": "Hello"})),
        ("/v1/messages", json!({"model": "m", "stream": true, "sim": sim, "messages": messages, "max_tokens": 100})),
    ]
}

fn streamed(text: &str, tokens: u64) -> Value {
    with(chat(text, tokens), json!({"stream": true}))
}

/// A scripted replica with its edge, and a client whose streamed call has come to the replica.
async fn asked() -> (Scripted, Edge, Http1, Exchange) {
    let mut replica = Scripted::start().await;
    let edge = Edge::start(EdgeConfig::scripted(&replica)).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &streamed("x", 1))).await;
    let upstream = replica.next().await;
    (replica, edge, client, upstream)
}

fn delta(n: usize) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"w{n} \"}}}}]}}\n\n")
}

#[tokio::test]
async fn each_event_is_there_before_the_next_one_is_made() {
    let (_replica, edge, mut client, mut upstream) = asked().await;
    upstream.begin_stream().await;
    // A comment is no event: it opens nothing, and goes down with the first event.
    upstream.chunk(": waiting\n\n").await;
    upstream.chunk(delta(0)).await;
    let head = client.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")));
    assert_eq!(head.header("transfer-encoding"), Some("chunked"));
    let mut got = String::new();
    let mut expected = format!(": waiting\n\n{}", delta(0));
    read_until(&mut client, &mut got, &expected).await;
    for n in 1..200 {
        let event = if n % 50 == 0 { format!(": comment {n}\n\n") } else { delta(n) };
        // Cut in two within the event now and then: the first half alone is held back, the whole goes at once.
        if n % 7 == 0 {
            upstream.chunk(&event[..5]).await;
            upstream.chunk(&event[5..]).await;
        } else {
            upstream.chunk(&event).await;
        }
        expected.push_str(&event);
        read_until(&mut client, &mut got, &expected).await;
    }
    // Several events in one chunk, in other line ends, and the end.
    let last = "data: {\"choices\":[]}\r\n\r\nid: 7\nevent: x\ndata: {}\ndata: \n\ndata: [DONE]\n\n";
    upstream.chunk(last).await;
    upstream.send("0\r\n\r\n").await;
    expected.push_str(last);
    while let Some(piece) = client.chunk().await.unwrap() {
        got.push_str(std::str::from_utf8(&piece.bytes).unwrap());
    }
    assert_eq!(got, expected);
    let line = edge.wait_for_log(|line| line["outcome"] == "ok").await;
    assert_eq!(line["bytes_out"], expected.len());
    // The connection is kept on both sides.
    client.send(&post("/v1/chat/completions", &chat("again", 1))).await;
    let mut upstream = upstream.next().await;
    upstream.answer(200, "", "{}").await;
    assert_eq!(client.answer().await.status, 200);
}

/// Reads chunks until all of `expected` is there.
async fn read_until(client: &mut Http1, got: &mut String, expected: &str) {
    while got.len() < expected.len() {
        let piece = client.chunk().await.unwrap().expect("more of the stream");
        got.push_str(std::str::from_utf8(&piece.bytes).unwrap());
    }
    assert_eq!(got, expected);
}

#[tokio::test]
async fn a_stream_is_the_same_through_the_edge_as_without_it() {
    for (path, body) in dialects() {
        // Two replicas of one name and seed give the same first answer, id and all.
        let (direct, behind) = (sim("twin").await, sim("twin").await);
        let edge = Edge::start(EdgeConfig::of(&[&behind])).await;
        let mut bodies = Vec::new();
        for (address, model) in [(direct.addr(), SERVED), (edge.agents(), "m")] {
            let body = with(body.clone(), json!({"model": model, "stream_options": {"include_usage": true}}));
            let answer = Http1::connect(address).await.call(&post(path, &body)).await;
            assert_eq!(answer.status, 200);
            bodies.push(without_time(&answer.body));
        }
        assert!(bodies[0].len() > 1000, "{path}");
        assert_eq!(bodies[0], bodies[1], "{path}");
    }
}

/// The text without the seconds of `created` and `created_at`, which may differ.
fn without_time(body: &Bytes) -> String {
    let mut text = String::from_utf8(body.to_vec()).unwrap();
    for key in ["\"created\":", "\"created_at\":"] {
        let parts: Vec<_> = text.split(key).map(str::to_owned).collect();
        let rest = parts[1..].iter().map(|part| part.trim_start_matches(|c: char| c.is_ascii_digit()));
        text = std::iter::once(parts[0].as_str()).chain(rest).collect::<Vec<_>>().join(key);
    }
    text
}

/// A stream that broke must tell so twice: by the dialect's error event as its last, and by its framing.
fn check_cut(path: &str, text: &str, what: &str) {
    assert!(!text.contains("[DONE]"), "{what}");
    assert!(!text.contains("message_stop") && !text.contains("response.completed"), "{what}");
    assert!(text.ends_with("\n\n"), "{what}: {text:?}");
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let data: Value = serde_json::from_str(last.rsplit("data: ").next().unwrap()).unwrap();
    match path {
        "/v1/messages" => {
            assert!(last.starts_with("event: error\n"), "{what}: {last}");
            assert_eq!((&data["type"], &data["error"]["type"]), (&json!("error"), &json!("api_error")), "{what}");
        }
        "/v1/responses" => {
            assert!(last.starts_with("event: error\n"), "{what}: {last}");
            assert_eq!((&data["type"], &data["code"]), (&json!("error"), &json!("cut")), "{what}");
        }
        _ => assert_eq!(data["error"]["code"], "cut", "{what}: {last}"),
    }
}

#[tokio::test]
async fn a_cut_stream_ends_with_an_error_event_and_uncleanly_in_every_dialect() {
    let replica = sim_with("a", |params| params.engine.max_num_seqs = 64).await;
    let config = EdgeConfig::of(&[&replica]).set("circuit_breaker", "failure_threshold", "1000");
    let edge = Edge::start(config).await;
    let mut cuts = 0;
    for (path, body) in dialects() {
        // Cut without an end of the chunked body; and ended as if all were said, which only the missing last event tells.
        for fault in [Fault::CutMidStream { after_events: 5 }, Fault::TruncatedBody] {
            let what = format!("{path} {fault:?}");
            replica.set_fault(FaultPlan::from(fault)).await.unwrap();
            let mut client = Http1::connect(edge.agents()).await;
            client.send(&post(path, &body)).await;
            let head = client.head().await;
            assert_eq!(head.status, 200, "{what}");
            let (text, ended) = client.body(&head).await;
            assert!(ended.is_err(), "{what}: the chunked body must not end regularly");
            check_cut(path, std::str::from_utf8(&text).unwrap(), &what);

            let mut client = H2::connect(edge.agents()).await;
            let answer = client.send(path, &[], body.to_string()).await.unwrap();
            assert_eq!(answer.status(), 200, "{what}");
            let mut frames = answer.into_body();
            let (mut text, mut reset) = (Vec::new(), false);
            while let Some(frame) = soon(frames.frame()).await {
                match frame {
                    Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
                    Err(_) => {
                        reset = true;
                        break;
                    }
                }
            }
            assert!(reset, "{what}: the stream must be reset");
            check_cut(path, std::str::from_utf8(&text).unwrap(), &what);
            cuts += 2;
        }
    }
    let lines = edge.wait_for_logs(cuts, |line| line["outcome"] == "cut").await;
    assert!(lines.iter().all(|line| line["blame"] == "upstream" && line["status"] == 200));
    edge.wait_until_idle("near", "a").await;
}

#[tokio::test]
async fn a_stream_that_goes_silent_ends_with_an_error_event() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica]).set("timeouts", "idle", "\"200ms\"")).await;
    replica.set_fault(FaultPlan::from(Fault::StallMidStream { after_events: 3 })).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &streamed("x", 40))).await;
    let head = client.head().await;
    let (text, ended) = client.body(&head).await;
    assert!(ended.is_err());
    let text = std::str::from_utf8(&text).unwrap();
    assert!(text.contains("\"code\":\"idle_timeout\"") && !text.contains("[DONE]"), "{text}");
    edge.wait_for_log(|line| line["outcome"] == "idle_timeout").await;
    soon(replica.wait_for(|stats| stats.engine.running == 0)).await;
}

#[tokio::test]
async fn an_engines_own_error_event_passes_and_is_no_second_error() {
    let (_replica, edge, mut client, mut upstream) = asked().await;
    upstream.begin_stream().await;
    let events = format!("{}data: {{\"error\":{{\"message\":\"own\"}}}}\n\n", delta(0));
    upstream.chunk(&events).await;
    upstream.send("0\r\n\r\n").await;
    let answer = client.answer().await;
    assert_eq!(answer.body, events);
    // No whole answer, and nothing that tells whose fault it is.
    edge.wait_for_log(|line| line["outcome"] == "server_error" && line["status"] == 200).await;
    assert_eq!(
        edge.metric("agent_step_errors_total{model=\"m\",outcome=\"server_error\",step_type=\"none\"}").await,
        1.0
    );
    assert_eq!(edge.metric("nearpool_breaker_state{pool=\"near\",replica=\"scripted\"}").await, 0.0);
}

#[tokio::test]
async fn a_stream_that_comes_in_one_piece_is_whole_also_if_its_lines_end_in_a_carriage_return() {
    let mut replica = Scripted::start().await;
    let edge = Edge::start(EdgeConfig::scripted(&replica)).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post("/v1/chat/completions", &streamed("x", 1))).await;
    let events = "data: {\"choices\":[]}\r\rdata: [DONE]\r\r";
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n", events.len());
    replica.next().await.send(format!("{head}{events}")).await;
    assert_eq!(client.answer().await.body, events);
}

#[tokio::test]
async fn a_stream_that_ends_with_the_connection_is_whole_only_with_its_last_event() {
    for (last, whole) in [("data: [DONE]\n\n", true), ("", false)] {
        let (_replica, _edge, mut client, mut upstream) = asked().await;
        let events = format!("{}{}{last}", delta(0), delta(1));
        upstream.send(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{events}")).await;
        upstream.connection.close().await;
        let head = client.head().await;
        let (text, ended) = client.body(&head).await;
        assert_eq!(ended.is_ok(), whole);
        assert!(text.starts_with(events.as_bytes()));
        assert_eq!(text.len() == events.len(), whole);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_stream_although_one_was_asked_for_passes_as_it_is() {
    let mut replica = Scripted::start().await;
    let edge = Edge::start(EdgeConfig::scripted(&replica)).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with("/v1/chat/completions", &[("accept", "text/event-stream")], &streamed("x", 1))).await;
    let mut upstream = replica.next().await;
    upstream.answer(200, "x-engine: 1\r\n", "{\"object\":\"chat.completion\"}").await;
    let answer = client.answer().await;
    assert_eq!((answer.header("x-engine"), &answer.body[..]), (Some("1"), &b"{\"object\":\"chat.completion\"}"[..]));
    assert_eq!(answer.header("content-length"), Some("28"));
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n";

/// One chunk of a chunked body.
fn framed(text: &str) -> String {
    String::from_utf8(chunk(text)).unwrap()
}

#[tokio::test]
async fn a_stream_is_the_same_however_it_is_framed_and_what_left_nothing_behind_serves_the_next_request() {
    let done = "data: [DONE]\n\n";
    let (first, second) = (delta(0), delta(1));
    let events = format!("{first}{second}{done}");
    let plain = format!("{}{}{}0\r\n\r\n", framed(&first), framed(&second), framed(done));
    let odd = format!(
        "{:04X};a=\"b\"\r\n{first}\r\n{:X} \r\n{second}\r\n{}000\r\nx-trailer: 1\r\n\r\n",
        first.len(),
        second.len(),
        framed(done)
    );
    // An event that is cut in two by chunks, and two in one chunk.
    let uneven = format!("{}{}0\r\n\r\n", framed(&events[..20]), framed(&events[20..]));
    let head = format!("{STREAM_HEAD}\r\n");
    for (what, wire, reused) in [
        ("plain", format!("{head}{plain}"), true),
        ("extensions and trailers", format!("{head}{odd}"), true),
        ("uneven chunks", format!("{head}{uneven}"), true),
        ("an informational head before", format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{head}{plain}"), true),
        ("a head of bare line feeds", format!("{}{plain}", head.replace('\r', "")), true),
        ("more behind its end", format!("{head}{plain}HTTP/1.1 200 OK\r\n\r\n"), false),
        ("a connection that is to be closed", format!("{STREAM_HEAD}connection: close\r\n\r\n{plain}"), false),
    ] {
        for bytes_together in [usize::MAX, 100, 1] {
            if what == "more behind its end" && bytes_together < wire.len() {
                // What comes later, to a connection that is kept already, no proxy can tell from an answer.
                continue;
            }
            let (mut replica, _edge, mut client, mut upstream) = asked().await;
            for piece in wire.as_bytes().chunks(bytes_together.min(wire.len())) {
                upstream.send(piece).await;
            }
            assert_eq!(client.answer().await.body, events, "{what}, {bytes_together} bytes at a time");
            client.send(&post("/v1/chat/completions", &streamed("y", 1))).await;
            let mut again = if reused { soon(upstream.next()).await } else { replica.next().await };
            again.send(format!("{head}{plain}")).await;
            assert_eq!(client.answer().await.body, events, "{what}, {bytes_together} bytes at a time, once more");
        }
    }
}

#[tokio::test]
async fn a_connection_on_which_more_came_than_the_answer_serves_no_other_request() {
    let event = "data: [DONE]\n\n";
    let whole = format!("{}0\r\n\r\n", framed(event));
    let bare = STREAM_HEAD.replace('\r', "");
    let length = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 18\r";
    for (what, pieces) in [
        ("a refusal without a body", vec!["HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\nmore".to_owned()]),
        ("a status without a body", vec!["HTTP/1.1 304 Not Modified\r\n\r\nmore".to_owned()]),
        ("chunks", vec![format!("{STREAM_HEAD}\r\n{whole}more")]),
        ("a head of bare line feeds", vec![format!("{bare}\n{whole}more")]),
        ("a head whose end is cut", vec![format!("{STREAM_HEAD}\r"), format!("\n{whole}more")]),
        ("a length, and a cut end", vec![length.to_owned(), format!("\n\r\n{event}\r\n\r\nmore")]),
    ] {
        let (mut replica, _edge, mut client, mut upstream) = asked().await;
        for piece in pieces {
            upstream.send(piece).await;
        }
        let _answer = client.answer().await;
        // On the same connection, since each thread of the edge keeps connections of its own.
        client.send(&post("/v1/chat/completions", &streamed("y", 1))).await;
        let mut again = replica.next().await;
        again.send(format!("{STREAM_HEAD}\r\n{whole}")).await;
        assert_eq!(client.answer().await.body, event, "{what}");
    }
}

#[tokio::test]
async fn what_came_before_a_frame_breaks_counts() {
    let all = [delta(0), delta(1), "data: [DONE]\n\n".to_owned()];
    let chunks = |events: &[String]| events.iter().map(|event| framed(event)).collect::<String>();
    for broken in ["0\n\n", "0\r\nx: y\n\r\n", "zz\r\n"] {
        let (mut replica, _edge, mut client, mut upstream) = asked().await;
        // The engine has said that this was all: what broke is no part of the answer.
        upstream.send(format!("{STREAM_HEAD}\r\n{}{broken}", chunks(&all))).await;
        assert_eq!(client.answer().await.body, all.concat(), "{broken:?}");
        client.send(&post("/v1/chat/completions", &streamed("x", 1))).await;
        replica.next().await.send(format!("{STREAM_HEAD}\r\n{}{broken}", chunks(&all[..2]))).await;
        let head = client.head().await;
        let (text, ended) = client.body(&head).await;
        let text = std::str::from_utf8(&text).unwrap();
        assert!(ended.is_err() && text.starts_with(&all[..2].concat()), "{broken:?}: {text}");
        check_cut("/v1/chat/completions", text, broken);
    }
}

#[tokio::test]
async fn events_that_come_together_are_counted_one_by_one() {
    let (_replica, edge, mut client, mut upstream) = asked().await;
    upstream.begin_stream().await;
    upstream.chunk(delta(0)).await;
    let mut got = String::new();
    client.head().await;
    read_until(&mut client, &mut got, &delta(0)).await;
    let more: String = (1..=9).map(delta).collect();
    upstream.chunk(more + "data: [DONE]\n\n").await;
    upstream.send("0\r\n\r\n").await;
    read_until(&mut client, &mut got, &((0..=9).map(delta).collect::<String>() + "data: [DONE]\n\n")).await;
    edge.wait_for_log(|line| line["outcome"] == "ok").await;
    assert_eq!(edge.metric("nearpool_itl_seconds_count{model=\"m\",pool=\"near\"}").await, 10.0);
}

#[tokio::test]
async fn a_stream_whose_frame_breaks_is_cut() {
    for broken in ["zz\r\n", "5\r\nhello!\r\n", "\r\n", "0\r\n\n", "10000000000000000\r\n"] {
        let (_replica, edge, mut client, mut upstream) = asked().await;
        upstream.begin_stream().await;
        upstream.chunk(delta(0)).await;
        let head = client.head().await;
        upstream.send(broken).await;
        let (text, ended) = client.body(&head).await;
        assert!(ended.is_err(), "{broken:?}");
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.starts_with(&delta(0)), "{broken:?}: {text}");
        check_cut("/v1/chat/completions", text, broken);
        edge.wait_for_log(|line| line["outcome"] == "cut").await;
    }
}

//! A large and odd body arrives byte for byte, but for the model's name.

use crate::support::{Answer, Edge, EdgeConfig, H2, Http1, Pool, SERVED, calls, sim, whole};

/// Where the model's name stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ModelAt {
    First,
    Middle,
    Last,
}

pub(crate) const PLACES: [ModelAt; 3] = [ModelAt::First, ModelAt::Middle, ModelAt::Last];

/// A chat body of more than 1 MiB with everything that a parser and printer would change: odd numbers, escapes, spaces,
/// unknown fields, and decoys of `model` and `stream` inside strings and objects.
pub(crate) fn odd_body(model: &str, at: ModelAt, stream: bool) -> String {
    let filler = "Größe 😀 \\u00e9\\n\\\"model\\\":\\\"decoy\\\" \\ud83d\\ude00\\/ {[,:]} ".repeat(20 * 1024);
    let model = format!("\"model\" : {}", serde_json::to_string(model).unwrap());
    let mut fields = vec![
        r#""zz":1e5 ,"temperature":1.0,"a-0":-0.0"#.to_owned(),
        r#""\u00fcnknown\t":{"model":"decoy","stream":"no","deep":[[[1E-7,12345678901234567890,"\"model\":\"x\""]]]}"#
            .to_owned(),
        format!("\"messages\" :\n[{{\"content\":\"{filler}\",\"role\":\"user\"}}]"),
        format!("\t\"stream\": {stream}"),
        r#""sim":{"tokens":4}"#.to_owned(),
        r#""metadata":{"model":"decoy","stream":true}, "seed":0"#.to_owned(),
    ];
    let at = match at {
        ModelAt::First => 0,
        ModelAt::Middle => 3,
        ModelAt::Last => fields.len(),
    };
    fields.insert(at, model);
    let body = format!(" {{{}\r\n}}\n", fields.join(" , "));
    assert!(body.len() > 1 << 20);
    body
}

/// The same as a replica is to get it: with its own name for the model, and asked for the usage of a stream.
pub(crate) fn odd_body_at_replica(at: ModelAt, stream: bool) -> String {
    let (body, name) = (odd_body(SERVED, at, stream), format!("\"{SERVED}\""));
    assert_eq!(body.matches(&name).count(), 1);
    let asked = if stream { ",\"stream_options\":{\"include_usage\":true}" } else { "" };
    body.replace(&name, &format!("{name}{asked}"))
}

/// How a client speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Voice {
    Http1,
    Http1Chunked,
    H2c,
}

/// Sends a chat body and reads the whole answer.
pub(crate) async fn send(edge: &Edge, voice: Voice, headers: &[(&str, &str)], body: &str) -> Answer {
    const PATH: &str = "/v1/chat/completions";
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    match voice {
        Voice::Http1 => {
            let head = format!("POST {PATH} HTTP/1.1\r\nhost: edge\r\n{lines}content-length: {}\r\n\r\n", body.len());
            Http1::connect(edge.agents()).await.call(&[head.as_bytes(), body.as_bytes()].concat()).await
        }
        Voice::Http1Chunked => {
            let mut client = Http1::connect(edge.agents()).await;
            let head = format!("POST {PATH} HTTP/1.1\r\nhost: edge\r\n{lines}transfer-encoding: chunked\r\n\r\n");
            client.send(head.as_bytes()).await;
            // Chunks that end anywhere, also within a character.
            for chunk in body.as_bytes().chunks(70_001) {
                client.send(format!("{:X};x=y\r\n", chunk.len()).as_bytes()).await;
                client.send(&[chunk, b"\r\n"].concat()).await;
            }
            client.send(b"0\r\nx-trailer: 1\r\n\r\n").await;
            client.answer().await
        }
        Voice::H2c => {
            let mut client = H2::connect(edge.agents()).await;
            whole(client.send(PATH, headers, body.to_owned()).await.unwrap()).await
        }
    }
}

/// Fails with the place of the first difference, since the bodies are too long to be shown.
#[track_caller]
pub(crate) fn assert_same_bytes(got: &[u8], expected: &[u8], what: &str) {
    if got != expected {
        let at = got.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(got.len().min(expected.len()));
        let part = |bytes: &[u8]| {
            String::from_utf8_lossy(&bytes[at.saturating_sub(40)..(at + 40).min(bytes.len())]).into_owned()
        };
        panic!("{what}: differs at {at} of {}/{}: {:?} {:?}", got.len(), expected.len(), part(got), part(expected));
    }
}

#[tokio::test]
async fn a_large_odd_body_arrives_unchanged_but_for_the_models_name_and_what_asks_for_usage() {
    let (h1, h2) = (sim("h1").await, sim("h2").await);
    let config = EdgeConfig::of(&[&h1])
        .model("m2", &[&format!("served_as = \"{SERVED}\"")])
        .pool(Pool::new("two", "here", "m2").sims(&[&h2]).line("http2 = true"));
    let edge = Edge::start(config).await;
    let mut n = 0;
    for (model, replica, version) in [("m", &h1, http::Version::HTTP_11), ("m2", &h2, http::Version::HTTP_2)] {
        for voice in [Voice::Http1, Voice::Http1Chunked, Voice::H2c] {
            for stream in [false, true] {
                let at = PLACES[n % 3];
                n += 1;
                let what = format!("{voice:?} to {model}, model {at:?}, stream {stream}");
                let answer = send(&edge, voice, &[], &odd_body(model, at, stream)).await;
                assert_eq!(answer.status, 200, "{what}: {answer:?}");
                let got = calls(replica).pop().unwrap();
                assert_eq!(got.version, version);
                assert_same_bytes(&got.body, odd_body_at_replica(at, stream).as_bytes(), &what);
                let length = got.headers.get("content-length").map(|value| value.to_str().unwrap().to_owned());
                assert_eq!(length, Some(got.body.len().to_string()), "{what}");
                assert!(!got.headers.contains_key("transfer-encoding"));
                let last = if stream { "data: [DONE]\n\n" } else { "}" };
                assert!(answer.body.ends_with(last.as_bytes()), "{what}");
            }
        }
    }
    let lines = edge.wait_for_logs(n, |line| line["outcome"] == "ok").await;
    assert_eq!(lines.len(), n);
}

#[tokio::test]
async fn a_models_name_is_found_in_any_spelling_and_replaced_there_alone() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    for (sent, expected) in [
        // `m` in escapes; a key in escapes.
        (
            r#"{"model":"\u006d","messages":[{"role":"user","content":"x"}]}"#,
            r#"{"model":"S","messages":[{"role":"user","content":"x"}]}"#,
        ),
        (
            r#"{"mod\u0065l":"m","messages":[{"role":"user","content":"x"}]}"#,
            r#"{"mod\u0065l":"S","messages":[{"role":"user","content":"x"}]}"#,
        ),
    ] {
        let answer = send(&edge, Voice::Http1, &[], sent).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let got = calls(&replica).pop().unwrap();
        assert_same_bytes(&got.body, expected.replace("\"S\"", &format!("\"{SERVED}\"")).as_bytes(), sent);
    }
}

#[tokio::test]
async fn a_body_goes_through_untouched_where_the_replicas_use_the_same_name() {
    let replica = sim("a").await;
    let config = EdgeConfig::new()
        .without_m()
        .model(SERVED, &["aliases = [\"small\"]"])
        .pool(Pool::new("p", "here", SERVED).sims(&[&replica]));
    let edge = Edge::start(config).await;
    for model in [SERVED, "small"] {
        let answer = send(&edge, Voice::Http1, &[], &odd_body(model, ModelAt::Middle, false)).await;
        assert_eq!(answer.status, 200);
        let got = calls(&replica).pop().unwrap();
        assert_same_bytes(&got.body, odd_body(SERVED, ModelAt::Middle, false).as_bytes(), model);
    }
}

//! What a client sees of a stream, and the edge that it goes through.

use bytes::Bytes;
use http_body_util::BodyExt;
use nearpool::sim::server::ReplicaHandle;
use serde_json::{Value, json};

use crate::support::{Edge, EdgeConfig, H2, Http1, Pool, SERVED, chat, post, post_with, sim, soon, with};

pub(super) const CHAT: &str = "/v1/chat/completions";
pub(super) const COMPLETIONS: &str = "/v1/completions";

/// A stream as a client sees it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) text: String,
    /// Every chunk, parsed.
    pub(super) chunks: Vec<Value>,
    /// Whether the dialect's end came.
    pub(super) done: bool,
    /// Whether the body ended in good order.
    pub(super) ended: bool,
    /// The raw events.
    pub(super) raw: String,
}

impl Seen {
    pub(super) fn of(raw: &[u8], ended: bool) -> Seen {
        let raw = String::from_utf8(raw.to_vec()).unwrap();
        let mut seen = Seen { ended, ..Seen::default() };
        for event in raw.split_inclusive("\n\n").filter(|event| !event.starts_with(':')) {
            assert!(event.ends_with("\n\n"), "half an event: {event:?}");
            let data = event.trim_end().strip_prefix("data: ").unwrap_or_else(|| panic!("{event:?}"));
            if data == "[DONE]" {
                seen.done = true;
                continue;
            }
            assert!(!seen.done, "{data} after the end");
            let chunk: Value = serde_json::from_str(data).unwrap();
            let choice = &chunk["choices"][0];
            let text = choice["delta"]["content"].as_str().or(choice["text"].as_str());
            seen.text.push_str(text.unwrap_or_default());
            seen.chunks.push(chunk);
        }
        seen.raw = raw;
        seen
    }

    /// The values of a key over all chunks, one for each that differs from the one before.
    pub(super) fn all(&self, of: impl Fn(&Value) -> &Value) -> Vec<Value> {
        let mut values: Vec<_> = self.chunks.iter().map(of).filter(|value| !value.is_null()).cloned().collect();
        values.dedup();
        values
    }

    pub(super) fn finish(&self) -> Vec<Value> {
        self.all(|chunk| &chunk["choices"][0]["finish_reason"])
    }

    pub(super) fn usage(&self) -> Vec<Value> {
        self.all(|chunk| &chunk["usage"])
    }

    /// It must be whole, and look like the answer of one replica.
    #[track_caller]
    pub(super) fn check_one_whole_answer(&self, what: &str) {
        assert!(self.done && self.ended, "{what}: {}", self.raw);
        assert_eq!(self.all(|chunk| &chunk["id"]).len(), 1, "{what}: {}", self.raw);
        assert_eq!(self.all(|chunk| &chunk["created"]).len(), 1, "{what}: {}", self.raw);
        let roles = self.chunks.iter().filter(|chunk| chunk["choices"][0]["delta"]["role"].is_string()).count();
        assert!(roles <= 1, "{what}: {}", self.raw);
        assert_eq!(self.finish().len(), 1, "{what}: {}", self.raw);
    }

    /// It must be one that no SDK takes for whole.
    #[track_caller]
    pub(super) fn check_honest_end(&self, code: &str, what: &str) {
        assert!(!self.done && !self.ended, "{what}: {}", self.raw);
        assert_eq!(self.chunks.last().unwrap()["error"]["code"], code, "{what}: {}", self.raw);
    }
}

/// A stream of the model as the edge calls it.
pub(super) fn streamed(text: &str, tokens: u64) -> Value {
    with(chat(text, tokens), json!({"stream": true}))
}

/// The same for completions.
pub(super) fn completion(text: &str, tokens: u64) -> Value {
    json!({"model": "m", "prompt": text, "stream": true, "sim": {"tokens": tokens}})
}

/// A replica that is asked directly: what it says is what the client must get.
pub(super) struct Alone(ReplicaHandle);

impl Alone {
    pub(super) async fn start() -> Alone {
        Alone(sim("alone").await)
    }

    pub(super) async fn says(&self, path: &str, body: &Value) -> Seen {
        let body = with(body.clone(), json!({"model": SERVED}));
        let answer = Http1::connect(self.0.addr()).await.call(&post(path, &body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        Seen::of(&answer.body, true)
    }
}

/// Sends a request and reads its stream to whatever end.
pub(super) async fn see(edge: &Edge, path: &str, body: &Value) -> Seen {
    see_with(edge, path, &[], body).await
}

pub(super) async fn see_with(edge: &Edge, path: &str, headers: &[(&str, &str)], body: &Value) -> Seen {
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(path, headers, body)).await;
    let head = client.head().await;
    assert_eq!(head.status, 200, "{head:?}");
    let (raw, ended) = client.body(&head).await;
    Seen::of(&raw, ended.is_ok())
}

/// The same over HTTP/2.
pub(super) async fn see_h2(edge: &Edge, path: &str, body: &Value) -> Seen {
    let mut client = H2::connect(edge.agents()).await;
    let answer = client.send(path, &[], body.to_string()).await.unwrap();
    assert_eq!(answer.status(), 200);
    let (mut frames, mut raw) = (answer.into_body(), Vec::new());
    loop {
        match soon(frames.frame()).await {
            Some(Ok(frame)) => raw.extend_from_slice(&frame.into_data().unwrap_or_else(|_| Bytes::new())),
            end => return Seen::of(&raw, end.is_none()),
        }
    }
}

/// Replicas a, b, …, each in a pool and a region of its own, nearest first: a call comes to the first one that is not out.
pub(super) struct InLine {
    pub(super) edge: Edge,
    pub(super) sims: Vec<ReplicaHandle>,
}

impl InLine {
    pub(super) async fn start(replicas: usize, line: &str) -> InLine {
        InLine::start_with(replicas, line, |config| config).await
    }

    pub(super) async fn start_with(replicas: usize, line: &str, set: impl FnOnce(EdgeConfig) -> EdgeConfig) -> InLine {
        let mut sims = Vec::new();
        let mut config = EdgeConfig::new();
        for n in 0..replicas {
            let name = char::from(b'a' + n as u8).to_string();
            let prefill = line.contains("llama.cpp");
            let sim = crate::support::sim_with(&name, |params| params.prefill_trailing_assistant = prefill).await;
            config = config
                .region(&format!("at-{name}"), 37.0, -121.0 + 10.0 * n as f64)
                .pool(Pool::new(&name, &format!("at-{name}"), "m").sims(&[&sim]).line(line));
            sims.push(sim);
        }
        // The same replica breaks off many times in a test, and is to be asked again each time.
        let config = config.set("circuit_breaker", "failure_threshold", "1000");
        InLine { edge: Edge::start(set(config)).await, sims }
    }

    pub(super) async fn resumes(&self, result: &str) -> f64 {
        self.edge.metric(&format!("nearpool_resumes_total{{result=\"{result}\"}}")).await
    }
}

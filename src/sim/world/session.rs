//! One session's conversation: a context that grows with every step, and the reading of a streamed answer.
//!
//! As with the frameworks' agents, every call repeats the messages of the last one exactly and appends to them, and nothing
//! else names the session.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};

use super::report::Step;
use crate::sim::text::{mix, word};

/// Bytes of one event that a sane server never exceeds.
const EVENT_BYTES_MAX: usize = 1 << 20;
/// Tokens of the system prompt that all sessions share.
const SHARED_TOKENS: u64 = 1_000;

/// How an answer's error begins when the stream itself told it.
pub(super) const ERROR_EVENT: &str = "error event: ";

/// A conversation so far.
pub(super) struct Session {
    pub(super) id: String,
    key: u64,
    messages: Vec<Value>,
}

/// A streamed answer, read to its end.
#[derive(Debug, Default)]
pub(super) struct Answered {
    pub(super) text: String,
    pub(super) first_content: Option<Instant>,
    pub(super) model: Option<String>,
    pub(super) usage: Option<Usage>,
    pub(super) error: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    prompt_tokens_details: Option<Details>,
}

#[derive(Debug, Clone, Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

impl Usage {
    pub(super) fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details.as_ref().and_then(|details| details.cached_tokens)
    }
}

impl Session {
    /// A fresh conversation of about `tokens`: the system prompt that all agents share, and the session's own documents.
    pub(super) fn new(seed: u64, tokens: u64) -> Self {
        let key = mix(seed);
        let system = format!("You are an agent. {}", prose(0, SHARED_TOKENS));
        let task = format!("The task, with its documents: {}", prose(key, tokens.saturating_sub(SHARED_TOKENS)));
        Self {
            id: format!("sim-{key:016x}"),
            key,
            messages: vec![json!({"role": "system", "content": system}), json!({"role": "user", "content": task})],
        }
    }

    /// The body of the next call.
    pub(super) fn body(&self, model: &str, answer_tokens: u64) -> Bytes {
        let body = json!({
            "model": model, "messages": self.messages, "stream": true, "stream_options": {"include_usage": true},
            "max_tokens": answer_tokens, "sim": {"tokens": answer_tokens},
        });
        Bytes::from(body.to_string())
    }

    /// Appends an answer and what the world says to it: a tool's result of `tokens`, or the next instruction.
    pub(super) fn extend(&mut self, step: Step, answer: String, tokens: u64) {
        self.messages.push(json!({"role": "assistant", "content": answer}));
        let key = mix(self.key ^ self.messages.len() as u64);
        let follows = match step {
            Step::ToolCaller => format!("Result: {}", prose(key, tokens)),
            _ => format!("Go on. {}", prose(key, 20)),
        };
        self.messages.push(json!({"role": "user", "content": follows}));
    }
}

/// Text of about so many tokens.
fn prose(key: u64, tokens: u64) -> String {
    (1..=tokens).map(|at| word(key, at)).collect()
}

/// Reads a chat stream to its end. What does not end with `[DONE]` is an error.
pub(super) async fn read_stream(mut body: Incoming) -> Answered {
    let mut answered = Answered::default();
    let mut buffer = BytesMut::new();
    let mut done = false;
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => {
                // An error event says more than the broken connection that follows it.
                answered.error.get_or_insert_with(|| format!("the stream broke: {error}"));
                return answered;
            }
        };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            done |= read_line(&mut answered, &line);
        }
        if buffer.len() > EVENT_BYTES_MAX {
            answered.error = Some("an event is too long".to_owned());
            return answered;
        }
    }
    if !done && answered.error.is_none() {
        answered.error = Some("the stream ended without [DONE]".to_owned());
    }
    answered
}

/// True for `[DONE]`.
fn read_line(answered: &mut Answered, line: &[u8]) -> bool {
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else {
        return false;
    };
    if data == b"[DONE]" {
        return true;
    }
    let Ok(chunk) = serde_json::from_slice::<Value>(data) else {
        answered.error = Some("an event is not JSON".to_owned());
        return false;
    };
    if let Some(error) = chunk.get("error") {
        answered.error = Some(format!("{ERROR_EVENT}{}", error["message"].as_str().unwrap_or_default()));
    }
    if let Some(usage) = chunk.get("usage").filter(|usage| !usage.is_null()) {
        answered.usage = Usage::deserialize(usage).ok();
    }
    if answered.model.is_none() {
        answered.model = chunk["model"].as_str().map(str::to_owned);
    }
    let delta = &chunk["choices"][0]["delta"];
    let text = delta["content"].as_str().unwrap_or_default();
    if !text.is_empty() || delta["tool_calls"].is_array() {
        answered.first_content.get_or_insert_with(Instant::now);
    }
    answered.text.push_str(text);
    false
}

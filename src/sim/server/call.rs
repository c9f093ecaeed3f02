//! What every dialect's request comes down to, and what it may be refused for.

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;

use super::answer::Voice;
use crate::sim::engine::Pace;
use crate::sim::prompt::{Prompt, ToolCall};

/// A request, read.
pub(super) struct Call {
    /// The model it names, if any.
    pub(super) model: Option<String>,
    pub(super) prompt: Prompt,
    pub(super) stream: bool,
    /// Most tokens that the answer may have.
    pub(super) max_tokens: Option<u64>,
    /// The tool call to answer with, if any.
    pub(super) tool: Option<ToolCall>,
    pub(super) hints: Hints,
    /// How the answer is put into bytes.
    pub(super) voice: Box<dyn Voice>,
}

/// The field `sim` of a request: how a test wants its answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Hints {
    /// Tokens of the whole answer (of a continued one: with what it already has).
    pub(super) tokens: Option<u64>,
    /// Milliseconds from token to token.
    itl_ms: Option<f64>,
    /// Milliseconds to the first token.
    prefill_ms: Option<f64>,
}

impl Hints {
    /// The forced pace, when either part of it is given; the other is then 0.
    pub(super) fn pace(&self) -> Option<Pace> {
        let time = |ms: Option<f64>| Duration::try_from_secs_f64(ms.unwrap_or(0.0) / 1e3).unwrap_or_default();
        (self.itl_ms.is_some() || self.prefill_ms.is_some())
            .then(|| Pace { first: time(self.prefill_ms), each: time(self.itl_ms) })
    }
}

/// Why a request gets an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
    pub(super) retry_after_s: Option<u32>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), param: None, retry_after_s: None }
    }

    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn about(mut self, param: &'static str) -> Self {
        self.param = Some(param);
        self
    }
}

/// Reads a request's body; the error is what vLLM answers for one that does not parse.
pub(super) fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("the body does not parse: {error}")))
}

/// A message's content: text, parts, or nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Value>),
    #[default]
    Nothing,
}

impl Content {
    /// Its text; parts that are not text stand as their JSON, because they cost tokens too.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().map(part_text).collect(),
            Self::Nothing => String::new(),
        }
    }
}

pub(super) fn part_text(part: &Value) -> String {
    match part.get("text").and_then(Value::as_str).or(part.as_str()) {
        Some(text) => text.to_owned(),
        None => part.to_string(),
    }
}

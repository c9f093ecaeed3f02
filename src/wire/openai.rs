//! What the edge itself says in OpenAI's dialects: errors, errors in a stream, the list of models.
//!
//! In a stream both official SDKs raise on any data whose object has a truthy `error` (`openai` for Python 3.54
//! `_streaming.py`, for Node 6.49 `core/streaming.mjs`; tried with the Python one). The Responses event `error` is documented with its fields at the
//! top, which the SDKs hand to the caller as one more event; so that event carries both forms.

use bytes::Bytes;
use serde::Serialize;

use super::reply::{Failure, ModelEntry, json};

#[derive(Serialize)]
struct Envelope<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    r#type: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

impl<'a> Error<'a> {
    fn of(failure: &Failure<'a>) -> Error<'a> {
        let facts = failure.outcome.facts();
        let r#type = if facts.openai_type.is_empty() { "server_error" } else { facts.openai_type };
        Error { message: failure.message, r#type, param: failure.param, code: facts.label }
    }
}

/// `{"error":{"message","type","param","code"}}`
pub(super) fn error_body(failure: &Failure<'_>) -> Bytes {
    json(&Envelope { error: Error::of(failure) })
}

/// The event that ends a chat or completions stream; no `[DONE]` follows.
pub(super) fn error_event(failure: &Failure<'_>) -> Bytes {
    [b"data: ", &error_body(failure)[..], b"\n\n"].concat().into()
}

/// The event that ends a Responses stream.
pub(super) fn responses_error_event(failure: &Failure<'_>, sequence_number: u64) -> Bytes {
    #[derive(Serialize)]
    struct Event<'a> {
        r#type: &'static str,
        code: &'static str,
        message: &'a str,
        param: Option<&'a str>,
        sequence_number: u64,
        error: Error<'a>,
    }
    let data = json(&Event {
        r#type: "error",
        code: failure.outcome.label(),
        message: failure.message,
        param: failure.param,
        sequence_number,
        error: Error::of(failure),
    });
    [b"event: error\ndata: ", &data[..], b"\n\n"].concat().into()
}

/// The body of `GET /v1/models`.
pub(super) fn models(entries: &[ModelEntry<'_>]) -> Bytes {
    #[derive(Serialize)]
    struct List<'a> {
        object: &'static str,
        data: Vec<Item<'a>>,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        id: &'a str,
        object: &'static str,
        created: u64,
        owned_by: &'static str,
        /// As vLLM names the longest context; clients read it to size their prompts.
        #[serde(skip_serializing_if = "Option::is_none")]
        max_model_len: Option<u32>,
    }
    let data = entries.iter().map(|entry| Item {
        id: entry.id,
        object: "model",
        created: entry.created_s,
        owned_by: "nearpool",
        max_model_len: entry.context_tokens,
    });
    json(&List { object: "list", data: data.collect() })
}

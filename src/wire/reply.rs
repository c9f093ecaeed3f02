//! The edge's own answers, in the dialect of the request: dialect → function, and nothing else.

use bytes::Bytes;
use serde::Serialize;

use super::{anthropic, openai};
use crate::domain::ask::Dialect;
use crate::domain::outcome::Outcome;

/// A failure as a client is told of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure<'a> {
    /// How the request ended; it gives the envelope's `type` and `code`.
    pub outcome: Outcome,
    /// For people; any text.
    pub message: &'a str,
    /// The parameter that is to blame (`model`), where there is one. OpenAI's envelope alone has it.
    pub param: Option<&'a str>,
    /// The request's id. Anthropic's envelope alone has it (both have it as a header).
    pub request_id: Option<&'a str>,
}

impl<'a> Failure<'a> {
    /// Without a parameter or an id.
    pub fn new(outcome: Outcome, message: &'a str) -> Failure<'a> {
        Failure { outcome, message, param: None, request_id: None }
    }
}

/// A model as `GET /v1/models` lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModelEntry<'a> {
    /// The name that clients use.
    pub id: &'a str,
    /// When it came to be, in seconds since 1970; 0 when that is not known.
    pub created_s: u64,
    /// The longest context in tokens, where stated.
    pub context_tokens: Option<u32>,
}

/// The body of an error answer; `application/json`.
pub fn error_body(dialect: Dialect, failure: &Failure<'_>) -> Bytes {
    match dialect {
        Dialect::Messages => anthropic::error_body(failure),
        Dialect::Chat | Dialect::Completions | Dialect::Responses | Dialect::Embeddings => openai::error_body(failure),
    }
}

/// The event that ends a stream which cannot be finished: the client's SDK raises on it, and nothing may follow.
/// `sequence_number` is that of the event, where the dialect counts them (Responses).
pub fn error_event(dialect: Dialect, failure: &Failure<'_>, sequence_number: u64) -> Bytes {
    match dialect {
        Dialect::Messages => anthropic::error_event(failure),
        Dialect::Responses => openai::responses_error_event(failure, sequence_number),
        Dialect::Chat | Dialect::Completions | Dialect::Embeddings => openai::error_event(failure),
    }
}

/// The body of `GET /v1/models`. `anthropic` when the request has the header `anthropic-version`.
pub fn models(anthropic: bool, entries: &[ModelEntry<'_>]) -> Bytes {
    if anthropic { anthropic::models(entries) } else { openai::models(entries) }
}

/// A model's name as it stands in a body: a JSON string, quotes included.
pub fn json_string(text: &str) -> Bytes {
    json(&text)
}

/// Serialises one of the plain structs here. They hold strings and numbers only, which cannot fail; were it to fail, an
/// empty object is still an answer.
pub(super) fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map_or(Bytes::from_static(b"{}"), Bytes::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::sse::{EventKind, Progress, data_of};

    fn parsed(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn errors_come_in_the_dialects_envelope() {
        let failure = Failure {
            outcome: Outcome::ModelNotFound,
            message: "no model 'x'",
            param: Some("model"),
            request_id: Some("req-1"),
        };
        let openai = json!({"error": {
            "message": "no model 'x'", "type": "invalid_request_error", "param": "model", "code": "model_not_found",
        }});
        for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Responses, Dialect::Embeddings] {
            assert_eq!(parsed(&error_body(dialect, &failure)), openai);
        }
        assert_eq!(
            parsed(&error_body(Dialect::Messages, &failure)),
            json!({"type": "error", "error": {"type": "not_found_error", "message": "no model 'x'"}, "request_id": "req-1"}),
        );
    }

    #[test]
    fn error_events_have_the_form_that_the_sdks_raise_on() {
        let failure = Failure::new(Outcome::Cut, "the replica broke off");
        let text = |dialect| String::from_utf8(error_event(dialect, &failure, 7).to_vec()).unwrap();
        let error = r#"{"message":"the replica broke off","type":"server_error","param":null,"code":"cut"}"#;
        assert_eq!(text(Dialect::Chat), format!("data: {{\"error\":{error}}}\n\n"));
        assert_eq!(text(Dialect::Completions), text(Dialect::Chat));
        assert_eq!(
            text(Dialect::Messages),
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"the replica broke off\"}}\n\n",
        );
        let data = r#"{"type":"error","code":"cut","message":"the replica broke off","param":null,"sequence_number":7"#;
        assert_eq!(text(Dialect::Responses), format!("event: error\ndata: {data},\"error\":{error}}}\n\n"));
    }

    #[test]
    fn every_ending_has_an_envelope_with_a_type() {
        for outcome in Outcome::ALL {
            for dialect in Dialect::ALL {
                let body = parsed(&error_body(dialect, &Failure::new(*outcome, "m")));
                assert_ne!(body["error"]["type"], "", "{outcome:?} {dialect:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_message_stays_one_event_and_valid_json(message in any::<String>(), param in any::<Option<String>>()) {
            for dialect in Dialect::ALL {
                let failure = Failure {
                    outcome: Outcome::BadJson, message: &message, param: param.as_deref(), request_id: Some(&message),
                };
                prop_assert_eq!(&parsed(&error_body(dialect, &failure))["error"]["message"], &message);
                let event = error_event(dialect, &failure, 0);
                prop_assert_eq!(&parsed(&data_of(&event))["error"]["message"], &message);
                prop_assert_eq!(Progress::new(dialect).note(&event), EventKind::Error);
                let mut framer = crate::wire::sse::Framer::new();
                let framed = framer.push(event.clone(), |_| {}).unwrap();
                prop_assert_eq!(framed.whole, Some(event));
            }
            prop_assert_eq!(serde_json::from_slice::<String>(&json_string(&message)).unwrap(), message);
        }
    }

    #[test]
    fn models_are_listed_in_both_shapes() {
        let entries = [
            ModelEntry { id: "a", created_s: 86_400, context_tokens: Some(8192) },
            ModelEntry { id: "b\"", created_s: 0, context_tokens: None },
        ];
        assert_eq!(
            parsed(&models(false, &entries)),
            json!({"object": "list", "data": [
                {"id": "a", "object": "model", "created": 86_400, "owned_by": "nearpool", "max_model_len": 8192},
                {"id": "b\"", "object": "model", "created": 0, "owned_by": "nearpool"},
            ]}),
        );
        assert_eq!(
            parsed(&models(true, &entries)),
            json!({"data": [
                {"type": "model", "id": "a", "display_name": "a", "created_at": "1970-01-02T00:00:00Z", "max_input_tokens": 8192},
                {"type": "model", "id": "b\"", "display_name": "b\"", "created_at": "1970-01-01T00:00:00Z"},
            ], "has_more": false, "first_id": "a", "last_id": "b\""}),
        );
        assert_eq!(
            parsed(&models(true, &[])),
            json!({"data": [], "has_more": false, "first_id": null, "last_id": null})
        );
    }
}

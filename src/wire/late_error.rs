//! A replica's error answer as an event: for a stream whose head is out already, so that no status can follow.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::reply::{Failure, error_event, json};
use crate::domain::ask::Dialect;
use crate::domain::outcome::Outcome;

/// Longest piece of an answer that is quoted when the answer is no JSON.
const QUOTE_CHARS_MAX: usize = 512;

/// The event that tells what `body`, a whole answer that is no stream, says of a failure. The engine's own error object
/// passes as it is, since agents act on its `code`; an answer that holds none is quoted.
pub fn late_error_event(dialect: Dialect, outcome: Outcome, body: &[u8], sequence_number: u64) -> Bytes {
    let answer: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    match (dialect, answer.get("error")) {
        (Dialect::Chat | Dialect::Completions | Dialect::Embeddings, Some(error @ Value::Object(_))) => {
            let envelope = Map::from_iter([("error".to_owned(), error.clone())]);
            [b"data: ", &json(&envelope)[..], b"\n\n"].concat().into()
        }
        (Dialect::Messages, Some(error @ Value::Object(_))) => {
            let envelope = Map::from_iter([("type".to_owned(), "error".into()), ("error".to_owned(), error.clone())]);
            [b"event: error\ndata: ", &json(&envelope)[..], b"\n\n"].concat().into()
        }
        _ => error_event(dialect, &Failure::new(outcome, &message_of(&answer, body)), sequence_number),
    }
}

fn message_of(answer: &Value, body: &[u8]) -> String {
    let said = [answer.pointer("/error/message"), answer.get("error"), answer.get("message"), answer.get("detail")];
    match said.into_iter().flatten().find_map(Value::as_str) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).chars().take(QUOTE_CHARS_MAX).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::wire::sse::{EventKind, Progress, data_of};

    fn error_of(dialect: Dialect, body: &[u8]) -> Value {
        let event = late_error_event(dialect, Outcome::ClientError, body, 3);
        assert_eq!(Progress::new(dialect).note(&event), EventKind::Error, "{event:?}");
        serde_json::from_slice::<Value>(&data_of(&event)).unwrap()["error"].clone()
    }

    #[test]
    fn an_engines_error_object_passes_as_it_is() {
        let error = json!({"message": "too long", "type": "BadRequestError", "code": "context_length_exceeded"});
        let body = serde_json::to_vec_pretty(&json!({ "error": error })).unwrap();
        for dialect in [Dialect::Chat, Dialect::Completions, Dialect::Messages] {
            assert_eq!(error_of(dialect, &body), error);
        }
        assert_eq!(error_of(Dialect::Responses, &body)["message"], "too long");
    }

    #[test]
    fn what_holds_no_error_object_is_quoted() {
        for (body, message) in [
            (&br#"{"object":"error","message":"too long"}"#[..], "too long"),
            (br#"{"error":"too long"}"#, "too long"),
            (br#"{"detail":"too long"}"#, "too long"),
            (b"too\nlong", "too\nlong"),
            (br#"{"answer":42}"#, r#"{"answer":42}"#),
        ] {
            for dialect in Dialect::ALL {
                assert_eq!(error_of(dialect, body)["message"], message, "{dialect:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_answer_becomes_one_event(body in any::<Vec<u8>>()) {
            for dialect in Dialect::ALL {
                error_of(dialect, &body);
            }
        }
    }
}

//! What health checks say and read: lists of models, and calls of one token.

use bytes::Bytes;
use serde::Deserialize;

use super::reply::json_string;
use crate::domain::ask::{Dialect, DialectSet, Endpoint};

/// Text of a body that is not what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Garbled;

/// The models that a body of `GET /v1/models` names, in any dialect.
pub fn models(body: &[u8]) -> Result<Vec<String>, Garbled> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    let list: List = serde_json::from_slice(body).map_err(|_| Garbled)?;
    Ok(list.data.into_iter().map(|entry| entry.id).collect())
}

/// Whether a body says "Loading model", as llama.cpp does with its 503.
pub fn is_loading(body: &[u8]) -> bool {
    memchr::memmem::find(body, b"Loading model").is_some()
}

/// Whether a body is a whole answer to a call, and not an error that came with a good status.
pub fn is_answer(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        // `null` in a good answer of Responses.
        error: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Answer>(body).is_ok_and(|answer| answer.error.is_none())
}

/// The shortest call: where it goes and what it says. `model` as the replicas call it. It is made in the first dialect
/// that they speak.
pub fn one_token(dialects: DialectSet, model: &str) -> Option<(Endpoint, Bytes)> {
    let dialect = dialects.iter().next()?;
    let (endpoint, rest) = match dialect {
        Dialect::Chat => (Endpoint::Chat, r#""messages":[{"role":"user","content":"Hi"}],"max_tokens":1"#),
        Dialect::Completions => (Endpoint::Completions, r#""prompt":"Hi","max_tokens":1"#),
        Dialect::Responses => (Endpoint::Responses, r#""input":"Hi","max_output_tokens":1,"store":false"#),
        Dialect::Embeddings => (Endpoint::Embeddings, r#""input":"Hi""#),
        Dialect::Messages => (Endpoint::Messages, r#""messages":[{"role":"user","content":"Hi"}],"max_tokens":1"#),
    };
    Some((endpoint, [b"{\"model\":", &json_string(model)[..], b",", rest.as_bytes(), b"}"].concat().into()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(body: &str, names: Result<&[&str], Garbled>) {
        assert_eq!(
            models(body.as_bytes()),
            names.map(|names| names.iter().map(|&name| name.into()).collect()),
            "{body}"
        );
    }

    #[test]
    fn lists_of_models_are_read_as_engines_write_them() {
        check(r#"{"object":"list","data":[]}"#, Ok(&[]));
        check(
            r#"{"object":"list","data":[{"id":"org/m","object":"model","created":1,"owned_by":"vllm","root":"/m",
                "parent":null,"max_model_len":8192,"permission":[{}]},{"id":"adapter"}]}"#,
            Ok(&["org/m", "adapter"]),
        );
        // llama.cpp, with Ollama's list before OpenAI's.
        check(
            r#"{"models":[{"name":"/m/x.gguf","details":{}}],"object":"list",
                "data":[{"id":"/m/x.gguf","aliases":[],"meta":{"n_ctx_train":4096}}]}"#,
            Ok(&["/m/x.gguf"]),
        );
    }

    #[test]
    fn what_is_no_list_is_none() {
        for body in ["", "ok", "null", "[]", "{}", r#"{"data":{}}"#, r#"{"data":[{}]}"#, r#"{"data":[{"id":1}]}"#] {
            check(body, Err(Garbled));
        }
        check(&format!(r#"{{"data":{}"#, "[".repeat(100_000)), Err(Garbled));
    }

    #[test]
    fn an_error_with_a_good_status_is_no_answer() {
        for (body, good) in [
            (r#"{"choices":[]}"#, true),
            (r#"{"output":[],"error":null}"#, true),
            (r#"{"error":{"message":"no"}}"#, false),
            (r#"{"choices":["#, false),
            ("", false),
            ("<html>", false),
        ] {
            assert_eq!(is_answer(body.as_bytes()), good, "{body}");
        }
    }

    #[test]
    fn the_shortest_call_is_made_in_a_dialect_that_is_spoken() {
        for dialect in Dialect::ALL {
            let (endpoint, body) = one_token(DialectSet::default().with(dialect), "org/\"m\"").unwrap();
            assert_eq!(endpoint.dialect(), dialect);
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["model"], json!("org/\"m\""));
        }
        let all: DialectSet = Dialect::ALL.into_iter().collect();
        assert_eq!(one_token(all, "m").unwrap().0, Endpoint::Chat);
        assert_eq!(one_token(DialectSet::default(), "m"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = (models(&body), is_answer(&body), is_loading(&body));
        }
    }
}

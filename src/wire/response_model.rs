//! The model that an answer says it is of: what an engine calls it.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

use super::sse::data_of;

/// Longest name that is told of.
const NAME_BYTES_MAX: usize = 256;

/// In chat, completions and embeddings it stands at the top; in Responses below `response`, in Anthropic's stream below
/// `message`.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(borrow)]
    response: Option<Inner<'a>>,
    #[serde(borrow)]
    message: Option<Inner<'a>>,
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
}

/// The name in a whole answer, or in the first event of a stream, as far as it has come.
pub fn response_model(pieces: &[Bytes]) -> Option<String> {
    let whole = match pieces {
        [one] => Cow::Borrowed(&one[..]),
        many => Cow::Owned(many.concat()),
    };
    let event = data_of(&whole);
    let json = if whole.trim_ascii_start().starts_with(b"{") { &whole[..] } else { &event[..] };
    // Of several events the first one.
    let answer = serde_json::Deserializer::from_slice(json).into_iter::<Answer<'_>>().next()?.ok()?;
    let inner = answer.response.or(answer.message).and_then(|inner| inner.model);
    let model = answer.model.or(inner)?;
    (!model.is_empty() && model.len() <= NAME_BYTES_MAX).then(|| model.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_where_each_dialect_has_it() {
        let long = format!(r#"{{"model":"{}"}}"#, "m".repeat(NAME_BYTES_MAX + 1));
        for (pieces, expected) in [
            (&[r#"{"id":"x","model":"m","choices":[]}"#][..], Some("m")),
            (&[r#"{"id":"x","mod"#, r#"el":"m"}"#], Some("m")),
            (&["data: {\"model\":\"m\"}\n\n"], Some("m")),
            (&[": wait\n\n", "data: {\"model\":\"m\"}\n\n", "data: {\"model\":\"n\"}\n\ndata: [DONE]\n\n"], Some("m")),
            (&["event: response.created\ndata: {\"response\":{\"model\":\"m\"}}\n\n"], Some("m")),
            (
                &["event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\"}}\n\n"],
                Some("m"),
            ),
            (&[r#"{"model":"é\n"}"#], Some("é\n")),
            (&[r#"{"model":""}"#], None),
            (&[r#"{"model":7}"#], None),
            (&[r#"{"choices":[]}"#], None),
            (&["data: [DONE]\n\n"], None),
            (&[long.as_str()], None),
            (&[], None),
        ] {
            let pieces: Vec<_> = pieces.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())).collect();
            assert_eq!(response_model(&pieces).as_deref(), expected, "{pieces:?}");
        }
    }
}

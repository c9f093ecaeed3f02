//! The ids of stored responses (Responses API): the one that a call goes on with, and the one that its answer is given.
//!
//! Of an answer no more is read than up to its id, which stands at its beginning, so that it may also be cut.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::scan::{Field, Scan};
use super::sse::data_of;

/// Longest id in bytes, decoded; the engines' have 37 to 67. A longer one is none.
pub const ID_BYTES_MAX: usize = 256;

/// The response that a request goes on with.
pub fn previous(scan: &Scan) -> Option<String> {
    scan.fields.get(Field::PreviousResponse).filter(|id| is_id(id)).map(str::to_owned)
}

/// The id of an answer that was not streamed, or of its beginning.
pub fn of_body(body: &[u8]) -> Option<String> {
    find(body, &["id"])
}

/// The id of the response that an event of a stream tells of.
pub fn of_event(event: &[u8]) -> Option<String> {
    find(&data_of(event), &["response", "id"])
}

fn is_id(id: &str) -> bool {
    (1..=ID_BYTES_MAX).contains(&id.len())
}

/// The text at the end of this path of keys.
fn find(json: &[u8], path: &[&str]) -> Option<String> {
    let mut found = None;
    // An error means that it was found, or that there is none.
    let _ = At { path, found: &mut found }.deserialize(&mut serde_json::Deserializer::from_slice(json));
    found.filter(|id: &String| is_id(id))
}

/// Looks for a path and stops where it ends.
struct At<'p, 'f> {
    path: &'p [&'p str],
    found: &'f mut Option<String>,
}

impl<'de> DeserializeSeed<'de> for At<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for At<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, or an id at its end")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.path.is_empty() {
            *self.found = Some(text.to_owned());
        }
        Err(E::custom("read no further"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match self.path {
                [first, rest @ ..] if *first == key => {
                    return map.next_value_seed(At { path: rest, found: self.found });
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::wire::scan::Scanner;

    #[track_caller]
    fn check_previous(json: &str, expected: Option<&str>) {
        let mut scanner = Scanner::new();
        scanner.push(json.as_bytes()).unwrap();
        assert_eq!(previous(&scanner.finish().unwrap()).as_deref(), expected, "{json:.80}");
    }

    #[test]
    fn the_response_that_a_call_goes_on_with_is_a_short_text_at_the_top_level() {
        check_previous(r#"{"previous_response_id" : "resp_1","input":"x"}"#, Some("resp_1"));
        check_previous(r#"{"previous_response_id":"r\u0065sp"}"#, Some("resp"));
        check_previous(r#"{"previous_response_id":"a","previous_response_id":"b"}"#, Some("b"));
        for none in ["null", "7", "\"\"", "{\"id\":\"x\"}", "[\"x\"]", r#""\ud800""#] {
            check_previous(&format!("{{\"previous_response_id\":{none}}}"), None);
        }
        check_previous(r#"{"input":{"previous_response_id":"x"}}"#, None);
        let id = |n: usize| "x".repeat(n);
        let body = |id: &str| format!("{{\"previous_response_id\":\"{id}\"}}");
        check_previous(&body(&id(ID_BYTES_MAX)), Some(&id(ID_BYTES_MAX)));
        check_previous(&body(&"\\u0078".repeat(ID_BYTES_MAX)), Some(&id(ID_BYTES_MAX)));
        for n in [1, 2_000, 100_000] {
            check_previous(&body(&id(ID_BYTES_MAX + n)), None);
        }
    }

    #[test]
    fn an_answers_id_is_found_also_in_its_beginning() {
        let whole = r#" {"object":"response","meta":{"id":"no"},"id":"resp_1","output":[{"id":"msg"}]}"#;
        let end = whole.find("\",\"output").unwrap() + 1;
        for cut in 0..=whole.len() {
            let expected = (cut >= end).then_some("resp_1");
            assert_eq!(of_body(&whole.as_bytes()[..cut]).as_deref(), expected, "{cut}");
        }
        for none in ["", "[]", "{}", "\"id\"", r#"{"id":null}"#, r#"{"id":7}"#, r#"{"id":{"id":"x"}}"#, r#"{"id":""}"#]
        {
            assert_eq!(of_body(none.as_bytes()), None, "{none}");
        }
        assert_eq!(of_body(br#"{"id":"a\"b"}"#).as_deref(), Some("a\"b"));
    }

    #[test]
    fn the_first_event_of_a_stream_tells_the_id() {
        let event = |data: &str| of_event(format!("event: response.created\ndata: {data}\n\n").as_bytes());
        assert_eq!(event(r#"{"type":"response.created","response":{"id":"resp_1","x":1}}"#).as_deref(), Some("resp_1"));
        assert_eq!(event(r#"{"type":"response.created","response":{"x":{"id":"no"}}}"#), None);
        assert_eq!(event(r#"{"type":"x","id":"no"}"#), None);
        assert_eq!(of_event(b": comment\n\n"), None);
    }
}

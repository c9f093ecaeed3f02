//! Two things that clients change in messages which they repeat, evened out before hashing:
//!
//! - `"cache_control": {…}` marks where an Anthropic client wants the cache to reach. The mark moves along from call to
//!   call, so that a message comes once with it and later without it. Members of that name are left out, wherever they stand.
//! - To be marked, a text must stand in a block: `"content": [{"type": "text", "text": "X"}]` for `"content": "X"`. A list of
//!   one text block and nothing else counts as its text.
//!
//! Both are done on the bytes: a quote inside of a string is escaped, so a `"cache_control"` with a colon behind it is a key.

use memchr::memmem::Finder;
use once_cell::sync::Lazy;

use super::json::{after_space, after_value, member, members};
use crate::wire::scan::CACHE_CONTROL;

/// Finds what is to be left out, for one request.
pub(super) struct Normal {
    /// Where there may be any.
    marks: Option<&'static Finder<'static>>,
}

impl Normal {
    /// `marked`: whether there may be marks.
    pub(super) fn new(marked: bool) -> Normal {
        static MARKS: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(CACHE_CONTROL));
        Normal { marks: marked.then(|| &*MARKS) }
    }

    /// What counts of a message.
    pub(super) fn message<'a>(&self, message: &'a [u8]) -> Vec<&'a [u8]> {
        let content = member(message, b"\"content\"");
        self.with_value(message, content)
    }

    /// What counts of a system prompt, or of tools.
    pub(super) fn value<'a>(&self, value: &'a [u8]) -> Vec<&'a [u8]> {
        self.with_value(value, Some(0))
    }

    /// What counts of `bytes`, where the value at `value` may be one text in a block.
    fn with_value<'a>(&self, bytes: &'a [u8], value: Option<usize>) -> Vec<&'a [u8]> {
        let mut kept = Vec::new();
        match value.and_then(|at| Some((at, only_text(bytes, at)?))) {
            Some((at, OnlyText { text, end })) => {
                self.unmarked(&bytes[..at], &mut kept);
                kept.push(text);
                self.unmarked(&bytes[end..], &mut kept);
            }
            None => self.unmarked(bytes, &mut kept),
        }
        kept
    }

    /// Adds what is left of `bytes` without the marks, each taken out with a comma beside it.
    fn unmarked<'a>(&self, bytes: &'a [u8], kept: &mut Vec<&'a [u8]>) {
        let (mut from, mut search) = (0, 0);
        while let Some(found) = self.marks.and_then(|marks| marks.find(&bytes[search..])) {
            let key = search + found;
            search = key + CACHE_CONTROL.len();
            let colon = after_space(bytes, search);
            let is_key = bytes.get(colon) == Some(&b':') && (key == 0 || bytes[key - 1] != b'\\');
            if !is_key {
                continue;
            }
            let end = after_value(bytes, after_space(bytes, colon + 1));
            let hole = with_comma(bytes, from, key, end);
            kept.push(&bytes[from..hole.0]);
            (from, search) = (hole.1, hole.1);
        }
        kept.push(&bytes[from..]);
    }
}

/// A member's place with the comma before it, else the one behind it: so that the same is left as if it had never stood
/// there, white space included. Nothing before `from` is taken.
fn with_comma(bytes: &[u8], from: usize, key: usize, end: usize) -> (usize, usize) {
    let before = &bytes[from..key];
    let trimmed = before.trim_ascii_end();
    if trimmed.last() == Some(&b',') {
        return (from + trimmed.len() - 1, end);
    }
    let comma = after_space(bytes, end);
    if bytes.get(comma) == Some(&b',') { (key, after_space(bytes, comma + 1)) } else { (from + trimmed.len(), comma) }
}

/// The text of a list with one text block and nothing else.
struct OnlyText<'a> {
    /// With its quotes.
    text: &'a [u8],
    /// The index after the list.
    end: usize,
}

fn only_text(bytes: &[u8], list: usize) -> Option<OnlyText<'_>> {
    if bytes.get(list) != Some(&b'[') {
        return None;
    }
    let (mut text, mut is_text) = (None, false);
    let end = members(bytes, after_space(bytes, list + 1), |key, at| {
        // What is no text block shows it at its type, mostly before its text.
        let expected = match key {
            b"\"type\"" => bytes[at.min(bytes.len())..].starts_with(b"\"text\""),
            b"\"text\"" => bytes.get(at) == Some(&b'"') && text.is_none(),
            CACHE_CONTROL => true,
            _ => false,
        };
        let end = expected.then(|| after_value(bytes, at))?;
        is_text |= key == b"\"type\"";
        if key == b"\"text\"" {
            text = Some(&bytes[at..end]);
        }
        Some(end)
    })?;
    let close = after_space(bytes, end);
    let text = text.filter(|_| is_text && bytes.get(close) == Some(&b']'))?;
    Some(OnlyText { text, end: close + 1 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[track_caller]
    fn check(message: &str, counts: &str) {
        let normal = Normal::new(true);
        assert_eq!(String::from_utf8(normal.message(message.as_bytes()).concat()).unwrap(), counts, "{message}");
    }

    #[test]
    fn marks_are_left_out_as_if_they_had_never_stood_there() {
        check(r#"{"a":1,"cache_control":{"type":"ephemeral","ttl":"1h"}}"#, r#"{"a":1}"#);
        check(r#"{"a":1, "cache_control" : {"x":"}"} , "b":2}"#, r#"{"a":1 , "b":2}"#);
        check(r#"{"a": 1, "cache_control": {"type": "ephemeral"}, "b": 2}"#, r#"{"a": 1, "b": 2}"#);
        check(r#"{"cache_control":{"x":[1,2]},"a":1}"#, r#"{"a":1}"#);
        check(r#"{"cache_control":null}"#, r#"{}"#);
        check("{\n  \"a\": 1,\n  \"cache_control\": {\n  }\n}", "{\n  \"a\": 1\n}");
        check(r#"{"b":[{"t":1,"cache_control":{}},{"cache_control":7,"t":2}]}"#, r#"{"b":[{"t":1},{"t":2}]}"#);
        check(r#"{"cache_control":1,"cache_control":2}"#, r#"{}"#);
    }

    #[test]
    fn the_word_elsewhere_is_no_mark() {
        for text in [
            r#"{"content":"\"cache_control\": {}"}"#,
            r#"{"a":"cache_control","b":["cache_control"]}"#,
            r#"{"my \"cache_control":{}}"#,
            r#"{"content":"say cache_control: x"}"#,
            r#"{"cache_controls":1,"_cache_control":2}"#,
        ] {
            check(text, text);
        }
    }

    #[test]
    fn one_text_block_counts_as_its_text() {
        let plain = r#"{"role":"user","content":"a\"b"}"#;
        check(plain, plain);
        check(r#"{"role":"user","content":[{"type":"text","text":"a\"b"}]}"#, plain);
        check(
            r#"{"role":"user","content":[{"type":"text","text":"a\"b","cache_control":{"type":"ephemeral"}}]}"#,
            plain,
        );
        check(r#"{"role":"user","content":[ { "text" : "a\"b" , "type" : "text" } ]}"#, plain);
        check(r#"{"content":[{"type":"text","text":"x"}],"role":"user"}"#, r#"{"content":"x","role":"user"}"#);
    }

    #[test]
    fn any_other_list_stays() {
        for content in [
            r#"[{"type":"text","text":"x"},{"type":"text","text":"y"}]"#,
            r#"[{"type":"input_text","text":"x"}]"#,
            r#"[{"type":"text","text":"x","citations":[]}]"#,
            r#"[{"type":"text"}]"#,
            r#"[{"text":"x"}]"#,
            r#"[{"type":"text","text":["x"]}]"#,
            r#"[{"type":"text","text":"x","text":"y"}]"#,
            r#"["x"]"#,
            "[]",
            "null",
        ] {
            check(
                &format!(r#"{{"role":"user","content":{content}}}"#),
                &format!(r#"{{"role":"user","content":{content}}}"#),
            );
        }
        let system = br#"[{"type":"text","text":"You"}]"#;
        assert_eq!(Normal::new(true).value(system).concat(), b"\"You\"");
    }

    /// The same on a tree.
    fn unmark(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(unmark),
            Value::Object(members) => {
                members.remove("cache_control");
                members.values_mut().for_each(unmark);
            }
            _ => {}
        }
    }

    fn any_marked() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!("cache_control")),
            Just(json!("\"cache_control\":")),
            any::<i32>().prop_map(Value::from),
            Just(Value::Null),
        ];
        let key = prop_oneof![2 => Just("cache_control".to_owned()), 3 => "[a-z\"\\\\]{0,3}", 1 => Just("\"cache_control".to_owned())];
        leaf.prop_recursive(4, 30, 5, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::hash_map(key.clone(), inner, 0..5).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_left_is_the_tree_without_the_marks(value in any_marked(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let mut left = Vec::new();
            Normal::new(true).unmarked(text.as_bytes(), &mut left);
            let mut expected = value;
            unmark(&mut expected);
            let left = left.concat();
            prop_assert_eq!(serde_json::from_slice::<Value>(&left).unwrap(), expected.clone());
            if !pretty {
                prop_assert_eq!(left, serde_json::to_vec(&expected).unwrap());
            }
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(pieces in prop::collection::vec(prop::sample::select(vec![
            "\"cache_control\"", ":", ",", "{", "}", "[", "]", "\"", "\\", " ", "\"content\"", "\"type\":\"text\"", "\"text\"", "1",
        ]), 0..40)) {
            let bytes = pieces.concat().into_bytes();
            let normal = Normal::new(true);
            prop_assert!(normal.message(&bytes).concat().len() <= bytes.len());
            prop_assert!(normal.value(&bytes).concat().len() <= bytes.len());
        }
    }
}

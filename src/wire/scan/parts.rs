//! Where the parts of a prompt stand in a body, and the items of those that are lists.

use std::ops::Range;

/// Most items of a list that are told apart. Real conversations have some thousands of messages; the rest of a longer list
/// is told as one more item.
pub const ITEMS_MAX: usize = 16_384;

/// A part of a prompt, by the top-level key that it stands behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartKey {
    /// `tools`.
    Tools,
    /// `system` (Anthropic).
    System,
    /// `instructions` (Responses).
    Instructions,
    /// `messages`.
    Messages,
    /// `input` (Responses, embeddings).
    Input,
    /// `prompt` (completions).
    Prompt,
    /// `cache_salt` (vLLM, SGLang): prompts with different ones share no cache.
    CacheSalt,
    /// `extra_key` (SGLang), the same.
    ExtraKey,
}

impl PartKey {
    const COUNT: usize = PartKey::ExtraKey as usize + 1;

    /// Whether its items are told one by one.
    const fn is_list(self) -> bool {
        matches!(self, PartKey::Messages | PartKey::Input | PartKey::Prompt)
    }
}

/// The value of one key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Part {
    /// Its bytes in the body.
    pub range: Range<usize>,
    /// If it is an array: its objects, arrays and strings, in order; the last of `ITEMS_MAX + 1` reaches to the last item's end.
    pub items: Vec<Range<usize>>,
    /// Whether the array holds anything else: numbers, as a list of token ids does, or literals.
    pub scalars: bool,
}

impl Part {
    /// Whether the last of the items stands for several.
    pub fn is_overfull(&self) -> bool {
        self.items.len() > ITEMS_MAX
    }
}

/// All parts of a prompt. What is `null` counts as absent; of a key that stands twice the last one is told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parts {
    parts: [Option<Part>; PartKey::COUNT],
    /// Whether one of them, tools apart, stands twice: engines may read either.
    pub twice: bool,
}

impl Parts {
    /// What stands behind this key.
    pub fn get(&self, key: PartKey) -> Option<&Part> {
        self.parts[key as usize].as_ref()
    }

    /// A value begins behind a key.
    pub(super) fn begin(&mut self, key: PartKey, first: u8, at: usize) {
        let slot = &mut self.parts[key as usize];
        self.twice |= slot.is_some() && key != PartKey::Tools;
        *slot = (first != b'n').then(|| Part { range: at..at, ..Part::default() });
    }

    /// That value has ended.
    pub(super) fn end(&mut self, key: PartKey, end: usize) {
        if let Some(part) = &mut self.parts[key as usize] {
            part.range.end = end;
        }
    }

    /// An item of the array behind this key begins.
    pub(super) fn begin_item(&mut self, key: PartKey, first: u8, at: usize) {
        let Some(part) = self.parts[key as usize].as_mut().filter(|_| key.is_list()) else { return };
        if !matches!(first, b'{' | b'[' | b'"') {
            part.scalars = true;
        } else if part.items.len() <= ITEMS_MAX {
            part.items.push(at..at);
        }
    }

    /// An item of that array has ended.
    pub(super) fn end_item(&mut self, key: PartKey, end: usize) {
        if let Some(item) = self.parts[key as usize].as_mut().and_then(|part| part.items.last_mut()) {
            item.end = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::scan::{Field, Scan, Scanner};

    const KEYS: [(&str, PartKey); PartKey::COUNT] = [
        ("tools", PartKey::Tools),
        ("system", PartKey::System),
        ("instructions", PartKey::Instructions),
        ("messages", PartKey::Messages),
        ("input", PartKey::Input),
        ("prompt", PartKey::Prompt),
        ("cache_salt", PartKey::CacheSalt),
        ("extra_key", PartKey::ExtraKey),
    ];

    fn scan<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Scan {
        let mut scanner = Scanner::new();
        chunks.into_iter().for_each(|chunk| scanner.push(chunk).unwrap());
        scanner.finish().unwrap()
    }

    /// The scan of a body, the same at every cut.
    #[track_caller]
    fn scan_every_way(body: &str) -> Scan {
        let whole = scan([body.as_bytes()]);
        for cut in 0..=body.len() {
            let (a, b) = body.as_bytes().split_at(cut);
            assert_eq!(scan([a, b]), whole, "cut at {cut} of {body}");
        }
        assert_eq!(scan(body.as_bytes().chunks(1)), whole);
        whole
    }

    /// The items of the one part of a body, as text.
    #[track_caller]
    fn check(body: &str, key: PartKey, items: &[&str], scalars: bool) {
        let scan = scan_every_way(body);
        let part = scan.parts.get(key).unwrap_or_else(|| panic!("{body}"));
        let found: Vec<&str> = part.items.iter().map(|item| &body[item.clone()]).collect();
        assert_eq!((&found[..], part.scalars), (items, scalars), "{body}");
    }

    #[test]
    fn items_are_told_without_what_stands_between_them() {
        check(r#"{"messages":[]}"#, PartKey::Messages, &[], false);
        check(
            r#"{"messages" : [ {"a":[1,{}]} , "x\"]" ,[[]] ] }"#,
            PartKey::Messages,
            &[r#"{"a":[1,{}]}"#, r#""x\"]""#, "[[]]"],
            false,
        );
        check(r#"{"input":"text [1,2]"}"#, PartKey::Input, &[], false);
        check(r#"{"prompt":[1, 2,33 ]}"#, PartKey::Prompt, &[], true);
        check(r#"{"prompt":[[1,2]]}"#, PartKey::Prompt, &["[1,2]"], false);
        check(r#"{"m\u0065ssages":[{}]}"#, PartKey::Messages, &["{}"], false);
        check(r#"{"messages":{"a":[{}],"b":{}}}"#, PartKey::Messages, &[], false);
        check(r#"{"x":{"messages":[1]},"messages":[{}]}"#, PartKey::Messages, &["{}"], false);
        check(r#"{"messages":[null,{},true]}"#, PartKey::Messages, &["{},true"], true);
        check(r#"{"tools":[{},{}]}"#, PartKey::Tools, &[], false);
    }

    #[test]
    fn of_a_key_that_stands_twice_the_last_is_told_and_that_it_does() {
        check(r#"{"messages":[{"a":1},{}],"x":1,"messages":[{"b":2}]}"#, PartKey::Messages, &[r#"{"b":2}"#], false);
        for (body, twice) in [
            (r#"{"messages":[],"messages":[]}"#, true),
            (r#"{"system":"a","s\u0079stem":"b"}"#, true),
            (r#"{"prompt":"a","prompt":null}"#, true),
            (r#"{"tools":[],"tools":[]}"#, false),
            (r#"{"messages":[],"input":[],"prompt":""}"#, false),
        ] {
            assert_eq!(scan_every_way(body).parts.twice, twice, "{body}");
        }
        assert_eq!(scan_every_way(r#"{"system":null,"messages":null}"#).parts, Parts::default());
    }

    #[test]
    fn a_list_beyond_the_bound_ends_in_one_item_that_holds_the_rest() {
        let body = format!(r#"{{"messages":[{}]}}"#, vec!["{}"; 100_000].join(","));
        let scan = scan(body.as_bytes().chunks(1000));
        let part = scan.parts.get(PartKey::Messages).unwrap();
        assert!(part.items.len() == ITEMS_MAX + 1 && part.is_overfull());
        assert_eq!(part.items[ITEMS_MAX], part.items[ITEMS_MAX - 1].end + 1..part.range.end - 1);
    }

    #[test]
    fn strings_that_may_name_a_session_are_kept_and_other_values_are_not() {
        let body = r#"{"metadata":{"x":1,"session_id":"m","user_id":"u\"\u00e9","y":{"session_id":"no"}},"user":"me",
            "conversation":{"id":"c","other":"x"},"session_id":"s","prompt_cache_key":"k","previous_response_id":"resp_1"}"#;
        let scan = scan_every_way(body);
        let all = [
            (Field::Conversation, "c"),
            (Field::SessionId, "s"),
            (Field::MetadataSessionId, "m"),
            (Field::MetadataUserId, "u\"é"),
            (Field::User, "me"),
            (Field::PromptCacheKey, "k"),
            (Field::PreviousResponse, "resp_1"),
        ];
        for (field, text) in all {
            assert_eq!(scan.fields.get(field), Some(text));
        }
        assert!(scan.goes_on);
        let scan = scan_every_way(
            r#"{"conversation":"conv_1","session_id":7,"user":["x"],"metadata":[{"user_id":"x"}],"input":{"session_id":"x"},"previous_response_id":null}"#,
        );
        assert_eq!(scan.fields.get(Field::Conversation), Some("conv_1"));
        all[1..].iter().for_each(|(field, _)| assert_eq!(scan.fields.get(*field), None));
        for (body, goes_on) in [("null", false), ("\"\"", true), ("{}", true)] {
            assert_eq!(scan_every_way(&format!(r#"{{"conversation":{body}}}"#)).goes_on, goes_on);
        }
    }

    #[test]
    fn strings_too_long_for_a_name_are_passed_over_and_no_error() {
        for (len, kept) in [(1536, true), (1537, false), (100_000, false)] {
            let text = "s".repeat(len);
            let body =
                format!(r#"{{"session_id":"{text}","metadata":{{"session_id":"{text}","{text}":"x"}},"model":"m"}}"#);
            let scan = scan(body.as_bytes().chunks(333));
            assert_eq!(scan.fields.get(Field::SessionId).is_some(), kept);
            assert_eq!(scan.fields.get(Field::MetadataSessionId).is_some(), kept);
            assert_eq!(scan.model.unwrap().name, "m");
        }
        let lone = scan([br#"{"session_id":"\ud800","metadata":{"\ud800":"x","session_id":"ok"}}"#.as_slice()]);
        assert_eq!((lone.fields.get(Field::SessionId), lone.fields.get(Field::MetadataSessionId)), (None, Some("ok")));
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ -~\n]{0,40}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                3 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                1 => prop::collection::hash_map("[a-z\"]{0,8}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn parts_and_items_are_those_that_serde_json_sees(
            members in prop::collection::vec((prop::sample::select(KEYS.map(|(name, _)| name).to_vec()), any_value()), 0..5),
            pretty in any::<bool>(), step in 1usize..40,
        ) {
            let object: serde_json::Map<_, _> = members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
            let text = if pretty { serde_json::to_string_pretty(&object) } else { serde_json::to_string(&object) }.unwrap();
            let found = scan(text.as_bytes().chunks(step));
            for (name, key) in KEYS {
                let value = object.get(name).filter(|value| !value.is_null());
                let part = found.parts.get(key);
                prop_assert_eq!(part.map(|part| serde_json::from_str(&text[part.range.clone()]).unwrap()), value.cloned());
                let Some(part) = part else { continue };
                let items = value.and_then(Value::as_array).filter(|_| key.is_list()).cloned().unwrap_or_default();
                let scalar = |value: &Value| !(value.is_string() || value.is_object() || value.is_array());
                prop_assert_eq!(part.scalars, items.iter().any(scalar));
                if !part.scalars {
                    let read = |item: &Range<usize>| serde_json::from_str::<Value>(&text[item.clone()]).unwrap();
                    prop_assert_eq!(part.items.iter().map(read).collect::<Vec<_>>(), items);
                }
            }
        }
    }
}

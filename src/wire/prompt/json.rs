//! Finding one's way in a value that the scan has found to be JSON, at its speed and without a tree.
//!
//! What is no JSON after all leads to the end of the bytes, never beyond: every function gives an index of at most their
//! length, and each goes forward only.

use crate::wire::scan::text_end;

/// The index of the next byte that is no white space.
pub(super) fn after_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The index after the value that begins at `at`.
pub(super) fn after_value(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = text_end(bytes, at + 1).unwrap_or(bytes.len()),
            b'{' | b'[' => (depth, at) = (depth + 1, at + 1),
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => (depth, at) = (depth - 1, at + 1),
            // Between the values of what is open.
            _ if depth > 0 => {
                at += 1;
                continue;
            }
            // A number or a literal, up to what ends it.
            b',' | b' ' | b'\n' | b'\r' | b'\t' => return at,
            _ => {
                at += 1;
                let ends = |byte: &u8| matches!(byte, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
                return bytes[at..].iter().position(ends).map_or(bytes.len(), |len| at + len);
            }
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// Goes through the members of the object that begins at `at`: `see` is given each key, with its quotes and escapes, and
/// the index of its value; it gives the index after that value, or `None` to stop. The index after the object, if `see`
/// did not stop before.
pub(super) fn members(bytes: &[u8], at: usize, mut see: impl FnMut(&[u8], usize) -> Option<usize>) -> Option<usize> {
    if bytes.get(at) != Some(&b'{') {
        return None;
    }
    let mut at = after_space(bytes, at + 1);
    while bytes.get(at) == Some(&b'"') {
        let key_end = text_end(bytes, at + 1)?;
        let colon = after_space(bytes, key_end);
        let value = after_space(bytes, colon + 1);
        at = after_space(bytes, see(&bytes[at..key_end], value)?);
        if bytes.get(at) == Some(&b',') {
            at = after_space(bytes, at + 1);
        }
    }
    (bytes.get(at) == Some(&b'}')).then_some(at + 1)
}

/// The index of a member's value in an object, by its key with quotes. A key that is written with escapes is not found.
pub(super) fn member(object: &[u8], key: &[u8]) -> Option<usize> {
    let mut found = None;
    members(object, 0, |name, value| {
        if name == key {
            found = Some(value);
            return None;
        }
        Some(after_value(object, value))
    });
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_value_ends_where_it_does() {
        for value in [r#""a\"]}""#, "1.5e3", "true", "{}", "[]", r#"{"a":[1,{"b":"}"}], "c" : null}"#, "[[[]],2]"] {
            for rest in ["", ",1", "}", "]", " ,", "\n}"] {
                assert_eq!(after_value(format!("{value}{rest}").as_bytes(), 0), value.len(), "{value}{rest}");
            }
        }
    }

    #[test]
    fn the_first_member_of_a_name_is_found_at_the_top_alone() {
        let object = br#"{ "a" : {"role":1}, "b":["role"],"c":"role","role" : "user","role":2}"#;
        assert!(object[member(object, b"\"role\"").unwrap()..].starts_with(b"\"user\""));
        assert_eq!(member(object, b"\"id\""), None);
        for odd in [&b"[]"[..], b"", b"{", b"{\"role\"", b"{\"role", b"{x:1}", b"\"role\""] {
            assert!(member(odd, b"\"role\"").is_none_or(|at| at <= odd.len() + 1));
        }
    }

    proptest! {
        #[test]
        fn members_are_those_that_serde_json_sees(map in prop::collection::hash_map("[a-z]{1,3}", "[ -~\n]{0,30}", 0..6), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&map) } else { serde_json::to_string(&map) }.unwrap();
            for key in map.keys().map(String::as_str).chain(["none"]) {
                let found = member(text.as_bytes(), format!("{key:?}").as_bytes());
                let value = found.map(|at| serde_json::from_str(&text[at..after_value(text.as_bytes(), at)]).unwrap());
                prop_assert_eq!(value.and_then(|value: Value| value.as_str().map(str::to_owned)), map.get(key).cloned());
            }
            prop_assert_eq!(members(text.as_bytes(), 0, |_, at| Some(after_value(text.as_bytes(), at))), Some(text.len()));
        }

        #[test]
        fn any_bytes_are_walked_without_a_panic(bytes in prop::collection::vec(prop::sample::select(b"{}[]\",:\\ a1".to_vec()), 0..60), at in 0usize..70) {
            prop_assert!(after_value(&bytes, at) <= bytes.len().max(at));
            let _ = (member(&bytes, b"\"a\""), members(&bytes, at, |_, at| Some(after_value(&bytes, at))));
        }
    }
}

//! A JSON object's members as they stand, for the few places that look into one: values stay raw, so that what is not
//! changed is passed on byte for byte, and a change is made where the value stands.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::body::Body;

/// The members of an object in their order, keys decoded and values raw.
#[derive(Clone, Debug, Default)]
pub(super) struct Members<'a>(pub(super) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Reads an object; `None` when it is something else.
    pub(super) fn read(json: &'a [u8]) -> Option<Members<'a>> {
        serde_json::from_slice(json).ok()
    }

    /// The value of a key, unless it is `null`. Of a key that stands twice, the last one: as the engines read it.
    pub(super) fn get(&self, key: &str) -> Option<&'a str> {
        let value = self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.get());
        value.filter(|value| *value != "null")
    }

    /// Whether a key stands there more than once.
    pub(super) fn has_twice(&self, key: &str) -> bool {
        self.0.iter().filter(|(name, _)| name == key).count() > 1
    }

    /// The object written anew, its values changed by `change`: `None` leaves a member out.
    pub(super) fn rewritten(&self, mut change: impl FnMut(&str, &'a str) -> Option<Cow<'a, str>>) -> String {
        let mut json = String::from("{");
        for (key, value) in &self.0 {
            let Some(value) = change(key, value.get()) else { continue };
            if json.len() > 1 {
                json.push(',');
            }
            // A string cannot fail to be written.
            json.push_str(&serde_json::to_string(key).unwrap_or_default());
            json.push(':');
            json.push_str(&value);
        }
        json.push('}');
        json
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members<'de>, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Key(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// A key, copied only if it has escapes.
struct Key<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key<'de>, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Reader)
    }
}

/// The value that begins at `at`; `None` when it is longer than `max` bytes.
pub(super) fn value_at(body: &Body, at: usize, max: usize) -> Option<Bytes> {
    // One byte more, which tells a number that ends from one that goes on.
    let from = body.slice(at..at.saturating_add(max).saturating_add(1));
    let value: &RawValue = serde_json::Deserializer::from_slice(&from).into_iter().next()?.ok()?;
    let length = value.get().len();
    (length <= max).then(|| from.slice(..length))
}

/// The items of an array, raw; `None` when it is something else.
pub(super) fn items(json: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str(json).ok()
}

/// The inside of a JSON string, escapes as they are; `None` for other values.
pub(super) fn inside(json: &str) -> Option<&str> {
    json.strip_prefix('"')?.strip_suffix('"')
}

/// Where `part` stands in `whole`; `None` if it is no part of it but a copy.
pub(super) fn place(part: &str, whole: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_their_bytes() {
        let json = br#" {"a": 1.50, "\u0062":"x\ny" , "c":{"d":[ ]},"a":null} "#;
        let members = Members::read(json).unwrap();
        let found: Vec<_> = members.0.iter().map(|(key, value)| (&**key, value.get())).collect();
        assert_eq!(found, [("a", "1.50"), ("b", r#""x\ny""#), ("c", r#"{"d":[ ]}"#), ("a", "null")]);
        assert!(members.has_twice("a") && !members.has_twice("b"));
        assert_eq!((members.get("a"), members.get("b"), members.get("z")), (None, Some(r#""x\ny""#), None));
        assert_eq!(&json[place(members.get("b").unwrap(), json).unwrap()], br#""x\ny""#);
    }

    #[test]
    fn an_object_is_written_anew_with_its_changes() {
        let members = Members::read(br#"{"a":1, "b\"":[2 ],"c":3}"#).unwrap();
        let same = members.rewritten(|_, value| Some(value.into()));
        assert_eq!(same, r#"{"a":1,"b\"":[2 ],"c":3}"#);
        let changed = members.rewritten(|key, value| match key {
            "a" => None,
            "c" => Some("4".into()),
            _ => Some(value.into()),
        });
        assert_eq!(changed, r#"{"b\"":[2 ],"c":4}"#);
    }

    #[test]
    fn a_value_is_read_where_it_begins_unless_it_is_too_long() {
        let mut body = Body::new();
        for piece in [r#"{"a":{"b":[1,2"#, r#"]},"c":nu"#, r#"ll,"d":"x"}"#] {
            body.push(Bytes::from_static(piece.as_bytes()));
        }
        assert_eq!(value_at(&body, 5, 100).unwrap(), r#"{"b":[1,2]}"#);
        assert_eq!(value_at(&body, 5, 11).unwrap(), r#"{"b":[1,2]}"#);
        assert_eq!(value_at(&body, 5, 10), None);
        assert_eq!(value_at(&body, 21, 100).unwrap(), "null");
        assert_eq!(value_at(&body, 30, 100).unwrap(), "\"x\"");
        assert_eq!(value_at(&body, 99, 100), None);
    }

    #[test]
    fn what_is_no_object_is_none() {
        for json in ["[]", "1", "", "{", "{\"a\":}", "{} x"] {
            assert!(Members::read(json.as_bytes()).is_none(), "{json}");
        }
        assert_eq!((inside("\"a\""), inside("1")), (Some("a"), None));
        assert!(items("{}").is_none());
        assert_eq!(items("[1, {}]").unwrap().len(), 2);
        let copy = String::from("a");
        assert_eq!(place(&copy, b"a"), None);
    }
}

//! Images, sound and files that stand in a message as base64: what an engine reads of them is no text, and their bytes say
//! nothing of how many tokens they are.
//!
//! They are told by where they stand: a string of [`MEDIA_BYTES_MIN`] and more that looks like base64, and is either a
//! `data:` URL that is no member's text (OpenAI's `image_url`, `url`, `file_data`), or bare behind `file_data`, or behind `data`
//! in an object that says so (Anthropic's `source` by `"base64"`, OpenAI's `input_audio` by `"format"`). Base64 in a text is text,
//! and is read as such.
//!
//! To look at every string would cost more than the hashing. So a few bytes are looked at every 4 KiB: within base64 of twice
//! that length some are always met. Only where all of them belong to base64 the string's ends are sought, each part of a message
//! once. Whoever makes other strings look like that misleads the count of his own prompt, and has his engine refuse the call.

use std::ops::Range;

use memchr::{memchr, memmem, memrchr};

use crate::domain::prompt::BYTES_PER_TOKEN;

/// What an image, a sound or a file counts as, in tokens, whatever its size: that is not told by its bytes, and to decode it
/// would be another program's work. A screenshot is 765 to 1,105 of OpenAI's tokens (85 and 170 for each tile of 512 pixels), at
/// most some 1,600 of Anthropic's (width × height ÷ 750), and 1,300 to 2,700 of Qwen-VL's (one for 28 × 28 pixels): agents' images
/// are screenshots, so the count is that of a large one. A long document or film is more; by bytes 1 MiB counted as 262,144.
pub(super) const MEDIA_TOKENS: usize = 1_500;

/// The same in bytes of text.
pub(super) const MEDIA_AS_BYTES: usize = MEDIA_TOKENS * BYTES_PER_TOKEN;

/// A shorter string counts as text. By its bytes it is not much more than an image of any size; icons and thumbnails are less.
pub(super) const MEDIA_BYTES_MIN: usize = 8 << 10;

/// From one look to the next, and how much is looked at.
const STEP: usize = MEDIA_BYTES_MIN / 2;
const LOOK: usize = 64;

/// Longest beginning of a `data:` URL, up to the base64: a media type with its parameters.
const URL_HEAD_MAX: usize = 256;

/// How far from such a string what says that it is base64 is sought: the members beside it are short.
const BESIDE: usize = 128;

/// Members that are text to the model, whatever stands in them.
const TEXTS: [&[u8]; 6] = [b"text", b"content", b"output", b"arguments", b"input", b"thinking"];

/// The next such string in a message that begins at `from` or later: its inside, without the quotes.
pub(super) fn next(message: &[u8], from: usize) -> Option<Range<usize>> {
    let mut at = from;
    while let Some(look) = message.get(at..at + LOOK) {
        if !looks_encoded(look) {
            at += STEP;
            continue;
        }
        let inside = string_around(message, from, at)?;
        if is_media(message, &inside) {
            return Some(inside);
        }
        at = inside.end.max(at + STEP);
    }
    None
}

/// The inside of the string in which `at` stands. No string begins before `from`.
fn string_around(message: &[u8], from: usize, at: usize) -> Option<Range<usize>> {
    let start = memrchr(b'"', &message[from..at]).map_or(from, |quote| from + quote + 1);
    Some(start..at + memchr(b'"', &message[at..])?)
}

fn is_media(message: &[u8], inside: &Range<usize>) -> bool {
    let string = &message[inside.clone()];
    let Some(key) = key_before(message, inside.start).filter(|_| string.len() >= MEDIA_BYTES_MIN) else { return false };
    let encoded = match data_url(string) {
        Some(encoded) if !TEXTS.contains(&key) => encoded,
        None if key == b"file_data" || key == b"data" && is_told_encoded(message, inside) => string,
        _ => return false,
    };
    encoded.chunks(STEP).all(|part| looks_encoded(&part[..part.len().min(LOOK)]))
}

/// The key whose value is the string with its inside at `start`; none where that is no string's start, or an item's of a list.
fn key_before(message: &[u8], start: usize) -> Option<&[u8]> {
    let before = message[..start].strip_suffix(b"\"")?.trim_ascii_end();
    let key = before.strip_suffix(b":")?.trim_ascii_end().strip_suffix(b"\"")?;
    let from = memrchr(b'"', key)?;
    // Within a text quotes are escaped, and so are those of what only looks like a member.
    (!key[..from].ends_with(b"\\")).then_some(&key[from + 1..])
}

/// What a `data:` URL encodes.
fn data_url(string: &[u8]) -> Option<&[u8]> {
    const MARK: &[u8] = b";base64,";
    let head = &string[..string.len().min(URL_HEAD_MAX)];
    let mark = memmem::find(head.strip_prefix(b"data:")?, MARK)?;
    Some(&string[b"data:".len() + mark + MARK.len()..])
}

/// Whether a member beside the string says that it is base64.
fn is_told_encoded(message: &[u8], inside: &Range<usize>) -> bool {
    let before = &message[inside.start.saturating_sub(BESIDE)..inside.start];
    let after = &message[inside.end..message.len().min(inside.end + BESIDE)];
    [before, after]
        .iter()
        .any(|beside| [&b"\"base64\""[..], b"\"format\""].iter().any(|mark| memmem::find(beside, mark).is_some()))
}

/// Whether all of these bytes may stand in base64. Some clients escape its slashes or plus signs.
fn looks_encoded(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=' | b'\\'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// Base64 of so many bytes that look like nothing.
    fn base64(len: usize) -> String {
        let digits: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
        (0..len).map(|n| digits[(n * n + n / 7) % 64]).collect()
    }

    fn url(len: usize) -> String {
        format!("data:image/png;base64,{}", base64(len))
    }

    /// The strings that are found in a message.
    fn found(message: &str) -> Vec<&str> {
        let (mut all, mut from) = (Vec::new(), 0);
        while let Some(media) = next(message.as_bytes(), from) {
            all.push(&message[media.clone()]);
            from = media.end;
        }
        all
    }

    /// These strings are found in the content of a message, however it is printed.
    #[track_caller]
    fn check(content: &Value, strings: &[&str]) {
        let message = json!({"role": "user", "content": content});
        for text in [message.to_string(), serde_json::to_string_pretty(&message).unwrap()] {
            let short = |strings: &[&str]| strings.iter().map(|text| text.len()).collect::<Vec<_>>();
            assert_eq!(short(&found(&text)), short(strings), "{text:.300}");
            assert!(found(&text) == strings, "{text:.300}");
        }
    }

    #[test]
    fn media_are_found_where_each_dialect_has_them() {
        let (data, url) = (base64(20_000), url(9_000));
        check(&json!([{"type": "image_url", "image_url": {"url": url, "detail": "low"}}]), &[&url]);
        check(&json!([{"type": "input_image", "image_url": url}, {"type": "text", "text": "Hi"}]), &[&url]);
        check(&json!([{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}]), &[&data]);
        check(&json!([{"type": "file", "file": {"filename": "a.pdf", "file_data": url}}]), &[&url]);
        check(&json!([{"type": "input_file", "file_data": data}]), &[&data]);
        let source = json!({"type": "base64", "media_type": "image/png", "data": data});
        let image = json!({"type": "image", "source": source});
        check(&json!([image, {"type": "text", "text": "and"}, image]), &[&data, &data]);
        check(&json!([{"type": "tool_result", "tool_use_id": "t", "content": [image]}]), &[&data]);
        let first = format!(r#"[{{"source":{{"data":"{data}","media_type":"image/png","type":"base64"}}}}]"#);
        assert_eq!(found(&first), [data]);
    }

    #[test]
    fn clients_that_escape_slashes_or_plus_signs_are_understood() {
        for (plain, escaped) in [("/", "\\/"), ("+", "\\u002B")] {
            let data = base64(30_000).replace(plain, escaped);
            let message = format!(r#"{{"content":[{{"url":"data:image\/png;base64,{data}"}}]}}"#);
            assert_eq!(found(&message).len(), 1, "{escaped}");
        }
    }

    #[test]
    fn what_engines_read_as_text_is_text() {
        let (data, url) = (base64(50_000), url(50_000));
        check(&json!(url), &[]);
        check(&json!([{"type": "text", "text": data}]), &[]);
        check(&json!([{"type": "text", "text": url}]), &[]);
        check(&json!([{"type": "tool_use", "input": {"data": data}}]), &[]);
        check(&json!([{"type": "function_call_output", "output": url}]), &[]);
        check(&json!([{"arguments": json!({"url": url, "data": data, "format": "x"}).to_string()}]), &[]);
        check(&json!([{"url": "word ".repeat(5_000)}, {"file_data": "a,b\n".repeat(9_000)}]), &[]);
        check(&json!([{"url": format!("https://example.org/{data}")}]), &[]);
        check(&json!([url, [data]]), &[]);
        let odd = format!(r#"{{"a \"file_data":"{data}"}}"#);
        assert!(found(&odd).is_empty());
    }

    #[test]
    fn short_ones_count_by_their_bytes() {
        check(&json!([{"file_data": base64(MEDIA_BYTES_MIN - 1)}]), &[]);
        check(&json!([{"file_data": base64(MEDIA_BYTES_MIN)}]), &[&base64(MEDIA_BYTES_MIN)]);
    }

    proptest! {
        #[test]
        fn one_is_found_wherever_it_stands(before in 0usize..9_000, len in MEDIA_BYTES_MIN..30_000, after in 0usize..9_000) {
            let data = base64(len);
            let (before, after) = ("w ".repeat(before / 2), "w\n".repeat(after / 2));
            check(&json!([{"text": before}, {"file_data": data}, {"file_data": data}, {"text": after}]), &[&data, &data]);
        }

        #[test]
        fn any_bytes_are_taken_without_a_panic(pieces in prop::collection::vec(prop::sample::select(vec![
            "\"file_data\"", "\"data\"", ":", "\"", "\\", " ", "{", "data:;base64,", "\"base64\"", "LONG", "x",
        ]), 0..12), from in 0usize..40) {
            let message = pieces.concat().replace("LONG", &base64(9_000)).into_bytes();
            let mut at = from.min(message.len());
            while let Some(media) = next(&message, at) {
                prop_assert!(media.start >= at && media.len() >= MEDIA_BYTES_MIN && media.end <= message.len());
                at = media.end;
            }
        }
    }
}

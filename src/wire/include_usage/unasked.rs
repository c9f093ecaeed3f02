//! The stream's half: what is taken out of it again.

use std::iter::once;
use std::ops::Range;

use memchr::memchr2;
use memchr::memmem::Finder;
use once_cell::sync::Lazy;

use crate::domain::topology::Engine;
use crate::wire::members::{Members, items};
use crate::wire::scan::text_end;
use crate::wire::sse::data_of;

/// How many keys of the name are looked at in one event. The key cannot stand in text, where its quotes would be escaped, so
/// that only a nested one comes before the event's own.
const TRIES_MAX: usize = 8;

static USAGE: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\"usage\""));
static CHOICES: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\"choices\""));

/// What an engine adds to a stream of chat or completions because it was asked for usage.
///
/// All engines report it in an event of its own, without a choice, before `[DONE]`. OpenAI's own API then also says
/// `"usage":null` in every other event. vLLM and SGLang do not, or do so always, asked or not, and so that stays. Usage beside
/// a choice stays too: who reports it so does it unasked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unasked {
    nulls: bool,
}

impl Unasked {
    /// What an engine of this kind adds.
    pub fn at(engine: Engine) -> Unasked {
        Unasked { nulls: engine == Engine::OpenAi }
    }

    /// The parts of a data event that were not asked for, in order. Nearly all events are dismissed by one search.
    pub fn parts(self, event: &[u8]) -> Vec<Range<usize>> {
        for at in USAGE.find_iter(event).take(TRIES_MAX) {
            let after = at + USAGE.needle().len();
            match value_begin(event, after) {
                Some((_, b'{')) if is_report(event) => return all_but_comments(event),
                Some((value, b'n')) if self.nulls => {
                    if let Some(part) = null_member(event, at, value) {
                        return part;
                    }
                }
                _ => {}
            }
        }
        Vec::new()
    }
}

/// Where the value of a key begins that ends at `at`, and with which byte.
fn value_begin(event: &[u8], at: usize) -> Option<(usize, u8)> {
    let colon = skip_space(event, at);
    let value = skip_space(event, colon + 1);
    (event.get(colon) == Some(&b':')).then_some(())?;
    Some((value, *event.get(value)?))
}

fn skip_space(event: &[u8], at: usize) -> usize {
    let rest = event.get(at..).unwrap_or_default();
    at + rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

/// Whether the event only reports usage. Parsed, but only where the list of choices is empty.
fn is_report(event: &[u8]) -> bool {
    let empty_list = |at: usize| {
        let list = value_begin(event, at + CHOICES.needle().len()).filter(|(_, byte)| *byte == b'[');
        list.is_some_and(|(begin, _)| event.get(skip_space(event, begin + 1)) == Some(&b']'))
    };
    if !CHOICES.find_iter(event).take(TRIES_MAX).any(empty_list) {
        return false;
    }
    let data = data_of(event);
    Members::read(&data).is_some_and(|chunk| {
        let without_choice = chunk.get("choices").and_then(items).is_some_and(|choices| choices.is_empty());
        without_choice && chunk.get("usage").is_some_and(|usage| usage.starts_with('{'))
    })
}

/// The outermost object's member at `at` with one of its commas, when its value is `null`; the whole event if it has no other.
fn null_member(event: &[u8], at: usize, value: usize) -> Option<Vec<Range<usize>>> {
    let line = event[..at].iter().rposition(|byte| matches!(byte, b'\n' | b'\r')).map_or(0, |end| end + 1);
    let end = value + b"null".len();
    let is_data = event[line..].strip_prefix(b"\xef\xbb\xbf").unwrap_or(&event[line..]).starts_with(b"data:");
    if !is_data || event.get(value..end) != Some(b"null") || !closes_the_outermost(event, end) {
        return None;
    }
    let before = event[..at].trim_ascii_end();
    let next = skip_space(event, end);
    match (before.last(), event.get(next)) {
        (Some(b','), _) => Some(once(before.len() - 1..end).collect()),
        (Some(b'{'), Some(b',')) => Some(once(at..skip_space(event, next + 1)).collect()),
        (Some(b'{'), Some(b'}')) => Some(all_but_comments(event)),
        _ => None,
    }
}

/// Whether from `at` on the line has the rest of one object that nothing holds.
fn closes_the_outermost(event: &[u8], mut at: usize) -> bool {
    let mut depth = 1u32;
    while let Some(byte) = event.get(at) {
        at += 1;
        match byte {
            b'"' => match text_end(event, at) {
                Some(end) => at = end,
                None => return false,
            },
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' => return matches!(event.get(skip_space(event, at)), None | Some(b'\n' | b'\r')),
            b']' | b'\n' | b'\r' => return false,
            _ => {}
        }
    }
    false
}

/// All of an event, its blank line too; but if comments stand in it, they stay, as an event of their own.
fn all_but_comments(event: &[u8]) -> Vec<Range<usize>> {
    let (mut lines, mut begin) = (Vec::new(), 0);
    while begin < event.len() {
        let text = memchr2(b'\n', b'\r', &event[begin..]).map_or(event.len(), |end| begin + end);
        let crlf = event[text..].starts_with(b"\r\n");
        let end = event.len().min(text + 1 + usize::from(crlf));
        lines.push((begin..end, text == begin));
        begin = end;
    }
    let is_comment = |line: &Range<usize>| event[line.start] == b':';
    if !lines.iter().any(|(line, _)| is_comment(line)) {
        return once(0..event.len()).collect();
    }
    lines.into_iter().filter(|(line, blank)| !blank && !is_comment(line)).map(|(line, _)| line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stays of an event.
    fn left(engine: Engine, event: &str) -> String {
        let mut left = event.to_owned();
        for part in Unasked::at(engine).parts(event.as_bytes()).into_iter().rev() {
            left.replace_range(part, "");
        }
        left
    }

    #[track_caller]
    fn check(data: &str, expected: &str) {
        for line_end in ["\n", "\r\n", "\r"] {
            let event = |data: &str| format!("data: {data}{line_end}{line_end}");
            assert_eq!(left(Engine::OpenAi, &event(data)), event(expected));
        }
    }

    const REPORT: &str = r#"{"id":"x","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#;

    #[test]
    fn the_event_that_only_reports_usage_goes_whole() {
        for engine in [Engine::Vllm, Engine::Sglang, Engine::LlamaCpp, Engine::OpenAi] {
            for (report, line_end) in [
                (REPORT, "\n"),
                (REPORT, "\r\n"),
                (r#"{"usage" : {"prompt_tokens":1}, "choices" : [ ] }"#, "\n"),
                (r#"{"choices":[],"timings":{"cache_n":1},"usage":{}}"#, "\r"),
            ] {
                assert_eq!(left(engine, &format!("data: {report}{line_end}{line_end}")), "", "{report}");
                let named = format!("event: chunk{line_end}data: {report}{line_end}id: 7{line_end}{line_end}");
                assert_eq!(left(engine, &named), "");
            }
        }
        let cut = REPORT.find("\"usage").unwrap();
        assert_eq!(left(Engine::Vllm, &format!("data: {}\ndata: {}\n\n", &REPORT[..cut], &REPORT[cut..])), "");
    }

    #[test]
    fn comments_stay() {
        assert_eq!(left(Engine::Vllm, &format!(": a\ndata: {REPORT}\n: b\n\n")), ": a\n: b\n\n");
        assert_eq!(left(Engine::Vllm, &format!(":a\r\ndata: {REPORT}\r\n\r\n")), ":a\r\n\r\n");
        let comment = ": {\"usage\":null}\ndata: {\"choices\":[1]}\n\n";
        assert_eq!(left(Engine::OpenAi, comment), comment);
    }

    #[test]
    fn openais_nulls_go_with_one_comma() {
        check(r#"{"choices":[{"delta":{}}],"usage":null}"#, r#"{"choices":[{"delta":{}}]}"#);
        check(r#"{"choices":[1],"usage":null,"obfuscation":"}\"{"}"#, r#"{"choices":[1],"obfuscation":"}\"{"}"#);
        check(r#"{"choices": [1], "usage": null, "x": {"y":[ ]} }"#, r#"{"choices": [1], "x": {"y":[ ]} }"#);
        check(r#"{"usage": null, "choices":[1]}"#, r#"{"choices":[1]}"#);
        check(r#"{ "usage" : null ,"choices":[1]}"#, r#"{ "choices":[1]}"#);
        check(r#"{"x":{"usage":null},"usage":null}"#, r#"{"x":{"usage":null}}"#);
        assert_eq!(left(Engine::OpenAi, "data: {\"usage\":null}\n\n"), "");
        let begins = "\u{feff}data: {\"choices\":[1]";
        assert_eq!(left(Engine::OpenAi, &format!("{begins},\"usage\":null}}\n\n")), format!("{begins}}}\n\n"));
    }

    #[test]
    fn all_else_stays() {
        for data in [
            "[DONE]",
            r#"{"choices":[{"delta":{"content":"\"usage\":null"}}]}"#,
            r#"{"choices":[{"delta":{"content":"usage"}}]}"#,
            r#"{"choices":[{"delta":{"usage":null}}]}"#,
            r#"{"choices":[{"usage":null}],"x":1}"#,
            r#"{"choices":[1],"x":["usage",null]}"#,
            r#"{"choices":[1],"my\"usage":null}"#,
            r#"{"choices":[1],"usage":nul}"#,
            r#"{"choices":[1],"usage":null]"#,
            r#"{"choices":[1],"usage":null"#,
            r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[{"x":{"choices":[]}}],"usage":{"prompt_tokens":1}}"#,
            r#"{"choices":[],"x":{"usage":{"prompt_tokens":1}}}"#,
            r#"{"choices":[],"prompt_filter_results":[]}"#,
            r#"{"choices":[],"usage":{"#,
        ] {
            check(data, data);
        }
    }

    #[test]
    fn nulls_of_engines_that_always_say_so_stay() {
        let event = "data: {\"choices\":[1],\"usage\":null}\n\n";
        for engine in [Engine::Vllm, Engine::Sglang, Engine::LlamaCpp] {
            assert_eq!(left(engine, event), event);
        }
    }
}

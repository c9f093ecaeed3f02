//! Token usage, read out of an answer that passes by.
//!
//! The relay shows each event (or the end of a whole body) to a [`Meter`]. Nearly all of them are dismissed by one
//! substring search; what is parsed is at most [`PARSE_BYTES_MAX`] long. Only a real key counts: `"usage":` inside
//! generated text is written `\"usage\":` and is no hit, and a key of that name deeper inside a tool call's arguments
//! is told apart by where the value's object ends.

use memchr::memmem::{Finder, FinderRev};
use once_cell::sync::Lazy;
use serde::Deserialize;

use super::sse::data_of;

/// Longest stretch that is parsed: of a longer body or event only the end counts, since usage stands there.
pub const PARSE_BYTES_MAX: usize = 64 * 1024;
/// Most tokens of a prompt or of an answer that are believed: a thousand times the longest contexts. A report beyond it is a
/// fault of its engine, and added up once it would spoil every counter, budget and bill of its pool for good.
const TOKENS_MAX: u64 = 1 << 32;
/// How many places in that stretch are tried.
const TRIES_MAX: usize = 8;

/// What an answer cost, in tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// The whole prompt, cached part included.
    pub prompt_tokens: u64,
    /// The part of the prompt that the replica had in its KV cache; `None` where the engine does not say.
    pub cached_tokens: Option<u64>,
    /// What was generated.
    pub completion_tokens: u64,
}

/// Collects the usage of one answer. Where an engine reports again and again, the last report counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    input: Option<u64>,
    cached: Option<u64>,
    /// Anthropic's dialect counts the cached part beside `input`, not in it.
    beside_input: u64,
    output: Option<u64>,
}

impl Meter {
    /// Before the first byte.
    pub fn new() -> Meter {
        Meter::default()
    }

    /// Reads one event of a stream. Gives whether it has a key that may tell usage, whatever it says.
    pub fn event(&mut self, event: &[u8]) -> bool {
        let candidate = is_candidate(event);
        if candidate {
            self.json(&data_of(event));
        }
        candidate
    }

    /// Reads a body that was not streamed: all of it or its end.
    pub fn body(&mut self, body: &[u8]) {
        if is_candidate(body) {
            self.json(body);
        }
    }

    /// What has been reported so far, if anything that can be believed.
    pub fn usage(&self) -> Option<Usage> {
        if self.input.is_none() && self.output.is_none() {
            return None;
        }
        let prompt_tokens = self.input.unwrap_or_default().saturating_add(self.beside_input);
        let completion_tokens = self.output.unwrap_or_default();
        let believed = prompt_tokens.max(completion_tokens) <= TOKENS_MAX;
        // A part is no larger than the whole.
        let cached_tokens = self.cached.map(|cached| cached.min(prompt_tokens));
        believed.then_some(Usage { prompt_tokens, cached_tokens, completion_tokens })
    }

    fn json(&mut self, json: &[u8]) {
        let end = end_of(json);
        let whole = || if end.len() == json.len() { serde_json::from_slice(json).ok() } else { None };
        // Usage stands at the end nearly always, and to look there first saves reading the rest.
        if let Some(report) = from_end(end).or_else(whole) {
            self.take(report);
        }
    }

    fn take(&mut self, report: Report) {
        let inner = [report.message, report.response].into_iter().flatten().find_map(|inner| inner.usage);
        match (report.usage.or(inner), report.timings) {
            (Some(counts), timings) => {
                self.counts(counts);
                self.cached = self.cached.or(timings.and_then(|timings| timings.cache_n));
            }
            (None, Some(timings)) => self.timings(timings),
            (None, None) => {}
        }
    }

    fn counts(&mut self, counts: Counts) {
        self.input = counts.prompt_tokens.or(counts.input_tokens).or(self.input);
        self.output = counts.completion_tokens.or(counts.output_tokens).or(self.output);
        // In OpenAI's dialects these are a part of the prompt, also where a gateway adds Anthropic's names to them.
        let within = counts.prompt_tokens.is_some() || counts.input_tokens_details.is_some();
        let details = counts.prompt_tokens_details.or(counts.input_tokens_details);
        let cached = details.and_then(|details| details.cached_tokens);
        self.cached = cached.or(counts.cache_read_input_tokens).or(self.cached);
        if !within && (counts.cache_read_input_tokens.is_some() || counts.cache_creation_input_tokens.is_some()) {
            let read = counts.cache_read_input_tokens.unwrap_or_default();
            self.beside_input = read.saturating_add(counts.cache_creation_input_tokens.unwrap_or_default());
            self.cached = Some(read);
        }
    }

    /// llama.cpp reports so when usage was not asked for.
    fn timings(&mut self, timings: Timings) {
        let (Some(computed), Some(output)) = (timings.prompt_n, timings.predicted_n) else { return };
        self.input = Some(computed.saturating_add(timings.cache_n.unwrap_or_default()));
        self.cached = timings.cache_n;
        self.output = Some(output);
    }
}

/// Whether the bytes hold a key that tells something: not `"usage":null`, which every event may carry.
fn is_candidate(bytes: &[u8]) -> bool {
    static USAGE: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\"usage\""));
    static TIMINGS: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\"timings\""));
    let end = end_of(bytes);
    let tells = |key: &Finder<'_>| {
        let mut rest = end;
        while let Some(place) = key.find(rest) {
            rest = &rest[place + key.needle().len()..];
            let value = rest.trim_ascii_start().strip_prefix(b":");
            if value.is_some_and(|value| value.trim_ascii_start().starts_with(b"{")) {
                return true;
            }
        }
        false
    };
    tells(&USAGE) || tells(&TIMINGS)
}

fn end_of(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.len().saturating_sub(PARSE_BYTES_MAX)..]
}

/// Reads the end of an object whose beginning is missing: the last `"usage"` whose object, and what stands after it, is
/// the rest of the outermost object or of the `response` in it. A key deeper inside leaves brackets over.
fn from_end(end: &[u8]) -> Option<Report> {
    static USAGE: Lazy<FinderRev<'static>> = Lazy::new(|| FinderRev::new(b"\"usage\""));
    let mut before = end;
    for _ in 0..TRIES_MAX {
        let place = USAGE.rfind(before)?;
        before = &end[..place];
        // With a backslash before it, it is the end of some longer key.
        if before.last() == Some(&b'\\') {
            continue;
        }
        let found = [&b"{"[..], b"{\"response\":{"].into_iter().find_map(|opening| {
            let object = [opening, &end[place..]].concat();
            serde_json::from_slice(&object).ok()
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// All that is read of a body or an event, in every dialect.
#[derive(Deserialize)]
struct Report {
    usage: Option<Counts>,
    /// Of Anthropic's `message_start`.
    message: Option<Inner>,
    /// Of Responses' `response.completed`.
    response: Option<Inner>,
    timings: Option<Timings>,
}

#[derive(Deserialize)]
struct Inner {
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    output_tokens: Option<u64>,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct Timings {
    cache_n: Option<u64>,
    prompt_n: Option<u64>,
    predicted_n: Option<u64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usage(prompt_tokens: u64, cached_tokens: impl Into<Option<u64>>, completion_tokens: u64) -> Option<Usage> {
        Some(Usage { prompt_tokens, cached_tokens: cached_tokens.into(), completion_tokens })
    }

    #[track_caller]
    fn body(json: &str, expected: Option<Usage>) {
        let mut meter = Meter::new();
        meter.body(json.as_bytes());
        assert_eq!(meter.usage(), expected, "{json:.300}");
    }

    #[track_caller]
    fn stream(events: &[&str], expected: Option<Usage>) {
        let mut meter = Meter::new();
        for event in events {
            meter.event(format!("{event}\n\n").as_bytes());
        }
        assert_eq!(meter.usage(), expected, "{events:?}");
    }

    #[test]
    fn what_no_context_could_hold_is_not_believed() {
        let most = TOKENS_MAX;
        for (prompt, completion, believed) in
            [(most, most, true), (most + 1, 1, false), (1, most + 1, false), (u64::MAX, u64::MAX, false)]
        {
            let json = format!(r#"{{"usage":{{"prompt_tokens":{prompt},"completion_tokens":{completion}}}}}"#);
            body(&json, usage(prompt, None, completion).filter(|_| believed));
        }
        body(r#"{"usage":{"input_tokens":9,"output_tokens":1,"cache_read_input_tokens":18446744073709551615}}"#, None);
        let cached =
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":10}}}"#;
        body(cached, usage(9, 9, 3));
    }

    #[test]
    fn openai_bodies() {
        body(
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"total_tokens":12}}"#,
            usage(9, None, 3),
        );
        body(
            r#"{"usage": {"prompt_tokens":9,"total_tokens":12,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}, "x":1}"#,
            usage(9, 8, 3),
        );
        body(r#"{"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":null}}"#, usage(9, None, 3));
        body(r#"{"usage":{"prompt_tokens":9,"total_tokens":9},"data":[{"embedding":[0.5]}]}"#, usage(9, None, 0)); // embeddings
        body(r#"{"choices":[],"usage":null}"#, None);
        body(r#"{"choices":[]}"#, None);
        body("no json with \"usage\":{", None);
    }

    #[test]
    fn responses_bodies_and_streams() {
        let counts =
            r#"{"input_tokens":20,"input_tokens_details":{"cached_tokens":16},"output_tokens":5,"total_tokens":25}"#;
        body(&format!(r#"{{"id":"r","output":[],"usage":{counts},"user":null}}"#), usage(20, 16, 5));
        stream(
            &[
                r#"event: response.created
data: {"type":"response.created","response":{"id":"r","usage":null}}"#,
                &format!(
                    "event: response.completed\ndata: {{\"type\":\"response.completed\",\"response\":{{\"usage\":{counts}}}}}"
                ),
            ],
            usage(20, 16, 5),
        );
    }

    #[test]
    fn chat_streams() {
        stream(
            &[
                r#"data: {"choices":[{"delta":{"content":"say \"usage\":{\"prompt_tokens\":1} "}}],"usage":null}"#,
                r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
                "data: [DONE]",
            ],
            usage(7, None, 2),
        );
        // Engines may report with every event; the last one counts.
        stream(
            &[
                r#"data: {"usage":{"prompt_tokens":7,"completion_tokens":1}}"#,
                r#"data: {"usage":{"prompt_tokens":7,"completion_tokens":2}}"#,
            ],
            usage(7, None, 2),
        );
    }

    #[test]
    fn anthropic_counts_the_cached_part_beside_the_input() {
        let start = r#"event: message_start
data: {"type":"message_start","message":{"id":"m","usage":{"input_tokens":4,"cache_read_input_tokens":90,"cache_creation_input_tokens":6,"output_tokens":1}}}"#;
        let delta = r#"event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":33}}"#;
        stream(&[start, delta], usage(100, 90, 33));
        body(r#"{"type":"message","usage":{"input_tokens":4,"output_tokens":33}}"#, usage(4, None, 33));
    }

    #[test]
    fn what_each_engine_says_of_its_cache_is_read() {
        let table = [
            // vLLM without --enable-prompt-tokens-details, SGLang without --enable-cache-report.
            (r#"{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":null}"#, usage(9, None, 3)),
            (r#"{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{}}"#, usage(9, None, 3)),
            (
                r#"{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":null}}"#,
                usage(9, None, 3),
            ),
            (
                r#"{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":0}}"#,
                usage(9, 0, 3),
            ),
            // A gateway that says it in both dialects at once.
            (
                r#"{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8},"cache_read_input_tokens":8,"cache_creation_input_tokens":0}"#,
                usage(9, 8, 3),
            ),
            (r#"{"prompt_tokens":9,"completion_tokens":3,"cache_read_input_tokens":8}"#, usage(9, 8, 3)),
            // Anthropic's, where the rest of the prompt stands beside the cached part; vLLM's and llama.cpp's.
            (r#"{"input_tokens":1,"output_tokens":3,"cache_read_input_tokens":8}"#, usage(9, 8, 3)),
            (
                r#"{"input_tokens":1,"output_tokens":3,"cache_read_input_tokens":0,"cache_creation_input_tokens":8}"#,
                usage(9, 0, 3),
            ),
            (
                r#"{"input_tokens":9,"output_tokens":3,"cache_read_input_tokens":null,"cache_creation_input_tokens":null}"#,
                usage(9, None, 3),
            ),
            (r#"{"input_tokens":9,"output_tokens":3}"#, usage(9, None, 3)),
            // Responses.
            (r#"{"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":8}}"#, usage(9, 8, 3)),
            (r#"{"input_tokens":9,"output_tokens":3,"input_tokens_details":null}"#, usage(9, None, 3)),
            (
                r#"{"input_tokens":9,"output_tokens":3,"input_tokens_details":{"cached_tokens":8},"cache_read_input_tokens":8}"#,
                usage(9, 8, 3),
            ),
        ];
        for (counts, expected) in table {
            body(&format!(r#"{{"id":"x","usage":{counts}}}"#), expected);
            stream(&[&format!(r#"data: {{"choices":[],"usage":{counts}}}"#)], expected);
            stream(&[&format!(r#"data: {{"type":"response.completed","response":{{"usage":{counts}}}}}"#)], expected);
            stream(&[&format!(r#"data: {{"type":"message_start","message":{{"usage":{counts}}}}}"#)], expected);
        }
    }

    #[test]
    fn llama_cpp_timings_fill_what_usage_leaves_out() {
        body(
            r#"{"usage":{"prompt_tokens":50,"completion_tokens":5},"timings":{"cache_n":40,"prompt_n":10,"predicted_n":5}}"#,
            usage(50, 40, 5),
        );
        stream(
            &[r#"data: {"choices":[],"timings":{"cache_n":40,"prompt_n":10,"predicted_n":5,"prompt_ms":1.5}}"#],
            usage(50, 40, 5),
        );
        // As of older servers, without a word on the cache; and with each event, the last of which counts.
        stream(&[r#"data: {"choices":[],"timings":{"prompt_n":10,"predicted_n":5}}"#], usage(10, None, 5));
        let each =
            |n: u64| format!(r#"data: {{"choices":[{{}}],"timings":{{"cache_n":4,"prompt_n":1,"predicted_n":{n}}}}}"#);
        stream(&[&each(1), &each(2), &each(3)], usage(5, 4, 3));
    }

    #[test]
    fn text_and_nested_keys_do_not_fool_it() {
        body(r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":1}"}}]}"#, None);
        body(r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":1}}}]}"#, None);
        body(r#"{"x\"usage":{"prompt_tokens":1,"completion_tokens":1}}"#, None);
        body(
            r#"{"content":[{"input":{"usage":{"input_tokens":1}}}],"usage":{"input_tokens":2,"output_tokens":3}}"#,
            usage(2, None, 3),
        );
    }

    #[test]
    fn of_a_long_body_the_end_is_enough() {
        let text = r#"\"usage\":{\"prompt_tokens\":1},"#.repeat(10_000);
        let counts = r#"{"prompt_tokens":9,"completion_tokens":3}"#;
        let whole = format!(r#"{{"choices":[{{"message":{{"content":"{text}"}}}}],"usage":{counts},"x":{{"y":[1]}}}}"#);
        body(&whole, usage(9, None, 3));
        body(&whole[whole.len() - 60_000..], usage(9, None, 3));
        body(&whole[whole.len() - 70..], usage(9, None, 3));
        body(&whole[..whole.len() - 5], None);
        let nested = format!(r#"{{"content":[{{"text":"{text}"}},{{"input":{{"usage":{counts}}}}}]}}"#);
        body(&nested, None);
        stream(
            &[&format!(
                r#"data: {{"type":"response.completed","response":{{"output":"{text}","usage":{counts},"user":null}},"sequence_number":9}}"#
            )],
            usage(9, None, 3),
        );
    }

    proptest! {
        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..200) {
            let text = r#"data: {"usage":{"prompt_tokens":18446744073709551615,"cache_read_input_tokens":5},"timings":{"prompt_n":1}}"#;
            let mut event = text.as_bytes()[cut.min(text.len())..].to_vec();
            event.extend(bytes);
            let mut meter = Meter::new();
            meter.event(&event);
            meter.body(&event);
            let _ = meter.usage();
        }
    }
}

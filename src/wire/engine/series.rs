//! One line of a page: which series of an engine it is, its labels and its value.

use std::borrow::Cow;

use memchr::memchr;

use crate::domain::topology::Engine;

/// Labels of a series that are read: `cache_config_info` has about 40.
const LABELS_MAX: usize = 128;

/// What a series tells of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    Running,
    Waiting,
    KvUsage,
    /// Its labels tell the cache's size, not its value.
    CacheConfig,
    KvCapacity,
    /// Tokens that requests hold; with the usage, they tell the capacity.
    KvHeld,
    PrefixQueries,
    PrefixHits,
    /// Under their older names, which some versions show beside the new ones.
    OlderPrefixQueries,
    OlderPrefixHits,
}

/// The series that are wanted, by engine.
const VLLM: &[(&[u8], Family)] = &[
    (b"num_requests_running", Family::Running),
    (b"num_requests_waiting", Family::Waiting),
    (b"kv_cache_usage_perc", Family::KvUsage),
    (b"gpu_cache_usage_perc", Family::KvUsage),
    (b"cache_config_info", Family::CacheConfig),
    (b"prefix_cache_queries_total", Family::PrefixQueries),
    (b"prefix_cache_hits_total", Family::PrefixHits),
    (b"gpu_prefix_cache_queries_total", Family::OlderPrefixQueries),
    (b"gpu_prefix_cache_hits_total", Family::OlderPrefixHits),
];
const SGLANG: &[(&[u8], Family)] = &[
    (b"num_running_reqs", Family::Running),
    (b"num_queue_reqs", Family::Waiting),
    (b"token_usage", Family::KvUsage),
    (b"max_total_num_tokens", Family::KvCapacity),
    (b"prompt_tokens_total", Family::PrefixQueries),
    (b"cached_tokens_total", Family::PrefixHits),
];
const LLAMA_CPP: &[(&[u8], Family)] = &[
    (b"requests_processing", Family::Running),
    (b"requests_deferred", Family::Waiting),
    (b"kv_cache_usage_ratio", Family::KvUsage),
    (b"kv_cache_tokens", Family::KvHeld),
];

/// What a line tells of, and what follows the name. `None` for what is not wanted, comments included.
pub(super) fn family(engine: Engine, line: &[u8]) -> Option<(Family, &[u8])> {
    let (prefix, families): (&[u8], _) = match engine {
        Engine::Vllm => (b"vllm:", VLLM),
        Engine::Sglang => (b"sglang:", SGLANG),
        Engine::LlamaCpp => (b"llamacpp:", LLAMA_CPP),
        Engine::OpenAi => return None,
    };
    let rest = line.strip_prefix(prefix)?;
    let end = rest.iter().position(|byte| matches!(byte, b'{' | b' ' | b'\t'))?;
    let (name, rest) = rest.split_at(end);
    families.iter().find(|(wanted, _)| *wanted == name).map(|(_, family)| (*family, rest))
}

/// One sample.
#[derive(Debug)]
pub(super) struct Sample<'a> {
    labels: Vec<(&'a [u8], Cow<'a, [u8]>)>,
    /// Finite, and not negative.
    pub(super) value: f64,
}

impl Sample<'_> {
    pub(super) fn label(&self, name: &[u8]) -> Option<&[u8]> {
        self.labels.iter().find(|(label, _)| *label == name).map(|(_, value)| &**value)
    }

    /// A label as a whole number.
    pub(super) fn number(&self, name: &[u8]) -> Option<u64> {
        std::str::from_utf8(self.label(name)?).ok()?.parse().ok()
    }

    /// Whether another series tells of the same requests.
    pub(super) fn is_of_a_further_rank(&self) -> bool {
        let further = |name: &[u8]| self.number(name).is_some_and(|rank| rank > 0);
        further(b"tp_rank") || further(b"pp_rank")
    }
}

/// Reads what follows a name: `{label="value",…} value timestamp`, labels and timestamp as they are wanted. `None` for
/// what is none of that, and for values that tell nothing.
pub(super) fn read(mut rest: &[u8]) -> Option<Sample<'_>> {
    let mut labels = Vec::new();
    rest = rest.trim_ascii_start();
    if let Some(inside) = rest.strip_prefix(b"{") {
        rest = read_labels(inside, &mut labels)?;
    }
    let value = rest.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())?;
    let value: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    (value.is_finite() && value >= 0.0).then_some(Sample { labels, value })
}

/// Reads labels up to the closing brace, and returns what follows it.
fn read_labels<'a>(mut rest: &'a [u8], into: &mut Vec<(&'a [u8], Cow<'a, [u8]>)>) -> Option<&'a [u8]> {
    for _ in 0..=LABELS_MAX {
        rest = rest.trim_ascii_start();
        if let Some(after) = rest.strip_prefix(b"}") {
            return Some(after);
        }
        let (name, quoted) = rest.split_at(memchr(b'=', rest)?);
        let (value, after) = read_quoted(quoted.get(1..)?.trim_ascii_start().strip_prefix(b"\"")?)?;
        into.push((name.trim_ascii(), value));
        rest = after.trim_ascii_start();
        rest = rest.strip_prefix(b",").unwrap_or(rest);
    }
    None
}

/// Reads a value up to its closing quote, and returns what follows that. `\\`, `\"` and `\n` are escapes.
fn read_quoted(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let plain = text.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    if text[plain] == b'"' {
        return Some((Cow::Borrowed(&text[..plain]), &text[plain + 1..]));
    }
    let mut value = text[..plain].to_vec();
    let mut bytes = text[plain..].iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((Cow::Owned(value), &text[plain + at + 1..])),
            b'\\' => value.push(match bytes.next()?.1 {
                b'n' => b'\n',
                escaped => *escaped,
            }),
            byte => value.push(*byte),
        }
    }
    None
}

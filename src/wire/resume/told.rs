//! What a client has been told of an answer so far.

use memchr::memmem::Finder;
use once_cell::sync::Lazy;

use super::chunk::Chunk;
use crate::domain::ask::Dialect;
use crate::policy::resume::Obstacle;
use crate::wire::members::place;
use crate::wire::scan::text_end;
use crate::wire::sse::data_of;
use crate::wire::usage::{Meter, Usage};

/// Most text that is kept of one answer, escapes counted. An answer of 128K tokens takes about half of it; a longer one is
/// not continued.
pub const TEXT_BYTES_MAX: usize = 1 << 20;

/// What was told, event by event.
///
/// Nearly every event of a stream differs from the one before in its text alone. So it is compared with the last one's shape
/// ([`Told::follows_on`]): two comparisons and a run through the text. Only what looks otherwise is parsed ([`Told::note`]).
#[derive(Debug)]
pub struct Told {
    pub(super) dialect: Dialect,
    /// The text so far, escapes as they came. At most [`TEXT_BYTES_MAX`].
    pub(super) text: Vec<u8>,
    /// The first event's own words for itself.
    pub(super) identity: Identity,
    pub(super) obstacle: Option<Obstacle>,
    /// Whether the speaker was named.
    pub(super) role: bool,
    pub(super) finished: bool,
    /// Whether the event that only reports tokens went down.
    pub(super) usage_told: bool,
    pub(super) tokens: Tokens,
    /// Whether the replica that speaks now has added nothing yet to what another one said.
    pub(super) opening: bool,
    shape: Shape,
}

/// The raw values of `id`, `object`, `created` and `model`, as the first event has them; empty where it has none.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub(super) id: String,
    pub(super) object: String,
    pub(super) created: String,
    pub(super) model: String,
}

/// Tokens, over all replicas that had a part in the answer.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// Made by the replicas before the one that speaks now.
    pub(super) before: u64,
    /// Events with text of the one that speaks now.
    deltas: u64,
    /// What the one that speaks now last said of itself.
    said: Option<Usage>,
    /// What the first one said of the prompt.
    prompt: Option<(u64, Option<u64>)>,
}

impl Tokens {
    /// Those that the client has got.
    pub(super) fn told(&self) -> u64 {
        self.before.saturating_add(self.said.map_or(self.deltas, |said| said.completion_tokens))
    }

    /// The replica that speaks now says this of itself; gives what that makes for the whole answer.
    pub(super) fn said(&mut self, said: Usage, first: bool) -> Usage {
        if first {
            self.prompt = Some((said.prompt_tokens, said.cached_tokens));
        }
        self.said = Some(said);
        self.sum(said)
    }

    fn sum(&self, said: Usage) -> Usage {
        // What was said before is a part of a later replica's prompt, and none of the client's.
        let (prompt_tokens, cached) = self.prompt.unwrap_or((said.prompt_tokens.saturating_sub(self.before), None));
        let cached_tokens = cached.or(said.cached_tokens.map(|cached| cached.min(prompt_tokens)));
        let completion_tokens = self.before.saturating_add(said.completion_tokens);
        Usage { prompt_tokens, cached_tokens, completion_tokens }
    }

    /// All that is known when nothing more will be said.
    pub(super) fn known(&self) -> Option<Usage> {
        self.said.map(|said| self.sum(said)).or_else(|| {
            let (prompt_tokens, cached_tokens) = self.prompt?;
            Some(Usage { prompt_tokens, cached_tokens, completion_tokens: self.told() })
        })
    }
}

impl Told {
    /// Whether answers of this dialect can be continued.
    pub fn follows(dialect: Dialect) -> bool {
        matches!(dialect, Dialect::Chat | Dialect::Completions)
    }

    /// Before the first event; `None` for a dialect whose answers cannot be continued.
    pub fn new(dialect: Dialect) -> Option<Box<Told>> {
        if !Told::follows(dialect) {
            return None;
        }
        Some(Box::new(Told {
            dialect,
            text: Vec::new(),
            identity: Identity::default(),
            obstacle: None,
            role: false,
            finished: false,
            usage_told: false,
            tokens: Tokens::default(),
            opening: false,
            shape: Shape::default(),
        }))
    }

    /// Takes note of a data event of the first replica. Gives whether the events that [`follows_on`](Told::follows_on) finds
    /// are like this one from now on.
    pub fn note(&mut self, event: &[u8]) -> bool {
        !self.follows_on(event) && self.note_other(event)
    }

    /// Takes note of an event if it differs in its text alone from one that was noted; of all others nothing.
    #[inline]
    pub fn follows_on(&mut self, event: &[u8]) -> bool {
        let Some(text) = self.shape.text_in(event) else { return false };
        self.add(text);
        true
    }

    /// The dialect of the answer.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Why it cannot be continued, as far as the answer tells.
    pub fn obstacle(&self) -> Option<Obstacle> {
        self.obstacle
    }

    /// Whether the reason of the answer's end was told.
    pub fn finished(&self) -> bool {
        self.finished
    }

    /// The tokens of the whole answer, when the replica that speaks now says this of its part.
    pub fn sum(&self, said: Usage) -> Usage {
        self.tokens.sum(said)
    }

    /// From now on another replica speaks.
    pub fn hand_over(&mut self) {
        self.tokens.before = self.tokens.told();
        (self.tokens.deltas, self.tokens.said) = (0, None);
        self.opening = true;
        self.shape = Shape::default();
    }

    #[cold]
    fn note_other(&mut self, event: &[u8]) -> bool {
        // What cannot be continued is only waited for to end. Of several choices, the end of one says nothing.
        if let Some(obstacle) = self.obstacle
            && (obstacle == Obstacle::Choices || !(tells_the_end(event) || may_be_another_choice(event)))
        {
            return false;
        }
        let data = data_of(event);
        let Some(chunk) = Chunk::read(self.dialect, &data) else {
            self.obstruct(Obstacle::Unread);
            return false;
        };
        self.identity.take(&chunk);
        self.chunk(&chunk, event, true);
        chunk.is_plain_text()
            && self.obstacle.is_none()
            && self.shape.learn(event, chunk.choice.as_ref().map_or("", |choice| choice.text))
    }

    /// Takes note of what an event said; gives the tokens of the whole answer if it tells the replica's.
    pub(super) fn chunk(&mut self, chunk: &Chunk<'_>, event: &[u8], first: bool) -> Option<Usage> {
        if let Some(choice) = &chunk.choice {
            self.role |= choice.role;
            self.finished |= choice.finished;
            self.add(choice.text.as_bytes());
            if let Some(obstacle) = choice.obstacle {
                self.obstruct(obstacle);
            }
        }
        chunk.usage?;
        let mut meter = Meter::new();
        meter.event(event);
        self.usage_told |= chunk.choice.is_none();
        meter.usage().map(|said| self.tokens.said(said, first))
    }

    #[inline]
    fn add(&mut self, text: &[u8]) {
        if text.is_empty() || self.obstacle.is_some() {
            return;
        }
        if self.text.len() + text.len() > TEXT_BYTES_MAX {
            return self.obstruct(Obstacle::TooLong);
        }
        self.text.extend_from_slice(text);
        self.tokens.deltas += 1;
    }

    /// It cannot be continued. The text is given up; its end is still waited for.
    pub fn obstruct(&mut self, obstacle: Obstacle) {
        // The first one is the reason. But of several choices no end is made up, so that must be known in any case.
        match obstacle {
            Obstacle::Choices => self.obstacle = Some(obstacle),
            _ => drop(self.obstacle.get_or_insert(obstacle)),
        }
        (self.text, self.shape) = (Vec::new(), Shape::default());
    }
}

impl Identity {
    fn take(&mut self, chunk: &Chunk<'_>) {
        if !self.id.is_empty() {
            return;
        }
        let value = |key| chunk.top.get(key).unwrap_or_default().to_owned();
        *self = Identity { id: value("id"), object: value("object"), created: value("created"), model: value("model") };
    }
}

/// An event that adds text and nothing else: all of its bytes but the text.
#[derive(Debug, Default)]
struct Shape {
    bytes: Vec<u8>,
    /// Where the text stands between them; 0 while none was seen.
    at: usize,
    /// Whether numbers behind the text may differ. Not where one of them says whose text it is.
    loose: bool,
}

impl Shape {
    /// The text of an event of this shape. Where all other bytes are the same, so is what they mean; but for numbers behind
    /// the text, as of a counter or a clock, none of which matters while only text comes.
    #[inline]
    fn text_in<'a>(&self, event: &'a [u8]) -> Option<&'a [u8]> {
        let (before, after) = self.bytes.split_at(self.at);
        if before.is_empty() {
            return None;
        }
        let rest = event.strip_prefix(before)?;
        let end = text_end(rest, 0)? - 1;
        let same = rest[end..] == *after || (self.loose && same_but_for_digits(&rest[end..], after));
        same.then(|| &rest[..end])
    }

    /// False where the text does not stand in the event as it is: data of several lines was copied together.
    fn learn(&mut self, event: &[u8], text: &str) -> bool {
        let Some(place) = place(text, event) else { return false };
        self.bytes.clear();
        self.bytes.extend_from_slice(&event[..place.start]);
        self.bytes.extend_from_slice(&event[place.end..]);
        self.at = place.start;
        self.loose = INDEX.find(&event[place.end..]).is_none();
        true
    }
}

/// The key of a choice's number.
static INDEX: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\"index\""));

/// Whether two pieces differ in nothing but how their runs of digits read.
fn same_but_for_digits(a: &[u8], b: &[u8]) -> bool {
    // A clock has always as many digits, and a counter nearly always. Without an end before the end, so that it is done 16 at a
    // time.
    let alike = |a: u8, b: u8| (a == b) | (a.is_ascii_digit() & b.is_ascii_digit());
    let in_place = a.len() == b.len() && a.iter().zip(b).fold(true, |all, (a, b)| all & alike(*a, *b));
    in_place || same_but_for_runs_of_digits(a, b)
}

/// The same, also where the runs are not equally long.
fn same_but_for_runs_of_digits(mut a: &[u8], mut b: &[u8]) -> bool {
    let run = |bytes: &[u8], digits: bool| bytes.iter().take_while(|byte| byte.is_ascii_digit() == digits).count();
    // Most of it is the same in any case. A run of digits is looked at from its beginning.
    let same = a.chunks(16).zip(b.chunks(16)).take_while(|(a, b)| a == b).map(|(a, _)| a.len()).sum();
    let begin = a[..same].iter().rposition(|byte| !byte.is_ascii_digit()).map_or(0, |other| other + 1);
    (a, b) = (&a[begin..], &b[begin..]);
    while !a.is_empty() && !b.is_empty() {
        let (digits_a, digits_b) = (run(a, true), run(b, true));
        let (rest_a, rest_b) = (&a[digits_a..], &b[digits_b..]);
        let others = run(rest_a, false);
        if (digits_a == 0) != (digits_b == 0) || !rest_b.starts_with(&rest_a[..others]) {
            return false;
        }
        (a, b) = (&rest_a[others..], &rest_b[others..]);
    }
    a.is_empty() && b.is_empty()
}

/// Whether an event may tell why the answer ends. Some engines say `""` where others say `null`.
fn tells_the_end(event: &[u8]) -> bool {
    static KEY: Lazy<Finder<'static>> = Lazy::new(|| Finder::new(b"\"finish_reason\""));
    values_of(&KEY, event).any(|value| !value.starts_with(b"null") && !value.starts_with(b"\"\""))
}

/// Whether an event may speak of another choice than the first. A tool call's number looks the same.
fn may_be_another_choice(event: &[u8]) -> bool {
    values_of(&INDEX, event).any(|value| !value.starts_with(b"0"))
}

/// What stands after each colon of a key. The key cannot stand in text, where its quotes would be escaped.
fn values_of<'a>(key: &'a Finder<'static>, event: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    key.find_iter(event).map(|place| {
        let value = event[place + key.needle().len()..].trim_ascii_start().strip_prefix(b":").unwrap_or_default();
        value.trim_ascii_start()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counters_and_clocks_behind_the_text_do_not_change_an_events_shape() {
        let event = |text: &str, rest: &str| {
            format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]{rest}}}\n\n")
        };
        let shape = |first: &str| {
            let mut shape = Shape::default();
            let first = event("hi", first);
            assert!(shape.learn(first.as_bytes(), &first[first.find("hi").unwrap()..][..2]));
            shape
        };
        let check = |first: &str, second: &str, same: bool| {
            let second = event("more \\\" 42", second);
            let expected = same.then_some(&br#"more \" 42"#[..]);
            assert_eq!(shape(first).text_in(second.as_bytes()), expected, "{first} {second}");
        };
        check("", "", true);
        check(r#","at":999"#, r#","at":1000"#, true);
        check(r#","at":1.5,"n":[7]"#, r#","at":22.75,"n":[123456]"#, true);
        check(r#","at":999"#, r#","at":null"#, false);
        check(r#","at":999"#, r#","to":999"#, false);
        check(r#","at":999"#, "", false);
        check("", r#","at":1"#, false);
        check(r#","at":1.5"#, r#","at":15"#, false);
        check(r#","at":-1"#, r#","at":1"#, false);
        check(r#","index":0,"at":1"#, r#","index":1,"at":1"#, false);
    }

    fn digits() -> &'static str {
        "[0-9a,]{0,12}"
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn the_same_but_for_digits_is_the_same_with_each_run_as_one(a in digits(), b in digits(), alike in "[0-9a,]{0,40}") {
            let (a, b) = (format!("{alike}{a}"), format!("{alike}{b}"));
            let squeezed = |text: &str| {
                let mut squeezed = String::new();
                for byte in text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }) {
                    if byte != '0' || !squeezed.ends_with('0') {
                        squeezed.push(byte);
                    }
                }
                squeezed
            };
            prop_assert_eq!(same_but_for_digits(a.as_bytes(), b.as_bytes()), squeezed(&a) == squeezed(&b));
            let later = a.replace(|c: char| c.is_ascii_digit(), "7");
            prop_assert!(same_but_for_digits(a.as_bytes(), later.as_bytes()));
        }
    }
}

//! What kind of event it is, told by its first bytes.

use std::borrow::Cow;

use memchr::memchr2;

use crate::domain::ask::Dialect;

/// What an event means to the relay.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum EventKind {
    /// Nothing that a client's reader sees as part of the answer: comments, `ping`, blank lines. No sign of life.
    Comment,
    /// A part of the answer.
    Data,
    /// The dialect's mark of a whole answer.
    Done,
    /// The engine's own report that the answer failed.
    Error,
}

/// What has been seen of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    dialect: Dialect,
    /// Whole events, of every kind.
    pub events: u64,
    /// Those that are part of the answer; the first of them is the commit point.
    pub data_events: u64,
    /// Whether the dialect's end came: a stream without it is not whole.
    pub done: bool,
    /// Whether the engine reported an error.
    pub error: bool,
}

impl Progress {
    /// Before the first event.
    pub fn new(dialect: Dialect) -> Progress {
        Progress { dialect, events: 0, data_events: 0, done: false, error: false }
    }

    /// Takes note of one whole event that is like one of [`EventKind::Data`].
    pub fn note_data(&mut self) {
        self.events += 1;
        self.data_events += 1;
    }

    /// Takes note of one whole event.
    pub fn note(&mut self, event: &[u8]) -> EventKind {
        // A byte-order mark may stand at the beginning of a stream, and there alone.
        let bom: &[u8] = if self.events == 0 { b"\xef\xbb\xbf" } else { b"" };
        let kind = kind_of(self.dialect, event.strip_prefix(bom).unwrap_or(event));
        self.events += 1;
        match kind {
            EventKind::Comment => {}
            EventKind::Data => self.data_events += 1,
            EventKind::Done => self.done = true,
            EventKind::Error => self.error = true,
        }
        kind
    }
}

/// The event's data, line ends between its lines: copied only if there are several.
pub fn data_of(event: &[u8]) -> Cow<'_, [u8]> {
    let mut data: Option<Cow<'_, [u8]>> = None;
    for line in lines(event) {
        if let Some((b"data", value)) = field(line) {
            match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(data) => {
                    let data = data.to_mut();
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
            }
        }
    }
    data.unwrap_or_default()
}

/// The event's name, if it has one.
pub fn name_of(event: &[u8]) -> Option<&[u8]> {
    lines(event).filter_map(field).find(|(name, _)| *name == b"event").map(|(_, value)| value)
}

/// Whether a JSON object is an engine's report of a failure.
pub(in crate::wire) fn is_error(dialect: Dialect, json: &[u8]) -> bool {
    of_data(dialect, json) == EventKind::Error
}

fn kind_of(dialect: Dialect, event: &[u8]) -> EventKind {
    let mut kind = EventKind::Comment;
    let mut ping = false;
    for line in lines(event) {
        let of_line = match field(line) {
            Some((b"data", value)) => of_data(dialect, value),
            Some((b"event", b"ping")) => {
                ping = true;
                EventKind::Comment
            }
            Some((b"event", name)) => of_name(dialect, name),
            // Older llama.cpp servers report a failure in a field of this name.
            Some((b"error", _)) => EventKind::Error,
            _ => EventKind::Comment,
        };
        kind = kind.max(of_line);
    }
    if ping && kind == EventKind::Data { EventKind::Comment } else { kind }
}

fn of_name(dialect: Dialect, name: &[u8]) -> EventKind {
    match name {
        b"error" => EventKind::Error,
        _ if is_end(dialect, name) => EventKind::Done,
        _ => EventKind::Comment,
    }
}

/// Whether an event of this name ends a whole answer. A failed or cut response is one too: the engine has said all.
fn is_end(dialect: Dialect, name: &[u8]) -> bool {
    match dialect {
        Dialect::Messages => name == b"message_stop",
        Dialect::Responses => {
            matches!(name, b"response.completed" | b"response.incomplete" | b"response.failed")
        }
        Dialect::Chat | Dialect::Completions | Dialect::Embeddings => false,
    }
}

fn of_data(dialect: Dialect, data: &[u8]) -> EventKind {
    if dialect != Dialect::Messages && data.starts_with(b"[DONE]") {
        return EventKind::Done;
    }
    match first_member(data) {
        Some((b"error", value)) if !value.is_empty() && !value.starts_with(b"null") => EventKind::Error,
        // SGLang's, and older vLLM's.
        Some((b"object", value)) if quoted(value).is_some_and(|(name, _)| name == b"error") => EventKind::Error,
        Some((b"type", value)) => match quoted(value) {
            Some((b"error", _)) => EventKind::Error,
            Some((name, _)) if is_end(dialect, name) => EventKind::Done,
            Some((b"ping", _)) if dialect == Dialect::Messages => EventKind::Comment,
            _ => EventKind::Data,
        },
        _ => EventKind::Data,
    }
}

/// The first key of a JSON object and what stands after its colon.
fn first_member(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let inside = json.trim_ascii_start().strip_prefix(b"{")?;
    let (key, rest) = quoted(inside.trim_ascii_start())?;
    Some((key, rest.trim_ascii_start().strip_prefix(b":")?.trim_ascii_start()))
}

/// A short JSON string without escapes, and what stands after it.
fn quoted(json: &[u8]) -> Option<(&[u8], &[u8])> {
    /// No name that is looked for is longer.
    const NAME_MAX: usize = 32;
    let inside = json.strip_prefix(b"\"")?;
    let end = inside.iter().take(NAME_MAX).position(|&byte| byte == b'"')?;
    Some((&inside[..end], &inside[end + 1..]))
}

/// A line's field name and value; `None` for comments and blank lines.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', line);
    let (name, value) = colon.map_or((line, &b""[..]), |colon| (&line[..colon], &line[colon + 1..]));
    (!name.is_empty()).then(|| (name, value.strip_prefix(b" ").unwrap_or(value)))
}

fn lines(event: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = event;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = line_end(rest).unwrap_or(rest.len());
        let line = &rest[..end];
        // The `\n` of a `\r\n` reads as one more blank line, which means nothing here.
        rest = rest.get(end + 1..).unwrap_or_default();
        Some(line)
    })
}

/// Where the first line ends. A search costs more to set up than to run, and every other line is blank.
pub(super) fn line_end(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'\n' | b'\r' => Some(0),
        _ => memchr2(b'\n', b'\r', bytes),
    }
}

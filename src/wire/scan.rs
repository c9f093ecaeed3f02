//! One pass over a request body as it arrives: is it a JSON object, which model does it ask for, what may name its
//! session, and where do the parts of its prompt stand?
//!
//! No tree is built and nothing is copied but a few short strings: the body is forwarded as it came, so all that the edge
//! needs of it is where the top-level `model` and the messages stand and whether `stream` is set. The scanner can be
//! stopped at any byte and gives the same answer however the body was cut into chunks.
//!
//! Routing on another string than the engine reads would be a hole, so the scanner is strict where parsers differ:
//! a second top-level `model` or `stream` is an error, also when its key is written with escapes (`"mod\u0065l"`).
//! The grammar is RFC 8259's, whole, so `NaN`, comments, trailing commas, a byte-order mark and raw control characters
//! in strings are errors. What it leaves to the engine, since nothing here depends on it: whether other strings are
//! valid UTF-8 or hold half a surrogate pair, whether a number fits its type, and other keys that stand twice.

mod block;
mod error;
mod fields;
mod key;
mod number;
mod parts;
mod text;

use std::borrow::Cow;
use std::ops::Range;

pub use error::ScanError;
use fields::FIELD_RAW_MAX;
pub use fields::{Field, Fields};
use key::TopKey;
use number::Number;
pub use parts::{ITEMS_MAX, Part, PartKey, Parts};
use text::{Stop, is_simple_escape};

/// Deepest nesting of arrays and objects; one bit each in a word.
pub const DEPTH_MAX: u32 = 128;
/// Longest model name in bytes, decoded.
pub const MODEL_BYTES_MAX: usize = 256;
/// One byte of text takes at most six when it is escaped.
const MODEL_RAW_MAX: usize = MODEL_BYTES_MAX * 6;
/// The same for keys, with room for those that later readers need: a longer key is none of them.
const KEY_RAW_MAX: usize = 32 * 6;

/// The key by which clients of Anthropic's dialect mark how far the cache is to reach.
pub(super) const CACHE_CONTROL: &[u8] = b"\"cache_control\"";

/// The index after the quote that closes a string whose inside begins at `from`; `None` where no valid string ends.
#[inline]
pub(super) fn text_end(bytes: &[u8], from: usize) -> Option<usize> {
    match text::run(bytes, from) {
        (end, Stop::Quote) => Some(end),
        _ => None,
    }
}

/// What a body says that matters here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// The top-level `model`.
    pub model: Option<Model>,
    /// The top-level `stream`; `null` counts as absent.
    pub stream: Option<bool>,
    /// Whether the top-level `store` or `background` is `true`: an engine of the Responses API then keeps something of
    /// the call, or goes on with it by itself.
    pub leaves_state: bool,
    /// Whether the engine stores what comes before this body's messages: `previous_response_id` or `conversation` is set.
    pub goes_on: bool,
    /// Where the prompt stands.
    pub parts: Parts,
    /// What may name the session.
    pub fields: Fields,
    /// Whether the top-level `store` is `false`: an engine of the Responses API keeps nothing then.
    pub unstored: bool,
    /// Where the value of the top-level `stream_options` begins; of several the last, as the engines read it.
    pub stream_options_at: Option<usize>,
    /// Whether some key, of whatever depth, is `cache_control`: where none is, nobody need look for it. One that is written
    /// with escapes is not told.
    pub marked: bool,
}

/// Where the model's name stands and what it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// The bytes of the value in the body, quotes included: what a rewrite replaces.
    pub range: Range<usize>,
    /// The name, escapes decoded.
    pub name: String,
}

/// What the string being read is kept for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keep {
    Nothing,
    /// A top-level key.
    Key,
    /// A key of an object that is looked into.
    InnerKey,
    Model,
    Field(Field),
}

/// Values deeper than this are none of interest: the top-level members' and those that stand in them.
const DEPTH_NOTED: u32 = 2;

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// The outermost `{`.
    Start,
    /// After `{`: a key or `}`.
    FirstKey,
    /// After a comma in an object: a key.
    Key,
    /// After a key.
    Colon,
    /// After a colon, or a comma in an array.
    Value,
    /// After `[`: a value or `]`.
    FirstItem,
    /// After a value: a comma or the end of what holds it.
    After,
    /// In a string.
    Text,
    /// In a string, after a backslash.
    Escape,
    /// In a string, so many hex digits after `\u` missing.
    Hex(u8),
    /// In `true`, `false` or `null`: the bytes still missing.
    Literal(&'static [u8]),
    /// In a number.
    Number(Number),
    /// After the outermost `}`.
    End,
}

/// The scanner. Feed it every chunk in order, then ask with [`finish`](Scanner::finish).
#[derive(Debug)]
pub struct Scanner {
    state: State,
    /// Bytes of the chunks before this one.
    offset: usize,
    depth: u32,
    /// For each open level one bit, innermost lowest: set for an object.
    objects: u128,
    /// Whether the string being read is a key.
    in_key: bool,
    /// How many bytes of that key, its quotes included, are those of [`CACHE_CONTROL`]; no index into it where they are not.
    like_mark: usize,
    /// What the string being read is kept in `text` for.
    keep: Keep,
    /// The string being read with its quotes, escapes as they are. Bounded by [`MODEL_RAW_MAX`].
    text: Vec<u8>,
    /// Where that string began.
    text_at: usize,
    /// The top-level key that stands before the value being read.
    key: TopKey,
    /// What a string behind the last key is, in an object that is looked into.
    inner: Option<Field>,
    seen_model: bool,
    seen_stream: bool,
    scan: Scan,
    failed: Option<ScanError>,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner::new()
    }
}

impl Scanner {
    /// A scanner before the first byte.
    pub fn new() -> Scanner {
        Scanner {
            state: State::Start,
            offset: 0,
            depth: 0,
            objects: 0,
            in_key: false,
            like_mark: usize::MAX,
            keep: Keep::Nothing,
            text: Vec::new(),
            text_at: 0,
            key: TopKey::Other,
            inner: None,
            seen_model: false,
            seen_stream: false,
            scan: Scan::default(),
            failed: None,
        }
    }

    /// Reads the next chunk. After an error every further call gives the same error.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ScanError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.run(chunk);
        self.failed = result.err();
        self.offset += chunk.len();
        result
    }

    /// What the body says, once all of it has been pushed.
    pub fn finish(self) -> Result<Scan, ScanError> {
        match (self.failed, self.state) {
            (Some(error), _) => Err(error),
            (None, State::End) => Ok(self.scan),
            (None, State::Start) => Err(ScanError::Empty),
            (None, _) => Err(ScanError::Ended { expected: self.expected(), at: self.offset }),
        }
    }

    fn run(&mut self, chunk: &[u8]) -> Result<(), ScanError> {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            at = match self.state {
                State::Text => self.run_text(chunk, at)?,
                State::Number(number) => self.run_number(number, chunk, at)?,
                State::Escape | State::Hex(_) | State::Literal(_) => {
                    self.step_inside(byte, at)?;
                    at + 1
                }
                _ if matches!(byte, b' ' | b'\n' | b'\r' | b'\t') => at + 1,
                _ => {
                    self.step_between(byte, at)?;
                    at + 1
                }
            };
        }
        Ok(())
    }

    /// A byte that is no white space, outside strings, numbers and literals.
    #[inline(always)]
    fn step_between(&mut self, byte: u8, at: usize) -> Result<(), ScanError> {
        match self.state {
            State::FirstKey | State::Key if byte == b'"' => {
                let keep = if self.depth <= DEPTH_NOTED { self.keep_of_key() } else { Keep::Nothing };
                self.open_text(true, keep, at);
            }
            State::FirstKey if byte == b'}' => self.close(at),
            State::Colon if byte == b':' => self.state = State::Value,
            State::FirstItem if byte == b']' => self.close(at),
            State::Value | State::FirstItem => return self.enter_value(byte, at),
            State::After if byte == b',' => self.state = if self.in_object() { State::Key } else { State::Value },
            State::After if byte == if self.in_object() { b'}' } else { b']' } => self.close(at),
            State::Start if byte == b'{' => return self.open(true, at),
            State::Start => return Err(ScanError::NotObject { at: self.offset + at }),
            _ => return Err(self.syntax(at)),
        }
        Ok(())
    }

    /// The first byte of a value.
    #[inline(always)]
    fn enter_value(&mut self, byte: u8, at: usize) -> Result<(), ScanError> {
        let mut keep = Keep::Nothing;
        if self.depth <= DEPTH_NOTED {
            keep = self.value_begins(byte, at)?;
        }
        match byte {
            b'"' => self.open_text(false, keep, at),
            b'{' => return self.open(true, at),
            b'[' => return self.open(false, at),
            b't' => self.state = State::Literal(b"rue"),
            b'f' => self.state = State::Literal(b"alse"),
            b'n' => self.state = State::Literal(b"ull"),
            _ => self.state = State::Number(Number::start(byte).ok_or_else(|| self.syntax(at))?),
        }
        Ok(())
    }

    /// A byte of an escape or of a literal.
    fn step_inside(&mut self, byte: u8, at: usize) -> Result<(), ScanError> {
        self.like_mark = usize::MAX;
        self.state = match self.state {
            State::Escape if byte == b'u' => State::Hex(4),
            State::Escape if is_simple_escape(byte) => State::Text,
            State::Hex(1) if byte.is_ascii_hexdigit() => State::Text,
            State::Hex(missing) if byte.is_ascii_hexdigit() => State::Hex(missing - 1),
            State::Literal([last]) if byte == *last => {
                self.value_ended(at + 1);
                State::After
            }
            State::Literal([next, rest @ ..]) if byte == *next => State::Literal(rest),
            _ => return Err(self.syntax(at)),
        };
        self.keep(&[byte])
    }

    /// Digits and the like, up to the first byte that is none; that one is left to be read.
    fn run_number(&mut self, mut number: Number, chunk: &[u8], mut at: usize) -> Result<usize, ScanError> {
        while let Some(&byte) = chunk.get(at) {
            match number.next(byte) {
                Some(next) => number = next,
                None if number.is_whole() => {
                    self.state = State::After;
                    self.value_ended(at);
                    return Ok(at);
                }
                None => return Err(self.syntax(at)),
            }
            at += 1;
        }
        self.state = State::Number(number);
        Ok(at)
    }

    /// The inside of a string as far as this chunk has it; gives the index after what was read.
    #[inline]
    fn run_text(&mut self, chunk: &[u8], from: usize) -> Result<usize, ScanError> {
        let (at, stop) = text::run(chunk, from);
        let piece = &chunk[from..at];
        if self.in_key {
            let goes_on = CACHE_CONTROL.get(self.like_mark..).is_some_and(|rest| rest.starts_with(piece));
            self.like_mark = if goes_on { self.like_mark + piece.len() } else { usize::MAX };
            self.scan.marked |= self.like_mark == CACHE_CONTROL.len();
        }
        self.keep(piece)?;
        match stop {
            Stop::Quote => {
                self.close_text(at)?;
                return Ok(self.step_over_separator(chunk, at));
            }
            // Byte by byte from here: the next chunk has the rest, or the next byte is the mistake.
            Stop::Backslash => self.state = State::Escape,
            Stop::Control => return Err(self.syntax(at)),
            Stop::End => {}
        }
        Ok(at)
    }

    /// The colon or comma that mostly stands right after a string: read here, it costs no turn of the loop.
    #[inline]
    fn step_over_separator(&mut self, chunk: &[u8], at: usize) -> usize {
        self.state = match (self.in_key, chunk.get(at)) {
            (true, Some(b':')) => State::Value,
            (false, Some(b',')) if self.in_object() => State::Key,
            (false, Some(b',')) => State::Value,
            _ => return at,
        };
        at + 1
    }

    #[inline]
    fn open_text(&mut self, is_key: bool, keep: Keep, at: usize) {
        self.state = State::Text;
        self.in_key = is_key;
        self.like_mark = 1;
        self.keep = keep;
        if keep != Keep::Nothing {
            self.text.clear();
            self.text.push(b'"');
            self.text_at = self.offset + at;
        }
    }

    /// Keeps a piece of the string being read, if it is one of those that are kept.
    #[inline(always)]
    fn keep(&mut self, piece: &[u8]) -> Result<(), ScanError> {
        if self.keep == Keep::Nothing { Ok(()) } else { self.keep_piece(piece) }
    }

    #[inline(never)]
    fn keep_piece(&mut self, piece: &[u8]) -> Result<(), ScanError> {
        let max = match self.keep {
            Keep::Model => MODEL_RAW_MAX,
            Keep::Field(_) => FIELD_RAW_MAX,
            Keep::Nothing | Keep::Key | Keep::InnerKey => KEY_RAW_MAX,
        };
        if self.text.len() + piece.len() <= max + 2 {
            self.text.extend_from_slice(piece);
            return Ok(());
        }
        match self.keep {
            Keep::Model => return Err(ScanError::ModelTooLong { at: self.text_at }),
            // Too long for a key of interest: kept no further.
            Keep::Key => self.key = TopKey::Other,
            Keep::InnerKey => self.inner = None,
            Keep::Nothing | Keep::Field(_) => {}
        }
        self.keep = Keep::Nothing;
        self.text.clear();
        Ok(())
    }

    /// A string has been closed; `end` is the index after its quote.
    #[inline(always)]
    fn close_text(&mut self, end: usize) -> Result<(), ScanError> {
        if self.in_key {
            self.state = State::Colon;
        } else {
            self.state = State::After;
            self.value_ended(end);
        }
        if self.keep == Keep::Nothing { Ok(()) } else { self.kept(end) }
    }

    /// A string that was kept is here whole.
    #[inline(never)]
    fn kept(&mut self, end: usize) -> Result<(), ScanError> {
        match std::mem::replace(&mut self.keep, Keep::Nothing) {
            Keep::Nothing => {}
            Keep::Key => self.top_key()?,
            Keep::InnerKey => self.inner = key_name(&self.text).and_then(|name| self.key.field_within(&name)),
            Keep::Model => self.model(self.offset + end)?,
            Keep::Field(field) => self.scan.fields.put(field, &self.text),
        }
        Ok(())
    }

    // What follows is for the depths of interest alone, and apart so that it does not slow down what is deeper.

    /// What the key that begins here is kept for.
    fn keep_of_key(&self) -> Keep {
        match self.depth {
            1 => Keep::Key,
            _ if self.key.is_looked_into() => Keep::InnerKey,
            _ => Keep::Nothing,
        }
    }

    /// Notes where a value begins, and what it is kept for if it is a string.
    #[inline(never)]
    fn value_begins(&mut self, first: u8, at: usize) -> Result<Keep, ScanError> {
        let at = self.offset + at;
        if self.depth == 1 {
            return self.top_value(first, at);
        }
        match self.key {
            TopKey::Part(part) if !self.in_object() => self.scan.parts.begin_item(part, first, at),
            key if self.in_object() && key.is_looked_into() => {
                return Ok(self.inner.map_or(Keep::Nothing, Keep::Field));
            }
            _ => {}
        }
        Ok(Keep::Nothing)
    }

    fn top_value(&mut self, first: u8, at: usize) -> Result<Keep, ScanError> {
        match (self.key, first) {
            (TopKey::Model, b'"') => return Ok(Keep::Model),
            (TopKey::Model, _) => return Err(ScanError::ModelNotString { at }),
            (TopKey::Stream, b't') => self.scan.stream = Some(true),
            (TopKey::Stream, b'f') => self.scan.stream = Some(false),
            (TopKey::Stream, b'n') => {}
            (TopKey::Stream, _) => return Err(ScanError::StreamNotBool { at }),
            // Of a key that stands twice engines read the last; either may be meant here, so either counts.
            (TopKey::Background, _) => self.scan.leaves_state |= first == b't',
            (TopKey::Store, _) => {
                self.scan.leaves_state |= first == b't';
                self.scan.unstored = first == b'f';
            }
            (TopKey::StreamOptions, _) => self.scan.stream_options_at = Some(at),
            (TopKey::Part(part), _) => self.scan.parts.begin(part, first, at),
            (TopKey::Conversation | TopKey::Field(Field::PreviousResponse), _) => self.scan.goes_on |= first != b'n',
            (TopKey::Field(_) | TopKey::Metadata | TopKey::Other, _) => {}
        }
        Ok(self.key.field().map_or(Keep::Nothing, Keep::Field))
    }

    /// A value has ended, of whatever depth.
    #[inline(always)]
    fn value_ended(&mut self, end: usize) {
        if self.depth <= DEPTH_NOTED {
            self.note_end(end);
        }
    }

    /// Notes where a value has ended.
    #[inline(never)]
    fn note_end(&mut self, end: usize) {
        let end = self.offset + end;
        match (self.depth, self.key) {
            (1, TopKey::Part(part)) => self.scan.parts.end(part, end),
            (2, TopKey::Part(part)) if !self.in_object() => self.scan.parts.end_item(part, end),
            _ => {}
        }
    }

    fn top_key(&mut self) -> Result<(), ScanError> {
        self.key = match key_name(&self.text) {
            Some(name) => TopKey::named(&name),
            None if std::str::from_utf8(&self.text).is_ok() => TopKey::Other,
            // A lenient decoder could drop the bad bytes and read a key of interest in what is left.
            None => return Err(ScanError::Syntax { expected: "a key in UTF-8", at: self.text_at }),
        };
        let (seen, key) = match self.key {
            TopKey::Model => (&mut self.seen_model, "model"),
            TopKey::Stream => (&mut self.seen_stream, "stream"),
            _ => return Ok(()),
        };
        if std::mem::replace(seen, true) {
            return Err(ScanError::Twice { key, at: self.text_at });
        }
        Ok(())
    }

    fn model(&mut self, end: usize) -> Result<(), ScanError> {
        let at = self.text_at;
        let name: String = serde_json::from_slice(&self.text).map_err(|_| ScanError::ModelNotText { at })?;
        if name.len() > MODEL_BYTES_MAX {
            return Err(ScanError::ModelTooLong { at });
        }
        self.scan.model = Some(Model { range: at..end, name });
        Ok(())
    }

    #[inline]
    fn open(&mut self, object: bool, at: usize) -> Result<(), ScanError> {
        if self.depth == DEPTH_MAX {
            return Err(ScanError::TooDeep { at: self.offset + at });
        }
        self.depth += 1;
        self.objects = self.objects << 1 | u128::from(object);
        self.state = if object { State::FirstKey } else { State::FirstItem };
        Ok(())
    }

    #[inline]
    fn close(&mut self, at: usize) {
        self.depth -= 1;
        self.objects >>= 1;
        self.state = if self.depth == 0 { State::End } else { State::After };
        self.value_ended(at + 1);
    }

    #[inline]
    fn in_object(&self) -> bool {
        self.objects & 1 == 1
    }

    fn syntax(&self, at: usize) -> ScanError {
        ScanError::Syntax { expected: self.expected(), at: self.offset + at }
    }

    fn expected(&self) -> &'static str {
        match self.state {
            State::Start => "'{'",
            State::FirstKey => "a key in double quotes or '}'",
            State::Key => "a key in double quotes",
            State::Colon => "':'",
            State::Value => "a value",
            State::FirstItem => "a value or ']'",
            State::After if self.in_object() => "',' or '}'",
            State::After => "',' or ']'",
            State::Text => "the rest of a string (control characters must be escaped)",
            State::Escape => "one of \"\\/bfnrtu after a backslash",
            State::Hex(_) => "four hex digits after \\u",
            State::Literal(_) => "true, false or null",
            State::Number(_) => "a digit",
            State::End => "nothing more",
        }
    }
}

/// A key without its quotes and escapes. Half a surrogate pair does not decode; such a key is none of interest.
fn key_name(quoted: &[u8]) -> Option<Cow<'_, str>> {
    if quoted.contains(&b'\\') {
        return serde_json::from_slice(quoted).ok().map(Cow::Owned);
    }
    let inside = quoted.get(1..quoted.len().saturating_sub(1))?;
    std::str::from_utf8(inside).ok().map(Cow::Borrowed)
}

#[cfg(test)]
mod tests;

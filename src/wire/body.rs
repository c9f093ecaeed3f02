//! A request body, kept as the chunks that arrived.
//!
//! Agents send 0.1–2 MB a call. Growing one buffer would copy that several times, and a retry needs all of it again, so
//! the chunks stay as they are and are shared by reference count; only the model's name is replaced, by cutting the
//! chunk in which it stands.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::sse::is_error;
use crate::domain::ask::Dialect;

/// A replacement of a part of the body; of an empty part: something put in.
pub type Edit = (Range<usize>, Bytes);

/// The whole body in arrival order. Cloning costs reference counts, not bytes.
#[derive(Clone, Debug, Default)]
pub struct Body {
    chunks: Vec<Bytes>,
    tail: BytesMut,
    len: usize,
}

/// Up to this many chunks are kept as they came, however small: the usual case costs no copy.
const CHUNKS_FREE: usize = 16;
/// Beyond that, smaller chunks than this are gathered, so that a body sent byte by byte costs 32 bytes of
/// bookkeeping for each KiB and not for each byte.
const CHUNK_SMALL: usize = 1024;
/// Small chunks are gathered into pieces of this size, each byte copied once.
const GATHERED: usize = 16 * 1024;

impl Body {
    /// An empty body.
    pub fn new() -> Body {
        Body::default()
    }

    /// Appends a chunk.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        self.len += chunk.len();
        if chunk.len() >= CHUNK_SMALL || self.chunks.len() < CHUNKS_FREE {
            self.seal();
            self.chunks.push(chunk);
            return;
        }
        if self.tail.capacity() - self.tail.len() < chunk.len() {
            self.seal();
            self.tail = BytesMut::with_capacity(GATHERED);
        }
        self.tail.put_slice(&chunk);
    }

    /// The same bytes in memory of their own, to be kept for long: a small chunk is a part of a larger buffer of its
    /// connection, which would be kept whole with it.
    #[must_use]
    pub fn compact(mut self) -> Body {
        self.seal();
        for chunk in self.chunks.iter_mut().filter(|chunk| chunk.len() < GATHERED) {
            *chunk = Bytes::copy_from_slice(chunk);
        }
        self.chunks.shrink_to_fit();
        self
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole body as it came, as pieces to be sent one after the other.
    pub fn segments(&self) -> Vec<Bytes> {
        let mut segments = self.chunks.clone();
        segments.extend(self.tail());
        segments
    }

    /// The bytes of `range`, copied only if they cross chunks. A range that reaches beyond the body is cut at its end.
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        let mut parts = Vec::new();
        self.parts(range, &mut parts);
        match parts.as_slice() {
            [] => Bytes::new(),
            [one] => one.clone(),
            many => many.concat().into(),
        }
    }

    /// The body with these ranges replaced, as pieces to be sent one after the other; every byte outside of them is
    /// shared with this body, not copied. They must not overlap; an empty one is a place to put something in, and one
    /// that reaches beyond the body is cut at its end.
    pub fn edited(&self, mut edits: Vec<Edit>) -> Vec<Bytes> {
        edits.sort_by_key(|(range, _)| (range.start, range.end));
        let mut segments = Vec::with_capacity(self.chunks.len() + 1 + 2 * edits.len());
        let mut from = 0;
        for (range, replacement) in edits {
            self.parts(from..range.start, &mut segments);
            if !replacement.is_empty() {
                segments.push(replacement);
            }
            from = from.max(range.end).max(range.start);
        }
        self.parts(from..self.len, &mut segments);
        segments
    }

    fn parts(&self, range: Range<usize>, into: &mut Vec<Bytes>) {
        let mut begin = 0;
        let tail = self.tail();
        for chunk in self.chunks.iter().chain(tail.as_ref()) {
            let from = range.start.clamp(begin, begin + chunk.len()) - begin;
            let to = range.end.clamp(begin, begin + chunk.len()) - begin;
            if from < to {
                into.push(chunk.slice(from..to));
            }
            begin += chunk.len();
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// What is gathered but not sealed. A copy (≤ 16 KiB), made only for bodies that came in tiny pieces.
    fn tail(&self) -> Option<Bytes> {
        (!self.tail.is_empty()).then(|| Bytes::copy_from_slice(&self.tail))
    }
}

impl From<Bytes> for Body {
    fn from(whole: Bytes) -> Body {
        let mut body = Body::new();
        body.push(whole);
        body
    }
}

/// Whether these pieces together are one JSON value.
pub fn is_whole_json(pieces: &[Bytes]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(&pieces.concat()).is_ok()
}

/// Whether an answer's body, in these pieces, is an engine's report of a failure and no answer. Told by its first member
/// alone, as in a stream.
pub fn reports_error(dialect: Dialect, pieces: &[Bytes]) -> bool {
    /// More than any first member that tells, with some space before it.
    const LOOKED_AT: usize = 64;
    let start: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).take(LOOKED_AT).collect();
    is_error(dialect, &start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body_of(chunks: &[Vec<u8>]) -> (Body, Vec<u8>) {
        let mut body = Body::new();
        chunks.iter().for_each(|chunk| body.push(chunk.clone().into()));
        (body, chunks.concat())
    }

    proptest! {
        #[test]
        fn slices_and_splices_equal_those_of_the_joined_bytes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..60),
            a in 0usize..900, b in 0usize..900,
        ) {
            let (body, flat) = body_of(&chunks);
            prop_assert_eq!(body.clone().compact().segments().concat(), &flat[..]);
            let (a, b) = (a.min(b).min(flat.len()), a.max(b).min(flat.len()));
            prop_assert_eq!(body.len(), flat.len());
            prop_assert_eq!(body.segments().concat(), flat.clone());
            prop_assert_eq!(&body.slice(a..b)[..], &flat[a..b]);
            let spliced = body.edited(vec![(a..b, Bytes::from_static(b"NEW"))]);
            prop_assert_eq!(spliced.concat(), [&flat[..a], b"NEW", &flat[b..]].concat());
        }
    }

    proptest! {
        #[test]
        fn several_edits_at_once_equal_one_after_the_other_from_the_end(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            places in prop::collection::vec((0usize..300, prop_oneof![Just(Vec::new()), Just(b"NEW".to_vec())]), 0..10),
        ) {
            let (body, flat) = body_of(&chunks);
            let mut places: Vec<_> = places.into_iter().map(|(place, new)| (place.min(flat.len()), new)).collect();
            places.sort();
            let edits: Vec<_> =
                places.chunks_exact(2).map(|two| (two[0].0..two[1].0, Bytes::from(two[0].1.clone()))).collect();
            let mut expected = flat.clone();
            for (range, new) in edits.iter().rev() {
                expected.splice(range.clone(), new.iter().copied());
            }
            let shuffled = edits.into_iter().rev().collect();
            prop_assert_eq!(body.edited(shuffled).concat(), expected);
        }
    }

    #[test]
    fn outside_the_spliced_range_nothing_is_copied() {
        let chunk = Bytes::from(vec![b'x'; 4096]);
        let mut body = Body::new();
        (0..3).for_each(|_| body.push(chunk.clone()));
        let spliced = body.edited(vec![(5000..5010, Bytes::from_static(b"y"))]);
        assert_eq!(spliced.len(), 5);
        let inside = chunk.as_ptr_range();
        assert!(spliced.iter().filter(|part| part.len() > 1).all(|part| inside.contains(&part.as_ptr())));
    }

    #[test]
    fn a_body_sent_byte_by_byte_is_kept_in_few_pieces() {
        let mut body = Body::new();
        (0..100_000).for_each(|_| body.push(Bytes::from_static(b"z")));
        assert_eq!((body.len(), body.segments().len()), (100_000, CHUNKS_FREE + 7));
    }

    #[test]
    fn a_range_beyond_the_body_is_cut() {
        let body = Body::from(Bytes::from_static(b"abc"));
        assert_eq!(body.slice(1..9), "bc");
        assert_eq!(body.slice(7..9), "");
        assert_eq!(body.edited(vec![(2..9, Bytes::from_static(b"-"))]).concat(), b"ab-");
    }

    #[test]
    fn an_error_is_told_from_an_answer_by_its_first_member_however_it_was_cut() {
        let check = |dialect, json: &str, error: bool| {
            for at in 0..=json.len() {
                let (a, b) = json.split_at(at);
                let pieces = [Bytes::copy_from_slice(a.as_bytes()), Bytes::copy_from_slice(b.as_bytes())];
                assert_eq!(reports_error(dialect, &pieces), error, "{json}");
            }
        };
        check(Dialect::Chat, r#" {"error" : {"message":"x"}}"#, true);
        check(Dialect::Completions, r#"{"error":"x"}"#, true);
        check(Dialect::Embeddings, r#"{"object":"error","message":"x"}"#, true);
        check(Dialect::Messages, r#"{"type":"error","error":{}}"#, true);
        check(Dialect::Messages, r#"{"type":"message","id":"x"}"#, false);
        check(Dialect::Chat, r#"{"error":null,"choices":[]}"#, false);
        check(Dialect::Chat, r#"{"id":"error","object":"chat.completion"}"#, false);
        check(Dialect::Chat, r#"{"choices":[{"message":{"content":"{\"error\":1}"}}]}"#, false);
        check(Dialect::Responses, r#"{"id":"r","object":"response","error":{"code":"server_error"}}"#, false);
        for odd in ["", "[", "{", "null", "\"error\"", "{\"error\"", "<html>"] {
            check(Dialect::Chat, odd, false);
        }
    }
}

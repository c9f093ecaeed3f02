//! Ranges of a body as slices, found without walking through all of its chunks each time.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use crate::wire::body::Body;

/// A body's chunks with their places.
pub(super) struct Segments {
    chunks: Vec<Bytes>,
    /// Where each chunk begins.
    starts: Vec<usize>,
}

impl Segments {
    pub(super) fn of(body: &Body) -> Segments {
        let chunks = body.segments();
        let mut end = 0;
        let mut start_of = |chunk: &Bytes| {
            end += chunk.len();
            end - chunk.len()
        };
        let starts = chunks.iter().map(&mut start_of).collect();
        Segments { chunks, starts }
    }

    /// The pieces of a range in order. What reaches beyond the body is left out.
    pub(super) fn pieces(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        let first = self.starts.partition_point(|start| *start <= range.start).saturating_sub(1);
        let chunks = self.chunks[first..].iter().zip(&self.starts[first..]);
        chunks.take_while(move |(_, start)| **start < range.end).map(move |(chunk, start)| {
            let place = |at: usize| at.clamp(*start, start + chunk.len()) - start;
            &chunk[place(range.start)..place(range.end).max(place(range.start))]
        })
    }

    /// A range in one piece, copied only if it crosses chunks.
    pub(super) fn joined(&self, range: Range<usize>) -> Cow<'_, [u8]> {
        let mut pieces = self.pieces(range.clone());
        match (pieces.next(), pieces.next()) {
            (None, _) => Cow::Borrowed(&[]),
            (Some(one), None) => Cow::Borrowed(one),
            (Some(one), Some(two)) => {
                let mut whole = Vec::with_capacity(range.len());
                [one, two].into_iter().chain(pieces).for_each(|piece| whole.extend_from_slice(piece));
                Cow::Owned(whole)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_are_those_of_the_joined_bytes(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..30), a in 0usize..400, b in 0usize..400,
        ) {
            let mut body = Body::new();
            chunks.iter().for_each(|chunk| body.push(chunk.clone().into()));
            let flat = chunks.concat();
            let (a, b) = (a.min(b), a.max(b));
            let expected = &flat[a.min(flat.len())..b.min(flat.len())];
            let segments = Segments::of(&body);
            prop_assert_eq!(&*segments.joined(a..b), expected);
            prop_assert_eq!(segments.pieces(a..b).collect::<Vec<_>>().concat(), expected);
        }
    }
}

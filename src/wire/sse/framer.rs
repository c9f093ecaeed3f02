//! Where an event ends: at a blank line, by the line rules of the HTML standard (`\n`, `\r\n` or `\r`).

use bytes::{Bytes, BytesMut};

use super::event::line_end;

/// Longest event in bytes. A whole answer in one event (Responses repeats it all at the end) stays far below.
pub const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A stream that cannot be framed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SseError {
    /// No blank line in so many bytes.
    #[error("an event is longer than {EVENT_BYTES_MAX} bytes")]
    TooLong,
}

/// The whole events that a chunk completed, in order: first `carried`, then `whole`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Framed {
    /// The event that began in an earlier chunk and ended in this one; copied together.
    pub carried: Option<Bytes>,
    /// The events that lie in this chunk from first to last byte: a slice of it, mostly the chunk itself.
    pub whole: Option<Bytes>,
}

impl Framed {
    /// What there is to forward, in order.
    pub fn into_parts(self) -> impl Iterator<Item = Bytes> {
        self.carried.into_iter().chain(self.whole)
    }

    /// Whether nothing was completed.
    pub fn is_empty(&self) -> bool {
        self.carried.is_none() && self.whole.is_none()
    }
}

/// Cuts a stream into events.
///
/// A blank line that ends in `\r` as the last byte of a chunk is held until the next byte (or [`finish`](Framer::finish))
/// tells whether a `\n` belongs to it: so the events are the same however the stream was cut. No engine ends lines with
/// a lone `\r`; one that did would see each event passed on with the next.
#[derive(Debug, Default)]
pub struct Framer {
    /// The beginning of an event whose end has not come. At most [`EVENT_BYTES_MAX`].
    pending: BytesMut,
    /// Whether the line being read has a byte.
    in_line: bool,
    /// Whether the last byte was a `\r`, so that a `\n` belongs to the same line end.
    after_cr: bool,
    /// Whether the line that this `\r` ended was blank.
    blank_cr: bool,
}

impl Framer {
    /// A framer at the beginning of a stream.
    pub fn new() -> Framer {
        Framer::default()
    }

    /// Reads the next chunk, calls `on_event` with each event that it completes (its blank line included), and gives
    /// the same events back as bytes to forward.
    pub fn push(&mut self, chunk: Bytes, mut on_event: impl FnMut(&[u8])) -> Result<Framed, SseError> {
        let mut framed = Framed::default();
        let (mut whole_from, mut begin, mut at) = (0, 0, 0);
        while let Some(end) = self.next_end(&chunk, &mut at) {
            if self.pending.len() + (end - begin) > EVENT_BYTES_MAX {
                return Err(SseError::TooLong);
            }
            if self.pending.is_empty() {
                on_event(&chunk[begin..end]);
            } else {
                self.pending.extend_from_slice(&chunk[..end]);
                // Taken and not split: a stream between two events holds no buffer.
                let carried = std::mem::take(&mut self.pending).freeze();
                on_event(&carried);
                framed.carried = Some(carried);
                whole_from = end;
            }
            begin = end;
        }
        if self.pending.len() + (chunk.len() - begin) > EVENT_BYTES_MAX {
            return Err(SseError::TooLong);
        }
        self.pending.extend_from_slice(&chunk[begin..]);
        if begin > whole_from {
            // A chunk of nothing but whole events, as engines write them, passes as it is: a slice would be counted.
            let all = begin - whole_from == chunk.len();
            framed.whole = Some(if all { chunk } else { chunk.slice(whole_from..begin) });
        }
        Ok(framed)
    }

    /// The stream has ended: gives the last event if only a `\n` after its `\r` could still have come.
    pub fn finish(&mut self, mut on_event: impl FnMut(&[u8])) -> Option<Bytes> {
        if !(self.after_cr && self.blank_cr) {
            return None;
        }
        (self.after_cr, self.blank_cr) = (false, false);
        let last = std::mem::take(&mut self.pending).freeze();
        on_event(&last);
        Some(last)
    }

    /// The beginning of an event whose end has not come. After the end of a stream: what a reader would drop.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// The index after the next event's last byte. `at` is how far the chunk has been read.
    fn next_end(&mut self, chunk: &[u8], at: &mut usize) -> Option<usize> {
        loop {
            if self.after_cr {
                let next = chunk.get(*at)?;
                self.after_cr = false;
                *at += usize::from(*next == b'\n');
                if std::mem::take(&mut self.blank_cr) {
                    return Some(*at);
                }
            }
            let rest = &chunk[*at..];
            let Some(found) = line_end(rest) else {
                self.in_line |= !rest.is_empty();
                *at = chunk.len();
                return None;
            };
            let blank = found == 0 && !self.in_line;
            self.in_line = false;
            *at += found + 1;
            if rest[found] == b'\r' {
                (self.after_cr, self.blank_cr) = (true, blank);
            } else if blank {
                return Some(*at);
            }
        }
    }
}

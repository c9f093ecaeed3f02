//! The chunked transfer coding (RFC 9112, 7.1): takes off a body what frames it.
//!
//! The caller gives what came, in whatever pieces, and has in the same place the body's bytes alone. Chunk extensions and
//! trailers are passed over. What comes before the frame breaks is good: an engine may have said all by then.

use std::ops::Range;

/// Most digits of a chunk's size: 16 tell any, and some write zeros in front.
const DIGITS_MAX: u16 = 64;

/// Largest chunk in bytes. No larger one comes to its end, and what follows would all be taken for it.
const SIZE_MAX: u64 = 1 << 48;

/// Longest chunk extension, and longest trailers all together, in bytes. Engines send neither; more is malformed.
const PASSED_BYTES_MAX: u16 = 8192;

/// Takes the frames off one body.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// Of the chunk whose size is read, or whose bytes come.
    missing: u64,
    /// Bytes of what is bounded in this state.
    passed: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A size's first digit.
    Size,
    /// More digits, or what ends them.
    Digits,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// A trailer's beginning, or the empty line behind the last one.
    Line,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
    Malformed,
}

/// What a piece came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// Where the body's bytes stand in the piece now.
    pub body: Range<usize>,
    /// How many of the piece's bytes belonged to the body and its frame; less than all of them only once it is done or
    /// malformed.
    pub used: usize,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { state: State::Size, missing: 0, passed: 0 }
    }
}

impl Decoder {
    /// Takes off the next piece what frames the body, and moves the body's bytes together.
    pub fn decode(&mut self, piece: &mut [u8]) -> Decoded {
        let (mut body, mut at) = (0..0, 0);
        while at < piece.len() && !self.is_done() && !self.is_malformed() {
            if self.state == State::Data {
                let here = usize::try_from(self.missing).unwrap_or(usize::MAX).min(piece.len() - at);
                // Mostly a piece is one chunk, whose bytes stay where they are.
                if body.is_empty() {
                    body = at..at;
                } else {
                    piece.copy_within(at..at + here, body.end);
                }
                body.end += here;
                at += here;
                self.missing -= here as u64;
                if self.missing == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.after(piece[at]).unwrap_or(State::Malformed);
                at += usize::from(!self.is_malformed());
            }
        }
        Decoded { body, used: at }
    }

    /// Whether the body has come to its end.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Whether what came behind the body so far frames none. It stays so.
    pub fn is_malformed(&self) -> bool {
        self.state == State::Malformed
    }

    fn after(&mut self, byte: u8) -> Option<State> {
        use State::{Data, DataCr, DataLf, Digits, Done, EndLf, Extension, Line, Size, SizeLf, Trailer, TrailerLf};
        Some(match (self.state, byte) {
            (Size, _) => {
                self.missing = digit(byte)?;
                self.passed = 1;
                Digits
            }
            (Digits | Extension, b'\r') => SizeLf,
            // Whitespace before an extension is bad but to be taken (RFC 9112, 7.1.1); some pad the size with it.
            (Digits, b';' | b' ' | b'\t') => {
                self.passed = 0;
                Extension
            }
            (Digits, _) => {
                self.missing = self.missing * 16 + digit(byte)?;
                if self.missing > SIZE_MAX {
                    return None;
                }
                self.pass(Digits, DIGITS_MAX)?
            }
            (SizeLf, b'\n') if self.missing > 0 => Data,
            (SizeLf, b'\n') => {
                self.passed = 0;
                Line
            }
            (DataCr, b'\r') => DataLf,
            (DataLf, b'\n') => Size,
            (Line, b'\r') => EndLf,
            (Trailer, b'\r') => TrailerLf,
            (TrailerLf, b'\n') => Line,
            (EndLf, b'\n') => Done,
            // A bare line feed ends no line here: who reads it as an end and who does not would see two bodies.
            (Extension, byte) if byte != b'\n' => self.pass(Extension, PASSED_BYTES_MAX)?,
            (Line | Trailer, byte) if byte != b'\n' => self.pass(Trailer, PASSED_BYTES_MAX)?,
            _ => return None,
        })
    }

    fn pass(&mut self, state: State, most: u16) -> Option<State> {
        self.passed += 1;
        (self.passed <= most).then_some(state)
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum End {
        Open,
        Done,
        Malformed,
    }

    /// The body, what stands behind it, and how it ended, when it comes in such pieces.
    fn decoded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Vec<u8>, End) {
        let (mut decoder, mut body, mut behind) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            let Decoded { body: bytes, used } = decoder.decode(&mut piece);
            assert!(bytes.end <= used && (used == piece.len() || decoder.is_done() || decoder.is_malformed()));
            body.extend_from_slice(&piece[bytes]);
            behind.extend_from_slice(&piece[used..]);
        }
        let end = match (decoder.is_done(), decoder.is_malformed()) {
            (false, false) => End::Open,
            (true, false) => End::Done,
            (_, true) => End::Malformed,
        };
        (body, behind, end)
    }

    #[test]
    fn a_body_is_the_same_in_whatever_pieces_it_comes() {
        let whole = (b"hello, world, and on".to_vec(), b"HTTP".to_vec(), End::Done);
        for wire in [
            b"5\r\nhello\r\nF\r\n, world, and on\r\n0\r\n\r\nHTTP".as_slice(),
            b"005;a=\"b\"\r\nhello\r\n0f ;c\r\n, world, and on\r\n000\r\nx: y\r\nz:\r\n\r\nHTTP",
        ] {
            for first in 0..=wire.len() {
                for second in first..=wire.len() {
                    let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
                    assert_eq!(decoded(pieces), whole, "cut at {first} and {second}");
                }
            }
            assert_eq!(decoded(wire.chunks(1)), whole);
        }
    }

    #[test]
    fn what_lacks_its_end_is_not_done() {
        let wire = b"2\r\nab\r\n0\r\nx: y\r\n\r\n";
        for at in 0..wire.len() {
            let (body, behind, end) = decoded([&wire[..at]]);
            assert!(b"ab".starts_with(&body) && behind.is_empty() && end == End::Open, "cut at {at}");
        }
    }

    #[test]
    fn what_frames_no_body_is_malformed_and_what_came_before_it_is_good() {
        for (wire, body) in [
            ("\r\n", ""),
            ("x\r\n", ""),
            (";\r\n", ""),
            (" 5\r\nhello\r\n", ""),
            ("-1\r\n", ""),
            ("0x5\r\nhello\r\n", ""),
            ("5\nhello\r\n", ""),
            ("5\r\nhello!\r\n", "hello"),
            ("5\r\nhello\n", "hello"),
            ("5\rhello", ""),
            ("5;a\nhello", ""),
            ("2\r\nab\r\n0\r\n\n", "ab"),
            ("2\r\nab\r\n0\n\r\n", "ab"),
            ("2\r\nab\r\n1\r\nc\r\n0\r\nx: y\n\r\n", "abc"),
            ("0\r\n\rx", ""),
            ("0\r\nx\r\r\n", ""),
            ("10000000000000000\r\nab", ""),
            ("FFFFFFFFFFFFFFFFF\r\nab", ""),
            ("FFFFFFFFFFFFFFFF\r\nab", ""),
            ("1000000000001\r\nab", ""),
        ] {
            for (bytes, end) in [(wire.len(), "in one piece"), (1, "byte by byte")] {
                let (decoded, _, ended) = decoded(wire.as_bytes().chunks(bytes));
                assert_eq!((decoded.as_slice(), ended), (body.as_bytes(), End::Malformed), "{wire:?} {end}");
            }
        }
        assert_eq!(decoded([b"1000000000000\r\nab".as_slice()]), (b"ab".to_vec(), Vec::new(), End::Open));
    }

    #[test]
    fn sizes_extensions_and_trailers_are_bounded() {
        let end = |wire: String| decoded([wire.as_bytes()]).2;
        let size = |digits: u16| format!("{:0>1$}\r\na\r\n0\r\n\r\n", 1, usize::from(digits));
        assert_eq!((end(size(DIGITS_MAX)), end(size(DIGITS_MAX + 1))), (End::Done, End::Malformed));
        let extension = |bytes: u16| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(bytes.into()));
        assert_eq!(
            (end(extension(PASSED_BYTES_MAX)), end(extension(PASSED_BYTES_MAX + 1))),
            (End::Done, End::Malformed)
        );
        // However many lines they are.
        let trailers = |lines: u16| format!("0\r\n{}\r\n", "1234567\r\n".repeat(lines.into()));
        let most = PASSED_BYTES_MAX / 7;
        assert_eq!((end(trailers(most)), end(trailers(most + 1))), (End::Done, End::Malformed));
        // Each chunk has an extension's bound of its own.
        let many = extension(PASSED_BYTES_MAX).replace("0\r\n\r\n", "").repeat(20);
        assert_eq!(decoded([many.as_bytes()]).0.len(), 20);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_the_same_in_one_piece_and_in_many(
            wire in proptest::collection::vec(proptest::sample::select(b"01aF;\r\n\r\n\r\n x".to_vec()), 0..60),
            size in 1_usize..5,
        ) {
            proptest::prop_assert_eq!(decoded([wire.as_slice()]), decoded(wire.chunks(size)));
        }
    }
}

//! The chunked transfer coding (RFC 9112, 7.1): takes off a body what frames it.
//!
//! The caller gives what came, in whatever pieces, and has in the same place the body's bytes alone. Chunk extensions and
//! trailers are passed over.

/// Most digits of a chunk's size: 16 tell any, and some write zeros in front.
const DIGITS_MAX: u16 = 64;

/// Longest chunk extension in bytes. Nobody sends any; what is longer is malformed.
const EXTENSION_BYTES_MAX: u16 = 4096;

/// Longest trailers in bytes, all together; more is malformed.
const TRAILER_BYTES_MAX: u16 = 8192;

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
}

/// What a piece came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// How many bytes of the body stand at the piece's beginning now.
    pub body: usize,
    /// How many of the piece's bytes belonged to the body and its frame; less than all of them only once it is done.
    pub used: usize,
}

/// What came frames no body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { state: State::Size, missing: 0, passed: 0 }
    }
}

impl Decoder {
    /// Takes off the next piece what frames the body, and moves the body's bytes to its beginning.
    ///
    /// # Errors
    ///
    /// [`Malformed`], after which nothing more can be told of the body.
    pub fn decode(&mut self, piece: &mut [u8]) -> Result<Decoded, Malformed> {
        let (mut body, mut at) = (0, 0);
        while at < piece.len() && self.state != State::Done {
            if self.state == State::Data {
                let here = usize::try_from(self.missing).unwrap_or(usize::MAX).min(piece.len() - at);
                piece.copy_within(at..at + here, body);
                body += here;
                at += here;
                self.missing -= here as u64;
                if self.missing == 0 {
                    self.state = State::DataCr;
                }
            } else {
                self.state = self.after(piece[at])?;
                at += 1;
            }
        }
        Ok(Decoded { body, used: at })
    }

    /// Whether the body has come to its end.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    fn after(&mut self, byte: u8) -> Result<State, Malformed> {
        use State::{Data, DataCr, DataLf, Digits, Done, EndLf, Extension, Line, Size, SizeLf, Trailer, TrailerLf};
        Ok(match (self.state, byte) {
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
                // Four bits more must be free.
                let size = self.missing.checked_mul(16).ok_or(Malformed)?;
                self.missing = size + digit(byte)?;
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
            (Extension, byte) if byte != b'\n' => self.pass(Extension, EXTENSION_BYTES_MAX)?,
            (Line | Trailer, byte) if byte != b'\n' => self.pass(Trailer, TRAILER_BYTES_MAX)?,
            _ => return Err(Malformed),
        })
    }

    fn pass(&mut self, state: State, most: u16) -> Result<State, Malformed> {
        self.passed += 1;
        if self.passed > most { Err(Malformed) } else { Ok(state) }
    }
}

fn digit(byte: u8) -> Result<u64, Malformed> {
    char::from(byte).to_digit(16).map(u64::from).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, what stands behind it, and whether it is done, when it comes in such pieces.
    fn decoded<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, Vec<u8>, bool), Malformed> {
        let (mut decoder, mut body, mut behind) = (Decoder::default(), Vec::new(), Vec::new());
        for piece in pieces {
            let mut piece = piece.to_vec();
            let Decoded { body: bytes, used } = decoder.decode(&mut piece)?;
            assert!(bytes <= used && (used == piece.len() || decoder.is_done()));
            body.extend_from_slice(&piece[..bytes]);
            behind.extend_from_slice(&piece[used..]);
        }
        Ok((body, behind, decoder.is_done()))
    }

    #[test]
    fn a_body_is_the_same_in_whatever_pieces_it_comes() {
        let whole = (b"hello, world, and on".to_vec(), b"HTTP".to_vec(), true);
        for wire in [
            b"5\r\nhello\r\nF\r\n, world, and on\r\n0\r\n\r\nHTTP".as_slice(),
            b"005;a=\"b\"\r\nhello\r\n0f ;c\r\n, world, and on\r\n000\r\nx: y\r\nz:\r\n\r\nHTTP",
        ] {
            for first in 0..=wire.len() {
                for second in first..=wire.len() {
                    let pieces = [&wire[..first], &wire[first..second], &wire[second..]];
                    assert_eq!(decoded(pieces).as_ref(), Ok(&whole), "cut at {first} and {second}");
                }
            }
            assert_eq!(decoded(wire.chunks(1)).as_ref(), Ok(&whole));
        }
    }

    #[test]
    fn what_lacks_its_end_is_not_done() {
        let wire = b"2\r\nab\r\n0\r\nx: y\r\n\r\n";
        for end in 0..wire.len() {
            let (body, behind, done) = decoded([&wire[..end]]).unwrap();
            assert!(b"ab".starts_with(&body) && behind.is_empty() && !done, "cut at {end}");
        }
    }

    #[test]
    fn what_frames_no_body_is_malformed() {
        for wire in [
            "\r\n",
            "x\r\n",
            ";\r\n",
            " 5\r\nhello\r\n",
            "-1\r\n",
            "0x5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhello\n",
            "5\rhello",
            "5;a\nhello",
            "0\r\n\n",
            "0\n\r\n",
            "0\r\nx: y\n\r\n",
            "0\r\n\rx",
            "0\r\nx\r\r\n",
            "10000000000000000\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
        ] {
            assert_eq!(decoded([wire.as_bytes()]), Err(Malformed), "{wire:?}");
            assert_eq!(decoded(wire.as_bytes().chunks(1)), Err(Malformed), "{wire:?} byte by byte");
        }
        assert_eq!(decoded([b"FFFFFFFFFFFFFFFF\r\nab".as_slice()]), Ok((b"ab".to_vec(), Vec::new(), false)));
    }

    #[test]
    fn sizes_extensions_and_trailers_are_bounded() {
        let size = |digits: u16| format!("{:0>1$}\r\na", 1, usize::from(digits));
        assert_eq!(decoded([size(DIGITS_MAX).as_bytes()]).unwrap().0, b"a");
        assert_eq!(decoded([size(DIGITS_MAX + 1).as_bytes()]), Err(Malformed));
        let extension = |bytes: u16| format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(bytes.into()));
        assert!(decoded([extension(EXTENSION_BYTES_MAX).as_bytes()]).unwrap().2);
        assert_eq!(decoded([extension(EXTENSION_BYTES_MAX + 1).as_bytes()]), Err(Malformed));
        // However many lines they are.
        let trailers = |lines: u16| format!("0\r\n{}\r\n", "1234567\r\n".repeat(lines.into()));
        let most = TRAILER_BYTES_MAX / 7;
        assert!(decoded([trailers(most).as_bytes()]).unwrap().2);
        assert_eq!(decoded([trailers(most + 1).as_bytes()]), Err(Malformed));
        // Each chunk has an extension's bound of its own.
        let many = extension(EXTENSION_BYTES_MAX).replace("0\r\n\r\n", "").repeat(20);
        assert_eq!(decoded([many.as_bytes()]).unwrap().0.len(), 20);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_the_same_in_one_piece_and_in_many(
            wire in proptest::collection::vec(proptest::sample::select(b"01aF;\r\n\r\n\r\n x".to_vec()), 0..60),
            size in 1_usize..5,
        ) {
            let one = decoded([wire.as_slice()]);
            let many = decoded(wire.chunks(size));
            proptest::prop_assert_eq!(one, many);
        }
    }
}

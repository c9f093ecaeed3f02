//! JSON's numbers, a byte at a time.

/// How far a number has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Number {
    Minus,
    Zero,
    Int,
    Dot,
    Frac,
    E,
    ESign,
    Exp,
}

impl Number {
    /// The state after a number's first byte, if it can be one.
    #[inline]
    pub(super) const fn start(byte: u8) -> Option<Number> {
        match byte {
            b'-' => Some(Number::Minus),
            b'0' => Some(Number::Zero),
            b'1'..=b'9' => Some(Number::Int),
            _ => None,
        }
    }

    /// The state after one more byte, or `None` when that byte does not belong to the number.
    #[inline]
    pub(super) const fn next(self, byte: u8) -> Option<Number> {
        use Number::{Dot, E, ESign, Exp, Frac, Int, Minus, Zero};
        match (self, byte) {
            (Minus, b'0') => Some(Zero),
            (Minus, b'1'..=b'9') | (Int, b'0'..=b'9') => Some(Int),
            (Zero | Int, b'.') => Some(Dot),
            (Dot | Frac, b'0'..=b'9') => Some(Frac),
            (Zero | Int | Frac, b'e' | b'E') => Some(E),
            (E, b'+' | b'-') => Some(ESign),
            (E | ESign | Exp, b'0'..=b'9') => Some(Exp),
            _ => None,
        }
    }

    /// Whether it may end here.
    #[inline]
    pub(super) const fn is_whole(self) -> bool {
        matches!(self, Number::Zero | Number::Int | Number::Frac | Number::Exp)
    }
}

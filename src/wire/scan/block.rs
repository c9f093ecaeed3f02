//! 64 bytes of a string's inside at once (SSE2 or NEON, through the safe calls of `wide`), in two strengths.
//!
//! [`is_calm`] finds in some 80 instructions that a block holds nothing but text and the commonest escapes, each with one
//! backslash: so are most blocks of prose and code. [`Block`] tells each byte's part as bits of words, in twice as many, for
//! the blocks that are left: with the string's end, with runs of backslashes (JSON within JSON), with rarer escapes.
//! Neither branches at an escape, since no branch predictor foresees where the next one stands.

use wide::u8x16;

/// Bytes that are looked at together: as many as a word has bits.
pub(super) const BLOCK: usize = 64;
/// Bytes of one SIMD register; SSE2 is all that every x86-64 has.
pub(super) const LANE: usize = 16;
const ODD_PLACES: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// The place of the first `"`, `\` or control character.
#[inline(always)]
pub(super) fn first_special(lane: &[u8; LANE]) -> Option<usize> {
    let lane = u8x16::new(*lane);
    let special = (quote(lane) | backslash(lane) | control(lane)).to_bitmask();
    (special != 0).then(|| special.trailing_zeros() as usize)
}

/// Whether the string goes on through all of `block[1..]` with plain text and common escapes. `block[0]` may be the backslash
/// of an escape, but must not be a backslash that is escaped itself.
///
/// Every byte after a backslash is taken for escaped, so `false` may also mean that only [`Block`] can tell.
#[inline(always)]
pub(super) fn is_calm(block: &[u8; BLOCK + 1]) -> bool {
    let (before, _) = block[..BLOCK].as_chunks::<LANE>();
    let (lanes, _) = block[1..].as_chunks::<LANE>();
    let mut odd = u8x16::splat(0);
    let mut least = u8x16::splat(u8::MAX);
    for (before, lane) in before.iter().zip(lanes) {
        let lane = u8x16::new(*lane);
        let escaped = backslash(u8x16::new(*before));
        // A quote is in order where it is escaped, and anything else that is escaped must be a common letter.
        odd |= (quote(lane) ^ escaped) & not_a_common_letter(lane);
        least = least.min(lane);
    }
    let no_control = least.max(u8x16::splat(0x20)).simd_eq(least);
    (no_control & odd.simd_eq(u8x16::splat(0))).all()
}

/// What the bytes of a block are: one bit each, the first byte's lowest.
#[derive(Default)]
pub(super) struct Block {
    /// `\`.
    pub(super) backslash: u64,
    /// What no string may hold as it is: `"` and control characters.
    pub(super) stop: u64,
    /// What makes a whole escape with the backslash before it, of those that bodies are full of: `"`, `\`, `n`, `r`, `t`.
    pub(super) common: u64,
}

impl Block {
    #[inline(always)]
    pub(super) fn new(block: &[u8; BLOCK]) -> Block {
        let mut masks = Block::default();
        for (index, lane) in lanes(block) {
            let (quote, backslash) = (quote(lane), backslash(lane));
            let letter = not_a_common_letter(lane).simd_eq(u8x16::splat(0));
            masks.backslash |= bits(backslash, index);
            masks.stop |= bits(quote | control(lane), index);
            masks.common |= bits(letter | quote | backslash, index);
        }
        masks
    }

    /// The bytes that a backslash before them escapes, and whether the first byte of the next block is one too (0 or 1).
    /// `carry` is that answer of the block before.
    ///
    /// In a run of backslashes every second one escapes. So what counts is whether a run begins at an even or an odd place.
    /// Adding a run's lowest bit to it clears the whole run, which parts the two kinds without a loop.
    #[inline(always)]
    pub(super) const fn escaped(&self, carry: u64) -> (u64, u64) {
        let runs = self.backslash & !carry;
        let even_starts = runs & !(runs << 1) & !ODD_PLACES;
        let from_even = runs & !runs.wrapping_add(even_starts);
        let from_odd = runs ^ from_even;
        let escaped = ((from_even << 1) & ODD_PLACES) | ((from_odd << 1) & !ODD_PLACES) | carry;
        // The last place is odd: a run that begins at an even one and reaches it ends there with an escaped backslash.
        (escaped, from_odd >> 63)
    }
}

/// The bytes that make a whole escape after a backslash, all kinds, but for a `u` whose digits reach beyond the block.
#[inline(always)]
pub(super) fn whole_escapes(block: &[u8; BLOCK]) -> u64 {
    let (mut simple, mut u, mut hex) = (0, 0, 0);
    for (index, lane) in lanes(block) {
        // Letters that differ in one bit are found together: `b` and `r`, `f` and `n`.
        let letters = (lane & u8x16::splat(!0x10)).simd_eq(u8x16::splat(b'b'))
            | (lane & u8x16::splat(!0x08)).simd_eq(u8x16::splat(b'f'))
            | lane.simd_eq(u8x16::splat(b't'));
        simple |= bits(letters | quote(lane) | backslash(lane) | lane.simd_eq(u8x16::splat(b'/')), index);
        u |= bits(lane.simd_eq(u8x16::splat(b'u')), index);
        hex |= bits(is_within(lane, b'0', b'9') | is_within(lane | u8x16::splat(0x20), b'a', b'f'), index);
    }
    simple | (u & (hex >> 1) & (hex >> 2) & (hex >> 3) & (hex >> 4))
}

#[inline(always)]
fn lanes(block: &[u8; BLOCK]) -> impl Iterator<Item = (usize, u8x16)> {
    block.as_chunks::<LANE>().0.iter().map(|lane| u8x16::new(*lane)).enumerate()
}

#[inline(always)]
fn bits(lane: u8x16, index: usize) -> u64 {
    u64::from(lane.to_bitmask()) << (LANE * index)
}

#[inline(always)]
fn quote(lane: u8x16) -> u8x16 {
    lane.simd_eq(u8x16::splat(b'"'))
}

#[inline(always)]
fn backslash(lane: u8x16) -> u8x16 {
    lane.simd_eq(u8x16::splat(b'\\'))
}

#[inline(always)]
fn control(lane: u8x16) -> u8x16 {
    lane.min(u8x16::splat(0x1f)).simd_eq(lane)
}

/// Zero for `n`, `r` and `t`, anything else for other bytes.
#[inline(always)]
fn not_a_common_letter(lane: u8x16) -> u8x16 {
    // `r` stands 4 after `n`, which is one bit of the difference.
    let not_n_or_r = (lane - u8x16::splat(b'n')) & u8x16::splat(!4);
    not_n_or_r.min(lane ^ u8x16::splat(b't'))
}

#[inline(always)]
fn is_within(lane: u8x16, first: u8, last: u8) -> u8x16 {
    let above = lane - u8x16::splat(first);
    above.min(u8x16::splat(last - first)).simd_eq(above)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_special_byte_is_given() {
        let is_special = |byte: &u8| *byte < 0x20 || b"\"\\".contains(byte);
        for [a, b] in (0..=u16::MAX).map(u16::to_le_bytes) {
            for place in [0, 7, 14] {
                let mut lane = [0x7f; LANE];
                (lane[place], lane[place + 1]) = (a, b);
                assert_eq!(first_special(&lane), lane.iter().position(is_special), "{a:#x} {b:#x} at {place}");
            }
        }
    }

    const SIMPLE: &[u8] = b"\"\\/bfnrt";

    #[test]
    fn a_block_is_calm_when_quotes_are_escaped_and_only_common_letters_else() {
        for [a, b] in (0..=u16::MAX).map(u16::to_le_bytes) {
            for place in [0, 16, 63] {
                let mut block = [b' '; BLOCK + 1];
                (block[place], block[place + 1]) = (a, b);
                let calm = block.windows(2).all(|pair| match *pair {
                    [b'\\', after] => b"\"nrt".contains(&after),
                    [_, byte] => byte >= 0x20 && byte != b'"',
                    _ => false,
                });
                assert_eq!(is_calm(&block), calm, "{a:#x} {b:#x} at {place}");
            }
        }
    }

    #[test]
    fn every_byte_has_its_bits() {
        for byte in 0..=u8::MAX {
            for place in 0..BLOCK {
                let mut block = [b' '; BLOCK];
                block[place] = byte;
                let (masks, bit) = (Block::new(&block), 1 << place);
                assert_eq!(masks.backslash, if byte == b'\\' { bit } else { 0 });
                assert_eq!(masks.stop, if byte == b'"' || byte < 0x20 { bit } else { 0 });
                assert_eq!(masks.common, if b"\"\\nrt".contains(&byte) { bit } else { 0 });
                assert_eq!(whole_escapes(&block), if SIMPLE.contains(&byte) { bit } else { 0 }, "{byte:#x}");
            }
        }
    }

    #[test]
    fn a_u_is_a_whole_escape_with_four_hex_digits_in_the_block() {
        for (byte, digit) in (0..=u8::MAX).flat_map(|byte| (1..5).map(move |digit| (byte, digit))) {
            for place in 0..BLOCK - 4 {
                let mut block = [b' '; BLOCK];
                block[place..place + 5].copy_from_slice(b"u0aF9");
                block[place + digit] = byte;
                assert_eq!(
                    whole_escapes(&block) >> place & 1 == 1,
                    byte.is_ascii_hexdigit(),
                    "{byte:#x} at {place}+{digit}"
                );
            }
        }
        for place in BLOCK - 4..BLOCK {
            let mut block = [b'0'; BLOCK];
            block[place] = b'u';
            assert_eq!(whole_escapes(&block), 0);
        }
    }

    /// The same, a bit at a time.
    fn escaped_plainly(backslash: u64, carry: u64) -> (u64, u64) {
        let (mut escaped, mut is_escaped) = (0, carry == 1);
        for place in 0..u64::BITS {
            escaped |= u64::from(is_escaped) << place;
            is_escaped = !is_escaped && backslash >> place & 1 == 1;
        }
        (escaped, u64::from(is_escaped))
    }

    proptest! {
        #[test]
        fn every_second_backslash_of_a_run_escapes(a in any::<u64>(), b in any::<u64>(), shift in 0u32..64, carry in 0u64..2) {
            for backslash in [a, a & b, a | b, !0, !0 << shift, !0 >> shift, (!0 >> shift) & (a | b), 1 << shift, 0] {
                let block = Block { backslash, ..Block::default() };
                prop_assert_eq!(block.escaped(carry), escaped_plainly(backslash, carry), "{:#x}", backslash);
            }
        }
    }
}

//! The bulk of an agent's body is long strings, with an escape (`\n`, `\t`, `\"`) every 20–80 bytes: this runs through them.
//!
//! A search for the next byte of interest (`memchr2`, or a word at a time) loses its time at the escapes: each ends a loop
//! at a place that no branch predictor foresees. So 64 bytes are compared at once, their hits become the bits of one word,
//! and the escapes of a block are stepped over in registers (SSE2 or NEON, through the safe calls of `wide`). `benches/wire.rs` measures it.

use wide::u8x16;

/// Why a run through a string stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// At the closing quote, which is included.
    Quote,
    /// After a backslash whose escape is wrong, or cut off by the end of the bytes.
    Backslash,
    /// Before a control character.
    Control,
    /// At the end of the bytes.
    End,
}

const BLOCK: usize = 64;
const LANE: usize = 16;
const ONES: u64 = 0x0101_0101_0101_0101;

/// Runs through the inside of a string that goes on at `from`; gives the index after what was read.
#[inline]
pub(super) fn run(bytes: &[u8], from: usize) -> (usize, Stop) {
    let mut at = from;
    if let Some(lane) = bytes[from..].first_chunk::<LANE>() {
        // Keys and enumerated values end within a few bytes: for them a block is too much.
        match first(lane) {
            Some(place) if lane[place] == b'"' => return (from + place + 1, Stop::Quote),
            Some(_) => {}
            None => at += LANE,
        }
    }
    while at < bytes.len() {
        let mut hits = hits_at(bytes, at);
        let mut next = at + BLOCK;
        while hits != 0 {
            let bit = hits.trailing_zeros();
            let place = at + bit as usize;
            match bytes[place] {
                b'"' => return (place + 1, Stop::Quote),
                b'\\' => {}
                _ => return (place, Stop::Control),
            }
            let Some(len) = escape_len(&bytes[place + 1..]) else { return (place + 1, Stop::Backslash) };
            // What the escape covers is no hit of its own; it may reach into the next block.
            hits &= !(((1 << len) - 1) << bit);
            next = next.max(place + len);
        }
        at = next;
    }
    (bytes.len(), Stop::End)
}

/// Whether a byte makes a whole escape together with the backslash before it.
#[inline]
pub(super) const fn is_simple_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

/// The length of an escape, backslash included, given what stands after that; `None` if it is wrong or not whole.
#[inline(always)]
fn escape_len(after: &[u8]) -> Option<usize> {
    match after {
        [simple, ..] if is_simple_escape(*simple) => Some(2),
        [b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => Some(6),
        _ => None,
    }
}

/// One bit for each of 64 bytes: set for `"`, `\` and control characters.
#[inline(always)]
fn hits_at(bytes: &[u8], at: usize) -> u64 {
    if let Some(block) = bytes[at..].first_chunk::<BLOCK>() {
        return hits(block);
    }
    let mut block = [b' '; BLOCK];
    let rest = &bytes[at..];
    block[..rest.len()].copy_from_slice(rest);
    hits(&block)
}

#[inline(always)]
fn hits(block: &[u8; BLOCK]) -> u64 {
    let (lanes, _) = block.as_chunks::<LANE>();
    lanes.iter().enumerate().fold(0, |all, (index, lane)| all | u64::from(specials(*lane)) << (LANE * index))
}

/// One bit for each of 16 bytes.
#[inline(always)]
fn specials(lane: [u8; LANE]) -> u32 {
    let lane = u8x16::new(lane);
    let control = lane.min(u8x16::splat(0x1f)).simd_eq(lane);
    let quote = lane.simd_eq(u8x16::splat(b'"'));
    let backslash = lane.simd_eq(u8x16::splat(b'\\'));
    (control | quote | backslash).to_bitmask()
}

#[inline(always)]
fn first(lane: &[u8; LANE]) -> Option<usize> {
    let lane = u128::from_le_bytes(*lane);
    let (low, high) = (marks(lane as u64), marks((lane >> 64) as u64));
    if low | high == 0 {
        return None;
    }
    let bit = if low != 0 { low.trailing_zeros() } else { 64 + high.trailing_zeros() };
    Some(bit as usize / 8)
}

/// Sets the top bit of the first byte of interest, counted from the lowest; bytes above it may be marked wrongly.
#[inline(always)]
fn marks(word: u64) -> u64 {
    // `x ^ 2` moves `"` (0x22) to 0x20 and permutes the control characters: one comparison finds them all.
    let moved = word ^ (ONES * 2);
    let low = moved.wrapping_sub(ONES * 0x21) & !moved;
    let slash = word ^ (ONES * b'\\' as u64);
    let slash = slash.wrapping_sub(ONES) & !slash;
    // A borrow reaches only bytes above a true hit, and the caller takes the lowest.
    (low | slash) & (ONES << 7)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn is_special(byte: u8) -> bool {
        byte < 0x20 || byte == b'"' || byte == b'\\'
    }

    /// The same, a byte at a time.
    fn plain(bytes: &[u8], from: usize) -> (usize, Stop) {
        let mut at = from;
        while let Some(&byte) = bytes.get(at) {
            match byte {
                b'"' => return (at + 1, Stop::Quote),
                b'\\' => match escape_len(&bytes[at + 1..]) {
                    Some(len) => at += len,
                    None => return (at + 1, Stop::Backslash),
                },
                0..0x20 => return (at, Stop::Control),
                _ => at += 1,
            }
        }
        (at, Stop::End)
    }

    #[test]
    fn every_byte_is_told_apart_at_every_place() {
        for byte in 0..=u8::MAX {
            for len in [1, 7, 8, 15, 16, 17, 63, 64, 65, 80, 130] {
                for place in 0..len {
                    let mut bytes = vec![b'n'; len];
                    bytes[place] = byte;
                    assert_eq!(run(&bytes, 0), plain(&bytes, 0), "byte {byte:#x} at {place} of {len}");
                }
            }
        }
    }

    #[test]
    fn every_pair_of_bytes_gives_its_first_hit() {
        for pair in 0..=u16::MAX {
            let [a, b] = pair.to_le_bytes();
            for place in [3, 7] {
                let mut lane = [0x7f; LANE];
                (lane[place], lane[place + 1]) = (a, b);
                assert_eq!(first(&lane), lane.iter().position(|&byte| is_special(byte)), "{a:#x} {b:#x}");
            }
        }
    }

    proptest! {
        #[test]
        fn equals_a_byte_at_a_time(
            pieces in prop::collection::vec(prop_oneof![
                "[a-z ]{0,40}", "[a-z ]{0,40}", Just("\\n".to_owned()), Just("\\\\".into()), Just("\\\"".into()), Just("\\u00e9".into()),
                Just("\\u12".into()), Just("\\".into()), Just("\"".into()), Just("\x01".into()), Just("é\u{7f}".into()),
            ], 0..40),
            from in 0usize..70,
        ) {
            let text = pieces.concat();
            let from = from.min(text.len());
            prop_assert_eq!(run(text.as_bytes(), from), plain(text.as_bytes(), from));
        }
    }
}

//! The bulk of an agent's body is long strings, with an escape (`\n`, `\t`, `\"`) every 15–80 bytes: this runs through them.
//!
//! A search for the next byte of interest (`memchr2`, or a word at a time) loses its time at the escapes: each ends a loop
//! at a place that no branch predictor foresees. So 64 bytes are judged at once and their escapes with them; see [`super::block`].
//! `benches/wire.rs` measures it.

use super::block::{BLOCK, Block, LANE, first_special, is_calm, whole_escapes};

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

/// Runs through the inside of a string that goes on at `from`; gives the index after what was read.
#[inline]
pub(super) fn run(bytes: &[u8], from: usize) -> (usize, Stop) {
    let mut at = from;
    if let Some(lane) = bytes[from..].first_chunk::<LANE>() {
        // Keys and enumerated values end within a few bytes: for them a block is too much.
        match first_special(lane) {
            Some(place) if lane[place] == b'"' => return (from + place + 1, Stop::Quote),
            Some(_) => {}
            None => at += LANE,
        }
    }
    // Whether the first byte of the next block is escaped: 0 or 1.
    let mut carry = 0;
    while at < bytes.len() {
        let block = block_at(bytes, at);
        let masks = Block::new(&block);
        let (escaped, carried) = masks.escaped(carry);
        let stops = (masks.stop & !escaped) | (escaped & !masks.common);
        if stops != 0
            && let Some(end) = end_among(stops, escaped, &block, &bytes[at..])
        {
            return (at + end.0, end.1);
        }
        carry = carried;
        at += BLOCK;
        // Where runs of backslashes or rare escapes begin, more will come: calm blocks are looked for after a calm one.
        let calm = if stops | (masks.backslash & escaped) == 0 { calm_len(bytes, at) } else { 0 };
        if calm != 0 {
            at += calm;
            carry = u64::from(bytes[at - 1] == b'\\');
        }
    }
    (bytes.len(), if carry == 0 { Stop::End } else { Stop::Backslash })
}

/// The first of the `stops` in `block` that does end the run, with its place; `rest` are the bytes from the block on.
#[inline(always)]
fn end_among(mut stops: u64, escaped: u64, block: &[u8; BLOCK], rest: &[u8]) -> Option<(usize, Stop)> {
    if stops & escaped != 0 {
        stops &= !(escaped & whole_escapes(block));
    }
    while stops != 0 {
        let bit = stops.trailing_zeros();
        let place = bit as usize;
        if escaped >> bit & 1 == 0 {
            return Some(if block[place] == b'"' { (place + 1, Stop::Quote) } else { (place, Stop::Control) });
        }
        // Wrong or cut off, or digits that reach into the next block, where they are plain text.
        if !is_whole_escape(&rest[place..]) {
            return Some((place, Stop::Backslash));
        }
        stops &= stops - 1;
    }
    None
}

/// How many bytes from `from` on are whole calm blocks. The byte before `from` is no escaped backslash.
#[inline(always)]
fn calm_len(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(block) = bytes.get(at - 1..).and_then(<[u8]>::first_chunk)
        && is_calm(block)
    {
        at += BLOCK;
    }
    at - from
}

/// Whether a byte makes a whole escape together with the backslash before it.
#[inline]
pub(super) const fn is_simple_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')
}

/// Whether the bytes after a backslash begin with the rest of an escape, and all of it is there.
#[inline(always)]
fn is_whole_escape(after: &[u8]) -> bool {
    match after {
        [b'u', a, b, c, d, ..] => [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()),
        [simple, ..] => is_simple_escape(*simple),
        [] => false,
    }
}

/// The block at `at`, filled up with spaces: a space ends nothing, and is no escape.
#[inline(always)]
fn block_at(bytes: &[u8], at: usize) -> [u8; BLOCK] {
    if let Some(block) = bytes[at..].first_chunk() {
        return *block;
    }
    let mut block = [b' '; BLOCK];
    let rest = &bytes[at..];
    block[..rest.len()].copy_from_slice(rest);
    block
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, a byte at a time.
    fn plain(bytes: &[u8], from: usize) -> (usize, Stop) {
        let mut at = from;
        while let Some(&byte) = bytes.get(at) {
            let after = &bytes[at + 1..];
            match byte {
                b'"' => return (at + 1, Stop::Quote),
                b'\\' if !is_whole_escape(after) => return (at + 1, Stop::Backslash),
                b'\\' => at += if after[0] == b'u' { 6 } else { 2 },
                0..0x20 => return (at, Stop::Control),
                _ => at += 1,
            }
        }
        (at, Stop::End)
    }

    #[track_caller]
    fn check(bytes: &[u8], from: usize) {
        assert_eq!(run(bytes, from), plain(bytes, from), "from {from} in {:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn every_byte_is_told_apart_at_every_place() {
        for byte in 0..=u8::MAX {
            for len in [1, 7, 8, 15, 16, 17, 63, 64, 65, 80, 130, 200] {
                for place in 0..len {
                    let mut bytes = vec![b'n'; len];
                    bytes[place] = byte;
                    check(&bytes, 0);
                }
            }
        }
    }

    #[test]
    fn every_byte_after_a_backslash_is_told_apart_at_every_place() {
        for byte in 0..=u8::MAX {
            for place in 0..200 {
                let mut bytes = vec![b'0'; 210];
                bytes[place..place + 2].copy_from_slice(&[b'\\', byte]);
                check(&bytes, 0);
            }
        }
    }

    #[test]
    fn runs_of_backslashes_escape_by_their_parity_at_every_place() {
        for len in (1..12).chain(60..70).chain(124..132) {
            for (place, after) in
                (0..140).flat_map(|place| ["n", "\"", "u00e9", "u00g9", "x", "\x01", ""].map(|after| (place, after)))
            {
                check(format!("{}{}{after}", " ".repeat(place), "\\".repeat(len)).as_bytes(), 0);
                check(format!("{}{}{after}{}", " ".repeat(place), "\\".repeat(len), "e".repeat(70)).as_bytes(), 0);
            }
        }
    }

    /// What strings hold: plain text, every kind of escape, close together and far apart, and now and then a mistake.
    fn pieces() -> impl Strategy<Value = Vec<String>> {
        let whole =
            ["\\n", "\\t", "\\\"", "\\r\\n", "\\b\\f\\/", "\\u00e9", "\\uD83D\\ude00", "é\u{7f}"].map(str::to_owned);
        let mistake = ["\\u12", "\\", "\"", "\x01", "\\x"].map(str::to_owned);
        let piece = prop_oneof![
            20 => "[a-z ]{0,90}",
            40 => prop::sample::select(whole.to_vec()),
            20 => (0usize..9).prop_map(|pairs| "\\\\".repeat(pairs)),
            10 => (0usize..30).prop_map(|count| "\\u4e2d".repeat(count)),
            1 => prop::sample::select(mistake.to_vec()),
        ];
        prop::collection::vec(piece, 0..60)
    }

    proptest! {
        #[test]
        fn equals_a_byte_at_a_time(pieces in pieces(), from in 0usize..140, end in any::<usize>(), damage in any::<(usize, u8)>()) {
            let mut bytes = pieces.concat().into_bytes();
            let from = from.min(bytes.len());
            prop_assert_eq!(run(&bytes, from), plain(&bytes, from));
            let end = from + end % (bytes.len() - from + 1);
            prop_assert_eq!(run(&bytes[..end], from), plain(&bytes[..end], from));
            if let Some(byte) = bytes.get_mut(damage.0 % 4096) {
                *byte = damage.1;
            }
            prop_assert_eq!(run(&bytes, from), plain(&bytes, from));
        }
    }
}

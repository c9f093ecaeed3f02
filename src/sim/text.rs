//! Stand-ins for tokeniser, chat template and language model.
//!
//! **Tokens** are runs of [`TOKEN_BYTES`] bytes. Every segment of a prompt (a role marker, a message's text, …) begins a new
//! token, so a conversation that extends an earlier one has exactly its tokens as a prefix, the generated answer included:
//! a generated token is always four bytes long.
//!
//! **Text**: token `i` of an answer is a pure function of (key, `i`), where the key is the hash of the prompt without a partial
//! answer. Token 0 is a capitalised word ([`word`]: `Kedo`), all others are a blank and three letters (` vuf`), and each letter
//! triple follows from the one before. So the end of any text says whether it is a cut answer, where that began, and how
//! many tokens it has ([`trailing_run`]): whoever resumes it, in whichever dialect, gets exactly what the uninterrupted run
//! would have said.

/// Bytes of one token.
pub const TOKEN_BYTES: usize = 4;

/// Different letter triples; an answer repeats itself only after so many tokens.
const WORDS: u64 = 26 * 26 * 26;
/// Scatters neighbouring positions over the alphabet. Has no factor in common with [`WORDS`].
const SCATTER: u64 = 7_919;

/// A prompt as its tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    bytes: Vec<u8>,
}

impl Tokens {
    /// Appends a segment, which begins a new token.
    pub fn push(&mut self, segment: &str) {
        self.bytes.extend_from_slice(segment.as_bytes());
        let whole = self.bytes.len().next_multiple_of(TOKEN_BYTES);
        self.bytes.resize(whole, 0);
    }

    /// Appends tokens by their ids, as [`Tokens::ids`] gives them.
    pub fn push_ids(&mut self, ids: &[u32]) {
        self.bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    }

    /// How many tokens there are.
    pub fn len(&self) -> u64 {
        (self.bytes.len() / TOKEN_BYTES) as u64
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The tokens' ids.
    pub fn ids(&self) -> Vec<u32> {
        self.bytes.chunks_exact(TOKEN_BYTES).map(token_id).collect()
    }

    /// The key under which an answer to this prompt is generated.
    pub fn key(&self) -> u64 {
        chained(0x6b65_7900, &self.bytes)
    }

    /// Splits a cut answer off the end: the tokens before it, and how many tokens of it there are.
    pub fn split_answer(&self) -> Option<(Tokens, u64)> {
        let (start, tokens) = run_at_end(&self.bytes)?;
        let before = Tokens { bytes: self.bytes[..start].to_vec() };
        starts_with_answer_to(&self.bytes[start..], before.key()).then_some((before, tokens))
    }

    /// One hash for each full block, chained over everything before it.
    pub fn chain(&self, block_tokens: u32) -> Vec<u64> {
        let mut before = 0x626c_6f63;
        self.bytes
            .chunks_exact(TOKEN_BYTES * block_tokens.max(1) as usize)
            .map(|block| {
                before = chained(before, block);
                before
            })
            .collect()
    }
}

/// The text of token `position` of the answer under `key`.
pub fn word(key: u64, position: u64) -> String {
    let bytes = word_bytes(key, position);
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The id of a token of the given text (its four bytes, little endian).
pub fn token_id(token: &[u8]) -> u32 {
    let mut bytes = [0; TOKEN_BYTES];
    for (to, from) in bytes.iter_mut().zip(token) {
        *to = *from;
    }
    u32::from_le_bytes(bytes)
}

/// Splits a cut answer off the end of a text: what was before it, and how many tokens of it there are.
/// `key_of` gives the key of a prompt.
pub fn trailing_run(text: &str, key_of: impl Fn(&str) -> u64) -> Option<(&str, u64)> {
    let (start, tokens) = run_at_end(text.as_bytes())?;
    let before = text.get(..start)?;
    starts_with_answer_to(&text.as_bytes()[start..], key_of(before)).then_some((before, tokens))
}

/// A hash of `bytes` after `before`; fast, and the same on every machine.
pub fn chained(before: u64, bytes: &[u8]) -> u64 {
    let mut hash = mix(before ^ bytes.len() as u64);
    let mut words = bytes.chunks_exact(8);
    for word in &mut words {
        let mut le = [0; 8];
        le.copy_from_slice(word);
        hash = (hash.rotate_left(23) ^ u64::from_le_bytes(le)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    for byte in words.remainder() {
        hash = (hash.rotate_left(23) ^ u64::from(*byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    mix(hash)
}

/// The finaliser of SplitMix64: a bijection that spreads every bit.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn word_bytes(key: u64, position: u64) -> [u8; TOKEN_BYTES] {
    let place = (key % WORDS + position % WORDS) % WORDS;
    let mut rest = place * SCATTER % WORDS;
    let mut letters = [0; 3];
    for letter in &mut letters {
        *letter = b'a' + (rest % 26) as u8;
        rest /= 26;
    }
    let [a, b, c] = letters;
    if position == 0 { [a.to_ascii_uppercase(), b, c, b'o'] } else { [b' ', a, b, c] }
}

/// The longest run of blank-led words at the end with a capitalised word before it: where it starts, how many tokens it has.
fn run_at_end(bytes: &[u8]) -> Option<(usize, u64)> {
    let mut start = bytes.len();
    let mut tokens = 0;
    loop {
        start = start.checked_sub(TOKEN_BYTES)?;
        tokens += 1;
        match bytes[start..start + TOKEN_BYTES] {
            [b' ', b'a'..=b'z', b'a'..=b'z', b'a'..=b'z'] => {}
            [b'A'..=b'Z', b'a'..=b'z', b'a'..=b'z', b'o'] => return Some((start, tokens)),
            _ => return None,
        }
    }
}

fn starts_with_answer_to(run: &[u8], key: u64) -> bool {
    (0u64..).zip(run.chunks(TOKEN_BYTES)).all(|(position, token)| token == word_bytes(key, position))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key_of(text: &str) -> u64 {
        let mut tokens = Tokens::default();
        tokens.push(text);
        tokens.key()
    }

    fn answer(key: u64, tokens: u64) -> String {
        (0..tokens).map(|at| word(key, at)).collect()
    }

    #[test]
    fn words_do_not_repeat_within_a_long_answer() {
        let words: std::collections::HashSet<String> = (1..17_000).map(|at| word(9, at)).collect();
        assert_eq!(words.len(), 16_999);
        assert!(words.iter().all(|word| word.len() == TOKEN_BYTES));
    }

    proptest! {
        #[test]
        fn a_cut_answer_is_known_wherever_it_is_cut(prompt in ".{0,60}", tokens in 1u64..60) {
            let text = format!("{prompt}{}", answer(key_of(&prompt), tokens));
            prop_assert_eq!(trailing_run(&text, key_of), Some((prompt.as_str(), tokens)));
        }

        #[test]
        fn other_text_is_no_answer(prompt in "[A-Za-z ]{0,80}") {
            prop_assert_eq!(trailing_run(&prompt, key_of), None);
        }

        #[test]
        fn a_continued_prompt_begins_with_the_same_blocks(parts in proptest::collection::vec(".{0,40}", 1..20), block in 1u32..8) {
            let (mut short, mut long) = (Tokens::default(), Tokens::default());
            for (at, part) in parts.iter().enumerate() {
                if at <= parts.len() / 2 {
                    short.push(part);
                }
                long.push(part);
            }
            let (short, long) = (short.chain(block), long.chain(block));
            prop_assert_eq!(&long[..short.len()], &short[..]);
        }
    }

    #[test]
    fn token_ids_stand_for_the_same_prompt() {
        let mut tokens = Tokens::default();
        tokens.push("What is up?");
        tokens.push(&answer(tokens.key(), 7));
        let mut again = Tokens::default();
        again.push_ids(&tokens.ids());
        assert_eq!(again, tokens);
        let (before, position) = again.split_answer().unwrap();
        assert_eq!((before.len(), position), (3, 7));
    }

    #[test]
    fn a_difference_changes_every_later_hash() {
        let (mut a, mut b) = (Tokens::default(), Tokens::default());
        a.push("aaaa");
        b.push("aaab");
        for tokens in [&mut a, &mut b] {
            tokens.push("the same from here on");
        }
        assert!(a.chain(1).iter().zip(b.chain(1)).all(|(a, b)| *a != b));
    }
}

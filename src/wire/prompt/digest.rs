//! The chain of hashes over a prompt's elements, with its cuts.

use twox_hash::{XxHash3_64, XxHash3_128};

use super::media::{self, MEDIA_AS_BYTES};
use crate::domain::prompt::{Cut, estimated_tokens};

/// A long element is hashed in pieces of so many bytes from its own start: so a long document at the front of a message is
/// recognised though the question behind it differs. 1,024 tokens: finer would make the caches' index larger for little,
/// since what differs in one message is nearly always at its end.
pub(super) const LONG_PIECE: usize = 4096;

/// The blocks in which a bare text is hashed: 256 tokens. A text has no messages, so its blocks stand for them.
pub(super) const TEXT_BLOCK: usize = 1024;

/// At least so many bytes lie between two cuts: 256 tokens, some 20 ms of prefill on one GPU. A list of many short messages
/// would otherwise fill the index with places that differ by nothing worth a choice.
const CUT_DISTANCE: usize = 1024;

/// And at least this part of what stands before: a place is known to 0.2 % of the prompt, and one of 32 MiB has some 2,600 of
/// them, 512 in its first half MiB and 355 for each doubling. However long prompts are, what is kept and looked up of them
/// stays short.
const CUT_SHARE: usize = 512;

/// What stands before an element: so that tools and a system prompt with the same bytes are not the same.
#[derive(Clone, Copy)]
pub(super) enum Section {
    Tools = 1,
    System = 2,
    Messages = 3,
    Text = 4,
    CacheSalt = 5,
    ExtraKey = 6,
}

/// The hashes so far.
#[derive(Default)]
pub(super) struct Digest {
    cuts: Vec<Cut>,
    chain: u64,
    /// The chain without tools.
    identity: u128,
    /// Bytes so far, each image as so many as its tokens are of text.
    bytes: usize,
    /// Bytes up to the last cut.
    cut_at: usize,
}

impl Digest {
    /// Begins a section.
    pub(super) fn section(&mut self, section: Section) {
        self.fold(section as u128, !matches!(section, Section::Tools));
    }

    /// Adds what tells prompts apart and is no part of them.
    pub(super) fn salt(&mut self, value: &[u8]) {
        self.fold(XxHash3_128::oneshot(value), true);
    }

    /// Adds one element in its slices. `identifies`: whether it belongs to the conversation. `grows`: whether more may
    /// stand there in the next prompt; its end is then no cut.
    pub(super) fn element(&mut self, slices: &[&[u8]], identifies: bool, grows: bool) {
        // What stands between two images, or before the first or behind the last.
        let mut text: Vec<&[u8]> = Vec::with_capacity(slices.len());
        for slice in slices {
            let mut from = 0;
            while let Some(media) = media::next(slice, from) {
                text.push(&slice[from..media.start]);
                self.stretch(&text, identifies);
                text.clear();
                self.media(&slice[media.clone()], identifies);
                from = media.end;
            }
            text.push(&slice[from..]);
        }
        self.stretch(&text, identifies);
        if !grows {
            self.cut();
        }
    }

    /// Adds a stretch of text.
    fn stretch(&mut self, slices: &[&[u8]], identifies: bool) {
        pieces(slices.iter().copied(), LONG_PIECE, |digest, len| {
            self.fold(digest, identifies);
            self.bytes += len;
            if len == LONG_PIECE {
                self.cut();
            }
        });
    }

    /// Adds what is no text: one thing, of all its bytes, which an engine has in its cache whole or not at all.
    fn media(&mut self, bytes: &[u8], identifies: bool) {
        self.cut();
        self.fold(XxHash3_128::oneshot(bytes), identifies);
        self.bytes += MEDIA_AS_BYTES;
        self.cut();
    }

    /// Adds a text that may grow at its end, and tells the identity after each whole block. What is left over counts only
    /// if there is no whole block.
    pub(super) fn text<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) -> Vec<u128> {
        let mut ends = Vec::new();
        pieces(slices, TEXT_BLOCK, |digest, len| {
            self.bytes += len;
            if len == TEXT_BLOCK || ends.is_empty() {
                self.fold(digest, true);
                ends.push(self.identity);
            }
            if len == TEXT_BLOCK {
                self.cut();
            }
        });
        ends
    }

    /// Hash of all elements that belong to the conversation so far.
    pub(super) fn identity(&self) -> u128 {
        self.identity
    }

    /// Adds bytes that count as tokens and are not hashed.
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    /// The cuts, and the estimated tokens of the whole.
    pub(super) fn finish(self) -> (Vec<Cut>, u32) {
        (self.cuts, estimated_tokens(self.bytes))
    }

    fn fold(&mut self, digest: u128, identifies: bool) {
        let mut both = [0; 32];
        both[16..].copy_from_slice(&digest.to_le_bytes());
        if identifies {
            both[..16].copy_from_slice(&self.identity.to_le_bytes());
            self.identity = XxHash3_128::oneshot(&both);
        }
        both[8..16].copy_from_slice(&self.chain.to_le_bytes());
        self.chain = XxHash3_64::oneshot(&both[8..]);
    }

    /// A place where a beginning may end, if the last one is not too near. Told by what stands before alone.
    fn cut(&mut self) {
        if self.bytes - self.cut_at >= CUT_DISTANCE.max(self.bytes / CUT_SHARE) {
            self.cut_at = self.bytes;
            self.cuts.push(Cut { chain: self.chain, tokens: estimated_tokens(self.bytes) });
        }
    }
}

/// Hashes what the slices hold together in pieces of `size`; the last one may be shorter, and none is empty.
fn pieces<'a>(slices: impl Iterator<Item = &'a [u8]>, size: usize, mut each: impl FnMut(u128, usize)) {
    // A piece that spans slices is gathered here.
    let mut spanning: Vec<u8> = Vec::new();
    let mut slices = slices.filter(|slice| !slice.is_empty()).peekable();
    while let Some(mut slice) = slices.next() {
        if !spanning.is_empty() {
            let (head, rest) = slice.split_at(slice.len().min(size - spanning.len()));
            spanning.extend_from_slice(head);
            slice = rest;
            if spanning.len() == size {
                each(XxHash3_128::oneshot(&spanning), size);
                spanning.clear();
            }
        }
        let (whole, rest) = slice.split_at(slice.len() - slice.len() % size);
        whole.chunks_exact(size).for_each(|piece| each(XxHash3_128::oneshot(piece), size));
        if slices.peek().is_some() {
            spanning.extend_from_slice(rest);
        } else if !rest.is_empty() {
            each(XxHash3_128::oneshot(rest), rest.len());
        }
    }
    if !spanning.is_empty() {
        each(XxHash3_128::oneshot(&spanning), spanning.len());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digests(slices: &[&[u8]], size: usize) -> Vec<(u128, usize)> {
        let mut all = Vec::new();
        pieces(slices.iter().copied(), size, |digest, len| all.push((digest, len)));
        all
    }

    proptest! {
        #[test]
        fn pieces_are_those_of_the_joined_bytes(
            slices in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..700), 0..8), size in 1usize..900,
        ) {
            let flat = slices.concat();
            let expected: Vec<_> = flat.chunks(size).map(|piece| (XxHash3_128::oneshot(piece), piece.len())).collect();
            prop_assert_eq!(digests(&slices.iter().map(Vec::as_slice).collect::<Vec<_>>(), size), expected);
        }
    }

    /// The tokens at the cuts of elements of these lengths.
    #[track_caller]
    fn check(elements: &[usize], cuts: &[u32]) {
        let mut digest = Digest::default();
        elements.iter().for_each(|len| digest.element(&[&vec![b'x'; *len]], true, false));
        let found: Vec<_> = digest.finish().0.iter().map(|cut| cut.tokens).collect();
        assert_eq!(found, cuts, "{elements:?}");
    }

    #[test]
    fn cuts_stand_at_ends_a_kib_apart_and_every_four_kib_within_an_element() {
        check(&[], &[]);
        check(&[1023], &[]);
        check(&[1024], &[256]);
        check(&[500, 500, 500, 500, 500], &[375]);
        check(&[1024, 1023, 1, 4095], &[256, 512, 1535]);
        check(&[4096], &[1024]);
        check(&[4097, 1023], &[1024, 1280]);
        check(&[500, 10_000, 10], &[1149, 2173, 2625]);
    }

    #[test]
    fn a_prompt_as_long_as_a_body_may_be_has_few_cuts() {
        let (mut digest, message) = (Digest::default(), [b'x'; 1024]);
        (0..32 << 10).for_each(|_| digest.element(&[&message], true, false));
        let (cuts, tokens) = digest.finish();
        assert_eq!(tokens, 8 << 20);
        assert!((2_000..2_700).contains(&cuts.len()), "{}", cuts.len());
        let coarsest = cuts.windows(2).map(|two| two[1].tokens - two[0].tokens).max().unwrap();
        assert!(coarsest <= tokens / 512 + 256, "{coarsest}");
    }

    #[test]
    fn hashes_never_change_by_accident() {
        // Edges of two versions share no session and no start while they differ here. The values were computed with
        // another implementation (Python's xxhash).
        let mut digest = Digest::default();
        digest.section(Section::Messages);
        digest.element(&[&[b'a'; 3000], &[b'b'; 2000]], true, false);
        let identity = digest.identity();
        let (cuts, tokens) = digest.finish();
        assert_eq!((cuts.len(), tokens), (1, 1250));
        assert_eq!((cuts[0].chain, identity), (0x9043_16fc_a09b_d23a, 0x4362_968a_e93e_94ea_5319_78d9_e48b_468c));
    }
}

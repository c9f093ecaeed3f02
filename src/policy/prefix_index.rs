//! What is cached where: for each replica of a pool the beginnings of prompts that this edge sent there, as the engine is
//! taken to keep them.
//!
//! An engine keeps the KV cache of what it has read until it needs the room, the longest unused first, and the ends of
//! prompts before their beginnings. The index does the same with hashes: for each replica a list of cuts, least recently
//! used last, that together stand for at most as many tokens as its cache is taken to hold. What this edge sent there is
//! nearly all there is to know: with it alone the cached share in the laboratory equals that with the engines' exact state.
//!
//! What several sessions begin with (agents' instructions and tools) is soon cached everywhere, and counts so from the
//! fourth session on: else the replica that happened to read it first would draw them all, at each edge another one. In the
//! laboratory that costs 0.4 points of cached share. So edges that never talk start sessions alike: without it 5 to 50 of 100
//! that share their instructions, with it 99.
//!
//! What is shared: the index goes by content alone, as the engines' caches do, and so across clients: one's call may go to
//! where another's, which began alike, was read. Whoever guesses a prompt can so learn from the receipt that somebody
//! sent it lately. The engine's own `cached_tokens`, and the time to the first event, tell the same and more exactly: how
//! many tokens of it. To keep clients apart here would hide nothing, and each would read the common instructions anew; who wants
//! his prompts apart sends a `cache_salt`, which engines and index heed. Sessions are never shared: they belong to their client.
//!
//! What it costs: about [`CUT_BYTES`] bytes for each cut and replica. A cut stands for 256 to 1,024 tokens, so that a cache
//! of 1.5 million tokens takes at most 6,000 cuts: one and a half megabytes. It holds no text, and no tree that grows.
//!
//! What a call adds is held [on its claim](Claim) until its first event shows that the prompt was read there. A call that comes
//! to nothing takes back what it alone claims: a replica that refused it has read nothing, and the next call must not be sent
//! there for what it has not. What gave way to it meanwhile is not brought back.
//!
//! When it errs: other edges' prompts are not known here, and the engine's restart is seen only by health checks. Either
//! is found out by the answer, which tells how many tokens were cached ([`CacheSize`](super::cache_size::CacheSize)).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use lru::LruCache;

use super::reuse::Ages;
use crate::domain::prompt::Cut;

/// Bytes that one cut takes at one replica, at most, as `cargo bench --bench decisions` measures it: 32 in the list, the rest
/// in two hash tables, that of the list and that of the holders, which are mostly empty after they grew. 120 at the least.
pub const CUT_BYTES: usize = 240;

/// Replicas whose holdings fit one word.
const GROUP: usize = 64;

/// The most tokens one replica is taken to hold, and the most cuts: whatever is configured or learned, the memory that
/// the index takes is bounded. 64 million tokens are some terabytes of KV cache.
pub const TOKENS_MAX: u64 = 64 << 20;
/// See [`TOKENS_MAX`].
pub const CUTS_MAX: usize = 1 << 18;

/// A prompt that is read makes room by forgetting twice as many cuts as it has itself and so many more at the most: a long one
/// in few cuts may stand for thousands of short ones, which then give way to the prompts after it. Without that one
/// call could hold the index up for as long as it takes to forget a whole cache.
const EVICTED_BESIDE: usize = 1_024;

/// From so many sessions on that began with it, a beginning counts as [shared](PrefixIndex::shared).
const SHARED_BY: u8 = 4;

/// No more of a beginning counts as shared: the instructions and tools of agents are some 20,000 tokens long, and what
/// several sessions have in common beyond that are branches of one conversation.
const SHARED_TOKENS_MAX: u32 = 32_768;

/// The index of one pool. Its replicas are told by slots, numbered from 0.
#[derive(Debug)]
pub struct PrefixIndex {
    /// By 64 slots: which of them hold a cut.
    holders: Vec<Holders>,
    slots: Vec<Slot>,
}

type Holders = HashMap<u64, Holder, ChainHash>;

/// Who holds a cut.
#[derive(Clone, Copy, Default, Debug)]
struct Holder {
    slots: u64,
    /// Sessions that began with it, as far as they are counted.
    began: u8,
}

#[derive(Debug)]
struct Slot {
    recent: LruCache<u64, Held, ChainHash>,
    /// Cuts that are held by claims alone, and by how many: no more entries than the calls before their first event claim.
    claimed: HashMap<u64, u32, ChainHash>,
    /// How often the cache was lost: claims of an earlier life are void.
    life: u32,
    ages: Ages,
    tokens: u64,
    capacity: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    /// From the cut before it to this one.
    tokens: u32,
    /// When it was used last, as [`Ages`] counts.
    age: u32,
}

/// What a replica holds of one prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Holding {
    /// Tokens of the prompt's beginning.
    pub tokens: u32,
    /// Tokens that were used there since the end of that beginning was used, itself included: the least cache in which
    /// it can still be.
    pub distance: u64,
}

/// What one call is taken to leave in a replica's cache, until its first event. To be given to [`PrefixIndex::confirm`] or
/// [`PrefixIndex::forget`], once.
#[derive(PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Claim {
    life: u32,
    /// Of its cuts those that nobody is known to have read there before.
    cuts: Vec<u64>,
    /// Of its cuts those that it counted as a session's beginning.
    begun: Vec<u64>,
}

impl PrefixIndex {
    /// An index that knows no replica.
    pub fn new() -> PrefixIndex {
        PrefixIndex { holders: Vec::new(), slots: Vec::new() }
    }

    /// Makes room for this slot; a new one is empty and holds at most `capacity` tokens.
    pub fn open(&mut self, slot: usize, capacity: u64) {
        while self.slots.len() <= slot {
            self.slots.push(Slot::new(capacity.min(TOKENS_MAX)));
        }
        self.holders.resize_with(self.slots.len().div_ceil(GROUP), HashMap::default);
    }

    /// How many tokens of the prompt with these cuts each slot holds, from slot 0 on.
    pub fn cached(&self, cuts: &[Cut], into: &mut Vec<u32>) {
        into.clear();
        into.resize(self.slots.len(), 0);
        for (group, holders) in self.holders.iter().enumerate() {
            if !holders.is_empty() {
                let slots = &mut into[group * GROUP..];
                deepest(holders, cuts, u64::MAX, 0, &mut |slot, cut| slots[slot] = cut.tokens);
            }
        }
    }

    /// What one slot holds of the prompt with these cuts.
    pub fn holding(&self, slot: usize, cuts: &[Cut]) -> Holding {
        let (Some(at), Some(holders)) = (self.slots.get(slot), self.holders.get(slot / GROUP)) else {
            return Holding::default();
        };
        let mut found = None;
        deepest(holders, cuts, 1 << (slot % GROUP), 0, &mut |_, cut| found = Some(cut));
        let held = found.and_then(|cut: Cut| Some((cut.tokens, at.recent.peek(&cut.chain)?)));
        held.map_or(Holding::default(), |(tokens, held)| Holding { tokens, distance: at.ages.since(held.age) })
    }

    /// How many tokens of the prompt with these cuts every replica is taken to hold sooner or later, since many sessions
    /// begin with them.
    pub fn shared(&self, cuts: &[Cut]) -> u32 {
        let cuts = &cuts[..sharable(cuts)];
        let of = |holders: &Holders| {
            let is_shared = |cut: &Cut| holders.get(&cut.chain).is_some_and(|holder| holder.began >= SHARED_BY);
            cuts.partition_point(is_shared)
        };
        let shared = self.holders.iter().map(of).max().unwrap_or(0);
        shared.checked_sub(1).map_or(0, |last| cuts[last].tokens)
    }

    /// The prompt with these cuts is read at this slot: it will hold all of it. `begins` says that it is a session's first.
    pub fn read(&mut self, slot: usize, cuts: &[Cut], begins: bool) -> Claim {
        let mut claim = Claim::default();
        let (Some(at), Some(holders)) = (self.slots.get_mut(slot), self.holders.get_mut(slot / GROUP)) else {
            return claim;
        };
        claim.life = at.life;
        let bit = 1 << (slot % GROUP);
        // With the first of those that find no room, so that what was there gives way to all that does.
        let cuts = &cuts[..cuts.len().min(1 + cuts.partition_point(|cut| u64::from(cut.tokens) <= at.capacity))];
        let counted = if begins { sharable(cuts) } else { 0 };
        // The end first, so that it counts as used longer ago than the beginning, which alone it is of no use without.
        for (n, cut) in cuts.iter().enumerate().rev() {
            let tokens = cut.tokens - n.checked_sub(1).map_or(0, |before| cuts[before].tokens.min(cut.tokens));
            if at.used(*cut, tokens) {
                holders.entry(cut.chain).or_default().slots |= bit;
                *at.claimed.entry(cut.chain).or_default() += 1;
                claim.cuts.push(cut.chain);
            } else if let Some(claims) = at.claimed.get_mut(&cut.chain) {
                *claims += 1;
                claim.cuts.push(cut.chain);
            }
            if n < counted
                && let Some(holder) = holders.get_mut(&cut.chain)
            {
                holder.began = holder.began.saturating_add(1);
                claim.begun.push(cut.chain);
            }
        }
        at.shrink(holders, bit, EVICTED_BESIDE + 2 * cuts.len());
        claim
    }

    /// The first event came: what was claimed there was read.
    pub fn confirm(&mut self, slot: usize, claim: &Claim) {
        if let Some(at) = self.slots.get_mut(slot).filter(|at| at.life == claim.life) {
            for chain in &claim.cuts {
                at.claimed.remove(chain);
            }
        }
    }

    /// The call came to nothing: what it alone claimed is not held there, and it counts as no session's beginning.
    pub fn forget(&mut self, slot: usize, claim: &Claim) {
        let (Some(at), Some(holders)) = (self.slots.get_mut(slot), self.holders.get_mut(slot / GROUP)) else { return };
        for chain in &claim.begun {
            // At the most it is not known how many there were.
            if let Some(holder) = holders.get_mut(chain).filter(|holder| holder.began < u8::MAX) {
                holder.began = holder.began.saturating_sub(1);
            }
        }
        if at.life != claim.life {
            return;
        }
        for chain in &claim.cuts {
            let Entry::Occupied(mut claims) = at.claimed.entry(*chain) else { continue };
            *claims.get_mut() -= 1;
            if *claims.get() == 0 {
                claims.remove();
                if let Some(held) = at.recent.pop(chain) {
                    at.dropped(*chain, held, holders, 1 << (slot % GROUP));
                }
            }
        }
    }

    /// The slot's replica has lost its cache.
    pub fn clear(&mut self, slot: usize) {
        let (Some(at), Some(holders)) = (self.slots.get_mut(slot), self.holders.get_mut(slot / GROUP)) else { return };
        let capacity = std::mem::take(&mut at.capacity);
        at.shrink(holders, 1 << (slot % GROUP), usize::MAX);
        *at = Slot { life: at.life.wrapping_add(1), ..Slot::new(capacity) };
    }

    /// Sets what a slot is taken to hold, in tokens.
    pub fn set_capacity(&mut self, slot: usize, tokens: u64) {
        let (Some(at), Some(holders)) = (self.slots.get_mut(slot), self.holders.get_mut(slot / GROUP)) else { return };
        at.capacity = tokens.min(TOKENS_MAX);
        at.shrink(holders, 1 << (slot % GROUP), usize::MAX);
    }

    /// Tokens that a slot holds.
    pub fn tokens(&self, slot: usize) -> u64 {
        self.slots.get(slot).map_or(0, |slot| slot.tokens)
    }

    /// Cuts that are held, each at each replica.
    pub fn cuts(&self) -> usize {
        self.slots.iter().map(|slot| slot.recent.len()).sum()
    }
}

impl Default for PrefixIndex {
    fn default() -> PrefixIndex {
        PrefixIndex::new()
    }
}

impl Slot {
    fn new(capacity: u64) -> Slot {
        let recent = LruCache::unbounded_with_hasher(ChainHash::default());
        Slot { recent, claimed: HashMap::default(), life: 0, ages: Ages::default(), tokens: 0, capacity }
    }

    /// A cut is used, to which it is so many tokens from the one before it. Whether it is new here.
    fn used(&mut self, cut: Cut, tokens: u32) -> bool {
        self.ages.used(u64::from(tokens), self.capacity);
        let age = self.ages.now();
        match self.recent.get_mut(&cut.chain) {
            Some(held) => {
                self.ages.dropped(held.age, u64::from(held.tokens));
                held.age = age;
                false
            }
            None => {
                self.tokens += u64::from(tokens);
                self.recent.push(cut.chain, Held { tokens, age });
                true
            }
        }
    }

    /// Forgets what was not used for the longest time, until the rest fits, or so many cuts.
    fn shrink(&mut self, holders: &mut Holders, bit: u64, most: usize) {
        for _ in 0..most {
            let fits = self.tokens <= self.capacity && self.recent.len() <= CUTS_MAX && self.capacity != 0;
            let Some((chain, held)) = (!fits).then(|| self.recent.pop_lru()).flatten() else { break };
            self.dropped(chain, held, holders, bit);
        }
    }

    /// A cut is not held any more.
    fn dropped(&mut self, chain: u64, held: Held, holders: &mut Holders, bit: u64) {
        self.tokens -= u64::from(held.tokens);
        self.ages.dropped(held.age, u64::from(held.tokens));
        if let Entry::Occupied(mut holding) = holders.entry(chain) {
            holding.get_mut().slots &= !bit;
            if holding.get().slots == 0 {
                holding.remove();
            }
        }
    }
}

/// How many of these cuts may be shared.
fn sharable(cuts: &[Cut]) -> usize {
    cuts.partition_point(|cut| cut.tokens <= SHARED_TOKENS_MAX)
}

/// Tells the last of `cuts` that each of these slots (bits) holds; slots that hold none are not told. Whoever holds a cut
/// holds those before it, so that the slots part in few places, and each is found by halving.
fn deepest(holders: &Holders, cuts: &[Cut], slots: u64, known: usize, found: &mut impl FnMut(usize, Cut)) {
    // All of `slots` hold the first `known` cuts, and none is known to hold fewer than all.
    let (mut low, mut high, mut slots) = (known, cuts.len(), slots);
    while slots != 0 {
        if low == high {
            if let Some(last) = low.checked_sub(1) {
                each(slots, |slot| found(slot, cuts[last]));
            }
            return;
        }
        // The first of all is looked at first: most prompts are new to most replicas.
        let middle = if low == 0 { 0 } else { low + (high - low) / 2 };
        let holding = holders.get(&cuts[middle].chain).map_or(0, |holder| holder.slots) & slots;
        let others = slots & !holding;
        if holding == 0 {
            high = middle;
        } else {
            if others != 0 {
                deepest(holders, &cuts[..middle], others, low, found);
            }
            (low, slots) = (middle + 1, holding);
        }
    }
}

fn each(mut slots: u64, mut told: impl FnMut(usize)) {
    while slots != 0 {
        told(slots.trailing_zeros() as usize);
        slots &= slots - 1;
    }
}

/// The keys are hashes already.
#[derive(Clone, Copy, Default, Debug)]
pub struct AsItIs(u64);

type ChainHash = BuildHasherDefault<AsItIs>;

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A prompt of these pieces, each of so many tokens; prompts that begin alike share their cuts.
    fn prompt(pieces: &[(u64, u32)]) -> Vec<Cut> {
        let (mut chain, mut tokens) = (1u64, 0);
        let cut = |(piece, more): &(u64, u32)| {
            chain = (chain.rotate_left(7) ^ piece).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            tokens += more;
            Cut { chain, tokens }
        };
        pieces.iter().map(cut).collect()
    }

    fn index(slots: usize, capacity: u64) -> PrefixIndex {
        let mut index = PrefixIndex::new();
        index.open(slots - 1, capacity);
        index
    }

    /// A call whose first event comes at once.
    fn read(index: &mut PrefixIndex, slot: usize, cuts: &[Cut], begins: bool) {
        let claim = index.read(slot, cuts, begins);
        index.confirm(slot, &claim);
        assert!(index.slots[slot].claimed.is_empty());
    }

    fn cached(index: &PrefixIndex, cuts: &[Cut]) -> Vec<u32> {
        let mut into = vec![7; 3];
        index.cached(cuts, &mut into);
        into
    }

    #[test]
    fn a_prompt_is_cached_as_far_as_its_beginning_was_read_there() {
        let mut index = index(3, 10_000);
        let (short, long) = (prompt(&[(1, 300), (2, 300)]), prompt(&[(1, 300), (2, 300), (3, 400)]));
        let other = prompt(&[(1, 300), (9, 300), (3, 400)]);
        assert_eq!(cached(&index, &long), [0, 0, 0]);
        read(&mut index, 0, &short, false);
        read(&mut index, 1, &long, false);
        assert_eq!(cached(&index, &long), [600, 1_000, 0]);
        assert_eq!(cached(&index, &short), [600, 600, 0]);
        assert_eq!(cached(&index, &other), [300, 300, 0]);
        assert_eq!(cached(&index, &[]), [0, 0, 0]);
        index.clear(1);
        assert_eq!(cached(&index, &long), [600, 0, 0]);
        assert_eq!((index.tokens(0), index.tokens(1), index.cuts()), (600, 0, 2));
    }

    #[test]
    fn the_longest_unused_goes_first_and_of_a_prompt_its_end() {
        let mut index = index(1, 1_000);
        let (a, b) = (prompt(&[(1, 300), (2, 300)]), prompt(&[(3, 300), (4, 300)]));
        read(&mut index, 0, &a, false);
        read(&mut index, 0, &b, false);
        assert_eq!((cached(&index, &a)[0], cached(&index, &b)[0]), (300, 600));
        read(&mut index, 0, &a, false);
        assert_eq!((cached(&index, &a)[0], cached(&index, &b)[0]), (600, 300));
        index.set_capacity(0, 700);
        assert_eq!((cached(&index, &a)[0], cached(&index, &b)[0]), (600, 0));
        index.set_capacity(0, 0);
        assert_eq!((index.cuts(), index.tokens(0)), (0, 0));
    }

    #[test]
    fn the_distance_is_what_was_used_since() {
        let mut index = index(1, 64_000);
        let prompts: Vec<_> = (0..10).map(|n| prompt(&[(n, 3_000), (n + 100, 1_000)])).collect();
        for cuts in &prompts {
            read(&mut index, 0, cuts, false);
        }
        for (n, cuts) in prompts.iter().enumerate() {
            let (held, true_distance) = (index.holding(0, cuts), 4_000 * (10 - n as u64));
            assert_eq!(held.tokens, 4_000);
            assert!(held.distance.abs_diff(true_distance) <= 4_000, "{held:?}, {true_distance}");
        }
        read(&mut index, 0, &prompts[0], false);
        assert!(index.holding(0, &prompts[0]).distance <= 8_000);
        assert!(index.holding(0, &prompts[1]).distance.abs_diff(40_000) <= 4_000, "a prompt read again counts once");
        assert_eq!(index.holding(9, &prompts[0]), Holding::default());
    }

    #[test]
    fn what_several_sessions_begin_with_counts_as_shared() {
        let mut index = index(100, 1_000_000);
        let of = |n: u64| prompt(&[(1, 5_000), (2, 5_000), (100 + n, 500)]);
        for n in 0..u64::from(SHARED_BY) {
            assert_eq!(index.shared(&of(n)), 0);
            read(&mut index, 0, &of(n), true);
            (0..10).for_each(|_| read(&mut index, 0, &of(n), false));
        }
        assert_eq!((index.shared(&of(99)), index.shared(&[])), (10_000, 0));
        assert_eq!(index.shared(&prompt(&[(1, 5_000), (3, 500)])), 5_000);
        index.clear(0);
        assert_eq!(index.shared(&of(99)), 0, "what no replica holds is forgotten");
        let long = prompt(&[(1, 30_000), (2, 30_000)]);
        (0..10).for_each(|_| read(&mut index, 99, &long, true));
        assert_eq!(index.shared(&long), 30_000, "branches of one conversation share more");
    }

    #[test]
    fn of_a_prompt_that_is_longer_than_the_cache_only_its_beginning_is_read_in() {
        let mut index = index(1, 10_000);
        let (before, long) = (prompt(&[(9, 300)]), prompt(&[(1, 1_000); 30_000]));
        read(&mut index, 0, &before, false);
        let claim = index.read(0, &long, true);
        assert_eq!((claim.cuts.len(), claim.begun.len()), (11, 11));
        assert_eq!((cached(&index, &long)[0], cached(&index, &before)[0]), (10_000, 0));
        index.forget(0, &claim);
        assert_eq!((index.cuts(), index.tokens(0)), (0, 0));
    }

    #[test]
    fn room_for_one_prompt_in_few_cuts_is_made_in_several_steps() {
        let mut index = index(1, 300_000);
        for n in 0..3_000 {
            read(&mut index, 0, &prompt(&[(n, 100)]), false);
        }
        let long = prompt(&[(5_000, 300_000)]);
        read(&mut index, 0, &long, false);
        assert_eq!((index.cuts(), cached(&index, &long)[0]), (3_001 - 1_026, 300_000));
        for n in 0..2 {
            read(&mut index, 0, &prompt(&[(6_000 + n, 1)]), false);
        }
        assert!(index.tokens(0) <= 300_000);
    }

    #[test]
    fn more_replicas_than_a_word_has_bits_are_told_apart() {
        let mut index = index(150, 10_000);
        let cuts = prompt(&[(1, 300), (2, 300), (3, 300)]);
        for slot in [0, 63, 64, 149] {
            read(&mut index, slot, &cuts[..1 + slot % 3], false);
        }
        let cached = cached(&index, &cuts);
        for (slot, tokens) in cached.into_iter().enumerate() {
            let expected = if [0, 63, 64, 149].contains(&slot) { 300 * (1 + slot as u32 % 3) } else { 0 };
            assert_eq!(tokens, expected, "{slot}");
        }
    }

    #[test]
    fn a_call_that_comes_to_nothing_takes_back_what_it_alone_added() {
        let mut index = index(1, 100_000);
        let before = prompt(&[(1, 300), (2, 300)]);
        let long = prompt(&[(1, 300), (2, 300), (3, 300), (4, 300)]);
        let other = prompt(&[(1, 300), (2, 300), (3, 300), (9, 300)]);
        read(&mut index, 0, &before, false);
        let refused = index.read(0, &long, false);
        assert_eq!(cached(&index, &long)[0], 1_200, "while it may be read");
        index.forget(0, &refused);
        assert_eq!((cached(&index, &long)[0], index.tokens(0)), (600, 600), "what was there before stays");

        // Another call adds some of the same meanwhile.
        let (refused, also) = (index.read(0, &long, false), index.read(0, &other, false));
        index.forget(0, &refused);
        assert_eq!((cached(&index, &long)[0], cached(&index, &other)[0]), (900, 1_200));
        index.forget(0, &also);
        assert_eq!((cached(&index, &other)[0], index.tokens(0)), (600, 600), "nobody read it after all");
        let (refused, also) = (index.read(0, &long, false), index.read(0, &other, false));
        index.confirm(0, &also);
        index.forget(0, &refused);
        assert_eq!((cached(&index, &long)[0], cached(&index, &other)[0]), (900, 1_200));
        assert!(index.slots[0].claimed.is_empty());
    }

    #[test]
    fn a_call_that_comes_to_nothing_counts_as_no_sessions_beginning() {
        let mut index = index(2, 100_000);
        let of = |n: u64| prompt(&[(1, 5_000), (100 + n, 500)]);
        read(&mut index, 0, &of(0), true);
        for n in 0..20 {
            let refused = index.read((n % 2) as usize, &of(n), true);
            index.forget((n % 2) as usize, &refused);
        }
        assert_eq!(index.shared(&of(99)), 0);
    }

    #[test]
    fn a_claim_on_a_cache_that_was_lost_meanwhile_is_void() {
        let mut index = index(1, 100_000);
        let cuts = prompt(&[(1, 300), (2, 300)]);
        let (refused, late) = (index.read(0, &cuts, false), index.read(0, &cuts, false));
        index.clear(0);
        let again = index.read(0, &cuts, false);
        index.forget(0, &refused);
        index.confirm(0, &late);
        assert_eq!(cached(&index, &cuts)[0], 600, "the new process was sent it, too");
        index.forget(0, &again);
        assert_eq!(cached(&index, &cuts)[0], 0);
    }

    /// The same, the plain way: for each slot the cuts in order of use.
    #[derive(Default)]
    struct Plain {
        used: Vec<(u64, u32)>,
    }

    impl Plain {
        fn read(&mut self, cuts: &[Cut], capacity: u64) {
            for (n, cut) in cuts.iter().enumerate().rev() {
                let tokens = cut.tokens - if n == 0 { 0 } else { cuts[n - 1].tokens };
                self.used.retain(|(chain, _)| *chain != cut.chain);
                self.used.push((cut.chain, tokens));
            }
            while self.used.iter().map(|(_, tokens)| u64::from(*tokens)).sum::<u64>() > capacity {
                self.used.remove(0);
            }
        }

        fn cached(&self, cuts: &[Cut]) -> u32 {
            let held = |cut: &&Cut| self.used.iter().any(|(chain, _)| *chain == cut.chain);
            cuts.iter().take_while(held).last().map_or(0, |cut| cut.tokens)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn it_knows_what_an_engine_that_forgets_the_longest_unused_holds(
            capacity in 500u64..6_000,
            steps in prop::collection::vec((0usize..70, prop::collection::vec((0u64..3, 1u32..4), 0..9)), 1..60),
        ) {
            let (mut index, mut plain) = (index(70, capacity), HashMap::<usize, Plain>::new());
            for (slot, pieces) in steps {
                let pieces: Vec<_> = pieces.into_iter().map(|(piece, size)| (piece * 4 + u64::from(size), size * 100)).collect();
                let cuts = prompt(&pieces);
                for (slot, tokens) in cached(&index, &cuts).into_iter().enumerate() {
                    prop_assert_eq!(tokens, plain.get(&slot).map_or(0, |plain| plain.cached(&cuts)));
                    prop_assert_eq!(tokens, index.holding(slot, &cuts).tokens);
                }
                read(&mut index, slot, &cuts, false);
                plain.entry(slot).or_default().read(&cuts, capacity);
                prop_assert!(index.tokens(slot) <= capacity);
                prop_assert!(index.holding(slot, &cuts).distance <= 2 * capacity);
            }
            let held: usize = plain.values().map(|plain| plain.used.len()).sum();
            prop_assert_eq!(index.cuts(), held);
            prop_assert!(index.slots.iter().all(|slot| slot.claimed.is_empty()));
            for slot in 0..70 {
                index.clear(slot);
            }
            prop_assert!(index.holders.iter().all(HashMap::is_empty), "nothing is left over");
        }

        #[test]
        fn whatever_comes_to_nothing_in_whatever_order_leaves_as_much_as_if_it_had_not_been(
            calls in prop::collection::vec((prop::collection::vec(0u64..3, 0..9), any::<bool>(), 0usize..4), 1..40),
        ) {
            let of = |pieces: &[u64]| prompt(&pieces.iter().map(|piece| (*piece, 300)).collect::<Vec<_>>());
            let (mut index, mut without) = (index(1, u64::MAX), index(1, u64::MAX));
            let mut under_way = std::collections::VecDeque::new();
            for (pieces, answered, waiting) in &calls {
                let cuts = of(pieces);
                under_way.push_back((index.read(0, &cuts, true), *answered));
                if *answered {
                    read(&mut without, 0, &cuts, true);
                }
                while under_way.len() > *waiting {
                    match under_way.pop_front() {
                        Some((claim, true)) => index.confirm(0, &claim),
                        Some((claim, false)) => index.forget(0, &claim),
                        None => break,
                    }
                }
            }
            for (claim, answered) in under_way {
                if answered { index.confirm(0, &claim) } else { index.forget(0, &claim) }
            }
            for (pieces, ..) in &calls {
                prop_assert_eq!(cached(&index, &of(pieces)), cached(&without, &of(pieces)));
                prop_assert_eq!(index.shared(&of(pieces)), without.shared(&of(pieces)));
            }
            prop_assert_eq!((index.cuts(), index.tokens(0)), (without.cuts(), without.tokens(0)));
            prop_assert!(index.slots[0].claimed.is_empty());
        }
    }
}

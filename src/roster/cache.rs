//! What the replicas of one pool hold in their caches.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::ids::ReplicaKey;
use crate::domain::prompt::Cut;
use crate::policy::cache_size::CacheSize;
use crate::policy::prefix_index::{Holding, PrefixIndex};

/// A size that is told lower by no more than this part of it is the same: one that was worked out from a usage in hundredths
/// is exact to 2.5 % on either side, and told anew with every page. To follow it down would cut the index each time.
const WOBBLE: u64 = 20;

/// The caches of one pool.
#[derive(Debug, Default)]
pub struct PoolCache {
    // A std mutex: the longest section reads a prompt's cuts in, some dozens of microseconds, and none crosses an `.await`.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    index: PrefixIndex,
    size: CacheSize,
    /// What the configuration tells of one replica's cache, in tokens.
    configured: Option<u64>,
    /// What engines tell of their own, by replica.
    told: HashMap<ReplicaKey, u64>,
    /// What the index was told last, in tokens.
    capacity: u64,
    slots: HashMap<ReplicaKey, usize>,
    free: Vec<usize>,
}

/// A replica's place in its pool's cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot(usize);

impl Slot {
    pub(super) fn index(self) -> usize {
        self.0
    }
}

impl PoolCache {
    /// The places of these replicas, which are all that the pool has now. Those of others are given up.
    pub(super) fn slots(&self, replicas: impl Iterator<Item = ReplicaKey>) -> Vec<Slot> {
        let mut inner = self.lock();
        let replicas: Vec<_> = replicas.collect();
        let gone: Vec<_> = inner.slots.keys().filter(|key| !replicas.contains(key)).copied().collect();
        for key in gone {
            if let Some(slot) = inner.slots.remove(&key) {
                inner.index.clear(slot);
                inner.free.push(slot);
            }
            inner.told.remove(&key);
        }
        inner.resize();
        replicas.into_iter().map(|key| Slot(inner.slot(key))).collect()
    }

    /// The configuration tells how many tokens one replica's cache holds; it goes before what engines tell.
    pub fn config_tells_size(&self, tokens: Option<u64>) {
        let mut inner = self.lock();
        inner.configured = tokens;
        inner.resize();
    }

    /// The engine of this replica tells the same. Of replicas that differ the largest counts: to forget what a cache still
    /// holds costs more than to remember what it has lost.
    pub(super) fn engine_tells_size(&self, replica: ReplicaKey, tokens: u64) {
        let mut inner = self.lock();
        let wobbles = |known: &u64| (known - known / WOBBLE..=*known).contains(&tokens);
        // One that a reload took away may still be answering.
        if inner.slots.contains_key(&replica) && !inner.told.get(&replica).is_some_and(wobbles) {
            inner.told.insert(replica, tokens);
            inner.resize();
        }
    }

    /// How many tokens of the prompt with these cuts each place holds, and returns how many all will.
    pub(super) fn cached(&self, cuts: &[Cut], into: &mut Vec<u32>) -> u32 {
        let inner = self.lock();
        inner.index.cached(cuts, into);
        inner.index.shared(cuts)
    }

    /// How many tokens of it one place holds, and how many all will.
    pub(super) fn held(&self, slot: Slot, cuts: &[Cut]) -> (u32, u32) {
        let inner = self.lock();
        (inner.index.holding(slot.0, cuts).tokens, inner.index.shared(cuts))
    }

    /// The prompt with these cuts is sent there; `begins` says that it is a session's first. Returns what was held of it
    /// before.
    pub fn read(&self, slot: Slot, cuts: &[Cut], begins: bool) -> Holding {
        let mut inner = self.lock();
        let before = inner.index.holding(slot.0, cuts);
        inner.index.read(slot.0, cuts, begins);
        before
    }

    /// The answer to a prompt of so many tokens, of which `held` was expected, tells how many were cached.
    pub fn answered(&self, held: Holding, cached_tokens: u32) {
        let mut inner = self.lock();
        inner.size.answered(held.tokens, cached_tokens, held.distance);
        inner.size.surprised(held.tokens, cached_tokens);
        inner.resize();
    }

    /// This replica was started anew, or will be: its cache is empty, and its size is not counted until it is told again.
    /// The only one that told stays: of a pool whose replicas are alike it says more than nothing.
    pub(super) fn lost(&self, replica: ReplicaKey) {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get(&replica).copied() {
            inner.index.clear(slot);
        }
        if inner.told.len() > 1 && inner.told.remove(&replica).is_some() {
            inner.resize();
        }
    }

    /// What one replica's cache holds, in tokens, if that is known.
    pub fn known_size(&self) -> Option<u64> {
        self.lock().size.known()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic in a section loses what is known of a prompt at most.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn slot(&mut self, key: ReplicaKey) -> usize {
        if let Some(slot) = self.slots.get(&key) {
            return *slot;
        }
        let slot = self.free.pop().unwrap_or(self.slots.len());
        self.slots.insert(key, slot);
        self.capacity = self.size.tokens();
        self.index.open(slot, self.capacity);
        self.index.set_capacity(slot, self.capacity);
        slot
    }

    fn resize(&mut self) {
        self.size.tell(self.configured.or(self.told.values().max().copied()));
        let tokens = self.size.tokens();
        if tokens != self.capacity {
            self.capacity = tokens;
            self.slots.values().for_each(|slot| self.index.set_capacity(*slot, tokens));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: ReplicaKey = ReplicaKey(1);
    const LARGE: ReplicaKey = ReplicaKey(2);

    fn cached(cache: &PoolCache, slot: Slot, cuts: &[Cut]) -> u32 {
        let mut tokens = Vec::new();
        cache.cached(cuts, &mut tokens);
        tokens[slot.index()]
    }

    #[test]
    fn of_replicas_that_differ_the_largest_counts_whoever_spoke_last_and_only_while_it_is_there() {
        let cache = PoolCache::default();
        let slots = cache.slots([SMALL, LARGE].into_iter());
        let cuts = [Cut { chain: 1, tokens: 400_000 }];
        cache.engine_tells_size(LARGE, 1_000_000);
        cache.read(slots[1], &cuts, false);
        for _ in 0..3 {
            cache.engine_tells_size(SMALL, 300_000);
            assert_eq!((cache.known_size(), cached(&cache, slots[1], &cuts)), (Some(1_000_000), 400_000));
            cache.engine_tells_size(LARGE, 1_000_000);
        }
        cache.slots([SMALL].into_iter());
        cache.engine_tells_size(LARGE, 1_000_000);
        assert_eq!(cache.known_size(), Some(300_000));
        cache.config_tells_size(Some(2_000_000));
        assert_eq!(cache.known_size(), Some(2_000_000), "config goes first");
    }

    #[test]
    fn the_size_of_a_lost_replica_counts_again_when_it_is_told_again() {
        let cache = PoolCache::default();
        cache.slots([SMALL, LARGE].into_iter());
        cache.engine_tells_size(SMALL, 300_000);
        cache.engine_tells_size(LARGE, 1_000_000);
        cache.lost(LARGE);
        assert_eq!(cache.known_size(), Some(300_000));
        cache.lost(SMALL);
        assert_eq!(cache.known_size(), Some(300_000), "nobody else tells");
        cache.engine_tells_size(LARGE, 800_000);
        assert_eq!(cache.known_size(), Some(800_000));
    }

    #[test]
    fn a_size_that_wobbles_with_its_rounding_forgets_nothing() {
        let cache = PoolCache::default();
        let slots = cache.slots([SMALL].into_iter());
        let cuts = [Cut { chain: 1, tokens: 975_000 }, Cut { chain: 2, tokens: 1_000_000 }];
        cache.engine_tells_size(SMALL, 1_000_000);
        cache.read(slots[0], &cuts, false);
        cache.engine_tells_size(SMALL, 975_000);
        assert_eq!(cached(&cache, slots[0], &cuts), 1_000_000);
        cache.engine_tells_size(SMALL, 1_020_000);
        assert_eq!(cache.known_size(), Some(1_020_000), "the larger counts at once");
        cache.engine_tells_size(SMALL, 900_000);
        assert_eq!(cache.known_size(), Some(900_000), "and one that is smaller indeed");
    }
}

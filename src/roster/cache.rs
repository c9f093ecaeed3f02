//! What the replicas of one pool hold in their caches.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::ids::ReplicaKey;
use crate::domain::prompt::Cut;
use crate::policy::cache_size::CacheSize;
use crate::policy::prefix_index::{Claim, Holding, PrefixIndex};

/// A size that is told lower by no more than this part of it is the same: one that was worked out from a usage in hundredths
/// is exact to 2.5 % on either side, and told anew with every page. To follow it down would cut the index each time.
const WOBBLE: u64 = 20;

/// The caches of one pool.
#[derive(Debug, Default)]
pub struct PoolCache {
    // A std mutex: none of the sections crosses an `.await`, and of those that calls take the longest reads a prompt's cuts in.
    // That is 2 µs for 200 of them and 300 for the longest prompt that there can be (`cargo bench --bench decisions`).
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
    slots: HashMap<ReplicaKey, Slot>,
    /// Whose each place of the index is: the number of its tenancy, and none while it is free. As many as the pool ever had
    /// replicas at once.
    tenancies: Vec<Option<u64>>,
    /// How many tenancies there were.
    begun: u64,
    /// What each place holds of the prompt that is looked up; kept for its room.
    by_place: Vec<u32>,
}

/// A replica's place in its pool's cache. Calls hold it for as long as their snapshot, beyond the reload that gives the place
/// to another replica: of a tenancy that is over nothing is told, and nothing noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    place: usize,
    tenancy: u64,
}

/// A replica that a pool has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tenant {
    pub(super) key: ReplicaKey,
    /// Whether it is the one that the pool has had under this key: at another address stands another cache.
    pub(super) stays: bool,
}

impl PoolCache {
    /// The places of these replicas, which are all that the pool has now. Those of others are given up.
    pub(super) fn slots(&self, tenants: &[Tenant]) -> Vec<Slot> {
        let mut inner = self.lock();
        let staying: HashSet<ReplicaKey> =
            tenants.iter().filter(|tenant| tenant.stays).map(|tenant| tenant.key).collect();
        let gone: Vec<_> = inner.slots.keys().filter(|key| !staying.contains(key)).copied().collect();
        for key in gone {
            if let Some(slot) = inner.slots.remove(&key) {
                inner.index.clear(slot.place);
                inner.tenancies[slot.place] = None;
            }
            inner.told.remove(&key);
        }
        inner.resize();
        tenants.iter().map(|tenant| inner.slot(tenant.key)).collect()
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

    /// Appends how many tokens of the prompt with these cuts each of these places holds, and returns how many all will.
    pub(super) fn cached(&self, cuts: &[Cut], slots: impl Iterator<Item = Slot>, into: &mut Vec<u32>) -> u32 {
        let mut guard = self.lock();
        let Inner { index, tenancies, by_place, .. } = &mut *guard;
        index.cached(cuts, by_place);
        let is_theirs = |slot: &Slot| tenancies.get(slot.place) == Some(&Some(slot.tenancy));
        into.extend(slots.map(|slot| if is_theirs(&slot) { by_place[slot.place] } else { 0 }));
        index.shared(cuts)
    }

    /// How many tokens of it one place holds, and how many all will.
    pub(super) fn held(&self, slot: Slot, cuts: &[Cut]) -> (u32, u32) {
        let inner = self.lock();
        let held = inner.place(slot).map_or(0, |place| inner.index.holding(place, cuts).tokens);
        (held, inner.index.shared(cuts))
    }

    /// The prompt with these cuts is sent there; `begins` says that it is a session's first. Returns what was held of it
    /// before, and what it adds until [`confirm`](PoolCache::confirm) or [`forget`](PoolCache::forget).
    pub fn read(&self, slot: Slot, cuts: &[Cut], begins: bool) -> (Holding, Claim) {
        let mut inner = self.lock();
        let Some(place) = inner.place(slot) else { return (Holding::default(), Claim::default()) };
        (inner.index.holding(place, cuts), inner.index.read(place, cuts, begins))
    }

    /// The first event came of the call that claimed this there.
    pub fn confirm(&self, slot: Slot, claim: &Claim) {
        let mut inner = self.lock();
        if let Some(place) = inner.place(slot) {
            inner.index.confirm(place, claim);
        }
    }

    /// The call that claimed this there came to nothing.
    pub fn forget(&self, slot: Slot, claim: &Claim) {
        let mut inner = self.lock();
        if let Some(place) = inner.place(slot) {
            inner.index.forget(place, claim);
        }
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
            inner.index.clear(slot.place);
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
    /// The place of the index, if it is still this replica's.
    fn place(&self, slot: Slot) -> Option<usize> {
        (self.tenancies.get(slot.place) == Some(&Some(slot.tenancy))).then_some(slot.place)
    }

    fn slot(&mut self, key: ReplicaKey) -> Slot {
        if let Some(slot) = self.slots.get(&key) {
            return *slot;
        }
        let free = self.tenancies.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.tenancies.push(None);
            self.tenancies.len() - 1
        });
        self.begun += 1;
        let slot = Slot { place, tenancy: self.begun };
        self.tenancies[place] = Some(slot.tenancy);
        self.slots.insert(key, slot);
        self.capacity = self.size.tokens();
        self.index.open(place, self.capacity);
        self.index.set_capacity(place, self.capacity);
        slot
    }

    fn resize(&mut self) {
        self.size.tell(self.configured.or(self.told.values().max().copied()));
        let tokens = self.size.tokens();
        if tokens != self.capacity {
            self.capacity = tokens;
            self.slots.values().for_each(|slot| self.index.set_capacity(slot.place, tokens));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: ReplicaKey = ReplicaKey(1);
    const LARGE: ReplicaKey = ReplicaKey(2);

    /// The places of these replicas, each of which the pool may have had before.
    fn places(cache: &PoolCache, keys: &[ReplicaKey]) -> Vec<Slot> {
        cache.slots(&keys.iter().map(|key| Tenant { key: *key, stays: true }).collect::<Vec<_>>())
    }

    fn read(cache: &PoolCache, slot: Slot, cuts: &[Cut], begins: bool) {
        cache.confirm(slot, &cache.read(slot, cuts, begins).1);
    }

    fn cached(cache: &PoolCache, slot: Slot, cuts: &[Cut]) -> u32 {
        let mut tokens = Vec::new();
        cache.cached(cuts, [slot].into_iter(), &mut tokens);
        assert_eq!(tokens, [cache.held(slot, cuts).0]);
        tokens[0]
    }

    #[test]
    fn of_a_place_that_was_given_to_another_replica_nothing_is_told_to_an_old_snapshot_and_nothing_noted() {
        let (cache, cuts) = (PoolCache::default(), [Cut { chain: 1, tokens: 1_000 }]);
        let before = places(&cache, &[SMALL, LARGE]);
        read(&cache, before[1], &cuts, false);
        places(&cache, &[SMALL]);
        assert_eq!(cache.read(before[1], &cuts, true), (Holding::default(), Claim::default()));
        let after = places(&cache, &[SMALL, ReplicaKey(3)]);
        assert_eq!((after[0], after[1].place), (before[0], before[1].place), "places are used again");
        assert_eq!(cached(&cache, after[1], &cuts), 0, "what came while it was free is not there");
        read(&cache, before[1], &cuts, true);
        assert_eq!(cached(&cache, after[1], &cuts), 0, "nor what comes after");
        read(&cache, after[1], &cuts, false);
        assert_eq!((cached(&cache, before[1], &cuts), cached(&cache, after[1], &cuts)), (0, 1_000));
    }

    #[test]
    fn at_another_address_stands_another_cache() {
        let (cache, cuts) = (PoolCache::default(), [Cut { chain: 1, tokens: 1_000 }]);
        let before = places(&cache, &[SMALL]);
        cache.engine_tells_size(SMALL, 300_000);
        read(&cache, before[0], &cuts, false);
        assert_eq!(places(&cache, &[SMALL]), before);
        let after = cache.slots(&[Tenant { key: SMALL, stays: false }]);
        assert_ne!(after, before);
        assert_eq!((cached(&cache, after[0], &cuts), cache.known_size()), (0, None));
    }

    #[test]
    fn of_replicas_that_differ_the_largest_counts_whoever_spoke_last_and_only_while_it_is_there() {
        let cache = PoolCache::default();
        let slots = places(&cache, &[SMALL, LARGE]);
        let cuts = [Cut { chain: 1, tokens: 400_000 }];
        cache.engine_tells_size(LARGE, 1_000_000);
        read(&cache, slots[1], &cuts, false);
        for _ in 0..3 {
            cache.engine_tells_size(SMALL, 300_000);
            assert_eq!((cache.known_size(), cached(&cache, slots[1], &cuts)), (Some(1_000_000), 400_000));
            cache.engine_tells_size(LARGE, 1_000_000);
        }
        places(&cache, &[SMALL]);
        cache.engine_tells_size(LARGE, 1_000_000);
        assert_eq!(cache.known_size(), Some(300_000));
        cache.config_tells_size(Some(2_000_000));
        assert_eq!(cache.known_size(), Some(2_000_000), "config goes first");
    }

    #[test]
    fn the_size_of_a_lost_replica_counts_again_when_it_is_told_again() {
        let cache = PoolCache::default();
        places(&cache, &[SMALL, LARGE]);
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
        let slots = places(&cache, &[SMALL]);
        let cuts = [Cut { chain: 1, tokens: 975_000 }, Cut { chain: 2, tokens: 1_000_000 }];
        cache.engine_tells_size(SMALL, 1_000_000);
        read(&cache, slots[0], &cuts, false);
        cache.engine_tells_size(SMALL, 975_000);
        assert_eq!(cached(&cache, slots[0], &cuts), 1_000_000);
        cache.engine_tells_size(SMALL, 1_020_000);
        assert_eq!(cache.known_size(), Some(1_020_000), "the larger counts at once");
        cache.engine_tells_size(SMALL, 900_000);
        assert_eq!(cache.known_size(), Some(900_000), "and one that is smaller indeed");
    }
}

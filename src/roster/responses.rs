//! Which replica holds a stored response: a bounded table, the longest idle entry goes first.
//!
//! An entry is 32 bytes of key and value; with the list's pointers and the hash table it costs about 100 bytes, and there
//! are at most as many as sessions may be remembered: 100 MB for a million. Each call of an agent makes one; the newest of
//! a chain is the one that is asked for.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::domain::ids::{ReplicaKey, ResponseKey};

/// Enough that 2 to 64 cores seldom meet at one lock; a power of two.
const SHARDS: usize = 64;

/// Remembers the owners of stored responses.
#[derive(Debug)]
pub struct ResponseTable {
    // Std mutexes: a section is one look-up and never crosses an `.await`.
    shards: Vec<Mutex<LruCache<ResponseKey, Owner>>>,
    start: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Owner {
    replica: ReplicaKey,
    /// Seconds from the table's start to its last use.
    used_s: u32,
}

impl ResponseTable {
    /// A table for about `capacity` responses (rounded up to the shards).
    pub fn new(capacity: usize, start: Instant) -> ResponseTable {
        // Bounded by `resize`: `LruCache::new` would allocate for the whole capacity at once.
        let table = ResponseTable { shards: (0..SHARDS).map(|_| Mutex::new(LruCache::unbounded())).collect(), start };
        table.resize(capacity);
        table
    }

    /// The replica that holds the response, unless it was last used more than `idle` ago. To ask is to use it.
    pub fn owner(&self, response: ResponseKey, idle: Duration, now: Instant) -> Option<ReplicaKey> {
        let used_s = self.seconds(now);
        let mut shard = self.shard(response);
        let owner = shard.get_mut(&response).filter(|owner| age(**owner, used_s) <= idle)?;
        owner.used_s = used_s;
        Some(owner.replica)
    }

    /// Notes that the replica holds the response.
    pub fn remember(&self, response: ResponseKey, replica: ReplicaKey, now: Instant) {
        let owner = Owner { replica, used_s: self.seconds(now) };
        self.shard(response).put(response, owner);
    }

    /// Forgets the responses that have been idle for longer than `idle`, and returns how many remain.
    pub fn sweep(&self, idle: Duration, now: Instant) -> usize {
        let (mut remaining, now_s) = (0, self.seconds(now));
        for shard in &self.shards {
            let mut shard = lock(shard);
            while shard.peek_lru().is_some_and(|(_, owner)| age(*owner, now_s) > idle) {
                shard.pop_lru();
            }
            remaining += shard.len();
        }
        remaining
    }

    /// Changes the bound; the longest idle responses beyond it are forgotten.
    pub fn resize(&self, capacity: usize) {
        let per_shard = NonZeroUsize::new(capacity.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        self.shards.iter().for_each(|shard| lock(shard).resize(per_shard));
    }

    fn shard(&self, response: ResponseKey) -> MutexGuard<'_, LruCache<ResponseKey, Owner>> {
        // The key is a hash already; its low bits are as good as any.
        lock(&self.shards[response.0 as usize % SHARDS])
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }
}

fn age(owner: Owner, now_s: u32) -> Duration {
    Duration::from_secs(u64::from(now_s.saturating_sub(owner.used_s)))
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every section leaves the table whole, so a panic elsewhere does not spoil it.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::ClientKey;
    use crate::policy::affinity::response_key;

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    fn response(n: usize) -> ResponseKey {
        response_key(ClientKey(1), &format!("resp_{n}"))
    }

    #[test]
    fn an_owner_is_remembered_until_its_response_idles() {
        let start = Instant::now();
        let table = ResponseTable::new(100, start);
        assert_eq!(table.owner(response(1), HOUR, start), None);
        table.remember(response(1), ReplicaKey(7), start);
        assert_eq!(table.owner(response(1), HOUR, start + HOUR), Some(ReplicaKey(7)));
        assert_eq!(table.owner(response(1), HOUR, start + 2 * HOUR), Some(ReplicaKey(7)), "to ask is to use");
        assert_eq!(table.owner(response(1), HOUR, start + 3 * HOUR + SECOND), None);
    }

    #[test]
    fn the_same_id_of_another_client_is_another_response() {
        let (start, ours, theirs) = (Instant::now(), ClientKey(1), ClientKey(2));
        let table = ResponseTable::new(100, start);
        table.remember(response_key(ours, "resp_1"), ReplicaKey(7), start);
        assert_eq!(table.owner(response_key(theirs, "resp_1"), HOUR, start), None);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_longest_idle_first() {
        let start = Instant::now();
        let table = ResponseTable::new(SHARDS, start); // one place in each shard
        (0..10_000).for_each(|n| table.remember(response(n), ReplicaKey(n as u64), start));
        assert!(table.sweep(HOUR, start) <= SHARDS);
        assert_eq!(table.owner(response(9_999), HOUR, start), Some(ReplicaKey(9_999)));
        assert_eq!(table.sweep(HOUR, start + HOUR + SECOND), 0);
    }
}

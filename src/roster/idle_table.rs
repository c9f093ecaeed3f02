//! A bounded table of what is remembered until it idles; beyond the bound the longest idle entry goes first.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Enough that 2 to 64 cores seldom meet at one lock; a power of two.
pub(super) const SHARDS: usize = 64;

/// What is remembered. It holds its last use itself, in room that would else be padding: 16 bytes of each of a million.
pub(super) trait Idles: Copy {
    /// Seconds from the table's start to its last use; set by the table alone.
    fn used_s(&mut self) -> &mut u32;
}

/// By 128-bit hashes.
#[derive(Debug)]
pub(super) struct IdleTable<V> {
    // Std mutexes: a section is one look-up and never crosses an `.await`.
    shards: Vec<Mutex<LruCache<u128, V>>>,
    start: Instant,
}

impl<V: Idles> IdleTable<V> {
    /// A table for about `capacity` entries (rounded up to the shards).
    pub(super) fn new(capacity: usize, start: Instant) -> IdleTable<V> {
        // Bounded by `resize`: `LruCache::new` would allocate for the whole capacity at once.
        let table = IdleTable { shards: (0..SHARDS).map(|_| Mutex::new(LruCache::unbounded())).collect(), start };
        table.resize(capacity);
        table
    }

    /// What stands there, unless it was last used more than `idle` ago. To look does not keep it from idling.
    pub(super) fn get(&self, key: u128, idle: Duration, now: Instant) -> Option<V> {
        let value = *self.shard(key).get(&key)?;
        (age(value, self.seconds(now)) <= idle).then_some(value)
    }

    /// The same, and it is used at `now`.
    pub(super) fn renew(&self, key: u128, idle: Duration, now: Instant) -> Option<V> {
        let now_s = self.seconds(now);
        let mut shard = self.shard(key);
        let value = shard.get_mut(&key).filter(|value| age(**value, now_s) <= idle)?;
        *value.used_s() = now_s;
        Some(*value)
    }

    /// Puts something there, used at `now`.
    pub(super) fn put(&self, key: u128, mut value: V, now: Instant) {
        *value.used_s() = self.seconds(now);
        self.shard(key).put(key, value);
    }

    /// Forgets what stands there.
    pub(super) fn remove(&self, key: u128) {
        self.shard(key).pop(&key);
    }

    /// Forgets what has been idle for longer than `idle`, and returns how many remain.
    pub(super) fn sweep(&self, idle: Duration, now: Instant) -> usize {
        let (mut remaining, now_s) = (0, self.seconds(now));
        for shard in &self.shards {
            let mut shard = lock(shard);
            while shard.peek_lru().is_some_and(|(_, value)| age(*value, now_s) > idle) {
                shard.pop_lru();
            }
            remaining += shard.len();
        }
        remaining
    }

    /// Changes the bound; the longest idle entries beyond it are forgotten.
    pub(super) fn resize(&self, capacity: usize) {
        let per_shard = NonZeroUsize::new(capacity.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        self.shards.iter().for_each(|shard| lock(shard).resize(per_shard));
    }

    fn shard(&self, key: u128) -> MutexGuard<'_, LruCache<u128, V>> {
        // The key is a hash already; its low bits are as good as any.
        lock(&self.shards[key as usize % SHARDS])
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }
}

fn age(mut value: impl Idles, now_s: u32) -> Duration {
    Duration::from_secs(u64::from(now_s.saturating_sub(*value.used_s())))
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every section leaves the table whole, so a panic elsewhere does not spoil it.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Which replica served a session last: a bounded table, the longest idle entry goes first.
//!
//! An entry is 24 bytes of key and value; with the list's pointers and the hash table it costs about 100 bytes, so the
//! default capacity of a million sessions is bounded by about 100 MB, and an edge with few sessions uses little.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::domain::ids::{ReplicaKey, SessionKey};

/// Enough that 2 to 64 cores seldom meet at one lock; a power of two.
const SHARDS: usize = 64;

/// Remembers the home of sessions.
#[derive(Debug)]
pub struct SessionTable {
    // Std mutexes: a section is one look-up and never crosses an `.await`.
    shards: Vec<Mutex<LruCache<SessionKey, Home>>>,
    start: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Home {
    replica: ReplicaKey,
    /// Seconds from the table's start to the session's last call.
    seen_s: u32,
}

impl SessionTable {
    /// A table for about `capacity` sessions (rounded up to the shards).
    pub fn new(capacity: usize, start: Instant) -> SessionTable {
        let per_shard = NonZeroUsize::new(capacity.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        // `unbounded` and an own bound: `LruCache::new` would allocate for the whole capacity at once.
        let shard = || {
            let mut cache = LruCache::unbounded();
            cache.resize(per_shard);
            Mutex::new(cache)
        };
        SessionTable { shards: (0..SHARDS).map(|_| shard()).collect(), start }
    }

    /// The replica that served the session last, unless that was more than `idle` ago.
    pub fn home(&self, session: SessionKey, idle: Duration, now: Instant) -> Option<ReplicaKey> {
        let home = *self.shard(session).get(&session)?;
        (self.age(home, now) <= idle).then_some(home.replica)
    }

    /// Notes that the replica served the session at `now`.
    pub fn remember(&self, session: SessionKey, replica: ReplicaKey, now: Instant) {
        let home = Home { replica, seen_s: self.seconds(now) };
        self.shard(session).put(session, home);
    }

    /// Forgets the sessions that have been idle for longer than `idle`, and returns how many remain.
    pub fn sweep(&self, idle: Duration, now: Instant) -> usize {
        let mut remaining = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            while shard.peek_lru().is_some_and(|(_, home)| self.age(*home, now) > idle) {
                shard.pop_lru();
            }
            remaining += shard.len();
        }
        remaining
    }

    /// Changes the bound; the longest idle sessions beyond it are forgotten.
    pub fn resize(&self, capacity: usize) {
        let per_shard = NonZeroUsize::new(capacity.div_ceil(SHARDS)).unwrap_or(NonZeroUsize::MIN);
        for shard in &self.shards {
            lock(shard).resize(per_shard);
        }
    }

    fn shard(&self, session: SessionKey) -> MutexGuard<'_, LruCache<SessionKey, Home>> {
        // The key is a hash already; its low bits are as good as any.
        lock(&self.shards[session.0 as usize % SHARDS])
    }

    fn seconds(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.start).as_secs()).unwrap_or(u32::MAX)
    }

    fn age(&self, home: Home, now: Instant) -> Duration {
        Duration::from_secs(u64::from(self.seconds(now).saturating_sub(home.seen_s)))
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every section leaves the table whole, so a panic elsewhere does not spoil it.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn session(n: u128) -> SessionKey {
        crate::policy::affinity::session_key(b"client", &n.to_le_bytes())
    }

    #[test]
    fn a_session_is_remembered_until_it_idles() {
        let start = Instant::now();
        let table = SessionTable::new(100, start);
        assert_eq!(table.home(session(1), HOUR, start), None);
        table.remember(session(1), ReplicaKey(7), start);
        assert_eq!(table.home(session(1), HOUR, start + HOUR), Some(ReplicaKey(7)));
        assert_eq!(table.home(session(1), HOUR, start + HOUR + Duration::from_secs(1)), None);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_longest_idle_first() {
        let start = Instant::now();
        let table = SessionTable::new(SHARDS, start); // one place in each shard
        for n in 0..10_000 {
            table.remember(session(n), ReplicaKey(n as u64), start);
        }
        assert!(table.sweep(HOUR, start) <= SHARDS);
        assert_eq!(table.home(session(9_999), HOUR, start), Some(ReplicaKey(9_999)));
    }

    #[test]
    fn sweeping_forgets_the_idle_only() {
        let start = Instant::now();
        let table = SessionTable::new(10_000, start);
        for n in 0..100 {
            table.remember(session(n), ReplicaKey(1), start + Duration::from_secs(n as u64 * 60));
        }
        let now = start + Duration::from_secs(99 * 60);
        assert_eq!(table.sweep(HOUR, now), 61);
        table.resize(SHARDS);
        assert!(table.sweep(HOUR, now) <= SHARDS);
    }
}

//! What each client has left of the retry budget: a bounded table, the client that was silent for longest goes first.
//!
//! An entry is 40 bytes of key and value; with the list's pointers and the hash table it costs about 120 bytes, so the
//! table is bounded by about 8 MB. A client that was forgotten begins with nothing again, so nobody gains by pushing
//! others out: who does must send [`CLIENTS_MAX`] requests under as many names, and those it pushed out have the floor.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use lru::LruCache;

use crate::domain::ids::ClientKey;
use crate::policy::budget::{Credit, Floor, Params};

/// Clients that are remembered. Credit fades within a minute: an edge with more clients than this in one has so few
/// requests of each that the floor is what they retry on.
const CLIENTS_MAX: usize = 65_536;

/// Enough that 2 to 64 cores seldom meet at one lock; a power of two.
const SHARDS: usize = 64;

/// Grants retries.
#[derive(Debug)]
pub struct RetryBudget {
    // Std mutexes: a section is one look-up and never crosses an `.await`.
    shards: Vec<Mutex<LruCache<ClientKey, Credit>>>,
    // Taken only when a client's own credit is used up.
    floor: Mutex<Floor>,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        let per_shard = NonZeroUsize::new(CLIENTS_MAX / SHARDS).unwrap_or(NonZeroUsize::MIN);
        // `unbounded` and an own bound: `LruCache::new` would allocate for all clients at once.
        let shard = || {
            let mut cache = LruCache::unbounded();
            cache.resize(per_shard);
            Mutex::new(cache)
        };
        RetryBudget { shards: (0..SHARDS).map(|_| shard()).collect(), floor: Mutex::default() }
    }
}

impl RetryBudget {
    /// Takes in one request of a client; to be called once for each, before its first attempt. `sdk_retry` says that
    /// the client's SDK has sent it before.
    pub fn request(&self, client: ClientKey, sdk_retry: bool, params: Params, now: Instant) {
        let mut shard = self.shard(client);
        let credit = shard.get_or_insert_mut(client, || Credit::none(now));
        *credit = credit.after_request(sdk_retry, params, now);
    }

    /// Pays for one more attempt of a client that sends the body again; `false` when it may not be made. The client's
    /// own credit goes first.
    pub fn take(&self, client: ClientKey, params: Params, now: Instant) -> bool {
        if let Some(credit) = self.shard(client).get_mut(&client)
            && let Some(left) = credit.pay(now)
        {
            *credit = left;
            return true;
        }
        lock(&self.floor).pay(params, now)
    }

    fn shard(&self, client: ClientKey) -> MutexGuard<'_, LruCache<ClientKey, Credit>> {
        // The key is a hash already; its low bits are as good as any.
        lock(&self.shards[client.0 as usize % SHARDS])
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every section leaves the table whole, so a panic elsewhere does not spoil it.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::affinity::client_key;

    const PARAMS: Params = Params { share: 0.2, floor_per_s: 10 };

    fn client(n: usize) -> ClientKey {
        client_key(format!("client-{n}").as_bytes())
    }

    fn requests(budget: &RetryBudget, client: ClientKey, count: usize, sdk_retry: bool, now: Instant) {
        (0..count).for_each(|_| budget.request(client, sdk_retry, PARAMS, now));
    }

    /// How many of 1,000 retries are granted.
    fn granted(budget: &RetryBudget, client: ClientKey, now: Instant) -> usize {
        (0..1_000).filter(|_| budget.take(client, PARAMS, now)).count()
    }

    #[test]
    fn a_client_spends_its_own_first_and_then_the_common_floor() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        requests(&budget, client(1), 100, false, now);
        requests(&budget, client(2), 100, false, now);
        assert_eq!(granted(&budget, client(1), now), 20 + 10);
        assert_eq!(granted(&budget, client(2), now), 20, "the floor is used up, its own is not");
        assert_eq!(granted(&budget, client(3), now + std::time::Duration::from_secs(1)), 10);
    }

    #[test]
    fn a_hostile_clients_hints_drain_nobody_else() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        requests(&budget, client(1), 100, false, now);
        requests(&budget, client(2), 100_000, true, now);
        assert_eq!(granted(&budget, client(1), now), 20 + 10);
    }

    #[test]
    fn edge_and_sdk_together_stay_within_the_share() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        requests(&budget, client(1), 100, false, now);
        requests(&budget, client(1), 15, true, now);
        assert_eq!(granted(&budget, client(1), now), 5 + 10);
    }

    #[test]
    fn the_table_is_bounded_and_to_be_pushed_out_mints_no_credit() {
        let (budget, now) = (RetryBudget::default(), Instant::now());
        requests(&budget, client(0), 10, false, now);
        for n in 1..=4 * CLIENTS_MAX {
            budget.request(client(n), false, PARAMS, now);
        }
        assert!(budget.shards.iter().map(|shard| lock(shard).len()).sum::<usize>() <= CLIENTS_MAX);
        assert_eq!(granted(&budget, client(0), now), 10, "the floor alone");
    }
}

//! Which replica holds a stored response: a bounded table, the longest idle entry goes first.
//!
//! An entry is 32 bytes of key and value; with the list's pointers and the hash table it costs about 100 bytes, and there
//! are at most as many as sessions may be remembered: 100 MB for a million. Each call of an agent makes one; the newest of
//! a chain is the one that is asked for.

use std::time::{Duration, Instant};

use super::idle_table::{IdleTable, Idles};
use crate::domain::ids::{ReplicaKey, ResponseKey};

/// Remembers the owners of stored responses.
#[derive(Debug)]
pub struct ResponseTable(IdleTable<Owner>);

#[derive(Clone, Copy, Debug)]
struct Owner {
    replica: ReplicaKey,
    used_s: u32,
}

impl Idles for Owner {
    fn used_s(&mut self) -> &mut u32 {
        &mut self.used_s
    }
}

impl ResponseTable {
    /// A table for about `capacity` responses.
    pub fn new(capacity: usize, start: Instant) -> ResponseTable {
        ResponseTable(IdleTable::new(capacity, start))
    }

    /// The replica that holds the response, unless it was last used more than `idle` ago. To ask is to use it.
    pub fn owner(&self, response: ResponseKey, idle: Duration, now: Instant) -> Option<ReplicaKey> {
        self.0.renew(response.0, idle, now).map(|owner| owner.replica)
    }

    /// Notes that the replica holds the response.
    pub fn remember(&self, response: ResponseKey, replica: ReplicaKey, now: Instant) {
        self.0.put(response.0, Owner { replica, used_s: 0 }, now);
    }

    /// Forgets the responses that have been idle for longer than `idle`, and returns how many remain.
    pub fn sweep(&self, idle: Duration, now: Instant) -> usize {
        self.0.sweep(idle, now)
    }

    /// Changes the bound; the longest idle responses beyond it are forgotten.
    pub fn resize(&self, capacity: usize) {
        self.0.resize(capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::ClientKey;
    use crate::policy::affinity::response_key;
    use crate::roster::idle_table::SHARDS;

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

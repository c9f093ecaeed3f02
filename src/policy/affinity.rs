//! Session affinity: which replica holds a session's KV cache, or should come to hold it.
//!
//! A new session's replica is found by rendezvous hashing (highest random weight; Thaler and Ravishankar, 1998) with a
//! fixed seed over the replicas' stable keys, so that all edges, which never talk, start it at the same replica, also
//! after a restart, and so that the loss of a replica moves only its own sessions.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::domain::ids::{ReplicaKey, SessionKey};

/// Seed of every hash that edges must agree on. Changing it moves every session once.
const SEED: u64 = 0x6e65_6172_706f_6f6c;

/// The stable key of a replica: the same at every edge and after every restart.
pub fn replica_key(pool: &str, replica: &str) -> ReplicaKey {
    let mut name = Vec::with_capacity(pool.len() + 1 + replica.len());
    name.extend_from_slice(pool.as_bytes());
    name.push(0);
    name.extend_from_slice(replica.as_bytes());
    ReplicaKey(xxh3_64_with_seed(&name, SEED))
}

/// The name of a replica that config does not name: `r-` and 8 hex digits of a hash of its URL.
pub fn replica_name(url: &str) -> String {
    format!("r-{:08x}", xxh3_64_with_seed(url.as_bytes(), SEED) as u32)
}

/// A replica's weight for a session; the highest weight has the session.
pub fn weight(session: SessionKey, replica: ReplicaKey) -> u64 {
    let mut bytes = [0u8; 24];
    bytes[..16].copy_from_slice(&session.0.to_le_bytes());
    bytes[16..].copy_from_slice(&replica.0.to_le_bytes());
    xxh3_64_with_seed(&bytes, SEED)
}

/// The key of a session called `name` by a client of this scope.
///
/// The scope goes first with its length, so that no pair of scope and name can be read as another pair.
pub fn session_key(scope: &[u8], name: &[u8]) -> SessionKey {
    let mut hasher = xxhash_rust::xxh3::Xxh3::with_seed(SEED);
    hasher.update(&(scope.len() as u64).to_le_bytes());
    hasher.update(scope);
    hasher.update(name);
    SessionKey(hasher.digest128())
}

/// The same session as seen by one model: each model has a KV cache of its own, so a session has a home per model.
pub fn for_model(session: SessionKey, model: &str) -> SessionKey {
    SessionKey(session.0 ^ u128::from(xxh3_64_with_seed(model.as_bytes(), SEED)).rotate_left(32))
}

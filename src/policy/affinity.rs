//! Session affinity: which replica holds a session's KV cache, or should come to hold it.
//!
//! A new session's replica is found by rendezvous hashing (highest random weight; Thaler and Ravishankar, 1998) with a
//! fixed seed over the replicas' stable keys, so that all edges, which never talk, start it at the same replica, also
//! after a restart, and so that the loss of a replica moves only its own sessions.

use std::cmp::Ordering;
use std::net::IpAddr;

use twox_hash::{XxHash3_64, XxHash3_128};

use crate::domain::ids::{ClientKey, ReplicaKey, ResponseKey, SessionKey};

/// Seed of every hash that edges must agree on. Changing it moves every session once.
const SEED: u64 = 0x6e65_6172_706f_6f6c;

/// The stable key of a replica: the same at every edge and after every restart.
pub fn replica_key(pool: &str, replica: &str) -> ReplicaKey {
    ReplicaKey(XxHash3_64::oneshot_with_seed(SEED, &pair(pool.as_bytes(), replica.as_bytes())))
}

/// The name of a replica that config does not name: `r-` and 8 hex digits of a hash of its URL.
pub fn replica_name(url: &str) -> String {
    format!("r-{:08x}", XxHash3_64::oneshot_with_seed(SEED, url.as_bytes()) as u32)
}

/// A replica's score for a session; the highest has it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Score {
    weighted: f64,
    hash: u64,
}

/// The score of a replica with this [weight](super::weight); `None` where all weights are the same.
///
/// `-weight / ln(hash)` gives each replica sessions in proportion to its weight, and a weight that changes moves only the
/// sessions which that replica gains or loses (logarithmic method; Schindelhauer and Schomaker, 2005).
pub fn score(session: SessionKey, replica: ReplicaKey, weight: Option<f64>) -> Score {
    let mut bytes = [0u8; 24];
    bytes[..16].copy_from_slice(&session.0.to_le_bytes());
    bytes[16..].copy_from_slice(&replica.0.to_le_bytes());
    let hash = XxHash3_64::oneshot_with_seed(SEED, &bytes);
    let weighted = weight.map_or(0.0, |weight| {
        // Strictly between 0 and 1, so that its logarithm is neither infinite nor nothing.
        let fraction = ((hash as f64 + 0.5) / 2f64.powi(64)).min(1.0 - f64::EPSILON);
        -weight / fraction.ln()
    });
    Score { weighted, hash }
}

impl Score {
    /// Which is higher. Total: a weight is never `nan`.
    pub fn total_cmp(&self, other: &Score) -> Ordering {
        self.weighted.total_cmp(&other.weighted).then(self.hash.cmp(&other.hash))
    }
}

/// What tells clients apart, and what a session's name belongs to: the client's credential, else its address (IPv6 by /64, since one host has many).
pub fn scope(credential: Option<&[u8]>, address: Option<IpAddr>) -> Vec<u8> {
    match (credential, address) {
        (Some(credential), _) => [b"k", credential].concat(),
        (None, Some(IpAddr::V4(v4))) => [b"a".as_slice(), &v4.octets()].concat(),
        (None, Some(IpAddr::V6(v6))) => [b"a".as_slice(), &v6.octets()[..8]].concat(),
        (None, None) => b"-".to_vec(),
    }
}

/// The key of the client of this scope.
pub fn client_key(scope: &[u8]) -> ClientKey {
    ClientKey(hash128(&pair(b"client", scope)))
}

/// The key of a response that was given to this client under this id.
pub fn response_key(client: ClientKey, id: &str) -> ResponseKey {
    ResponseKey(hash128(&pair(&client.0.to_le_bytes(), id.as_bytes())))
}

/// The key of a session called `name` by a client of this scope.
///
/// The hash is fast, not cryptographic, and its seed is public: that no client reaches another's session rests on
/// `scope`, which holds the client's own credential. Without a credential the address stands for the client, and whoever
/// can send from it is that client.
pub fn session_key(scope: &[u8], name: &[u8]) -> SessionKey {
    SessionKey(hash128(&pair(scope, name)))
}

/// What conversations belong to: a client of this scope, and with `coarse`, a hash of what a call says of its user, one of
/// his users, so that two of them with the same messages are two.
pub fn conversations_of(scope: &[u8], coarse: Option<u64>) -> ConversationScope {
    // Two zeros begin no name that a request can give.
    let mut name = [0; 10];
    name[2..].copy_from_slice(&coarse.unwrap_or(0).to_le_bytes());
    ConversationScope(session_key(scope, &name).0)
}

/// Whose conversations are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConversationScope(u128);

impl ConversationScope {
    /// The key of a session that only its messages name; `conversation` is a hash of them.
    pub fn key(self, conversation: u128) -> SessionKey {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.0.to_le_bytes());
        bytes[16..].copy_from_slice(&conversation.to_le_bytes());
        SessionKey(hash128(&bytes))
    }
}

/// The same session as seen by one model: each model has a KV cache of its own, so a session has a home per model.
/// `model` is the model's own name, never an alias.
pub fn for_model(session: SessionKey, model: &str) -> SessionKey {
    SessionKey(session.0 ^ u128::from(XxHash3_64::oneshot_with_seed(SEED, model.as_bytes())).rotate_left(32))
}

/// Two names as one to be hashed. The first goes in with its length, so that no pair can be read as another pair.
fn pair(first: &[u8], second: &[u8]) -> Vec<u8> {
    [&(first.len() as u64).to_le_bytes(), first, second].concat()
}

fn hash128(bytes: &[u8]) -> u128 {
    XxHash3_128::oneshot_with_seed(SEED, bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::policy::testing::{replica_key as replica, session_key as session};

    fn owner(session: SessionKey, replicas: &[usize]) -> usize {
        weighted_owner(session, &replicas.iter().map(|n| (*n, None)).collect::<Vec<_>>())
    }

    fn weighted_owner(session: SessionKey, replicas: &[(usize, Option<f64>)]) -> usize {
        let score = |(n, weight): &(usize, Option<f64>)| score(session, replica(*n), *weight);
        replicas.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap().0
    }

    fn owners(sessions: usize, replicas: &[usize]) -> Vec<usize> {
        (0..sessions).map(|n| owner(session(n), replicas)).collect()
    }

    #[test]
    fn a_scope_is_the_credential_else_the_network() {
        let address = |text: &str| text.parse().ok();
        assert_ne!(scope(Some(b"Bearer a"), None), scope(Some(b"Bearer b"), None));
        assert_eq!(scope(Some(b"a"), address("192.0.2.1")), scope(Some(b"a"), address("192.0.2.2")));
        assert_ne!(scope(None, address("192.0.2.1")), scope(None, address("192.0.2.2")));
        assert_eq!(scope(None, address("2001:db8::1")), scope(None, address("2001:db8::2")));
        assert_ne!(scope(None, address("2001:db8:0:1::1")), scope(None, address("2001:db8:0:2::1")));
    }

    #[test]
    fn ten_thousand_sessions_spread_evenly_over_eight_replicas() {
        let mut counts: HashMap<usize, usize> = HashMap::new();
        for owner in owners(10_000, &[0, 1, 2, 3, 4, 5, 6, 7]) {
            *counts.entry(owner).or_default() += 1;
        }
        let mean = 10_000 / 8;
        assert_eq!(counts.len(), 8);
        assert!(counts.values().all(|count| count * 100 <= mean * 115 && count * 100 >= mean * 85), "{counts:?}");
    }

    #[test]
    fn the_loss_of_a_replica_moves_only_its_own_sessions_and_spreads_them() {
        let before = owners(10_000, &[0, 1, 2, 3, 4, 5, 6, 7]);
        let after = owners(10_000, &[0, 1, 2, 4, 5, 6, 7]);
        let mut heirs: HashMap<usize, usize> = HashMap::new();
        for (before, after) in before.into_iter().zip(after) {
            if before == 3 {
                *heirs.entry(after).or_default() += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        let mean = heirs.values().sum::<usize>() / 7;
        assert_eq!(heirs.len(), 7);
        assert!(heirs.values().all(|count| count * 10 <= mean * 14), "{heirs:?}");
    }

    #[test]
    fn sessions_spread_in_proportion_to_weights_and_a_change_moves_only_its_own() {
        let light = [(0, Some(1.0)), (1, Some(1.0)), (2, Some(1.0)), (3, Some(0.1))];
        let whole = light.map(|(n, _)| (n, Some(1.0)));
        let mut counts = [0u32; 4];
        for n in 0..10_000 {
            let (before, after) = (weighted_owner(session(n), &light), weighted_owner(session(n), &whole));
            counts[before] += 1;
            assert!(before == after || after == 3, "the sessions of others stay");
            assert_eq!(after, owner(session(n), &[0, 1, 2, 3]), "even weights are as no weights");
        }
        // 0.1 of 3.1 are 323 of 10,000; three standard deviations are 53.
        assert!((270..376).contains(&counts[3]), "{counts:?}");
        assert!(counts[..3].iter().all(|count| (3_080..3_372).contains(count)), "{counts:?}");
    }

    #[test]
    fn edges_that_list_the_replicas_in_another_order_agree() {
        assert_eq!(owners(1_000, &[0, 1, 2, 3, 4, 5, 6, 7]), owners(1_000, &[5, 2, 7, 0, 3, 6, 1, 4]));
    }

    #[test]
    fn hashes_never_change_by_accident() {
        // A change here moves every session of every fleet once, and lets edges of two versions disagree meanwhile.
        // The values were computed with another implementation (Python's xxhash, over the little-endian layout).
        let session = session_key(b"scope", b"run-42");
        let replica = replica_key("usw-8b", "r-00c0ffee");
        assert_eq!(replica_name("http://10.0.1.11:8000"), "r-4227bf87");
        assert_eq!(replica.0, 0x534a_af98_d0d2_ebfe);
        assert_eq!(session.0, 0xaeeb_434f_77f3_85b3_0438_e467_f35d_d032);
        assert_eq!(score(session, replica, None).hash, 0x66f0_7e02_761c_c81e);
        assert_eq!(for_model(session, "llama-3.1-8b").0, 0xaeeb_434f_ea88_9e99_3213_923d_f35d_d032);
    }

    #[test]
    fn conversations_are_told_apart_by_client_and_by_what_is_coarse() {
        let keys: std::collections::HashSet<_> = [b"a", b"b"]
            .into_iter()
            .flat_map(|scope| [None, Some(1), Some(2)].map(|coarse| (scope, coarse)))
            .flat_map(|(scope, coarse)| [1, 2].map(|messages| conversations_of(scope, coarse).key(messages)))
            .collect();
        assert_eq!(keys.len(), 12);
    }

    #[test]
    fn each_model_sees_a_session_of_its_own() {
        let models = ["8b", "70b", "b8", ""];
        let keys: std::collections::HashSet<_> = (0..1_000)
            .flat_map(|n| models.map(|model| for_model(session(n), model)))
            .chain((0..1_000).map(session))
            .collect();
        assert_eq!(keys.len(), 5_000);
        let eight: Vec<usize> = (0..8).collect();
        let same = (0..8_000)
            .filter(|n| owner(for_model(session(*n), "8b"), &eight) == owner(for_model(session(*n), "70b"), &eight))
            .count();
        assert!((800..1_200).contains(&same), "{same} of 8,000 agree by chance, expected about 1,000");
    }

    #[test]
    fn no_two_pairs_of_names_are_read_alike() {
        assert_ne!(session_key(b"ab", b"c"), session_key(b"a", b"bc"));
        assert_ne!(session_key(b"", b"ab"), session_key(b"ab", b""));
        assert_ne!(replica_key("a", "bc"), replica_key("ab", "c"));
        assert_ne!(replica_key("a\0b", "c"), replica_key("a", "b\0c"));
    }
}

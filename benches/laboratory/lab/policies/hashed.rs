//! Policies that send a session where its hash says.

use twox_hash::XxHash3_64;

use super::super::engine::Engines;
use super::super::time::Micros;
use super::router::{Ask, Decision, Router};

/// Rendezvous hash of the session.
pub(crate) struct SessionHash;

impl Router for SessionHash {
    fn route(&mut self, ask: &Ask<'_>, engines: &Engines<'_>, _now: Micros) -> Decision {
        let first = (0..engines.count()).max_by_key(|replica| score(ask.call.session, *replica));
        Decision::Go(first.unwrap_or(0))
    }
}

/// The same, but no replica has more than its equal share of unanswered calls times a factor: then the session's next
/// (consistent hashing with bounded loads; Mirrokni, Thorup and Zadimoghaddam, 2018).
pub(crate) struct BoundedHash {
    pub(crate) factor: f64,
}

impl Router for BoundedHash {
    fn route(&mut self, ask: &Ask<'_>, engines: &Engines<'_>, _now: Micros) -> Decision {
        let all: usize = (0..engines.count()).map(|replica| engines.outstanding(replica)).sum();
        let bound = (self.factor * (all + 1) as f64 / engines.count() as f64).ceil() as usize;
        let free = (0..engines.count()).filter(|replica| engines.outstanding(*replica) < bound);
        // There is one: not all can have more than their share.
        Decision::Go(free.max_by_key(|replica| score(ask.call.session, *replica)).unwrap_or(0))
    }
}

fn score(session: usize, replica: usize) -> u64 {
    XxHash3_64::oneshot_with_seed(replica as u64, &(session as u64).to_le_bytes())
}

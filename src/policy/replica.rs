//! Station 5: which replica of a pool? Filter → score → pick.
//!
//! A session stays at the replica where it was last, since its KV cache is there; that is given up only when the
//! replica cannot be used or is at its cap. A session that is new, or has to move, goes where rendezvous hashing puts
//! it among the replicas that can take it. Without a session the less loaded of two is taken.

use rand::RngExt;

use super::{affinity, load};
use crate::domain::ids::{ReplicaIx, ReplicaKey, SessionKey};

/// Whether a replica may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Healthy, its circuit breaker closed.
    Usable,
    /// Its circuit breaker is half-open and lets one probe through.
    Probe,
    /// Its health checks fail.
    Unhealthy,
    /// Its circuit breaker is open.
    BreakerOpen,
}

/// One replica of the pool as it is now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Which one.
    pub replica: ReplicaIx,
    /// Its stable key.
    pub key: ReplicaKey,
    /// Whether it may be used.
    pub standing: Standing,
    /// Requests in flight there from this edge.
    pub in_flight: u32,
    /// The most that it is given at a time.
    pub cap: u32,
    /// Whether this request already failed there.
    pub tried: bool,
}

/// What is known of the request's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// The session.
    pub key: SessionKey,
    /// The replica that served it last, in whatever pool, when that is remembered.
    pub home: Option<ReplicaKey>,
}

/// Why a replica was picked, as far as the session tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Affinity {
    /// The session stayed where its cache is.
    Session,
    /// The session's first call.
    New,
    /// The session had to leave its replica.
    Moved,
    /// No session is known.
    None,
}

/// The picked replica with its reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Which one.
    pub replica: ReplicaIx,
    /// Why.
    pub affinity: Affinity,
    /// Whether the request is the one probe of a half-open circuit breaker.
    pub probe: bool,
}

/// Why no replica of the pool can be picked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoReplica {
    /// None is usable, or all usable ones were tried.
    Unusable,
    /// There are usable ones, and each is at its cap.
    Full,
}

/// Picks a replica of one pool. Deterministic for a request with a session; `rng` serves those without.
pub fn choose(view: &[Candidate], session: Option<SessionView>, rng: &mut impl RngExt) -> Result<Choice, NoReplica> {
    let home = session.and_then(|session| session.home);
    if let Some(home) = view.iter().find(|candidate| Some(candidate.key) == home && candidate.takes_more()) {
        return Ok(home.chosen(Affinity::Session));
    }
    match session {
        Some(session) => {
            let affinity = if home.is_some() { Affinity::Moved } else { Affinity::New };
            view.iter()
                .filter(|candidate| candidate.takes_more())
                .max_by_key(|candidate| affinity::weight(session.key, candidate.key))
                .map(|candidate| candidate.chosen(affinity))
        }
        None => load::lighter_of_two(view, rng).map(|candidate| candidate.chosen(Affinity::None)),
    }
    .ok_or_else(|| if view.iter().any(Candidate::eligible) { NoReplica::Full } else { NoReplica::Unusable })
}

impl Candidate {
    /// Whether the request may go there at all.
    pub fn eligible(&self) -> bool {
        !self.tried && matches!(self.standing, Standing::Usable | Standing::Probe)
    }

    /// Whether it may go there now.
    pub fn takes_more(&self) -> bool {
        self.eligible() && self.in_flight < self.cap
    }

    fn chosen(&self, affinity: Affinity) -> Choice {
        Choice { replica: self.replica, affinity, probe: self.standing == Standing::Probe }
    }
}

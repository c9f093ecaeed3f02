//! Stations 4 and 5 together: walks the pools in their order and takes the first replica that can serve.
//!
//! A pool that this request has tried often enough is passed over, so that a sick pool costs a bounded part of the
//! client's patience. The walk also finds the reason that the receipt states: why this region, why this replica.

use rand::RngExt;

use super::pool::PoolCandidate;
use super::replica::{self, Affinity, Candidate, NoReplica, SessionView};
use crate::domain::ids::{PoolIx, ReplicaIx};

/// Why a call went where it went; the strongest that applies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// No session is known.
    None,
    /// First call of a session.
    New,
    /// The session was kept at its warm replica.
    Session,
    /// The session's replica was unusable or at its cap.
    Moved,
    /// The nearest region is full.
    Spill,
    /// The nearest region is down.
    Failover,
    /// Another model answers.
    Fallback,
}

impl Reason {
    /// Every reason, weakest first.
    pub const ALL: [Reason; 7] =
        [Reason::None, Reason::New, Reason::Session, Reason::Moved, Reason::Spill, Reason::Failover, Reason::Fallback];

    /// The word in `x-nearpool-reason`, in labels and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::None => "none",
            Reason::New => "new",
            Reason::Session => "session",
            Reason::Moved => "moved",
            Reason::Spill => "spill",
            Reason::Failover => "failover",
            Reason::Fallback => "fallback",
        }
    }
}

/// The pool and the replica that a call goes to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Selection {
    /// The pool, with its region and model.
    pub pool: PoolCandidate,
    /// The replica.
    pub replica: ReplicaIx,
    /// Why.
    pub reason: Reason,
    /// Whether the request is the one probe of a half-open circuit breaker.
    pub probe: bool,
}

/// Selects a replica. `pools` is in the order of preference, `nearest` the pool that geography alone would take (the
/// first before the session's home was moved to the front), `view` fills in a pool's replicas as they are now, and
/// `exhausted` tells whether the request may no longer try a pool.
pub fn select(
    pools: &[PoolCandidate],
    nearest: PoolIx,
    session: Option<SessionView>,
    mut view: impl FnMut(PoolIx, &mut Vec<Candidate>),
    exhausted: impl Fn(PoolIx) -> bool,
    rng: &mut impl RngExt,
) -> Result<Selection, NoReplica> {
    let mut refusal = NoReplica::Unusable;
    let mut nearest_full = false;
    let mut candidates = Vec::new();
    let nearest_region = pools.iter().find(|pool| pool.pool == nearest).map(|pool| pool.region);
    for pool in pools {
        if exhausted(pool.pool) {
            continue;
        }
        candidates.clear();
        view(pool.pool, &mut candidates);
        match replica::choose(&candidates, session, rng) {
            Ok(choice) => {
                let elsewhere = Some(pool.region) != nearest_region;
                let reason = match choice.affinity {
                    _ if pool.fallback => Reason::Fallback,
                    Affinity::Session => Reason::Session,
                    _ if elsewhere && nearest_full => Reason::Spill,
                    _ if elsewhere => Reason::Failover,
                    Affinity::Moved => Reason::Moved,
                    Affinity::New => Reason::New,
                    Affinity::None => Reason::None,
                };
                return Ok(Selection { pool: *pool, replica: choice.replica, reason, probe: choice.probe });
            }
            Err(NoReplica::Full) => {
                refusal = NoReplica::Full;
                nearest_full |= Some(pool.region) == nearest_region;
            }
            Err(NoReplica::Unusable) => {}
        }
    }
    Err(refusal)
}

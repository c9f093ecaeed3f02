//! Station 7: again elsewhere, or stop?
//!
//! Attempts that sent no byte of the body are free: the replica did no work. Those that did are bounded in all and per
//! pool, each at another replica. Two replicas that break down over the same whole body stop the walk: a query of death
//! must not take down a fleet one replica after the other.

use std::time::Duration;

use rand::RngExt;

use crate::domain::ids::{PoolIx, ReplicaIx};
use crate::domain::outcome::{Again, Outcome};

/// The bounds of retrying.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Most attempts that count, in all; at least 1.
    pub attempts: u32,
    /// Most attempts that count in one pool; at least 1.
    pub attempts_per_pool: u32,
    /// Upper bound of the first pause; it doubles with each further attempt that counts.
    pub backoff: Duration,
    /// Upper bound of any pause.
    pub backoff_max: Duration,
}

/// What happened to one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    /// Where.
    pub replica: ReplicaIx,
    /// In which pool.
    pub pool: PoolIx,
    /// How it ended.
    pub outcome: Outcome,
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Try another replica after this pause.
    Again(Duration),
    /// Stop and end the request so.
    Stop(Outcome),
}

/// Breakdowns over the same whole body after which no further replica is given it.
const BREAKDOWNS_MAX: usize = 2;

/// Most free attempts: with all of a large fleet refusing connections the walk ends in bounded time.
pub const FREE_ATTEMPTS_MAX: usize = 32;

/// Decides what follows the last of `tried`; with nothing tried, that nothing was tried is no reason to stop.
pub fn after(tried: &[Tried], params: Params, rng: &mut impl RngExt) -> Next {
    let Some(last) = tried.last() else { return Next::Again(Duration::ZERO) };
    let again = last.outcome.facts().again;
    if again == Again::Never {
        return Next::Stop(last.outcome);
    }
    let broke_down = |t: &&Tried| matches!(t.outcome, Outcome::Reset | Outcome::Cut);
    if tried.iter().filter(broke_down).count() >= BREAKDOWNS_MAX {
        return Next::Stop(Outcome::Crashed);
    }
    if again == Again::Free {
        let free = tried.iter().filter(|t| t.outcome.facts().again == Again::Free).count();
        return if free >= FREE_ATTEMPTS_MAX { Next::Stop(last.outcome) } else { Next::Again(Duration::ZERO) };
    }
    let counted = counted(tried.iter());
    if counted >= params.attempts {
        return Next::Stop(last.outcome);
    }
    // The first retry goes to another replica at once: the pause protects from storms, and one retry is none.
    if counted <= 1 {
        return Next::Again(Duration::ZERO);
    }
    let bound = params.backoff.saturating_mul(1 << (counted - 2).min(16)).min(params.backoff_max);
    Next::Again(bound.mul_f64(rng.random::<f64>()))
}

/// Whether the request may no longer try this pool.
pub fn exhausted(tried: &[Tried], pool: PoolIx, params: Params) -> bool {
    counted(tried.iter().filter(|t| t.pool == pool)) >= params.attempts_per_pool
}

fn counted<'a>(tried: impl Iterator<Item = &'a Tried>) -> u32 {
    tried.filter(|t| t.outcome.facts().again != Again::Free).count() as u32
}

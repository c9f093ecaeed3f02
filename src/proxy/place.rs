//! Station 5 with its I/O: a place at a replica, waited for in line while all are taken.

use std::pin::pin;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;

use super::account::Account;
use super::admission::Entered;
use super::dispatch::{Dispatch, Stopped};
use super::due::Due;
use super::reply::Refusal;
use crate::domain::ids::PoolIx;
use crate::domain::outcome::Outcome;
use crate::domain::topology::Pool;
use crate::policy::pool::PoolCandidate;
use crate::policy::queue::{RETRY_AFTER_S_MAX, Turn, retry_after_s};
use crate::policy::replica::{Call, NoReplica};
use crate::policy::retry::{self, Tried};
use crate::policy::select::{Home, Selection, select};
use crate::roster::{InFlight, Ticket};

/// How often a replica's last place may be taken by another request between the choice and the booking. With 64 cores
/// in the same choice this is never reached; the bound only keeps the loop from being endless.
const LOST_RACES_MAX: u32 = 64;

/// Most lines that one call stands in. Its pools are in order, and the nearest are those it wants.
pub(super) const LINES_MAX: usize = 16;

/// A replica and a place there.
pub(super) type Placed = (Selection, Box<InFlight>);

/// Why there is no place.
pub(super) enum NoPlace {
    /// None is usable, or all are taken and so is the line.
    No(NoReplica),
    /// No pool took the call's session on.
    KeptOut,
    /// The request ran out of time in line.
    Late(Outcome),
}

/// How a call asks for a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// It has just come.
    Comes,
    /// It waited and was called.
    Called,
    /// It waited for nothing, or found the line full: it takes a place where nobody wants to wait.
    Leaves,
}

impl Dispatch<'_> {
    /// A place at a replica. When all are taken it is waited for, for as long as the nearest pool says.
    pub(super) async fn place(
        &self,
        tried: &[Tried],
        rng: &mut SmallRng,
        account: &mut Account<'_>,
    ) -> Result<Placed, NoPlace> {
        match self.choose(tried, rng, Manner::Comes) {
            Err(NoReplica::Full) => {}
            chosen => return chosen.map_err(NoPlace::No),
        }
        let standing = match self.enter(tried, rng, account).await {
            Entered::Freely => None,
            Entered::Standing(waiting, waits) => Some((waiting, waits)),
            Entered::Placed(placed) => return Ok(*placed),
            Entered::Not(no) => return Err(no),
        };
        let placed = match self.wait(tried, rng, account).await {
            Err(NoPlace::No(NoReplica::Full)) => self.choose(tried, rng, Manner::Leaves).map_err(NoPlace::No),
            placed => placed,
        };
        if let (Ok(_), Some((waiting, _))) = (&placed, standing) {
            waiting.placed();
        }
        placed
    }

    /// Waits in line for a place.
    async fn wait(&self, tried: &[Tried], rng: &mut SmallRng, account: &mut Account<'_>) -> Result<Placed, NoPlace> {
        let Some(mut ticket) = self.join_lines(tried) else { return Err(NoPlace::No(NoReplica::Full)) };
        let began = Instant::now();
        let due = self.queue_due(tried);
        let placed = loop {
            match self.choose(tried, rng, Manner::Called) {
                Ok(placed) => {
                    ticket.took(self.snapshot.pool(placed.0.pool.pool));
                    break Ok(placed);
                }
                Err(NoReplica::Unusable) => break Err(NoPlace::No(NoReplica::Unusable)),
                Err(NoReplica::Full) if !ticket.pass() => break Err(NoPlace::No(NoReplica::Full)),
                Err(NoReplica::Full) => {}
            }
            match due.bound(pin!(ticket.called())).await {
                Ok(()) => {}
                Err(Outcome::AtCapacity) => break Err(NoPlace::No(NoReplica::Full)),
                Err(late) => break Err(NoPlace::Late(late)),
            }
        };
        account.queued(began.elapsed());
        placed
    }

    /// Selects a replica and takes a place there: the call will be sent.
    pub(super) fn choose(&self, tried: &[Tried], rng: &mut SmallRng, manner: Manner) -> Result<Placed, NoReplica> {
        self.book(tried, rng, manner).map(|placed| self.take_on(placed))
    }

    /// Selects a replica and books a place there. A call that was not called overtakes nobody who waits.
    pub(super) fn book(&self, tried: &[Tried], rng: &mut SmallRng, manner: Manner) -> Result<Placed, NoReplica> {
        let config = &self.snapshot.config;
        for _ in 0..LOST_RACES_MAX {
            let now = Instant::now();
            let theirs = self.last_for_fallbacks(tried);
            let theirs = theirs.and_then(|fallbacks| self.select_among(fallbacks, tried, rng, manner, now).ok());
            let selection = match theirs.filter(|selection| !selection.last_resort) {
                Some(selection) => selection,
                None => self.select_among(self.pools, tried, rng, manner, now)?,
            };
            let in_line = manner != Manner::Called && !selection.last_resort;
            if in_line && self.snapshot.pool(selection.pool.pool).overtakes(self.turn(tried)) {
                return Err(NoReplica::Full);
            }
            let cap = config.topology.pool(selection.pool.pool).max_in_flight;
            let live = self.snapshot.live(selection.replica);
            if let Some(booking) = live.begin(cap, config.circuit_breaker, selection.last_resort, now) {
                return Ok((selection, booking));
            }
        }
        Err(NoReplica::Full)
    }

    fn select_among(
        &self,
        pools: &[PoolCandidate],
        tried: &[Tried],
        rng: &mut SmallRng,
        manner: Manner,
        now: Instant,
    ) -> Result<Selection, NoReplica> {
        let was_tried = |replica| tried.iter().any(|t| t.replica == replica) || self.failed.contains(&replica);
        let call = Call {
            session: self.session.map(|session| session.view),
            tokens: self.prompt.tokens,
            has_answer: self.prompt.has_answer(),
        };
        // A stored response is a lock, and not a preference as a session is.
        let owner = self.previous.and_then(|previous| previous.owner);
        let held_at = owner.map(|owner| self.snapshot.live(owner).key());
        let home = held_at.or(call.session.and_then(|session| session.home));
        let home = home.and_then(|home| self.snapshot.home(home, &self.prompt.cuts, was_tried, now));
        select(
            pools,
            call,
            home.map(|home| Home { candidate: self.admitted(home.pool, home.candidate, now), ..home }),
            |pool, into| {
                let before = into.len();
                let level = self.snapshot.candidates(pool, &self.prompt.cuts, was_tried, now, into);
                if !self.is_admitted(pool, now) {
                    into[before..].iter_mut().for_each(|candidate| candidate.cap = 0);
                }
                into.retain(|candidate| owner.is_none_or(|owner| candidate.replica == owner));
                level
            },
            |pool| retry::exhausted(tried, pool, self.snapshot.config.retry),
            manner != Manner::Leaves,
            rng,
        )
    }

    /// The pools of fallback models, which stand behind those of the model asked for, when the last attempt is theirs.
    fn last_for_fallbacks(&self, tried: &[Tried]) -> Option<&[PoolCandidate]> {
        let own = self.pools.iter().take_while(|pool| !pool.fallback).count();
        let fallbacks = &self.pools[own..];
        let theirs = !fallbacks.is_empty() && retry::last_is_for_fallbacks(tried, self.snapshot.config.retry);
        theirs.then_some(fallbacks)
    }

    /// Chains that have begun come before new ones, so that they can end.
    pub(super) fn turn(&self, tried: &[Tried]) -> Turn {
        let tried = !tried.is_empty() || !self.failed.is_empty();
        let begun = tried || self.session.is_some_and(|session| session.view.begun);
        if begun { Turn::UnderWay } else { Turn::New }
    }

    /// The pools that the request may still try, nearest first.
    pub(super) fn open_pools(&self, tried: &[Tried]) -> impl Iterator<Item = (PoolIx, &Pool)> {
        let config = &self.snapshot.config;
        let open = self.pools.iter().filter(move |pool| !retry::exhausted(tried, pool.pool, config.retry));
        open.map(|pool| (pool.pool, config.topology.pool(pool.pool)))
    }

    fn join_lines(&self, tried: &[Tried]) -> Option<Ticket> {
        let now = Instant::now();
        let open = self.open_pools(tried).filter(|(pool, _)| self.is_admitted(*pool, now)).take(LINES_MAX);
        let lines = open.map(|(ix, pool)| (self.snapshot.pool(ix), pool.queue as usize));
        Ticket::enter(lines, self.turn(tried))
    }

    /// Until when a call waits: as its nearest pool says, and never longer than it has time.
    fn queue_due(&self, tried: &[Tried]) -> Due {
        let wait = self.open_pools(tried).next().map_or(Duration::ZERO, |(_, nearest)| nearest.queue_timeout);
        self.limit.or_before(Some(Due::new(tokio::time::Instant::now() + wait, Outcome::AtCapacity)))
    }

    /// What a client is told that found no place.
    pub(super) fn no_place(&self, no: NoReplica) -> Stopped {
        let name = &self.snapshot.config.topology.model(self.pools[0].model).name;
        let refusal = self.previous.and_then(|previous| previous.no_place(no));
        let refusal = refusal.unwrap_or_else(|| match no {
            NoReplica::Unusable => {
                Refusal::new(Outcome::NoReplica, format!("no replica of the model '{name}' can serve now"))
            }
            NoReplica::Full => {
                Refusal::new(Outcome::AtCapacity, format!("every replica of the model '{name}' is at its capacity"))
            }
        });
        // When the shortest line would have come to it.
        let soonest = self.pools.iter().filter_map(|pool| self.snapshot.pool(pool.pool).wait()).min();
        Stopped::Refused(refusal.retry_after_s(retry_after_s(soonest.unwrap_or_default(), RETRY_AFTER_S_MAX)))
    }
}

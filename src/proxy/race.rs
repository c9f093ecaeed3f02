//! One step of the walk: an attempt, and beside it a second one where the first event is late and hedging is on.
//!
//! The first event wins, and the other attempt is dropped, which cancels it at its replica. A failure of one waits for
//! the other. Late is what 95 of 100 recent streams of the pool were not.

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use tokio::time::timeout;

use super::account::Account;
use super::attempt::{Began, Failed};
use super::booking::Sent;
use super::dispatch::Dispatch;
use super::place::{Manner, Placed};
use super::rewritten::Rewritten;
use crate::domain::ids::PoolIx;
use crate::domain::outcome::Outcome;
use crate::observe::metrics::HedgeResult;
use crate::observe::recent::{Kind, LATE};
use crate::observe::trace::AttemptKind;
use crate::policy::retry::{self, Tried};
use crate::policy::select::Selection;

/// What became of the attempts of one step.
pub(super) struct Raced {
    /// Those that failed, in the order in which they did.
    pub(super) failed: Vec<(Sent, Failed)>,
    /// The one that has something to show.
    pub(super) began: Option<(Sent, Began)>,
    /// The pool of the one that was dropped.
    pub(super) dropped: Option<PoolIx>,
}

impl Raced {
    fn of(placed: Sent, result: Result<Began, Failed>) -> Raced {
        let mut raced = Raced { failed: Vec::new(), began: None, dropped: None };
        raced.add(placed, result);
        raced
    }

    fn add(&mut self, placed: Sent, result: Result<Began, Failed>) {
        match result {
            Ok(began) => self.began = Some((placed, began)),
            Err(failed) => self.failed.push((placed, failed)),
        }
    }
}

impl Dispatch<'_> {
    /// Runs the attempt that has its place already.
    pub(super) async fn race(
        &self,
        placed: Sent,
        segments: &[Bytes],
        tried: &[Tried],
        rng: &mut SmallRng,
        account: &mut Account<'_>,
    ) -> Raced {
        let selection = placed.0;
        let mut first = pin!(self.attempt(selection, segments, placed.1.context()));
        let Some(late) = self.hedge_after(&selection, tried) else { return Raced::of(placed, first.await) };
        if let Ok(result) = timeout(late, first.as_mut()).await {
            return Raced::of(placed, result);
        }
        let Some(hedge) = self.place_hedge(&selection, tried, rng) else { return Raced::of(placed, first.await) };
        let hedge = account.attempt(hedge);
        let hedge = self.sent(hedge, AttemptKind::Hedge, account);
        // Boxed, since nearly every request has no second attempt and would hold the room for it.
        let mut own = Rewritten::default();
        let mut second = Box::pin(self.attempt(hedge.0, own.for_pool(self, &hedge.0.pool), hedge.1.context()));
        let (pools, hedge_replica) = ([selection.pool.pool, hedge.0.pool.pool], hedge.0.replica);
        let mut raced = tokio::select! {
            biased;
            result = first.as_mut() => {
                let mut raced = Raced::of(placed, result);
                if raced.began.is_none() {
                    raced.add(hedge, second.await);
                }
                raced
            }
            result = second.as_mut() => {
                let mut raced = Raced::of(hedge, result);
                if raced.began.is_none() {
                    raced.add(placed, first.await);
                }
                raced
            }
        };
        let won = raced.began.as_ref().is_some_and(|((began, _), _)| began.replica != selection.replica);
        if won {
            let cause = raced.failed.first().map_or(LATE, |(_, failed)| failed.outcome.facts().label);
            account.failed_over(Kind::Hedge, selection.replica, Some(hedge_replica), cause);
        }
        raced.dropped = Some(pools[usize::from(!won)]);
        self.edge.metrics.hedge(if won { HedgeResult::Won } else { HedgeResult::Lost });
        raced
    }

    /// How long to wait for a first event before there is a second attempt; `None` when there is to be none.
    fn hedge_after(&self, selection: &Selection, tried: &[Tried]) -> Option<Duration> {
        let enabled = self.snapshot.config.hedging.enabled && self.stream;
        if !enabled
            || !retry::may_hedge(tried)
            || self.leaves_state
            || self.continuing.is_some()
            || self.previous.is_some()
        {
            return None;
        }
        self.snapshot.pool(selection.pool.pool).pace().hedge_after()
    }

    /// A place for the second attempt: at a healthy replica of the same model that is free, and within the budget.
    fn place_hedge(&self, first: &Selection, tried: &[Tried], rng: &mut SmallRng) -> Option<Placed> {
        let now = Instant::now();
        let late = Tried { replica: first.replica, pool: first.pool.pool, outcome: Outcome::FirstByteTimeout };
        let besides: Vec<Tried> = tried.iter().copied().chain([late]).collect();
        let hedge = self.book(&besides, rng, Manner::Comes).ok()?;
        if hedge.0.last_resort || hedge.0.probe || hedge.0.pool.model != first.pool.model {
            return None;
        }
        let paid = self.edge.roster.hedges.take(self.client, self.snapshot.config.hedging.budget, now);
        if !paid {
            self.edge.metrics.hedge(HedgeResult::Denied);
        }
        // Only now: what is not sent is not cached there.
        paid.then(|| self.take_on(hedge))
    }
}

//! The guard of one booked attempt: counts it in while it lives, and reports how it ended.

use std::sync::Arc;
use std::time::Instant;

use super::bill::Bill;
use super::cache::Slot;
use super::live::Live;
use crate::domain::ids::SessionKey;
use crate::domain::outcome::Outcome;
use crate::domain::prompt::Prompt;
use crate::policy::admission::{Asking, Stay};
use crate::policy::blame::Fault;
use crate::policy::breaker;
use crate::policy::prefix_index::{Claim, Holding};
use crate::policy::share;

/// A place at a replica, given back when dropped. Dropped without [`end`](InFlight::end), the attempt counts as
/// neither success nor failure, as when the client went away. Boxed, since it goes through many hands.
#[derive(Debug)]
pub struct InFlight {
    live: Arc<Live>,
    params: breaker::Params,
    /// When it was booked. `None` until the breaker let the request through, and again after its end was reported.
    sent: Option<Instant>,
    /// What the clock of shares showed then. `None` until the breaker let the request through.
    share: Option<share::Began>,
    /// Who pays for it, at this price for a second of the replica.
    bill: Option<(Arc<Bill>, f64)>,
    /// When its end was reported.
    ended: Option<Instant>,
    /// The session that has a call in flight with it.
    session: Option<(SessionKey, Stay)>,
    reading: Option<Reading>,
}

/// A prompt that was sent to a replica.
#[derive(Debug)]
struct Reading {
    live: Arc<Live>,
    slot: Slot,
    /// What the replica was taken to hold of it before.
    held: Holding,
    prompt_tokens: u32,
    /// What it is taken to hold of it since, until the first event shows that it was read.
    claim: Option<Claim>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(claim) = self.claim.take() {
            self.live.pool().cache.forget(self.slot, &claim);
        }
    }
}

impl InFlight {
    pub(super) fn new(live: Arc<Live>, params: breaker::Params) -> InFlight {
        InFlight { live, params, sent: None, share: None, bill: None, ended: None, session: None, reading: None }
    }

    pub(super) fn sent_at(mut self: Box<Self>, sent: Instant, share: share::Began) -> Box<InFlight> {
        (self.sent, self.share) = (Some(sent), Some(share));
        self
    }

    /// The call's share of the replica's time is put on this bill when it ends, however it does; a second of the replica
    /// costs so many USD.
    #[must_use]
    pub fn billed_to(mut self: Box<Self>, bill: Arc<Bill>, dollars_per_s: f64) -> Box<InFlight> {
        self.bill = Some((bill, dollars_per_s));
        self
    }

    /// The call belongs to a session, which is active in the pool while it is in flight and for a while after.
    #[must_use]
    pub fn of_session(mut self: Box<Self>, asking: Asking, now: Instant) -> Box<InFlight> {
        let stay = self.live.pool().began(asking, now);
        self.session = Some((asking.session, stay));
        self
    }

    /// Its replica is about to read this prompt, and will hold it; `begins` says that it is a session's first. An attempt
    /// that ends before the prompt [was read](InFlight::was_read) takes back what it added.
    #[must_use]
    pub fn reading(mut self: Box<Self>, slot: Slot, prompt: &Prompt, begins: bool) -> Box<InFlight> {
        if !prompt.cuts.is_empty() {
            let live = Arc::clone(&self.live);
            let (held, claim) = live.pool().cache.read(slot, &prompt.cuts, begins);
            self.reading = Some(Reading { live, slot, held, prompt_tokens: prompt.tokens, claim: Some(claim) });
        }
        self
    }

    /// Its answer has begun, so that its prompt was read.
    pub fn was_read(&mut self) {
        if let Some(reading) = &mut self.reading
            && let Some(claim) = reading.claim.take()
        {
            self.live.pool().cache.confirm(reading.slot, &claim);
        }
    }

    /// The answer tells that this share of the prompt was cached.
    pub fn cached(&self, share: f64) {
        if let Some(reading) = &self.reading {
            let tokens = (f64::from(reading.prompt_tokens) * share.clamp(0.0, 1.0)) as u32;
            self.live.pool().cache.answered(reading.held, tokens);
        }
    }

    /// Notes that the first event of its stream came at `now`; `at_home` says that it belongs to a session whose cache
    /// is warm there.
    pub fn first_event(&mut self, at_home: bool, now: Instant) {
        self.was_read();
        if let Some(sent) = self.sent {
            self.live.first_event(now.saturating_duration_since(sent), at_home, now);
        }
    }

    /// Reports how the attempt ended and gives the place back.
    pub fn end(mut self: Box<Self>, outcome: Outcome, now: Instant) {
        self.ended = Some(now);
        if let Some(sent) = self.sent.take() {
            self.live.report(outcome, sent, self.params, now);
        }
        if let Some((session, stay)) = self.session.take() {
            self.live.pool().intake.ended(session, stay, now);
        }
    }

    /// Gives the place back, and leaves it open whose fault the ending was.
    pub fn end_in_doubt(mut self: Box<Self>, outcome: Outcome) -> Doubt {
        Doubt { live: Arc::clone(&self.live), params: self.params, sent: self.sent.take(), outcome }
    }
}

/// An attempt that failed by the replica's fault or by the request's. Dropped without
/// [`decide`](Doubt::decide), it counts as neither success nor failure.
#[derive(Debug)]
pub struct Doubt {
    live: Arc<Live>,
    params: breaker::Params,
    sent: Option<Instant>,
    outcome: Outcome,
}

impl Doubt {
    /// Whose it was.
    pub fn decide(mut self, fault: Fault, now: Instant) {
        match (fault, self.sent) {
            (Fault::Replicas, Some(sent)) => self.live.report(self.outcome, sent, self.params, now),
            (Fault::Open, Some(sent)) => self.live.doubt(sent),
            (Fault::Nobody, _) | (_, None) => return,
        }
        self.sent = None;
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        if let Some(sent) = self.sent.take() {
            self.live.report(Outcome::ClientGone, sent, self.params, Instant::now());
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some((session, stay)) = self.session {
            self.live.pool().intake.ended(session, stay, Instant::now());
        }
        if let Some(sent) = self.sent.take() {
            self.live.report(Outcome::ClientGone, sent, self.params, Instant::now());
        }
        if let Some(began) = self.share {
            let share = self.live.share_ended(began, self.ended.unwrap_or_else(Instant::now));
            if let Some((bill, dollars_per_s)) = &self.bill {
                bill.add(share * dollars_per_s);
            }
        }
        self.live.leave();
    }
}

//! The guard of one booked attempt: counts it in while it lives, and reports how it ended.

use std::sync::Arc;
use std::time::Instant;

use super::live::Live;
use crate::domain::outcome::Outcome;
use crate::policy::blame::Fault;
use crate::policy::breaker;

/// A place at a replica, given back when dropped. Dropped without [`end`](InFlight::end), the attempt counts as
/// neither success nor failure, as when the client went away.
#[derive(Debug)]
pub struct InFlight {
    live: Arc<Live>,
    params: breaker::Params,
    /// When it was booked. `None` until the breaker let the request through, and again after its end was reported.
    sent: Option<Instant>,
}

impl InFlight {
    pub(super) fn new(live: Arc<Live>, params: breaker::Params) -> InFlight {
        InFlight { live, params, sent: None }
    }

    pub(super) fn sent_at(mut self, sent: Instant) -> InFlight {
        self.sent = Some(sent);
        self
    }

    /// Notes that the first event of its stream came at `now`; `at_home` says that it belongs to a session whose cache
    /// is warm there.
    pub fn first_event(&self, at_home: bool, now: Instant) {
        if let Some(sent) = self.sent {
            self.live.first_event(now.saturating_duration_since(sent), at_home, now);
        }
    }

    /// Reports how the attempt ended and gives the place back.
    pub fn end(mut self, outcome: Outcome, now: Instant) {
        if let Some(sent) = self.sent.take() {
            self.live.report(outcome, sent, self.params, now);
        }
    }

    /// Gives the place back, and leaves it open whose fault the ending was.
    pub fn end_in_doubt(mut self, outcome: Outcome) -> Doubt {
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
        if let Some(sent) = self.sent.take() {
            self.live.report(Outcome::ClientGone, sent, self.params, Instant::now());
        }
        self.live.leave();
    }
}

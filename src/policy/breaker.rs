//! The circuit breaker of one replica: closed, open, half-open.
//!
//! It protects clients from the attempts that a broken replica would cost, and the replica from the load that keeps it
//! broken. It trips on failures in a row, opens for `reset_timeout`, and then lets exactly one request through: if that
//! succeeds it closes, else it opens again. What is the client's fault never counts; nor does backpressure.

use std::time::{Duration, Instant};

/// When a breaker trips and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Failures in a row that open it; at least 1.
    pub failure_threshold: u32,
    /// How long it stays open before a probe.
    pub reset_timeout: Duration,
}

/// The state of one replica's breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breaker {
    /// Requests pass; `failures` in a row so far.
    Closed {
        /// Failures since the last success.
        failures: u32,
    },
    /// No request passes.
    Open {
        /// Since when.
        since: Instant,
    },
    /// One request is under way as the probe.
    HalfOpen {
        /// Since when; a probe that never reports frees its place after `reset_timeout`.
        since: Instant,
    },
}

/// What a breaker says to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Pass.
    Pass,
    /// Pass as the one probe; claim it with [`Breaker::claimed`].
    Probe,
    /// Do not pass.
    Stop,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker::Closed { failures: 0 }
    }
}

impl Breaker {
    /// What it says to a request at `now`.
    pub fn gate(self, params: Params, now: Instant) -> Gate {
        match self {
            Breaker::Closed { .. } => Gate::Pass,
            Breaker::Open { since } | Breaker::HalfOpen { since } => {
                if now.saturating_duration_since(since) >= params.reset_timeout { Gate::Probe } else { Gate::Stop }
            }
        }
    }

    /// The state once a request goes through as the probe.
    #[must_use]
    pub const fn claimed(self, now: Instant) -> Breaker {
        match self {
            Breaker::Closed { .. } => self,
            Breaker::Open { .. } | Breaker::HalfOpen { .. } => Breaker::HalfOpen { since: now },
        }
    }

    /// The state after a success.
    #[must_use]
    pub const fn succeeded(self) -> Breaker {
        match self {
            // A request that was sent before the breaker opened says nothing of the time since.
            Breaker::Open { .. } => self,
            Breaker::Closed { .. } | Breaker::HalfOpen { .. } => Breaker::Closed { failures: 0 },
        }
    }

    /// The state after a failure.
    #[must_use]
    pub const fn failed(self, params: Params, now: Instant) -> Breaker {
        match self {
            Breaker::Closed { failures } if failures + 1 < params.failure_threshold => {
                Breaker::Closed { failures: failures + 1 }
            }
            Breaker::Closed { .. } | Breaker::HalfOpen { .. } => Breaker::Open { since: now },
            Breaker::Open { .. } => self,
        }
    }

    /// The state when a probe ended without a verdict: its client went away, or the replica was merely busy.
    #[must_use]
    pub fn released(self, params: Params, now: Instant) -> Breaker {
        match self {
            Breaker::HalfOpen { .. } => Breaker::Open { since: now.checked_sub(params.reset_timeout).unwrap_or(now) },
            other => other,
        }
    }
}

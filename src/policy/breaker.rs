//! The circuit breaker of one replica: closed, open, half-open.
//!
//! It protects clients from the attempts that a broken replica would cost, and the replica from the load that keeps it
//! broken. It trips on failures in a row, or on a [success rate](super::success_rate) that is too low, opens for
//! `reset_timeout`, and then lets exactly one request through: if that succeeds it closes, else it opens again. What is the client's fault never counts; nor does backpressure.
//!
//! Calls to an engine may take minutes, longer than `reset_timeout`. So every report says when its request was sent, and
//! what was sent before the breaker last opened says nothing of the replica since: neither do the last victims of an
//! outage open it again after it healed, nor does an answer that began before the outage close it.
//!
//! It errs towards caution, as far as there are other replicas: when none takes more, the [least bad](super::least_bad) is
//! asked in spite of it.

use std::time::{Duration, Instant};

/// When a breaker trips and for how long.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Params {
    /// Failures in a row that open it; at least 1.
    pub failure_threshold: u32,
    /// The share of attempts that must go well, from 0 (it never opens by that) to 1.
    pub success_rate: f64,
    /// The time over which that is measured.
    pub window: Duration,
    /// With fewer attempts in the window there is no rate.
    pub min_requests: u32,
    /// How long it stays open before a probe.
    pub reset_timeout: Duration,
    /// How long a replica that comes back takes to its whole share of calls.
    pub slow_start: Duration,
}

/// The state of one replica's breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Breaker {
    /// Requests pass.
    Closed {
        /// Failures since the last success.
        failures: u32,
        /// When it last opened, if ever.
        opened: Option<Instant>,
    },
    /// No request passes.
    Open {
        /// Since when.
        since: Instant,
    },
    /// One request is under way as the probe.
    HalfOpen {
        /// When it opened.
        opened: Instant,
        /// When the probe was claimed; one that never reports frees its place after `reset_timeout`.
        since: Instant,
    },
}

/// What a breaker says to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Pass.
    Pass,
    /// Pass as the one probe; [`Breaker::claim`] it first.
    Probe,
    /// Do not pass.
    Stop,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker::Closed { failures: 0, opened: None }
    }
}

impl Breaker {
    /// What it says to a request at `now`.
    pub fn gate(self, params: Params, now: Instant) -> Gate {
        match self {
            Breaker::Closed { .. } => Gate::Pass,
            Breaker::Open { since } | Breaker::HalfOpen { since, .. } => {
                if now.saturating_duration_since(since) >= params.reset_timeout { Gate::Probe } else { Gate::Stop }
            }
        }
    }

    /// The state once a request goes through as the probe; `None` when there is no probe to claim, because another
    /// request was faster or the breaker closed meanwhile. To be called and stored under one lock: of all the requests
    /// that [`gate`](Breaker::gate) told `Probe`, one gets the place, and the others choose again.
    #[must_use]
    pub fn claim(self, params: Params, now: Instant) -> Option<Breaker> {
        match (self.gate(params, now), self) {
            (Gate::Probe, Breaker::Open { since: opened } | Breaker::HalfOpen { opened, .. }) => {
                Some(Breaker::HalfOpen { opened, since: now })
            }
            _ => None,
        }
    }

    /// The state after a success of a request that was sent at `sent` (for a probe: the time it was claimed at).
    #[must_use]
    pub fn succeeded(self, sent: Instant) -> Breaker {
        if self.predates(sent) { self } else { Breaker::Closed { failures: 0, opened: self.opened() } }
    }

    /// The state after a failure at `now` of a request that was sent at `sent`.
    #[must_use]
    pub fn failed(self, params: Params, sent: Instant, now: Instant) -> Breaker {
        match self {
            _ if self.predates(sent) => self,
            Breaker::Closed { failures, opened } if failures.saturating_add(1) < params.failure_threshold => {
                Breaker::Closed { failures: failures + 1, opened }
            }
            _ => Breaker::Open { since: now },
        }
    }

    /// The state when its success rate is too low.
    #[must_use]
    pub fn tripped(self, now: Instant) -> Breaker {
        match self {
            Breaker::Closed { .. } => Breaker::Open { since: now },
            Breaker::Open { .. } | Breaker::HalfOpen { .. } => self,
        }
    }

    /// The state when the request sent at `sent` ended without a verdict: its client went away, or the replica was
    /// merely busy. If it was the present probe, the place is free for the next request at once.
    #[must_use]
    pub fn released(self, sent: Instant) -> Breaker {
        match self {
            Breaker::HalfOpen { opened, since } if sent >= since => Breaker::Open { since: opened },
            other => other,
        }
    }

    /// The state once health checks that had failed pass again: it was most likely started anew, so it is closed, but
    /// the next failure opens it.
    #[must_use]
    pub fn recovered(self, params: Params) -> Breaker {
        match self {
            Breaker::Closed { .. } => self,
            Breaker::Open { .. } | Breaker::HalfOpen { .. } => {
                Breaker::Closed { failures: params.failure_threshold.saturating_sub(1), opened: self.opened() }
            }
        }
    }

    /// Since when it lets nothing through; `None` while it is closed.
    pub fn open_since(self) -> Option<Instant> {
        match self {
            Breaker::Closed { .. } => None,
            Breaker::Open { since } => Some(since),
            Breaker::HalfOpen { opened, .. } => Some(opened),
        }
    }

    /// Whether a request sent then tells nothing of the replica since the breaker last opened. Only probes
    /// and last resorts are sent between an opening and the next closing: their reports count.
    pub(super) fn predates(self, sent: Instant) -> bool {
        self.opened().is_some_and(|opened| sent <= opened)
    }

    fn opened(self) -> Option<Instant> {
        match self {
            Breaker::Closed { opened, .. } => opened,
            Breaker::Open { since } => Some(since),
            Breaker::HalfOpen { opened, .. } => Some(opened),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARAMS: Params = Params { failure_threshold: 3, ..crate::policy::testing::BREAKER };

    /// One thing that befalls a breaker, at a time in seconds.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// A request sent then succeeds.
        Succeeded { sent: u64 },
        /// A request sent then fails.
        Failed { sent: u64 },
        /// A request sent then ends without a verdict.
        Released { sent: u64 },
        /// A request asks to pass and claims the probe when it may.
        Claim,
    }

    use Event::{Claim, Failed, Released, Succeeded};

    fn step(breaker: Breaker, event: Event, epoch: Instant, now: Instant) -> Breaker {
        let at = |seconds| epoch + Duration::from_secs(seconds);
        match event {
            Succeeded { sent } => breaker.succeeded(at(sent)),
            Failed { sent } => breaker.failed(PARAMS, at(sent), now),
            Released { sent } => breaker.released(at(sent)),
            Claim => breaker.claim(PARAMS, now).unwrap_or(breaker),
        }
    }

    /// After these events (time in seconds, event) a request at `now` is told `gate`.
    #[track_caller]
    fn check(events: &[(u64, Event)], now: u64, gate: Gate) {
        let epoch = Instant::now();
        let at = |seconds| epoch + Duration::from_secs(seconds);
        let breaker =
            events.iter().fold(Breaker::default(), |breaker, (time, event)| step(breaker, *event, epoch, at(*time)));
        assert_eq!(breaker.gate(PARAMS, at(now)), gate, "{breaker:?}");
    }

    /// Three failures in a row: open at 3.
    const TRIPPED: [(u64, Event); 3] = [(1, Failed { sent: 1 }), (2, Failed { sent: 2 }), (3, Failed { sent: 3 })];

    #[track_caller]
    fn check_tripped(then: &[(u64, Event)], now: u64, gate: Gate) {
        check(&[&TRIPPED, then].concat(), now, gate);
    }

    #[test]
    fn trips_on_failures_in_a_row_only() {
        check(&[], 0, Gate::Pass);
        check(&TRIPPED[..2], 2, Gate::Pass);
        check(&TRIPPED, 3, Gate::Stop);
        let (a, b) = (TRIPPED[0], TRIPPED[1]);
        check(&[a, b, (2, Succeeded { sent: 2 }), (3, Failed { sent: 3 }), (4, Failed { sent: 4 })], 4, Gate::Pass);
        check(&[a, b, (2, Released { sent: 2 }), (3, Failed { sent: 3 })], 4, Gate::Stop);
    }

    #[test]
    fn stays_open_for_the_reset_timeout_and_then_asks_for_a_probe() {
        check_tripped(&[], 62, Gate::Stop);
        check_tripped(&[], 63, Gate::Probe);
        check_tripped(&[(62, Claim)], 63, Gate::Probe); // claimed too early: nothing happened
    }

    #[test]
    fn a_probe_that_succeeds_closes_and_one_that_fails_opens_again() {
        check_tripped(&[(63, Claim)], 64, Gate::Stop);
        check_tripped(&[(63, Claim), (64, Succeeded { sent: 63 })], 64, Gate::Pass);
        check_tripped(&[(63, Claim), (65, Failed { sent: 63 })], 124, Gate::Stop);
        check_tripped(&[(63, Claim), (65, Failed { sent: 63 })], 125, Gate::Probe);
    }

    #[test]
    fn a_probe_without_a_verdict_frees_its_place_at_once_and_a_silent_one_after_the_reset_timeout() {
        check_tripped(&[(63, Claim), (64, Released { sent: 63 })], 64, Gate::Probe);
        check_tripped(&[(63, Claim)], 122, Gate::Stop);
        check_tripped(&[(63, Claim)], 123, Gate::Probe);
    }

    #[test]
    fn a_slow_probe_still_gives_its_verdict_after_its_place_was_given_away() {
        check_tripped(&[(63, Claim), (123, Claim), (150, Succeeded { sent: 63 })], 150, Gate::Pass);
        check_tripped(&[(63, Claim), (123, Claim), (150, Released { sent: 63 })], 150, Gate::Stop);
        check_tripped(
            &[(63, Claim), (123, Claim), (124, Failed { sent: 123 }), (150, Succeeded { sent: 63 })],
            150,
            Gate::Stop,
        );
    }

    #[test]
    fn requests_sent_before_it_opened_neither_close_nor_open_it() {
        check_tripped(&[(4, Succeeded { sent: 0 })], 4, Gate::Stop);
        check_tripped(&[(4, Failed { sent: 0 })], 63, Gate::Probe);
        check_tripped(&[(63, Claim), (64, Succeeded { sent: 0 })], 64, Gate::Stop);
        check_tripped(&[(63, Claim), (64, Failed { sent: 0 }), (65, Succeeded { sent: 63 })], 65, Gate::Pass);
        check_tripped(&[(63, Claim), (64, Released { sent: 0 })], 64, Gate::Stop);
        let late = [(65, Failed { sent: 0 }), (66, Failed { sent: 1 }), (67, Failed { sent: 2 })];
        check_tripped(&[&[(63, Claim), (64, Succeeded { sent: 63 })][..], &late].concat(), 68, Gate::Pass);
    }

    #[test]
    fn of_a_thousand_callers_exactly_one_is_the_probe() {
        let epoch = Instant::now();
        let mut breaker = Breaker::Open { since: epoch };
        let now = epoch + PARAMS.reset_timeout;
        // All are told `Probe` before the first of them claims it: the worst race there is.
        assert!((0..1_000).all(|_| breaker.gate(PARAMS, now) == Gate::Probe));
        let mut probes = 0;
        for _ in 0..1_000 {
            if let Some(claimed) = breaker.claim(PARAMS, now) {
                breaker = claimed;
                probes += 1;
            }
        }
        assert_eq!(probes, 1);
        assert_eq!(Breaker::default().claim(PARAMS, now), None, "a closed one has no probe");
    }

    #[test]
    fn a_clock_behind_the_breaker_is_no_panic() {
        let now = Instant::now();
        let breaker = Breaker::Open { since: now + Duration::from_secs(5) };
        assert_eq!(breaker.gate(PARAMS, now), Gate::Stop);
        assert_eq!(breaker.gate(Params { reset_timeout: Duration::MAX, ..PARAMS }, now), Gate::Stop);
    }

    proptest! {
        /// Whatever is reported in whatever order: open for the whole reset timeout, never two probes within one, and
        /// once two reset timeouts passed without a report it is never shut for good.
        #[test]
        fn never_more_than_one_probe_per_reset_timeout_unless_released(
            events in prop::collection::vec((0u64..40, 0u8..4, 0u64..100), 0..60),
        ) {
            let epoch = Instant::now();
            let (mut breaker, mut time, mut last_claim) = (Breaker::default(), 0, None::<u64>);
            for (pause, kind, age) in events {
                time += pause;
                let sent = time.saturating_sub(age);
                let now = epoch + Duration::from_secs(time);
                match kind {
                    0 => {
                        if breaker.claim(PARAMS, now).is_some() {
                            prop_assert!(last_claim.is_none_or(|last| time - last >= 60), "{time} after {last_claim:?}");
                            last_claim = Some(time);
                        }
                        breaker = step(breaker, Claim, epoch, now);
                    }
                    1 => breaker = step(breaker, Succeeded { sent }, epoch, now),
                    2 => breaker = step(breaker, Failed { sent }, epoch, now),
                    _ => {
                        breaker = step(breaker, Released { sent }, epoch, now);
                        last_claim = last_claim.filter(|last| sent < *last);
                    }
                }
                // A closed breaker forgets its probes.
                if matches!(breaker, Breaker::Closed { .. }) {
                    last_claim = None;
                }
            }
            let later = epoch + Duration::from_secs(time + 120);
            prop_assert_ne!(breaker.gate(PARAMS, later), Gate::Stop);
        }
    }
}

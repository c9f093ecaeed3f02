//! The retry budget: how many attempts beyond each request's first an edge may make.
//!
//! Retries hide the failure of one replica, and multiply the load when all of them fail: four attempts for every request
//! are four times the load at the worst of all times. A count per request cannot tell the two apart; a share of all
//! requests can. So each client earns a fraction of a retry with every request and pays one for each attempt that sends
//! the body again. Whoever has nothing left, as one that has just come, draws on a floor that all clients share, so that
//! few requests can be retried too.
//!
//! A client's SDK retries by itself and says so. Such a request is a retry already: it earns nothing and costs its
//! client one, so that edge and SDK together stay within the budget. What it says counts for its own client only, at
//! most once for each request, and never against the floor: no client's words drain what is another's.
//!
//! By construction, what is paid for ≤ `share` × requests + `floor_per_s` × (whole seconds + 1). It errs when very many
//! requests fail at once that had no predecessors: those beyond the budget are told of their failure. Attempts that sent
//! no byte of the body cost nothing here, nor do those that replace what broke off; both have bounds of their own
//! ([`Tried::must_be_paid_for`](super::retry::Tried::must_be_paid_for)).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much may be retried.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Params {
    /// Retries that one request earns its client; from 0 to 1.
    pub share: f64,
    /// Retries a second, of all clients together, that nobody need have earned.
    pub floor_per_s: u32,
}

/// Half of what a client did not spend is gone after this time. Credit that kept for longer would let a client that was
/// well for an hour make a storm in the first minute of a brown-out. It covers the prefill, some seconds, of the requests
/// that break together when a region does. Linkerd and tower let theirs expire after 10 s, too.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// The most that a client can have saved: about the requests that a busy edge has in prefill at a time.
const RETRIES_MAX: f64 = 1_000.0;

/// What one client has earned and not spent.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Credit {
    /// In retries, as of `at`.
    retries: f64,
    at: Instant,
}

impl Credit {
    /// Nothing: what a client begins with. One that was forgotten gains nothing by it.
    pub fn none(now: Instant) -> Credit {
        Credit { retries: 0.0, at: now }
    }

    /// The credit after one more request of the client, which is a retry of its SDK or not.
    #[must_use]
    pub fn after_request(self, sdk_retry: bool, params: Params, now: Instant) -> Credit {
        let aged = self.aged(now);
        let change = if sdk_retry { -1.0 } else { params.share };
        Credit { retries: (aged.retries + change).clamp(0.0, RETRIES_MAX), ..aged }
    }

    /// The credit after it paid for a retry; `None` when there is too little.
    #[must_use]
    pub fn pay(self, now: Instant) -> Option<Credit> {
        // A fifth earned five times is a hair less than one.
        const ROUNDING: f64 = 1e-9;
        let aged = self.aged(now);
        (aged.retries + ROUNDING >= 1.0).then(|| Credit { retries: (aged.retries - 1.0).max(0.0), ..aged })
    }

    fn aged(self, now: Instant) -> Credit {
        let half_lives = now.saturating_duration_since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        Credit { retries: self.retries * (-half_lives).exp2(), at: self.at.max(now) }
    }
}

/// What nobody need have earned: so many retries in any second, and no burst beyond.
#[derive(Clone, Default, Debug)]
pub struct Floor {
    /// When those of the last second were paid, at most `floor_per_s`.
    paid: VecDeque<Instant>,
}

impl Floor {
    /// Pays for a retry if fewer than `floor_per_s` were paid for in the last second.
    pub fn pay(&mut self, params: Params, now: Instant) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        while self.paid.front().is_some_and(|paid| now.saturating_duration_since(*paid) >= SECOND) {
            self.paid.pop_front();
        }
        let left = self.paid.len() < params.floor_per_s as usize;
        if left {
            self.paid.push_back(now);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PARAMS: Params = Params { share: 0.2, floor_per_s: 10 };

    /// How many retries in a row a credit pays for.
    fn worth(mut credit: Credit, now: Instant) -> u32 {
        let mut paid = 0;
        while let Some(left) = credit.pay(now) {
            (credit, paid) = (left, paid + 1);
        }
        paid
    }

    fn after_requests(count: u32, sdk_retry: bool, credit: Credit, now: Instant) -> Credit {
        (0..count).fold(credit, |credit, _| credit.after_request(sdk_retry, PARAMS, now))
    }

    #[track_caller]
    fn check(requests: u32, sdk_retries: u32, worth_then: u32) {
        let now = Instant::now();
        let earned = after_requests(requests, false, Credit::none(now), now);
        assert_eq!(worth(after_requests(sdk_retries, true, earned, now), now), worth_then);
    }

    #[test]
    fn a_client_earns_a_share_of_a_retry_with_each_request() {
        check(0, 0, 0);
        check(4, 0, 0);
        check(5, 0, 1);
        check(1_000, 0, 200);
    }

    #[test]
    fn a_retry_of_the_sdk_earns_nothing_and_costs_one_and_never_goes_below_nothing() {
        check(10, 1, 1);
        check(10, 2, 0);
        check(0, 1_000, 0);
        let now = Instant::now();
        let hostile = after_requests(1_000, true, Credit::none(now), now);
        assert_eq!(worth(after_requests(5, false, hostile, now), now), 1, "no debt is kept");
    }

    #[test]
    fn unspent_credit_fades_and_is_bounded() {
        let now = Instant::now();
        let hundred = after_requests(500, false, Credit::none(now), now);
        assert_eq!(worth(hundred, now + HALF_LIFE), 50);
        assert_eq!(worth(hundred, now + HALF_LIFE * 10), 0);
        assert_eq!(worth(after_requests(1_000_000, false, Credit::none(now), now), now), RETRIES_MAX as u32);
        assert_eq!(worth(hundred, now - Duration::from_secs(5)), 100, "a clock that stands back adds nothing");
    }

    #[test]
    fn the_floor_pays_so_often_in_any_second() {
        let (mut floor, start) = (Floor::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let paid = |floor: &mut Floor, ms| (0..100).filter(|_| floor.pay(PARAMS, at(ms))).count();
        assert_eq!(paid(&mut floor, 0), 10);
        assert_eq!(paid(&mut floor, 999), 0);
        assert_eq!(paid(&mut floor, 1_000), 10);
        assert_eq!(paid(&mut floor, 500), 0, "a clock that stands back pays nothing");
        assert!(!floor.pay(Params { floor_per_s: 0, ..PARAMS }, at(9_000)));
        assert!(floor.pay(Params { floor_per_s: 1, ..PARAMS }, at(9_000)));
        assert!(!floor.pay(Params { floor_per_s: 1, ..PARAMS }, at(9_000)), "a lower floor counts at once");
    }

    /// One thing that some client does, so many milliseconds after the one before.
    #[derive(Clone, Debug)]
    struct Event {
        pause_ms: u64,
        client: usize,
        /// How many requests come at once, and whether they are retries of an SDK.
        requests: u32,
        sdk_retry: bool,
        /// How many retries are asked for then.
        retries: u32,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = (0..3_000u64, 0..3usize, 0..40u32, any::<bool>(), 0..40u32).prop_map(
            |(pause_ms, client, requests, sdk_retry, retries)| Event { pause_ms, client, requests, sdk_retry, retries },
        );
        prop::collection::vec(event, 0..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn retries_stay_within_the_share_of_requests_and_the_floor(
            events in events(), share in 0.0..=1.0f64, floor_per_s in 0..20u32,
        ) {
            let params = Params { share, floor_per_s };
            let (start, mut time_ms) = (Instant::now(), 0);
            let (mut credits, mut floor) = ([Credit::none(start); 3], Floor::default());
            // By client: what was asked first, and what was paid from its own.
            let (mut firsts, mut own, mut common) = ([0u32; 3], [0u32; 3], 0u32);
            for event in events {
                time_ms += event.pause_ms;
                let now = start + Duration::from_millis(time_ms);
                let credit = &mut credits[event.client];
                for _ in 0..event.requests {
                    *credit = credit.after_request(event.sdk_retry, params, now);
                    firsts[event.client] += u32::from(!event.sdk_retry);
                }
                for _ in 0..event.retries {
                    match credit.pay(now) {
                        Some(left) => {
                            *credit = left;
                            own[event.client] += 1;
                        }
                        None => common += u32::from(floor.pay(params, now)),
                    }
                }
                for client in 0..3 {
                    prop_assert!(f64::from(own[client]) <= share * f64::from(firsts[client]) + 1e-6);
                }
                prop_assert!(u64::from(common) <= u64::from(floor_per_s) * (time_ms / 1_000 + 1));
            }
        }
    }
}

//! What an edge knows of one replica, and what each report changes of it.
//!
//! Health checks say whether it lives, the circuit breaker whether it serves, and its own word (`Retry-After`) when it has
//! room again. They are kept apart: a busy replica is not a broken one, and is asked again as soon as it said.

use std::time::{Duration, Instant};

use super::breaker::{self, Breaker, Gate};
use super::engine_load::LoadReport;
use super::gpu_load::GpuReport;
use super::health::{self, Health};
use super::replica::Standing;
use super::share::ShareClock;
use super::success_rate::Recent;
use super::ttft::{Ttft, Typical};
use super::weight::{self, WEIGHT_MIN};
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::topology::Credential;

/// What is known of one replica.
#[derive(Clone, Copy, Default, Debug)]
pub struct Record {
    /// What its health checks say.
    pub health: Health,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// What its engine said last of its own load.
    pub engine: Option<LoadReport>,
    /// What of its time is a call's.
    pub share: ShareClock,
    /// What was said last of its GPUs.
    pub gpu: Option<GpuReport>,
    recent: Recent,
    ttft: Ttft,
    /// Until when it asked to be left alone.
    rests_until: Option<Instant>,
    /// Whether the last that was heard of it is a failure that may have been the request's own.
    doubted: bool,
    /// Requests that it refused (4xx) since it answered one.
    refusals: u32,
    /// When it last refused one.
    refused: Option<Instant>,
    /// When it last answered one, since its health checks pass.
    answered: Option<Instant>,
    /// When it came back, after its breaker was open or its health checks failed.
    back: Option<Instant>,
}

impl Record {
    /// Whether it may be used at `now`.
    pub fn standing(&self, breaker: breaker::Params, now: Instant) -> Standing {
        Standing::of(self.health.is_healthy(), self.breaker.gate(breaker, now))
    }

    /// The share of new work that it is given at `now`, as far as that depends on itself.
    pub fn weight(&self, breaker: breaker::Params, now: Instant) -> f64 {
        if self.doubted { WEIGHT_MIN } else { weight::slow_start(self.back, breaker.slow_start, now) }
    }

    /// How long it takes to its first event.
    pub fn ttft(&self, now: Instant) -> Typical {
        self.ttft.typical(now)
    }

    /// Whether it asked to be left alone at `now`.
    pub fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Whether it seems to refuse whatever it is sent, for a reason of its own: a model that it does not serve, a key that
    /// it does not take. It refused as many in a row as open a breaker when they fail, the last of them within
    /// [`REFUSAL_REST`], and answered none for a breaker's window: a client that sends what nobody answers must not drive
    /// others from where they are served.
    pub fn refuses(&self, params: breaker::Params, now: Instant) -> bool {
        let within = |at: Option<Instant>, time| at.is_some_and(|at| now.saturating_duration_since(at) < time);
        self.refusals >= params.failure_threshold
            && within(self.refused, REFUSAL_REST)
            && !within(self.answered, params.window)
    }

    /// Lets a request through, claiming the probe's place if that is what it is; `false` when the place was taken since
    /// it was looked at. A last resort passes an open breaker too.
    #[must_use]
    pub fn admit(&mut self, params: breaker::Params, last_resort: bool, now: Instant) -> bool {
        match self.breaker.gate(params, now) {
            Gate::Pass => true,
            Gate::Probe => self.breaker.claim(params, now).map(|claimed| self.breaker = claimed).is_some(),
            Gate::Stop => last_resort,
        }
    }

    /// Takes in how an attempt ended that was let through at `sent`.
    pub fn ended(&mut self, outcome: Outcome, sent: Instant, params: breaker::Params, now: Instant) {
        match outcome {
            Outcome::Ok => (self.refusals, self.answered) = (0, Some(now)),
            Outcome::ClientError => (self.refusals, self.refused) = (self.refusals.saturating_add(1), Some(now)),
            _ => {}
        }
        let (before, predates) = (self.breaker, self.breaker.predates(sent));
        let succeeded = if outcome.counts_against_replica() {
            self.breaker = before.failed(params, sent, now);
            false
        } else if outcome.facts().blame == Blame::None || outcome == Outcome::ClientError {
            self.breaker = before.succeeded(sent);
            self.doubted = false;
            true
        } else {
            self.breaker = before.released(sent);
            return;
        };
        if !predates {
            self.recent.note(succeeded, params.window, now);
            if self.recent.success_rate(params.min_requests).is_some_and(|rate| rate < params.success_rate) {
                self.breaker = self.breaker.tripped(now);
            }
        }
        match (before.open_since(), self.breaker.open_since()) {
            (Some(_), None) => self.back = Some(now),
            // What led to the opening is paid for by it.
            (None, Some(_)) => self.recent = Recent::default(),
            _ => {}
        }
    }

    /// Takes in that an attempt let through at `sent` failed, as did another replica over the same request.
    pub fn doubt(&mut self, sent: Instant) {
        self.breaker = self.breaker.released(sent);
        self.doubted = true;
    }

    /// Takes in how long a call took to its first event: of a session that was at home there, or not.
    pub fn first_event(&mut self, ttft: Duration, at_home: bool, now: Instant) {
        self.ttft.note(ttft, at_home, now);
    }

    /// Takes in one health check. Returns the new side if the replica changed sides.
    pub fn checked(
        &mut self,
        passed: bool,
        health: health::Params,
        breaker: breaker::Params,
        now: Instant,
    ) -> Option<bool> {
        let before = self.health.is_healthy();
        self.health = self.health.after(passed, health);
        let after = self.health.is_healthy();
        if after && !before {
            self.breaker = self.breaker.recovered(breaker);
            self.back = Some(now);
            // Most likely it was started anew, and what it answered says nothing of what it is now.
            self.answered = None;
        }
        (before != after).then_some(after)
    }

    /// Takes in its word that it has no room for so long.
    pub fn rest(&mut self, rest: Duration, now: Instant) {
        self.rests_until = now.checked_add(rest).max(self.rests_until);
    }
}

/// The longest that a replica is left alone on its own word: what an engine says of the future is a guess, and a proxy
/// before it may say an hour.
pub const REST_MAX: Duration = Duration::from_secs(30);

/// How long a replica is left alone that answered busy and did not say for how long: what the edge tells its own clients
/// then, and no longer than a few answers take to end. To turn a call away takes no time, so that it would else be the
/// idlest, and be sent them all.
pub const BUSY_REST: Duration = Duration::from_secs(1);

/// How long one that [refuses](Record::refuses) is passed over after each refusal: the calls that find out whether it is
/// mended are few beside those that its pool answers, and it is used again a second after it is.
pub const REFUSAL_REST: Duration = Duration::from_secs(1);

/// How long a replica is left alone that answered busy, and perhaps said `retry_after`. Not at all when it was shown the client's
/// own credential: then it may be that client's quota which is used up, and the others are welcome.
pub fn rest_of(retry_after: Option<Duration>, credential: &Credential) -> Option<Duration> {
    match credential {
        Credential::Pass => None,
        Credential::None | Credential::Key(_) => Some(retry_after.unwrap_or(BUSY_REST).min(REST_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: breaker::Params = breaker::Params { failure_threshold: 2, ..crate::policy::testing::BREAKER };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn a_busy_replica_is_left_alone_for_as_long_as_it_said() {
        let (mut record, now) = (Record::default(), Instant::now());
        assert!(!record.rests(now));
        record.rest(secs(5), now);
        assert!(record.rests(now + Duration::from_millis(4_999)));
        assert!(!record.rests(now + secs(5)));
        record.rest(secs(1), now);
        assert!(record.rests(now + secs(4)), "the longer word counts");
        assert_eq!(record.standing(PARAMS, now), Standing::Usable, "busy is not broken");
        record.rest(Duration::MAX, now);
        assert!(!record.rests(now + secs(5)), "what is beyond all time is no time");
    }

    #[test]
    fn a_replicas_word_is_bounded_and_counts_only_where_it_speaks_of_itself() {
        let key = Credential::Key("k".into());
        assert_eq!(rest_of(Some(secs(2)), &key), Some(secs(2)));
        assert_eq!(rest_of(Some(secs(3_600)), &Credential::None), Some(REST_MAX));
        assert_eq!(rest_of(None, &key), Some(BUSY_REST));
        assert_eq!(rest_of(None, &Credential::Pass), None);
        assert_eq!(rest_of(Some(secs(2)), &Credential::Pass), None, "it may be the client's own quota");
    }

    #[test]
    fn a_last_resort_passes_an_open_breaker_and_nobody_else_does() {
        let (mut record, now) = (Record::default(), Instant::now());
        for _ in 0..2 {
            record.ended(Outcome::Reset, now, PARAMS, now);
        }
        assert!(!record.admit(PARAMS, false, now));
        assert!(record.admit(PARAMS, true, now));
    }

    #[test]
    fn clients_faults_and_busy_answers_never_open_the_breaker() {
        let (mut record, now) = (Record::default(), Instant::now());
        for _ in 0..10_000 {
            for outcome in Outcome::ALL.iter().filter(|outcome| !outcome.counts_against_replica()) {
                record.ended(*outcome, now, PARAMS, now);
            }
        }
        assert_eq!(record.standing(PARAMS, now), Standing::Usable);
    }

    /// One attempt that was sent and ended then.
    fn ends(record: &mut Record, outcome: Outcome, params: breaker::Params, now: Instant) {
        record.ended(outcome, now, params, now);
    }

    #[test]
    fn a_replica_that_fails_most_of_its_calls_is_found_though_never_in_a_row() {
        let (mut record, start) = (Record::default(), Instant::now());
        let params = breaker::Params { failure_threshold: 5, ..PARAMS };
        let outcomes = [Outcome::ServerError, Outcome::ServerError, Outcome::Ok];
        let mut opened = None;
        for n in 0..100 {
            let now = start + Duration::from_millis(n * 100);
            ends(&mut record, outcomes[n as usize % 3], params, now);
            if record.standing(params, now) == Standing::BreakerOpen {
                opened = opened.or(Some(n));
            }
        }
        assert_eq!(opened, Some(19), "at the twentieth attempt");
        let mut record = Record::default();
        let off = breaker::Params { success_rate: 0.0, ..params };
        for n in 0..1_000 {
            ends(&mut record, outcomes[n % 3], off, start);
        }
        assert_eq!(record.standing(off, start), Standing::Usable);
    }

    #[test]
    fn what_opened_the_breaker_does_not_open_it_again() {
        let (mut record, start) = (Record::default(), Instant::now());
        for _ in 0..30 {
            ends(&mut record, Outcome::ServerError, PARAMS, start);
        }
        let params = breaker::Params { window: secs(3_600), ..PARAMS };
        let probe = start + secs(61);
        assert!(record.admit(params, false, probe));
        ends(&mut record, Outcome::Ok, params, probe);
        ends(&mut record, Outcome::ServerError, params, probe);
        assert_eq!(record.standing(params, probe), Standing::Usable);
    }

    #[test]
    fn doubt_lowers_the_weight_until_somebody_is_answered_and_never_opens_the_breaker() {
        let (mut record, now) = (Record::default(), Instant::now());
        for _ in 0..1_000 {
            record.doubt(now);
        }
        assert_eq!((record.weight(PARAMS, now), record.standing(PARAMS, now)), (WEIGHT_MIN, Standing::Usable));
        ends(&mut record, Outcome::ServerError, PARAMS, now);
        assert_eq!(record.weight(PARAMS, now), WEIGHT_MIN);
        ends(&mut record, Outcome::Ok, PARAMS, now);
        assert_eq!(record.weight(PARAMS, now), 1.0);
    }

    #[test]
    fn who_refused_all_for_a_while_is_passed_over_for_a_second_and_who_answered_is_not() {
        let (mut record, start) = (Record::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        ends(&mut record, Outcome::ClientError, PARAMS, start);
        assert!(!record.refuses(PARAMS, start), "one refusal is the client's");
        ends(&mut record, Outcome::ClientError, PARAMS, start);
        assert!(record.refuses(PARAMS, start) && record.refuses(PARAMS, at(999)) && !record.refuses(PARAMS, at(1_000)));
        ends(&mut record, Outcome::ClientError, PARAMS, at(1_000));
        assert!(record.refuses(PARAMS, at(1_999)), "each refusal counts anew");
        ends(&mut record, Outcome::Ok, PARAMS, at(1_100));
        assert!(!record.refuses(PARAMS, at(1_100)));
        let window = at(1_100) + PARAMS.window;
        for (now, refuses) in [(window - Duration::from_millis(1), false), (window, true)] {
            for _ in 0..1_000 {
                ends(&mut record, Outcome::ClientError, PARAMS, now);
            }
            assert_eq!(record.refuses(PARAMS, now), refuses, "for a window it is the clients' own");
        }
    }

    #[test]
    fn who_was_started_anew_and_refuses_all_is_passed_over_whatever_it_answered_before() {
        let (mut record, now) = (Record::default(), Instant::now());
        ends(&mut record, Outcome::Ok, PARAMS, now);
        let health = health::Params { unhealthy_after: 1, healthy_after: 1 };
        record.checked(false, health, PARAMS, now);
        record.checked(true, health, PARAMS, now);
        for _ in 0..2 {
            ends(&mut record, Outcome::ClientError, PARAMS, now);
        }
        assert!(record.refuses(PARAMS, now));
    }

    #[test]
    fn a_replica_that_comes_back_starts_slowly() {
        let (mut record, start) = (Record::default(), Instant::now());
        assert_eq!(record.weight(PARAMS, start), 1.0);
        ends(&mut record, Outcome::Reset, PARAMS, start);
        ends(&mut record, Outcome::Ok, PARAMS, start + secs(1));
        assert_eq!(record.weight(PARAMS, start + secs(1)), 1.0, "it was never away");
        let away = start + secs(2);
        ends(&mut record, Outcome::Reset, PARAMS, away);
        ends(&mut record, Outcome::Reset, PARAMS, away);
        let back = away + secs(61);
        assert!(record.admit(PARAMS, false, back));
        ends(&mut record, Outcome::Ok, PARAMS, back);
        assert_eq!(record.weight(PARAMS, back), WEIGHT_MIN);
        assert_eq!(record.weight(PARAMS, back + secs(30)), 1.0);
        let health = health::Params { unhealthy_after: 1, healthy_after: 1 };
        let later = back + secs(100);
        record.checked(false, health, PARAMS, later);
        record.checked(true, health, PARAMS, later);
        assert_eq!(record.weight(PARAMS, later), WEIGHT_MIN, "checks that pass again are a return too");
    }

    #[test]
    fn a_replica_whose_checks_pass_again_is_used_again_and_trusted_less() {
        let (mut record, now) = (Record::default(), Instant::now());
        let health = health::Params { unhealthy_after: 1, healthy_after: 1 };
        for _ in 0..2 {
            record.ended(Outcome::Reset, now, PARAMS, now);
        }
        assert_eq!(record.checked(false, health, PARAMS, now), Some(false));
        assert_eq!(record.standing(PARAMS, now), Standing::Unhealthy);
        assert_eq!(record.checked(true, health, PARAMS, now), Some(true));
        assert_eq!(record.standing(PARAMS, now), Standing::Usable);
        let later = now + secs(1);
        record.ended(Outcome::Reset, later, PARAMS, later);
        assert_eq!(record.standing(PARAMS, later), Standing::BreakerOpen, "one failure is enough now");
    }
}

//! What an edge knows of one replica, and what each report changes of it.
//!
//! Health checks say whether it lives, the circuit breaker whether it serves, and its own word (`Retry-After`) when it has
//! room again. They are kept apart: a busy replica is not a broken one, and is asked again as soon as it said.

use std::time::{Duration, Instant};

use super::breaker::{self, Breaker, Gate};
use super::health::{self, Health};
use super::replica::Standing;
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::topology::Credential;

/// What is known of one replica.
#[derive(Clone, Copy, Default, Debug)]
pub struct Record {
    /// What its health checks say.
    pub health: Health,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// Until when it asked to be left alone.
    rests_until: Option<Instant>,
}

impl Record {
    /// Whether it may be used at `now`.
    pub fn standing(&self, breaker: breaker::Params, now: Instant) -> Standing {
        Standing::of(self.health.is_healthy(), self.breaker.gate(breaker, now))
    }

    /// Whether it asked to be left alone at `now`.
    pub fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    /// Lets a request through, claiming the probe's place if that is what it is; `false` when the place was taken since
    /// it was looked at. A last resort passes an open breaker too.
    #[must_use]
    pub fn admit(&mut self, params: breaker::Params, last_resort: bool, now: Instant) -> bool {
        match self.breaker.gate(params, now) {
            Gate::Pass => true,
            Gate::Probe => match self.breaker.claim(params, now) {
                Some(claimed) => {
                    self.breaker = claimed;
                    true
                }
                None => false,
            },
            Gate::Stop => last_resort,
        }
    }

    /// Takes in how an attempt ended that was let through at `sent`.
    pub fn ended(&mut self, outcome: Outcome, sent: Instant, params: breaker::Params, now: Instant) {
        self.breaker = if outcome.counts_against_replica() {
            self.breaker.failed(params, sent, now)
        } else if outcome.facts().blame == Blame::None || outcome == Outcome::ClientError {
            self.breaker.succeeded(sent)
        } else {
            self.breaker.released(sent)
        };
    }

    /// Takes in one health check. Returns the new side if the replica changed sides.
    pub fn checked(&mut self, passed: bool, health: health::Params, breaker: breaker::Params) -> Option<bool> {
        let before = self.health.is_healthy();
        self.health = self.health.after(passed, health);
        let after = self.health.is_healthy();
        if after && !before {
            self.breaker = self.breaker.recovered(breaker);
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

/// How long a replica is left alone that answered busy and said `retry_after`. Not at all when it was shown the client's
/// own credential: then it may be that client's quota which is used up, and the others are welcome.
pub fn rest_of(retry_after: Option<Duration>, credential: &Credential) -> Option<Duration> {
    match credential {
        Credential::Pass => None,
        Credential::None | Credential::Key(_) => retry_after.map(|pause| pause.min(REST_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: breaker::Params = breaker::Params { failure_threshold: 2, reset_timeout: Duration::from_secs(60) };

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
        assert_eq!(rest_of(None, &key), None);
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

    #[test]
    fn a_replica_whose_checks_pass_again_is_used_again_and_trusted_less() {
        let (mut record, now) = (Record::default(), Instant::now());
        let health = health::Params { unhealthy_after: 1, healthy_after: 1 };
        for _ in 0..2 {
            record.ended(Outcome::Reset, now, PARAMS, now);
        }
        assert_eq!(record.checked(false, health, PARAMS), Some(false));
        assert_eq!(record.standing(PARAMS, now), Standing::Unhealthy);
        assert_eq!(record.checked(true, health, PARAMS), Some(true));
        assert_eq!(record.standing(PARAMS, now), Standing::Usable);
        let later = now + secs(1);
        record.ended(Outcome::Reset, later, PARAMS, later);
        assert_eq!(record.standing(PARAMS, later), Standing::BreakerOpen, "one failure is enough now");
    }
}

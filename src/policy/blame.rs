//! Whose fault it was that a request failed: the replicas' or its own?
//!
//! Some failures can be either's. Engines answer 500 to some requests (llama.cpp to a tool call that `max_tokens` cut),
//! and a prompt that takes longer than its deadline times out wherever it goes. A client that repeats such a request must
//! not open the breakers of a whole fleet, and a replica that fails every request must lose its traffic. Other replicas
//! tell the two apart: if one of them answers, it was those that did not; if two fail and none answers, it was the request.
//!
//! It errs when two replicas are broken at once in the same way and no third is tried: neither is blamed for that request.
//! Health checks and the requests that do find a third tell.

use crate::domain::outcome::{Blame, Outcome};

/// How a request's attempts came to an end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A replica answered.
    Answered,
    /// Whatever could be tried was tried, within the bounds of one request.
    Exhausted,
    /// Something else ended it: the client or its fault, its deadline or the request's, the retry budget. Nobody can say
    /// what another replica would have done, and whoever cuts its own requests short must not harm a replica by it.
    Moot,
}

impl Verdict {
    /// How it came to an end when an attempt's ending, or the edge's, became the request's.
    pub const fn of_ending(ending: Outcome) -> Verdict {
        match (ending, ending.facts().blame) {
            (Outcome::Ok, _) => Verdict::Answered,
            // Another replica's 4xx too: what one engine refuses, another may fail over.
            (_, Blame::Client) | (Outcome::TotalTimeout, _) => Verdict::Moot,
            _ => Verdict::Exhausted,
        }
    }

    /// Whose the failures in doubt are, `count` of them at different replicas.
    pub const fn falls_on(self, count: usize) -> Fault {
        match self {
            Verdict::Answered => Fault::Replicas,
            Verdict::Exhausted if count <= 1 => Fault::Replicas,
            Verdict::Exhausted => Fault::Open,
            Verdict::Moot => Fault::Nobody,
        }
    }
}

/// Whose a failure was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The replica's: it counts.
    Replicas,
    /// The request's own, as far as can be told: it does not count, but other replicas come first for a while.
    Open,
    /// There is nothing to tell.
    Nobody,
}

/// Whether an attempt that ended so may have failed by the request's own fault.
pub const fn in_doubt(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::ServerError | Outcome::FirstByteTimeout | Outcome::AnswerTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_counts_against_a_replica_can_be_in_doubt() {
        for outcome in Outcome::ALL.iter().filter(|outcome| in_doubt(**outcome)) {
            assert!(outcome.counts_against_replica(), "{outcome:?}");
        }
        assert!(!in_doubt(Outcome::Reset) && !in_doubt(Outcome::ConnectFailed), "a dead replica is dead");
    }

    #[test]
    fn an_answer_elsewhere_or_the_lack_of_another_replica_blames_those_that_failed() {
        for (ending, count, fault) in [
            (Outcome::Ok, 1, Fault::Replicas),
            (Outcome::Ok, 2, Fault::Replicas),
            (Outcome::ServerError, 1, Fault::Replicas),
            (Outcome::ServerError, 2, Fault::Open),
            (Outcome::FirstByteTimeout, 1, Fault::Replicas),
            (Outcome::FirstByteTimeout, 3, Fault::Open),
            (Outcome::Busy, 1, Fault::Replicas),
            (Outcome::Crashed, 1, Fault::Replicas),
        ] {
            assert_eq!(Verdict::of_ending(ending).falls_on(count), fault, "{count} in doubt, then {ending:?}");
        }
    }

    #[test]
    fn whoever_cuts_its_request_short_or_sends_a_bad_one_blames_nobody() {
        for ending in [Outcome::ClientGone, Outcome::ClientError, Outcome::TotalTimeout] {
            for count in 0..4 {
                assert_eq!(Verdict::of_ending(ending).falls_on(count), Fault::Nobody, "{ending:?}");
            }
        }
    }
}

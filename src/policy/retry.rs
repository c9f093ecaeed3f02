//! Station 7: again elsewhere, or stop?
//!
//! Attempts that sent no byte of the body are free: the replica did no work. Those that did are bounded in all and per
//! pool, each at another replica. Two replicas that break down over the same whole body stop the walk: a query of death
//! must not take down a fleet one replica after the other. It errs when two replicas are killed for reasons of their own
//! within one request; that is rare, and the other error costs a fleet.
//!
//! A region that loses its power breaks a request at one replica and, if that is quick to try again, at the next one: it
//! would look deadly and be given up, although the next region is well. So the attempt after a breakdown waits for
//! [`BREAKDOWN_PAUSE`]; by then its neighbours are seen to be gone as well, and to be refused is free. To count deaths
//! that come together as one would do so without a pause, and let a body that kills at once have a third replica.
//!
//! A kept-alive connection that the replica closed just when it was used again looks like a breakdown and is none;
//! whoever reports a [`Reset`](Outcome::Reset) here must have ruled that out (by one more try over a new connection).

use std::time::Duration;

use rand::RngExt;

use crate::domain::ids::{PoolIx, ReplicaIx};
use crate::domain::outcome::{Again, Outcome};

/// The bounds of retrying.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Params {
    /// Most attempts that count, in all; at least 1.
    pub attempts: u32,
    /// Most attempts that count in one pool; at least 1.
    pub attempts_per_pool: u32,
    /// Upper bound of the first pause; it doubles with each further attempt that counts.
    pub backoff: Duration,
    /// Upper bound of any pause.
    pub backoff_max: Duration,
}

/// What happened to one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tried {
    /// Where.
    pub replica: ReplicaIx,
    /// In which pool.
    pub pool: PoolIx,
    /// How it ended.
    pub outcome: Outcome,
}

impl Tried {
    /// Whether it counts: it may have sent bytes of the body. But an answer that ends most requests, and after which another
    /// replica is asked all the same since it may know more (of a stored response), is no failure.
    pub fn counts(&self) -> bool {
        !matches!(self.outcome.facts().again, Again::Free | Again::Never)
    }

    /// Whether it broke down: the replica works on it no longer, and may have died over it.
    pub fn broke_down(&self) -> bool {
        matches!(self.outcome, Outcome::Reset | Outcome::Cut)
    }

    /// Whether the attempt that follows must be paid for from the [budget](super::budget). Not after a breakdown, as
    /// when a stream is resumed: what the replica no longer does is no load, a request has one retry of this kind, and
    /// all that breaks when a region dies must be able to go elsewhere at once.
    pub fn must_be_paid_for(&self) -> bool {
        self.counts() && !self.broke_down()
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Try another replica after this pause.
    Again(Duration),
    /// Stop and end the request so.
    Stop(Outcome),
}

/// Breakdowns over the same whole body after which no further replica is given it.
const BREAKDOWNS_MAX: usize = 2;

/// Breakdowns of one request after which it is given to nobody, when a replica had begun to answer it: it is less likely
/// to be deadly, and more is lost with it.
pub const BREAKDOWNS_MAX_IN_ALL: usize = 3;

/// The pause after a breakdown. Processes that die together (a machine, a rack, a deployment that is taken down) do so
/// within a fraction of this; of the second that an interrupted answer may take to go on, it leaves most.
pub const BREAKDOWN_PAUSE: Duration = Duration::from_millis(250);

/// Most free attempts: with all of a large fleet refusing connections the walk ends in bounded time.
pub const FREE_ATTEMPTS_MAX: usize = 32;

/// Decides what follows the last of `tried`, all of them failed attempts of one request, oldest first. With nothing
/// tried there is no reason to stop. `earlier` breakdowns came before, in a request whose answer is to be continued.
pub fn after(tried: &[Tried], earlier: usize, params: Params, rng: &mut impl RngExt) -> Next {
    let Some(last) = tried.last() else { return Next::Again(Duration::ZERO) };
    let again = last.outcome.facts().again;
    if again == Again::Never {
        return Next::Stop(last.outcome);
    }
    let most = if earlier == 0 { BREAKDOWNS_MAX } else { BREAKDOWNS_MAX_IN_ALL };
    if earlier + broken_down(tried) >= most {
        return Next::Stop(Outcome::Crashed);
    }
    if again == Again::Free {
        let free = tried.iter().filter(|t| t.outcome.facts().again == Again::Free).count();
        return if free >= FREE_ATTEMPTS_MAX { Next::Stop(last.outcome) } else { Next::Again(Duration::ZERO) };
    }
    let counted = counted(tried.iter());
    if counted >= params.attempts {
        return Next::Stop(last.outcome);
    }
    Next::Again(pause(counted, last.broke_down(), params, rng))
}

/// The pause after the last of so many attempts that count.
fn pause(counted: u32, broke_down: bool, params: Params, rng: &mut impl RngExt) -> Duration {
    // The first retry goes to another replica at once: most failures are one replica's own, and an agent waits. From the
    // second on the trouble is wider, and a random pause keeps the edges from beating in time on what is left.
    let doublings = match (counted, broke_down) {
        (..=1, false) => return Duration::ZERO,
        // All that was under way at the replica broke down at once.
        (..=1, true) => 0,
        _ => (counted - 2).min(16),
    };
    let bound = params.backoff.saturating_mul(1u32 << doublings).min(params.backoff_max);
    let least = if broke_down { BREAKDOWN_PAUSE } else { Duration::ZERO };
    least.saturating_add(bound.mul_f64(rng.random::<f64>()))
}

/// Most replicas that refuse a request before their word is taken.
const REFUSALS_MAX: usize = 3;

/// Whether a refusal may be the replica's own fault, so that another one is asked before the client hears of it: it does
/// not know the model or the path, as one of another version or configuration, or not the key, which is the pool's unless
/// the client's own is passed on. Such a refusal costs nothing, and there was no work. `refused` did so before it.
pub fn may_be_the_replicas_own(status: u16, keys_are_passed: bool, refused: &[Tried]) -> bool {
    refusals(refused) + 1 < REFUSALS_MAX
        && match status {
            401 | 403 => !keys_are_passed,
            404 => true,
            _ => false,
        }
}

/// Whether the request may no longer try this pool: it made its share of attempts there that count.
pub fn exhausted(tried: &[Tried], pool: PoolIx, params: Params) -> bool {
    counted(tried.iter().filter(|t| t.pool == pool)) >= params.attempts_per_pool
}

/// Whether a second attempt may run beside the next one. Not after a breakdown: the body may have caused it, and would be
/// at two replicas more before that is known.
pub fn may_hedge(tried: &[Tried]) -> bool {
    !tried.iter().any(Tried::broke_down)
}

/// Whether the one attempt that is left belongs to a fallback model, if there is one: a model whose every pool is slow or
/// sick would use up all attempts, and the fallback that could answer would not be asked.
pub fn last_is_for_fallbacks(tried: &[Tried], params: Params) -> bool {
    !tried.is_empty() && counted(tried.iter()).saturating_add(1) >= params.attempts
}

/// How many replicas refused the request, or did not hold the stored response that it goes on with.
pub fn refusals(tried: &[Tried]) -> usize {
    tried.iter().filter(|tried| tried.outcome == Outcome::ClientError).count()
}

/// How many different replicas broke down.
fn broken_down(tried: &[Tried]) -> usize {
    let before = |at: usize, replica| tried[..at].iter().any(|t| t.broke_down() && t.replica == replica);
    tried.iter().enumerate().filter(|(at, t)| t.broke_down() && !before(*at, t.replica)).count()
}

fn counted<'a>(tried: impl Iterator<Item = &'a Tried>) -> u32 {
    tried.filter(|t| t.counts()).count() as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::rng;

    const PARAMS: Params = Params {
        attempts: 4,
        attempts_per_pool: 2,
        backoff: Duration::from_millis(25),
        backoff_max: Duration::from_secs(1),
    };

    /// Attempts that ended so, each at another replica, two by two in a pool.
    fn tried(outcomes: &[Outcome]) -> Vec<Tried> {
        let tried =
            |(n, outcome): (usize, &Outcome)| Tried { replica: ReplicaIx(n), pool: PoolIx(n / 2), outcome: *outcome };
        outcomes.iter().enumerate().map(tried).collect()
    }

    #[track_caller]
    fn check(outcomes: &[Outcome], expected: Next) {
        assert_eq!(after(&tried(outcomes), 0, PARAMS, &mut rng(0)), expected, "{outcomes:?}");
    }

    const NOW: Next = Next::Again(Duration::ZERO);
    use Outcome::{Busy, ClientError, ConnectFailed, ConnectTimeout, Cut, FirstByteTimeout, Reset, ServerError};

    #[test]
    fn what_may_be_a_replicas_own_fault_is_asked_of_two_others() {
        for (status, own, passed) in
            [(400, false, false), (401, true, false), (403, true, false), (404, true, true), (413, false, false)]
        {
            for (refusals, left) in [(0, true), (1, true), (2, false), (9, false)] {
                // Failures of other kinds are none.
                let before = tried(&[vec![ClientError; refusals], vec![ServerError, ConnectFailed]].concat());
                assert_eq!(may_be_the_replicas_own(status, false, &before), own && left, "{status} {refusals}");
                assert_eq!(may_be_the_replicas_own(status, true, &before), passed && left, "{status} {refusals}");
            }
        }
    }

    #[test]
    fn the_first_retry_comes_at_once() {
        for outcome in [ServerError, Busy, FirstByteTimeout, ConnectFailed] {
            check(&[outcome], NOW);
        }
        check(&[], NOW);
    }

    #[test]
    fn after_a_breakdown_it_waits_until_those_that_died_together_are_seen_to_be_dead() {
        for (outcomes, most) in
            [(&[Reset][..], 25), (&[Cut], 25), (&[ServerError, Reset], 25), (&[Busy, Busy, Cut], 50)]
        {
            for seed in 0..256 {
                let Next::Again(pause) = after(&tried(outcomes), 0, PARAMS, &mut rng(seed)) else {
                    panic!("{outcomes:?}")
                };
                let range = BREAKDOWN_PAUSE..=BREAKDOWN_PAUSE + Duration::from_millis(most);
                assert!(range.contains(&pause), "{pause:?} after {outcomes:?}, seed {seed}");
            }
        }
        check(&[Reset, ConnectFailed], NOW);
    }

    #[test]
    fn what_would_end_the_same_way_anywhere_stops() {
        for outcome in Outcome::ALL.iter().filter(|outcome| outcome.facts().again == Again::Never) {
            check(&[*outcome], Next::Stop(*outcome));
            check(&[ServerError, *outcome], Next::Stop(*outcome));
        }
        check(&[ServerError, Reset, Cut, ClientError], Next::Stop(ClientError));
    }

    #[test]
    fn attempts_that_count_are_bounded_and_the_last_ending_is_told() {
        let mut rng = rng(0);
        let three = tried(&[ServerError, Busy, ServerError]);
        assert!(matches!(after(&three, 0, PARAMS, &mut rng), Next::Again(_)));
        check(&[ServerError, ServerError, ServerError, Busy], Next::Stop(Busy));
        check(&[ServerError, ServerError, Reset, FirstByteTimeout], Next::Stop(FirstByteTimeout));
    }

    #[test]
    fn free_attempts_do_not_count_and_are_bounded_too() {
        check(&[ConnectFailed, ConnectTimeout, ConnectFailed, ConnectFailed, ConnectFailed], NOW);
        check(&[ConnectFailed; FREE_ATTEMPTS_MAX - 1], NOW);
        check(&[ConnectTimeout; FREE_ATTEMPTS_MAX], Next::Stop(ConnectTimeout));
        let mut rng = rng(0);
        let mixed = tried(&[ServerError, ConnectFailed, ServerError, ConnectFailed, ServerError]);
        assert!(matches!(after(&mixed, 0, PARAMS, &mut rng), Next::Again(_)));
    }

    #[test]
    fn what_repeats_work_is_paid_for_and_what_replaces_lost_work_is_not() {
        for (outcome, paid) in [
            (ServerError, true),
            (Busy, true),
            (FirstByteTimeout, true),
            (ConnectFailed, false),
            (Reset, false),
            (Cut, false),
        ] {
            assert_eq!(tried(&[outcome])[0].must_be_paid_for(), paid, "{outcome:?}");
        }
    }

    #[test]
    fn two_replicas_that_break_down_over_one_body_stop_it() {
        for pair in [[Reset, Reset], [Reset, Cut], [Cut, Cut]] {
            check(&pair, Next::Stop(Outcome::Crashed));
        }
        check(&[Reset, ConnectFailed, ServerError, Cut], Next::Stop(Outcome::Crashed));
        check(&[Reset, ConnectFailed], NOW);
        let mut twice = tried(&[Reset, Reset]);
        twice[1].replica = twice[0].replica;
        assert!(matches!(after(&twice, 0, PARAMS, &mut rng(0)), Next::Again(_)), "one replica, however often, is one");
    }

    #[test]
    fn pauses_are_random_and_double_up_to_their_bound() {
        let params = Params { attempts: 40, ..PARAMS };
        for (counted, bound_ms) in [(2, 25), (3, 50), (4, 100), (7, 800), (8, 1_000), (39, 1_000)] {
            let tried = tried(&vec![ServerError; counted]);
            let mut rng = rng(counted as u64);
            let pauses: Vec<_> = (0..500)
                .map(|_| match after(&tried, 0, params, &mut rng) {
                    Next::Again(pause) => pause,
                    Next::Stop(outcome) => panic!("{outcome:?}"),
                })
                .collect();
            let bound = Duration::from_millis(bound_ms);
            assert!(pauses.iter().all(|pause| *pause <= bound), "after {counted}");
            assert!(pauses.iter().any(|pause| *pause > bound.mul_f64(0.9)), "after {counted}");
            assert!(pauses.iter().any(|pause| *pause < bound.mul_f64(0.1)), "after {counted}");
        }
    }

    #[test]
    fn absurd_parameters_are_no_panic() {
        let params =
            Params { attempts: u32::MAX, attempts_per_pool: 0, backoff: Duration::MAX, backoff_max: Duration::MAX };
        for seed in 0..256 {
            assert!(matches!(after(&tried(&[ServerError; 60]), 0, params, &mut rng(seed)), Next::Again(_)));
        }
        assert_eq!(after(&tried(&[Busy]), 0, Params { attempts: 0, ..params }, &mut rng(0)), Next::Stop(Busy));
    }

    #[test]
    fn a_continued_request_has_one_breakdown_more_in_all() {
        let check = |earlier, outcomes: &[Outcome], stops: bool| {
            let next = after(&tried(outcomes), earlier, PARAMS, &mut rng(0));
            assert_eq!(next == Next::Stop(Outcome::Crashed), stops, "{earlier} and {outcomes:?}: {next:?}");
        };
        check(1, &[Reset], false);
        check(1, &[ConnectFailed, ServerError], false);
        check(1, &[Reset, Cut], true);
        check(2, &[ServerError], false);
        check(2, &[Reset], true);
    }

    #[test]
    fn the_last_attempt_is_for_a_fallback_model() {
        let check = |outcomes: &[Outcome], expected| {
            assert_eq!(last_is_for_fallbacks(&tried(outcomes), PARAMS), expected, "{outcomes:?}");
        };
        check(&[], false);
        check(&[ServerError, FirstByteTimeout], false);
        check(&[ServerError, ConnectFailed, ConnectFailed, FirstByteTimeout], false);
        check(&[ServerError, FirstByteTimeout, FirstByteTimeout], true);
        let one = Params { attempts: 1, ..PARAMS };
        assert!(!last_is_for_fallbacks(&[], one), "the only attempt is the model's own");
    }

    #[test]
    fn what_may_have_broken_a_replica_is_at_one_other_at_a_time() {
        assert!(may_hedge(&[]) && may_hedge(&tried(&[ServerError, ConnectFailed, FirstByteTimeout])));
        assert!(!may_hedge(&tried(&[Reset])) && !may_hedge(&tried(&[Cut, ServerError])));
    }

    #[test]
    fn a_replica_that_does_not_know_a_response_costs_nothing() {
        check(&[ClientError, ClientError, ClientError, ClientError, ClientError, ServerError], NOW);
        check(&[&[ClientError; FREE_ATTEMPTS_MAX][..], &[ConnectFailed]].concat(), NOW);
        assert!(!tried(&[ClientError])[0].must_be_paid_for());
        let at = Tried { replica: ReplicaIx(0), pool: PoolIx(0), outcome: ClientError };
        assert!(!exhausted(&[at; 9], PoolIx(0), PARAMS) && !last_is_for_fallbacks(&[at; 9], PARAMS));
    }

    #[test]
    fn a_pool_is_exhausted_by_its_own_attempts_that_count() {
        let at = |pool, outcome| Tried { replica: ReplicaIx(0), pool: PoolIx(pool), outcome };
        let tried =
            [at(0, ServerError), at(1, Busy), at(1, FirstByteTimeout), at(2, ConnectFailed), at(2, ConnectFailed)];
        assert!(!exhausted(&tried, PoolIx(0), PARAMS));
        assert!(exhausted(&tried, PoolIx(1), PARAMS));
        assert!(!exhausted(&tried, PoolIx(2), PARAMS));
        assert!(!exhausted(&[], PoolIx(0), PARAMS));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_request_is_tried_more_often_than_both_bounds_together(
            seed in any::<u64>(), attempts in 1u32..8,
            outcomes in prop::collection::vec(prop::sample::select(Outcome::ALL), 60),
        ) {
            let (params, mut rng) = (Params { attempts, ..PARAMS }, rng(seed));
            let retried: Vec<_> = tried(&outcomes).into_iter().filter(|t| t.outcome.facts().again != Again::Never).collect();
            let all_free = tried(&[ConnectFailed; 60]);
            for walk in [retried, all_free] {
                let bound = attempts as usize + FREE_ATTEMPTS_MAX;
                let stopped = (1..=walk.len()).find(|n| matches!(after(&walk[..*n], 0, params, &mut rng), Next::Stop(_)));
                prop_assert!(stopped.is_some_and(|n| n <= bound) || walk.len() < bound, "{stopped:?}");
            }
        }
    }
}

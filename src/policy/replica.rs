//! Station 5: which replica of a pool? Filter → score → pick.
//!
//! The score is what a replica [costs](super::cost) the call, in milliseconds: what waits there, what its cache does not
//! hold, and what runs there. Of those that cost about the same the session's home is taken, else the one where rendezvous
//! hashing puts the session, so that edges agree without talking; without a session the less loaded of two.
//!
//! What it costs: a session's first call, and one whose home has a queue or more streams than its context is worth, looks at
//! every replica of the pool.

use std::time::Instant;

use rand::RngExt;

use super::breaker::Gate;
use super::cost::{self, Cost};
use super::ttft::Typical;
use super::{affinity, load};
use crate::domain::ids::{ReplicaIx, ReplicaKey, SessionKey};

/// The part of a call's prompt that the session's last call did not have, as 1 in so many: what agents' calls add.
const NEW_ONE_IN: u32 = 25;

/// Whether a replica may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Healthy, its circuit breaker closed.
    Usable,
    /// Healthy, its circuit breaker ready for one probe, which the request must claim before it is sent.
    Probe,
    /// Its health checks fail.
    Unhealthy,
    /// Its circuit breaker is open.
    BreakerOpen,
}

impl Standing {
    /// Whether a request may be sent there.
    pub const fn is_usable(self) -> bool {
        matches!(self, Standing::Usable | Standing::Probe)
    }

    /// What health checks and circuit breaker say together. An unhealthy replica is given no probe: the checks ask it
    /// often enough, and at nobody's expense.
    pub const fn of(healthy: bool, gate: Gate) -> Standing {
        match (healthy, gate) {
            (false, _) => Standing::Unhealthy,
            (true, Gate::Pass) => Standing::Usable,
            (true, Gate::Probe) => Standing::Probe,
            (true, Gate::Stop) => Standing::BreakerOpen,
        }
    }
}

/// One replica of the pool as it is now.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// Which one.
    pub replica: ReplicaIx,
    /// Its stable key.
    pub key: ReplicaKey,
    /// Whether it may be used.
    pub standing: Standing,
    /// Since when its circuit breaker is open, if it is.
    pub open_since: Option<Instant>,
    /// Requests in flight there from this edge.
    pub in_flight: u32,
    /// Requests of others in its batch, as far as its engine tells.
    pub others: f64,
    /// The most that it is given at a time.
    pub cap: u32,
    /// How full it is by its engine's own word, as a share of its capacity; 0 while that is not known.
    pub engine_full: f64,
    /// The share of new work that it is given, from [`WEIGHT_MIN`](super::weight::WEIGHT_MIN) to 1.
    pub weight: f64,
    /// How long it takes to its first event.
    pub ttft: Typical,
    /// Whether it said that it is busy and asked to be left alone for now; to wait helps, as when it is at its cap.
    pub rests: bool,
    /// Whether it seems to refuse whatever it is sent: it is passed over for those of its pool that do not.
    pub refuses: bool,
    /// Whether this request already failed there.
    pub tried: bool,
    /// Tokens of the call's prompt that its cache is taken to hold.
    pub cached_tokens: u32,
    /// Tokens of the prompt's beginning that it will hold in any case, since many sessions begin with them.
    pub shared_tokens: u32,
    /// Tokens that it has still to read for calls before this one.
    pub queued_tokens: u64,
    /// Tokens that it reads in a second, once that is known.
    pub tokens_per_s: Option<f32>,
}

/// What is known of the request's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// What rendezvous hashing places: the session, or how its conversation opened, which edges and restarts agree on.
    pub placement: SessionKey,
    /// The replica that served it last, in whatever pool, when that is remembered; of a branch that has just begun, its
    /// parent's.
    pub home: Option<ReplicaKey>,
    /// Whether it was served before.
    pub begun: bool,
}

/// What is asked for, as far as the choice depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Call {
    /// The call's session, when one is known.
    pub session: Option<SessionView>,
    /// Tokens of its prompt, estimated.
    pub tokens: u32,
    /// Whether an answer stands in its prompt: its session began before, here or elsewhere.
    pub has_answer: bool,
}

/// Why a replica was picked, as far as the session tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Affinity {
    /// The session stayed where its cache is.
    Session,
    /// The session's first call.
    New,
    /// The session had to leave its replica.
    Moved,
    /// No session is known.
    None,
}

/// The picked replica with its reason.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Choice {
    /// Which one.
    pub replica: ReplicaIx,
    /// Why.
    pub affinity: Affinity,
    /// Whether the request would be a circuit breaker's probe: it must claim that place, and choose again when another
    /// request was faster.
    pub probe: bool,
    /// What it costs the call, its pool's distance aside.
    pub cost: Cost,
    /// Tokens of the call's prompt that it must read.
    pub uncached_tokens: u32,
    /// Whether its cost can be compared with that of other pools: it rests on a pace that is known.
    pub paced: bool,
}

/// Why no replica of the pool can be picked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoReplica {
    /// None is usable, or all usable ones were tried by this request.
    Unusable,
    /// There are usable ones that were not tried, and each is at its cap or said that it is busy.
    Full,
}

/// Picks a replica of one pool. Deterministic for a request with a session; `rng` serves those without.
pub fn choose(view: &[Candidate], call: Call, rng: &mut impl RngExt) -> Result<Choice, NoReplica> {
    let refusal = || if view.iter().any(Candidate::eligible) { NoReplica::Full } else { NoReplica::Unusable };
    // Where all refuse, it is what they are sent.
    let pass_over = view.iter().any(|candidate| candidate.eligible() && !candidate.refuses);
    let open = || view.iter().filter(|candidate| candidate.takes_more() && !(pass_over && candidate.refuses));
    let costs: Vec<(&Candidate, f64)> = open().map(|open| (open, cost::of(open, call).ms())).collect();
    let most_ms = cost::band(costs.iter().map(|(_, ms)| *ms).reduce(f64::min).ok_or_else(refusal)?);
    let equal: Vec<&Candidate> = costs.iter().filter(|(_, ms)| *ms <= most_ms).map(|(equal, _)| *equal).collect();
    let Some(session) = call.session else {
        let lighter = load::lighter_of_two(&equal, rng).ok_or_else(refusal)?;
        return Ok(lighter.chosen(call, Affinity::None));
    };
    if let Some(home) = equal.iter().find(|candidate| call.is_home(candidate)) {
        return Ok(home.chosen(call, session.at_home()));
    }
    let first = open().next().map(|candidate| candidate.weight);
    let even = open().all(|candidate| Some(candidate.weight) == first);
    // With even weights the hash alone decides, to its last bit, as at every other edge.
    let weight = |candidate: &Candidate| if even { None } else { Some(candidate.weight) };
    let affinity = if session.begun { Affinity::Moved } else { Affinity::New };
    equal
        .into_iter()
        .map(|candidate| (affinity::score(session.placement, candidate.key, weight(candidate)), candidate))
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate.chosen(call, affinity))
        .ok_or_else(refusal)
}

/// Takes a session that this edge does not know, though it was answered before, as warm where every edge starts it: this
/// one was started anew, or the client came from another. Without that its prompt would count as read anew wherever it
/// goes, and the first calls after a restart would seem to be queues that drive each other from their caches. Where a cache
/// is known to hold the better part, that goes first.
pub(super) fn expect_home(view: &mut [Candidate], call: Call) {
    let Some(session) = call.session.filter(|_| call.is_met_midway()) else { return };
    if view.iter().any(|candidate| candidate.cached_tokens > call.tokens / 2) {
        return;
    }
    let score = |candidate: &Candidate| affinity::score(session.placement, candidate.key, None);
    let eligible = view.iter_mut().filter(|candidate| candidate.eligible());
    if let Some(home) = eligible.max_by(|a, b| score(a).total_cmp(&score(b))) {
        home.cached_tokens = call.tokens - call.tokens / NEW_ONE_IN;
    }
}

impl SessionView {
    /// What is said of a call that is served at the session's home: a branch is new also where its parent is.
    pub(super) fn at_home(&self) -> Affinity {
        if self.begun { Affinity::Session } else { Affinity::New }
    }
}

impl Call {
    /// Whether its session starts with it.
    pub fn starts(&self) -> bool {
        self.session.is_some_and(|session| !session.begun)
    }

    /// Whether its session was answered before, and this edge does not know where.
    pub(super) fn is_met_midway(&self) -> bool {
        self.has_answer && self.session.is_some_and(|session| session.home.is_none())
    }

    /// Whether this replica served the call's session last.
    pub fn is_home(&self, candidate: &Candidate) -> bool {
        self.session.is_some_and(|session| session.home == Some(candidate.key))
    }
}

impl Candidate {
    /// Whether the request may go there at all.
    pub fn eligible(&self) -> bool {
        !self.tried && self.standing.is_usable()
    }

    /// Whether it may go there now.
    pub fn takes_more(&self) -> bool {
        self.eligible() && !self.rests && self.in_flight < self.cap
    }

    pub(super) fn chosen(&self, call: Call, affinity: Affinity) -> Choice {
        Choice {
            replica: self.replica,
            affinity,
            probe: self.standing == Standing::Probe,
            cost: cost::of(self, call),
            uncached_tokens: call.tokens.saturating_sub(self.cached_tokens),
            paced: self.tokens_per_s.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::{candidate, replica_key, rng, session_key};

    fn pool() -> [Candidate; 4] {
        [0, 1, 2, 3].map(candidate)
    }

    fn session(n: usize, home: Option<usize>) -> Call {
        let session = SessionView { placement: session_key(n), home: home.map(replica_key), begun: home.is_some() };
        Call { session: Some(session), ..Call::default() }
    }

    #[track_caller]
    fn check(view: &[Candidate], call: Call, replica: usize, affinity: Affinity) {
        let choice = choose(view, call, &mut rng(0)).unwrap();
        assert_eq!((choice.replica, choice.affinity), (ReplicaIx(replica), affinity));
    }

    /// The pool in which replica 2 is as `change` makes it.
    fn with_two(change: impl Fn(&mut Candidate)) -> [Candidate; 4] {
        let mut view = pool();
        change(&mut view[2]);
        view
    }

    #[test]
    fn a_session_stays_where_it_was_however_loaded_below_the_cap() {
        for n in 0..100 {
            check(&pool(), session(n, Some(2)), 2, Affinity::Session);
            let call = Call { tokens: 1_000, ..session(n, Some(2)) };
            let loaded = |two: &mut Candidate| (two.cached_tokens, two.in_flight) = (900, two.cap - 1);
            check(&with_two(loaded), call, 2, Affinity::Session);
        }
    }

    #[test]
    fn a_session_leaves_only_a_replica_that_is_unusable_tried_or_full() {
        for n in 0..100 {
            for view in [
                with_two(|two| two.standing = Standing::Unhealthy),
                with_two(|two| two.standing = Standing::BreakerOpen),
                with_two(|two| two.in_flight = two.cap),
                with_two(|two| two.in_flight = u32::MAX),
                with_two(|two| two.rests = true),
                with_two(|two| two.tried = true),
            ] {
                let choice = choose(&view, session(n, Some(2)), &mut rng(0)).unwrap();
                assert_eq!(choice.affinity, Affinity::Moved);
                assert_ne!(choice.replica, ReplicaIx(2));
                // It goes where it would have gone had the replica never been there.
                let without = [view[0], view[1], view[3]];
                check(&without, session(n, None), choice.replica.0, Affinity::New);
            }
        }
    }

    #[test]
    fn one_that_refuses_all_is_passed_over_and_not_where_all_do() {
        for call in [Call::default(), session(1, None), session(1, Some(2))] {
            for seed in 0..100 {
                let busy = |two: &mut Candidate| two.refuses = true;
                let mut view = with_two(busy);
                view.iter_mut().filter(|other| !other.refuses).for_each(|other| other.in_flight = other.cap - 1);
                assert_ne!(choose(&view, call, &mut rng(seed)).unwrap().replica, ReplicaIx(2));
                view.iter_mut().filter(|other| !other.refuses).for_each(|other| other.in_flight = other.cap);
                assert_eq!(choose(&view, call, &mut rng(seed)), Err(NoReplica::Full), "to wait is better");
                view.iter_mut().for_each(|other| other.standing = Standing::Unhealthy);
                view[2].standing = Standing::Usable;
                assert_eq!(choose(&view, call, &mut rng(seed)).unwrap().replica, ReplicaIx(2));
            }
        }
        let all = pool().map(|candidate| Candidate { refuses: true, ..candidate });
        check(&all, session(1, Some(2)), 2, Affinity::Session);
    }

    #[test]
    fn a_session_whose_replica_is_gone_moves() {
        let choice = choose(&pool(), session(1, Some(99)), &mut rng(0)).unwrap();
        assert_eq!(choice.affinity, Affinity::Moved);
    }

    #[test]
    fn a_new_session_goes_where_its_hash_says_whatever_the_random_numbers() {
        for n in 0..100 {
            let replica = choose(&pool(), session(n, None), &mut rng(1)).unwrap().replica;
            assert_eq!(choose(&pool(), session(n, None), &mut rng(2)).unwrap().replica, replica);
        }
    }

    /// A prompt of 20,000 tokens; replica 2 is as `change` makes it.
    #[track_caller]
    fn check_move(change: impl Fn(&mut Candidate), home: Option<usize>, expected: Option<usize>) {
        for n in 0..100 {
            let call = Call { tokens: 20_000, ..session(n, home) };
            let chosen = choose(&with_two(&change), call, &mut rng(0)).unwrap().replica.0;
            assert!(expected.map_or(chosen != 2, |expected| chosen == expected), "{chosen}");
        }
    }

    #[test]
    fn a_session_leaves_its_cache_when_the_queue_there_outweighs_its_context() {
        // 20,000 tokens that are not cached cost as much as 120,000 that wait.
        let warm = |queued: u64| move |two: &mut Candidate| (two.cached_tokens, two.queued_tokens) = (20_000, queued);
        check_move(warm(0), Some(2), Some(2));
        check_move(warm(120_000), Some(2), Some(2));
        check_move(warm(130_000), Some(2), None);
        // Without a cache there it stays for as long as makes no difference.
        check_move(|two| two.queued_tokens = 1_000, Some(2), Some(2));
        check_move(|two| two.queued_tokens = 8_000, Some(2), None);
    }

    #[test]
    fn short_calls_leave_the_streams_at_home_and_long_contexts_stay_with_them() {
        // Home holds a prompt of so many tokens, and maybe the others do. It stays with so many streams, and not with more.
        for (tokens, others_hold, most) in [
            (0, false, 5),
            (10, false, 5),
            (10_000, true, 5),
            (100, false, 8),
            (1_000, false, 35),
            (20_000, false, 617),
        ] {
            for (in_flight, moves) in [(most, false), (most + 1, true)] {
                let mut view = pool().map(|one| Candidate { cap: 100_000, ..one });
                (view[2].cached_tokens, view[2].in_flight) = (tokens, in_flight);
                if others_hold {
                    view.iter_mut().for_each(|one| one.shared_tokens = tokens);
                }
                let choice = choose(&view, Call { tokens, ..session(1, Some(2)) }, &mut rng(0)).unwrap();
                assert_eq!(choice.replica != ReplicaIx(2), moves, "{tokens} tokens, {in_flight} streams");
            }
        }
    }

    #[test]
    fn the_same_call_again_and_again_goes_to_the_replica_with_the_fewest_streams() {
        // Of a session each call makes a home for the next.
        for home in [Some(2), None] {
            let mut view = pool().map(|one| Candidate { cap: 128, ..one });
            let mut call = home.map_or(Call::default(), |home| session(1, Some(home)));
            for n in 0..64 {
                let chosen = choose(&view, call, &mut rng(n)).unwrap().replica.0;
                view[chosen].in_flight += 1;
                call = home.map_or(call, |_| session(1, Some(chosen)));
            }
            let streams = view.map(|one| one.in_flight);
            assert!(streams.iter().all(|streams| (12..=20).contains(streams)), "{streams:?}");
        }
    }

    #[test]
    fn a_new_session_starts_where_its_hash_says_whatever_streams_there_are() {
        for n in 0..100 {
            let start = choose(&pool(), session(n, None), &mut rng(0)).unwrap().replica;
            let mut view = pool().map(|one| Candidate { cap: 128, ..one });
            view[start.0].in_flight = 20;
            check(&view, session(n, None), start.0, Affinity::New);
        }
    }

    #[test]
    fn a_new_session_starts_where_its_beginning_is_cached_unless_that_is_busy() {
        let shared = |queued: u64| move |two: &mut Candidate| (two.cached_tokens, two.queued_tokens) = (5_000, queued);
        check_move(shared(0), None, Some(2));
        check_move(shared(25_000), None, Some(2));
        check_move(shared(35_000), None, None);
    }

    #[test]
    fn differences_too_small_to_know_leave_a_session_where_its_hash_says() {
        for n in 0..100 {
            let start = choose(&pool(), session(n, None), &mut rng(0)).unwrap().replica;
            let mut view = pool();
            view[start.0].queued_tokens = 200;
            assert_eq!(choose(&view, session(n, None), &mut rng(0)).unwrap().replica, start);
            view[start.0].queued_tokens = 1_000;
            assert_ne!(choose(&view, session(n, None), &mut rng(0)).unwrap().replica, start);
        }
    }

    #[test]
    fn a_session_that_was_answered_before_is_expected_where_it_would_have_started() {
        for n in 0..100 {
            let started = choose(&pool(), session(n, None), &mut rng(0)).unwrap().replica;
            let call = Call { tokens: 20_000, has_answer: true, ..session(n, None) };
            let expected = |change: &dyn Fn(&mut [Candidate]), call: Call| {
                let mut view = pool();
                change(&mut view);
                expect_home(&mut view, call);
                choose(&view, call, &mut rng(0)).unwrap()
            };
            let queue = |tokens| move |view: &mut [Candidate]| view[started.0].queued_tokens = tokens;
            for tokens in [0, 110_000] {
                let choice = expected(&queue(tokens), call);
                assert_eq!((choice.replica, choice.uncached_tokens), (started, 800), "its context weighs as at home");
            }
            assert_ne!(expected(&queue(130_000), call).replica, started);
            assert_ne!(expected(&queue(5_000), Call { has_answer: false, ..call }).replica, started);
            let other = (started.0 + 1) % 4;
            let known = expected(&|view| view[other].cached_tokens = 15_000, call);
            assert_eq!(known.replica.0, other, "what is known to be cached goes first");
        }
    }

    #[test]
    fn a_call_without_a_session_avoids_the_loaded() {
        let mut view = pool();
        for busy in &mut view[..3] {
            busy.in_flight = 3;
        }
        let idle = (0..1_000)
            .filter(|n| choose(&view, Call::default(), &mut rng(*n)).unwrap().replica == ReplicaIx(3))
            .count();
        assert_eq!(idle, 1_000);
    }

    #[test]
    fn a_half_open_replica_makes_the_call_its_probe() {
        let view = with_two(|two| two.standing = Standing::Probe);
        assert!(choose(&view, session(1, Some(2)), &mut rng(0)).unwrap().probe);
        assert!(!choose(&view, session(1, Some(1)), &mut rng(0)).unwrap().probe);
        assert!(choose(&view[2..3], Call::default(), &mut rng(0)).unwrap().probe);
    }

    #[test]
    fn full_means_that_waiting_would_help_and_unusable_that_it_would_not() {
        let full = |n| Candidate { in_flight: 4, ..candidate(n) };
        let down = |n| Candidate { standing: Standing::Unhealthy, ..candidate(n) };
        let tried = |n| Candidate { tried: true, ..candidate(n) };
        for (view, refusal) in [
            (vec![], NoReplica::Unusable),
            (vec![down(0), down(1)], NoReplica::Unusable),
            (vec![tried(0), down(1)], NoReplica::Unusable),
            (vec![full(0), down(1)], NoReplica::Full),
            (vec![full(0), tried(1)], NoReplica::Full),
            (vec![Candidate { rests: true, ..candidate(0) }, down(1)], NoReplica::Full),
            (vec![Candidate { tried: true, ..full(0) }], NoReplica::Unusable),
            (vec![Candidate { cap: 0, ..candidate(0) }], NoReplica::Full),
        ] {
            for call in [Call::default(), session(1, None), session(1, Some(0))] {
                assert_eq!(choose(&view, call, &mut rng(0)), Err(refusal), "{view:?}");
            }
        }
    }

    #[test]
    fn standing_is_what_checks_and_breaker_say_together() {
        for (gate, standing) in
            [(Gate::Pass, Standing::Usable), (Gate::Probe, Standing::Probe), (Gate::Stop, Standing::BreakerOpen)]
        {
            assert_eq!(Standing::of(true, gate), standing);
            assert_eq!(Standing::of(false, gate), Standing::Unhealthy);
        }
    }

    fn any_candidate(n: usize) -> impl Strategy<Value = Candidate> {
        let standings =
            prop::sample::select(vec![Standing::Usable, Standing::Probe, Standing::Unhealthy, Standing::BreakerOpen]);
        let flags = (any::<bool>(), any::<bool>());
        let work = (any::<u32>(), any::<u64>(), any::<Option<f32>>(), 0.1f64..=1.0);
        let all = (standings, 0u32..6, 0u32..6, flags, work);
        all.prop_map(move |(standing, in_flight, cap, (rests, tried), (cached, queued, speed, weight))| Candidate {
            cached_tokens: cached,
            queued_tokens: queued,
            tokens_per_s: speed,
            weight,
            standing,
            in_flight,
            others: 0.0,
            cap,
            rests,
            tried,
            ..candidate(n)
        })
    }

    proptest! {
        #[test]
        fn what_is_chosen_takes_more_and_nothing_is_refused_while_one_does(
            view in (0usize..8).prop_flat_map(|len| (0..len).map(any_candidate).collect::<Vec<_>>()),
            who in prop::option::of((0usize..100, prop::option::of(0usize..8))),
            seed in any::<u64>(), tokens in any::<u32>(),
        ) {
            let call = who.map_or(Call::default(), |(n, home)| session(n, home));
            let call = Call { tokens, ..call };
            match choose(&view, call, &mut rng(seed)) {
                Ok(choice) => {
                    let chosen = view[choice.replica.0];
                    prop_assert!(chosen.takes_more());
                    prop_assert_eq!(choice.probe, chosen.standing == Standing::Probe);
                    prop_assert_eq!(choice.affinity == Affinity::None, call.session.is_none());
                }
                Err(refusal) => {
                    prop_assert!(!view.iter().any(Candidate::takes_more));
                    prop_assert_eq!(refusal == NoReplica::Full, view.iter().any(Candidate::eligible));
                }
            }
        }
    }
}

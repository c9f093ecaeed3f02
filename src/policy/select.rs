//! Stations 4 and 5 together: walks the pools in their order and takes the first replica that can serve.
//!
//! A pool that this request has tried often enough is passed over, so that a sick pool costs a bounded part of the
//! client's patience. The walk also finds the reason that the receipt states: why this region, why this replica. A call
//! that is kept at its session's replica says `session` also when that lies far away: the cache is why it went there.
//!
//! All that speaks for a replica is weighed in one unit, as [`cost`] says. A session leaves its home when that costs more
//! than to start again; a new one starts in the nearest region, unless that is [past its capacity](super::spill) or the
//! wait there is longer than the way elsewhere.

use rand::RngExt;

use super::cost;
use super::least_bad::Mercy;
use super::pool::PoolCandidate;
use super::replica::{self, Affinity, Call, Candidate, Choice, NoReplica};
use super::spill::Level;
use crate::domain::ids::{PoolIx, RegionIx, ReplicaIx};

/// A session's home that lacks at most this part of the prompt, as 1 in so many, is warm: agents' calls add 4 % to the last.
const WARM_ONE_IN: u32 = 8;

/// Why a call went where it went; the strongest that applies.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// No session is known.
    None,
    /// First call of a session.
    New,
    /// The session was kept at its warm replica.
    Session,
    /// The session's replica was unusable or at its cap, or its queue or its streams outweighed its cache.
    Moved,
    /// The nearest region is past its capacity, or busier than another is far.
    Spill,
    /// The nearest region is down, or failed this request as often as it may.
    Failover,
    /// Another model answers.
    Fallback,
}

impl Reason {
    /// Every reason, weakest first.
    pub const ALL: [Reason; 7] =
        [Reason::None, Reason::New, Reason::Session, Reason::Moved, Reason::Spill, Reason::Failover, Reason::Fallback];

    /// The word in `x-nearpool-reason`, in labels and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::None => "none",
            Reason::New => "new",
            Reason::Session => "session",
            Reason::Moved => "moved",
            Reason::Spill => "spill",
            Reason::Failover => "failover",
            Reason::Fallback => "fallback",
        }
    }
}

/// The pool and the replica that a call goes to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Selection {
    /// The pool, with its region and model.
    pub pool: PoolCandidate,
    /// The replica.
    pub replica: ReplicaIx,
    /// Why.
    pub reason: Reason,
    /// Whether the request would be a circuit breaker's probe: it must claim that place, and select again when another
    /// request was faster.
    pub probe: bool,
    /// Whether it goes to a replica that should not be used, since no other is left.
    pub last_resort: bool,
    /// Tokens of the prompt that the replica must read, as far as is known.
    pub uncached_tokens: u32,
    /// What it costs the call, its way included.
    pub cost_ms: f64,
}

/// The replica where a session was last, as it is now, in whatever pool.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Home {
    /// Its pool.
    pub pool: PoolIx,
    /// The replica.
    pub candidate: Candidate,
}

/// Selects a replica.
///
/// `pools` is station 4's order. `home` is the session's last replica, when it is remembered and still exists; it is
/// looked at first and mostly alone, so that a warm call costs the same in a pool of any size. `view` fills in a pool's
/// replicas as they are now and tells whether it takes new sessions, and `exhausted` whether the request may no longer try
/// a pool.
///
/// When no replica takes more anywhere, the [least bad](super::least_bad) is tried. `waits` says that the request would
/// wait if all that are usable are full.
///
/// An error speaks of what is left for this request: once it has tried something, the last attempt's outcome says more.
pub fn select(
    pools: &[PoolCandidate],
    call: Call,
    home: Option<Home>,
    mut view: impl FnMut(PoolIx, &mut Vec<Candidate>) -> Level,
    exhausted: impl Fn(PoolIx) -> bool,
    waits: bool,
    rng: &mut impl RngExt,
) -> Result<Selection, NoReplica> {
    let stays_in = home.map(|home| home.pool);
    let home = at_home(pools, call, home, &exhausted);
    if let Some((home, candidate)) = home
        && is_warm_and_free(&candidate, call)
    {
        return Ok(home);
    }
    let mut refusal = match (walk(pools, call, stays_in, &mut view, &exhausted, rng), home) {
        // Leaving a cache must pay, as far as that can be told.
        (Ok(elsewhere), Some((home, candidate)))
            if home.cost_ms <= cost::band(elsewhere.cost_ms)
                || (home.pool.pool != elsewhere.pool.pool && candidate.tokens_per_s.is_none()) =>
        {
            return Ok(home);
        }
        (Ok(selection), _) => return Ok(selection),
        (Err(_), Some((home, _))) => return Ok(home),
        (Err(refusal), None) => refusal,
    };
    for mercy in Mercy::when(refusal, waits) {
        let mut admitting = |pool, into: &mut Vec<Candidate>| {
            let level = view(pool, into);
            mercy.admit(into);
            level
        };
        match walk(pools, call, stays_in, &mut admitting, &exhausted, rng) {
            Ok(selection) => return Ok(Selection { last_resort: true, ..selection }),
            Err(NoReplica::Full) => refusal = NoReplica::Full,
            Err(NoReplica::Unusable) => {}
        }
    }
    Err(refusal)
}

/// Where a call starts: in the nearest pool that takes more, or in one farther away where the wait is shorter by more than
/// the way is longer. What is cached counts within a pool only: else a beginning that many share would draw new sessions to
/// wherever it was read first.
///
/// A pool past its capacity is passed over, unless the session was there before (`stays_in`) or begun nobody here knows
/// where; when no other pool of the model has a place, those that were passed over are as good.
fn walk(
    pools: &[PoolCandidate],
    call: Call,
    stays_in: Option<PoolIx>,
    view: &mut impl FnMut(PoolIx, &mut Vec<Candidate>) -> Level,
    exhausted: &impl Fn(PoolIx) -> bool,
    rng: &mut impl RngExt,
) -> Result<Selection, NoReplica> {
    let nearest = pools.first().map(|pool| pool.region);
    let mut refusal = NoReplica::Unusable;
    let (mut open, mut passed_over) = (Best::default(), Best::default());
    let mut candidates = Vec::new();
    for pool in pools.iter().filter(|pool| !exhausted(pool.pool)) {
        if open.beats(pool) || passed_over.is_of_another_model(pool) {
            break;
        }
        candidates.clear();
        let level = view(pool.pool, &mut candidates);
        replica::expect_home(&mut candidates, call);
        let is_nearest = Some(pool.region) == nearest;
        match replica::choose(&candidates, call, rng) {
            Ok(choice) if level == Level::Within || stays_in == Some(pool.pool) || call.is_met_midway() => {
                open.offer(pool, &choice, nearest);
            }
            Ok(choice) => {
                passed_over.offer(pool, &choice, nearest);
                open.nearest_full |= is_nearest;
            }
            Err(NoReplica::Full) => {
                refusal = NoReplica::Full;
                open.nearest_full |= is_nearest;
                passed_over.nearest_full |= is_nearest;
            }
            Err(NoReplica::Unusable) => {}
        }
    }
    open.found.or(passed_over.found).map(|(selection, _)| selection).ok_or(refusal)
}

/// The best of some pools so far.
#[derive(Default)]
struct Best {
    /// With what the call waits there, the way included, in ms.
    found: Option<(Selection, f64)>,
    /// Whether the nearest region was full for it.
    nearest_full: bool,
}

impl Best {
    /// Whether no pool from this one on can be better.
    fn beats(&self, pool: &PoolCandidate) -> bool {
        self.is_of_another_model(pool) || self.found.is_some_and(|(_, ms)| ms <= cost::band(pool.way_ms))
    }

    fn is_of_another_model(&self, pool: &PoolCandidate) -> bool {
        self.found.is_some_and(|(best, _)| best.pool.model != pool.model)
    }

    fn offer(&mut self, pool: &PoolCandidate, choice: &Choice, nearest: Option<RegionIx>) {
        // Of a pool whose pace is not known it is not known either whether it is worth going farther.
        let wait_ms = pool.way_ms + if choice.paced { choice.cost.wait_ms } else { 0.0 };
        if self.found.is_none_or(|(_, best_ms)| cost::band(wait_ms) < best_ms) {
            let reason = reason(pool, choice, nearest, self.nearest_full || self.found.is_some());
            self.found = Some((Selection::of(*pool, choice, reason), wait_ms));
        }
    }
}

fn reason(pool: &PoolCandidate, choice: &Choice, nearest: Option<RegionIx>, nearest_full: bool) -> Reason {
    let elsewhere = Some(pool.region) != nearest;
    match choice.affinity {
        _ if pool.fallback => Reason::Fallback,
        Affinity::Session => Reason::Session,
        _ if elsewhere && nearest_full => Reason::Spill,
        _ if elsewhere => Reason::Failover,
        Affinity::Moved => Reason::Moved,
        Affinity::New => Reason::New,
        Affinity::None => Reason::None,
    }
}

impl Selection {
    fn of(pool: PoolCandidate, choice: &Choice, reason: Reason) -> Selection {
        Selection {
            pool,
            replica: choice.replica,
            reason,
            probe: choice.probe,
            last_resort: false,
            uncached_tokens: choice.uncached_tokens,
            cost_ms: choice.cost.ms() + pool.way_ms,
        }
    }
}

/// The session's home, wherever it lies, if it takes more: geography decides where a session starts, the cache where it
/// stays. Only that replica counts and not its pool: a session that lost its cache starts again where geography puts it. A
/// home of a fallback model waits for its turn, since its model is not the one asked for.
fn at_home(
    pools: &[PoolCandidate],
    call: Call,
    home: Option<Home>,
    exhausted: impl Fn(PoolIx) -> bool,
) -> Option<(Selection, Candidate)> {
    let takes = |home: &Home| home.candidate.takes_more() && !home.candidate.refuses;
    let home = home.filter(|home| takes(home) && !exhausted(home.pool))?;
    let pool = *pools.iter().find(|pool| pool.pool == home.pool && !pool.fallback)?;
    let affinity = call.session.map_or(Affinity::None, |session| session.at_home());
    let choice = home.candidate.chosen(call, affinity);
    let reason = reason(&pool, &choice, Some(pool.region), false);
    Some((Selection::of(pool, &choice, reason), home.candidate))
}

/// Whether nothing can be better than home by as much as counts: it holds nearly all, nothing waits there, and those that
/// run there cost no more than to read the prompt anew. That another replica holds it as well is not seen so.
fn is_warm_and_free(home: &Candidate, call: Call) -> bool {
    let uncached = call.tokens.saturating_sub(home.cached_tokens);
    let here = cost::of(home, call);
    uncached <= call.tokens / WARM_ONE_IN
        && cost::is_free(here.wait_ms)
        && here.streams_ms <= cost::band(cost::anew(home, call).ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::ModelIx;
    use crate::policy::replica::{SessionView, Standing};
    use crate::policy::testing::{candidate, replica_key, rng, session_key};

    /// Two replicas a pool: replica `2p` and `2p + 1` in pool `p`. Pools 0 and 1 lie in the nearest region, 2 in the next
    /// one, 3 in the farthest, and 4 is near but of a fallback model.
    struct World {
        replicas: Vec<Candidate>,
        exhausted: Vec<usize>,
        past: Vec<usize>,
        waits: bool,
        tokens: u32,
        has_answer: bool,
    }

    impl World {
        fn new() -> World {
            World {
                replicas: (0..10).map(candidate).collect(),
                exhausted: Vec::new(),
                past: Vec::new(),
                waits: false,
                tokens: 0,
                has_answer: false,
            }
        }

        /// Changes both replicas of these pools.
        fn with(mut self, pools: &[usize], change: impl Fn(&mut Candidate)) -> World {
            pools.iter().flat_map(|pool| [2 * pool, 2 * pool + 1]).for_each(|n| change(&mut self.replicas[n]));
            self
        }

        fn full(self, pools: &[usize]) -> World {
            self.with(pools, |replica| replica.in_flight = replica.cap)
        }

        fn down(self, pools: &[usize]) -> World {
            self.with(pools, |replica| replica.standing = Standing::Unhealthy)
        }

        fn waiting(self) -> World {
            World { waits: true, ..self }
        }

        fn one(mut self, n: usize, change: impl Fn(&mut Candidate)) -> World {
            change(&mut self.replicas[n]);
            self
        }

        /// These pools are past their capacity, though there are places.
        fn past(mut self, pools: &[usize]) -> World {
            self.past.extend(pools);
            self
        }

        fn exhausted(mut self, pools: &[usize]) -> World {
            self.exhausted.extend(pools);
            self
        }

        /// Selects for a call without session, or for one that was last at a replica (if at any).
        fn select(&self, session: Option<Option<usize>>) -> Result<Selection, NoReplica> {
            let pools = [(0, 0), (1, 0), (2, 1), (3, 2), (4, 0)].map(|(pool, region)| PoolCandidate {
                pool: PoolIx(pool),
                region: RegionIx(region),
                model: ModelIx(pool / 4),
                distance_km: region as f64 * 1_000.0,
                way_ms: cost::distance_ms(region as f64 * 1_000.0),
                fallback: pool == 4,
            });
            let home = session.flatten().and_then(|n| self.replicas.get(n).map(|replica| (n, *replica)));
            select(
                &pools,
                Call {
                    session: session.map(|home| SessionView {
                        placement: session_key(1),
                        home: home.map(replica_key),
                        begun: home.is_some(),
                    }),
                    tokens: self.tokens,
                    has_answer: self.has_answer,
                },
                home.map(|(n, candidate)| Home { pool: PoolIx(n / 2), candidate }),
                |pool, view| {
                    view.extend_from_slice(&self.replicas[2 * pool.0..2 * pool.0 + 2]);
                    if self.past.contains(&pool.0) { Level::Past } else { Level::Within }
                },
                |pool| self.exhausted.contains(&pool.0),
                self.waits,
                &mut rng(0),
            )
        }
    }

    #[track_caller]
    fn check(world: World, session: Option<Option<usize>>, pool: usize, reason: Reason) {
        let selection = world.select(session).unwrap();
        assert_eq!((selection.pool.pool, selection.reason), (PoolIx(pool), reason));
        assert_eq!(selection.replica.0 / 2, pool);
    }

    const NO_SESSION: Option<Option<usize>> = None;
    const NEW: Option<Option<usize>> = Some(None);
    /// Last at replica 6, in the farthest region.
    const FAR: Option<Option<usize>> = Some(Some(6));

    #[test]
    fn the_nearest_pool_that_can_serve_takes_the_call() {
        check(World::new(), NO_SESSION, 0, Reason::None);
        check(World::new(), NEW, 0, Reason::New);
        check(World::new().full(&[0]), NEW, 1, Reason::New);
        check(World::new().down(&[0]), NO_SESSION, 1, Reason::None);
    }

    #[test]
    fn a_region_that_is_full_spills_and_one_that_is_down_fails_over() {
        for session in [NO_SESSION, NEW] {
            check(World::new().full(&[0, 1]), session, 2, Reason::Spill);
            check(World::new().down(&[0, 1]), session, 2, Reason::Failover);
            check(World::new().down(&[0]).full(&[1]), session, 2, Reason::Spill);
            check(World::new().down(&[0, 1]).full(&[2]), session, 3, Reason::Failover);
            check(World::new().exhausted(&[0, 1]), session, 2, Reason::Failover);
        }
    }

    #[test]
    fn a_region_past_its_capacity_takes_no_new_sessions() {
        for session in [NO_SESSION, NEW] {
            check(World::new().past(&[0]), session, 1, if session == NEW { Reason::New } else { Reason::None });
            check(World::new().past(&[0, 1]), session, 2, Reason::Spill);
            check(World::new().past(&[0, 1, 2]), session, 3, Reason::Spill);
            check(World::new().past(&[0]).full(&[1]), session, 2, Reason::Spill);
            check(World::new().past(&[1]).down(&[0]), session, 2, Reason::Spill);
            check(World::new().past(&[2]).down(&[0, 1]), session, 3, Reason::Failover);
        }
    }

    #[test]
    fn where_every_region_is_past_its_capacity_the_nearest_with_a_place_is_taken() {
        let all = &[0, 1, 2, 3];
        check(World::new().past(all), NEW, 0, Reason::New);
        check(World::new().past(all).full(&[0, 1]), NEW, 2, Reason::Spill);
        check(World::new().past(all).down(&[0, 1]), NEW, 2, Reason::Failover);
        check(World::new().past(all).exhausted(&[0, 1]), NEW, 2, Reason::Failover);
        // A place is worth more than another model.
        check(World::new().past(all).full(&[0, 1, 2]), NEW, 3, Reason::Spill);
        check(World::new().past(&[4]).full(all), NEW, 4, Reason::Fallback);
        check(World::new().past(&[0, 1]).full(&[2, 3]), NEW, 0, Reason::New);
    }

    #[test]
    fn sessions_under_way_stay_in_a_region_past_its_capacity() {
        check(World::new().past(&[3]), FAR, 3, Reason::Session);
        check(World::new().past(&[0]), Some(Some(0)), 0, Reason::Session);
        // Its replica is full, the other one has a place and is as near.
        check(World::new().past(&[0]).one(0, |home| home.in_flight = home.cap), Some(Some(0)), 0, Reason::Moved);
        // One that lost its home starts again as a new one does.
        check(World::new().past(&[0, 1]).down(&[3]), FAR, 2, Reason::Spill);
        // One that is met midway has its cache where every edge starts it.
        let midway = || World { has_answer: true, ..World::new() }.past(&[0, 1]);
        check(midway(), NEW, 0, Reason::New);
        check(midway(), NO_SESSION, 2, Reason::Spill);
    }

    #[test]
    fn another_model_answers_only_when_no_pool_of_the_one_asked_for_can() {
        for session in [NO_SESSION, NEW, FAR] {
            check(World::new().down(&[0, 1, 2]).full(&[3]), session, 4, Reason::Fallback);
        }
    }

    #[test]
    fn a_session_stays_at_its_replica_wherever_it_lies() {
        check(World::new(), Some(Some(0)), 0, Reason::Session);
        check(World::new(), FAR, 3, Reason::Session);
        check(World::new().down(&[0, 1, 2]), FAR, 3, Reason::Session);
        assert_eq!(World::new().select(FAR).unwrap().replica, ReplicaIx(6));
    }

    #[test]
    fn a_session_that_lost_its_replica_starts_again_where_geography_puts_it() {
        check(World::new().one(6, |home| home.in_flight = home.cap), FAR, 0, Reason::Moved);
        check(World::new().one(6, |home| home.standing = Standing::BreakerOpen), FAR, 0, Reason::Moved);
        check(World::new().one(6, |home| home.tried = true), FAR, 0, Reason::Moved);
        check(World::new().exhausted(&[3]), FAR, 0, Reason::Moved);
        check(World::new().down(&[3, 0, 1]), FAR, 2, Reason::Failover);
        check(World::new(), Some(Some(99)), 0, Reason::Moved); // a reload took it away
    }

    #[test]
    fn a_session_kept_by_a_fallback_returns_to_its_model_and_stays_only_while_it_must() {
        check(World::new(), Some(Some(8)), 0, Reason::Moved);
        for home in [8, 9] {
            let selection = World::new().down(&[0, 1, 2, 3]).select(Some(Some(home))).unwrap();
            assert_eq!((selection.replica, selection.reason), (ReplicaIx(home), Reason::Fallback));
        }
    }

    /// Prompts of 20,000 tokens: to read one costs as much as 120,000 that wait, or 12 s.
    fn long() -> World {
        World { tokens: 20_000, ..World::new() }
    }

    #[test]
    fn a_new_session_spills_when_the_wait_outweighs_the_way() {
        // The next region is 40 ms away, 400 tokens of waiting.
        let busy = |tokens| long().with(&[0, 1], |replica| replica.queued_tokens = tokens);
        check(busy(200), NEW, 0, Reason::New);
        check(busy(2_000), NEW, 2, Reason::Spill);
        check(long().with(&[0], |replica| replica.queued_tokens = 2_000), NEW, 1, Reason::New);
    }

    #[test]
    fn a_beginning_that_is_cached_far_away_draws_no_new_session() {
        check(long().with(&[2], |replica| replica.cached_tokens = 19_000), NEW, 0, Reason::New);
    }

    #[test]
    fn a_session_leaves_home_when_the_queue_there_outweighs_its_context_and_the_way() {
        let home = |cached, queued| {
            long().one(6, |home| (home.cached_tokens, home.queued_tokens) = (cached, queued)).select(FAR).unwrap()
        };
        assert_eq!(home(19_000, 0).reason, Reason::Session);
        assert_eq!(home(19_000, 110_000).reason, Reason::Session);
        assert_eq!(home(19_000, 130_000).reason, Reason::Moved);
        let lost = home(0, 0);
        assert_eq!((lost.reason, lost.uncached_tokens), (Reason::Session, 20_000), "as near as makes no difference");
        assert_eq!(home(0, 10_000).reason, Reason::Moved);
    }

    #[test]
    fn a_session_leaves_the_streams_at_home_when_its_context_is_short_or_everywhere() {
        let check = |tokens, shared, streams, reason| {
            let world = World { tokens, ..World::new() }.with(&[0], |replica| {
                (replica.cap, replica.shared_tokens) = (128, shared);
            });
            let world = world.one(0, |home| (home.cached_tokens, home.in_flight) = (tokens, streams));
            assert_eq!(world.select(Some(Some(0))).unwrap().reason, reason, "{tokens} tokens, {streams} streams");
        };
        check(10, 0, 5, Reason::Session);
        check(10, 0, 6, Reason::Moved);
        check(1_000, 0, 30, Reason::Session);
        check(1_000, 0, 40, Reason::Moved);
        check(20_000, 0, 100, Reason::Session);
        check(20_000, 20_000, 6, Reason::Moved);
        check(20_000, 19_000, 25, Reason::Session);
    }

    #[test]
    fn a_half_open_replica_makes_the_call_its_probe() {
        let probing = |n: usize| World::new().one(n, |replica| replica.standing = Standing::Probe);
        assert!(probing(6).select(FAR).unwrap().probe);
        assert!(!probing(7).select(FAR).unwrap().probe);
        assert!(probing(0).one(1, |replica| replica.tried = true).select(NEW).unwrap().probe);
    }

    #[test]
    fn when_nothing_is_usable_the_least_bad_is_tried_nearest_first() {
        let all = &[0, 1, 2, 3, 4];
        for session in [NO_SESSION, NEW, FAR] {
            let down = World::new().down(all).select(session).unwrap();
            assert!(down.last_resort && down.pool.pool == PoolIx(0), "{down:?}");
            let open = World::new().down(all).one(5, |five| five.standing = Standing::BreakerOpen);
            let open = open.select(session).unwrap();
            assert!(open.last_resort && open.replica == ReplicaIx(5), "checks that pass count for more: {open:?}");
            let one_left = World::new().down(all).one(9, |nine| nine.standing = Standing::Usable);
            assert!(!one_left.select(session).unwrap().last_resort);
        }
    }

    #[test]
    fn breakers_shut_out_at_most_half_of_a_pool_but_only_a_region_that_is_no_better_is_spared() {
        let open = |replica: &mut Candidate| replica.standing = Standing::BreakerOpen;
        for session in [NO_SESSION, NEW] {
            // The next region takes more: there it goes, and not to replicas that fail.
            check(World::new().with(&[0, 1], open), session, 2, Reason::Failover);
            // All that are well are full: of the others half of each pool is spared.
            let full = World::new().with(&[0, 1], open).full(&[2, 3, 4]);
            let spared = full.select(session).unwrap();
            assert!(spared.last_resort && spared.pool.pool == PoolIx(0), "{spared:?}");
            let full = World::new().with(&[0, 1], open).full(&[2, 3, 4]).waiting();
            assert_eq!(full.select(session), Err(NoReplica::Full), "while it can wait it does");
            let half = World::new().with(&[0, 1], open).full(&[2, 3, 4]);
            let half = half.with(&[1], |replica| replica.standing = Standing::Unhealthy);
            let half = half.one(spared.replica.0, |replica| replica.tried = true);
            assert_eq!(half.select(session), Err(NoReplica::Full), "to wait is better than the worse half");
        }
    }

    #[test]
    fn who_asked_to_be_left_alone_is_asked_only_when_no_other_takes_more() {
        let rests = |replica: &mut Candidate| replica.rests = true;
        check(World::new().with(&[0, 1], rests), NEW, 2, Reason::Spill);
        check(World::new().one(6, rests), FAR, 0, Reason::Moved);
        let all = World::new().with(&[0, 1, 2, 3, 4], rests).select(NEW).unwrap();
        assert!(all.last_resort && all.pool.pool == PoolIx(0), "{all:?}");
    }

    #[test]
    fn a_refusal_says_whether_waiting_would_help() {
        for session in [NO_SESSION, NEW, FAR] {
            let tried = World::new().with(&[0, 1, 2, 3, 4], |replica| replica.tried = true);
            assert_eq!(tried.select(session), Err(NoReplica::Unusable));
            assert_eq!(
                World::new().down(&[0, 1, 2, 3, 4]).full(&[0, 1, 2, 3, 4]).select(session),
                Err(NoReplica::Full)
            );
            assert_eq!(World::new().down(&[0, 1, 2, 3]).full(&[4]).select(session), Err(NoReplica::Full));
            assert_eq!(World::new().exhausted(&[0, 1, 2, 3, 4]).select(session), Err(NoReplica::Unusable));
        }
        let nothing = select(&[], Call::default(), None, |_, _| Level::Within, |_| false, false, &mut rng(0));
        assert_eq!(nothing, Err(NoReplica::Unusable));
    }

    #[test]
    fn reasons_have_distinct_names_and_stand_weakest_first() {
        assert!(Reason::ALL.is_sorted());
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}

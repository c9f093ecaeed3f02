//! Which sessions a pool takes on: as many as its caches hold the contexts of.
//!
//! When the contexts of the sessions under way no longer fit the caches, each call pushes out what another session needs
//! next, and all of them read their whole prompts anew: the pool is busy and gets nothing done. The cure is the classic one
//! for thrashing (Denning's working sets, 1968): sessions that are under way go on, and new ones wait until there is room, or
//! start in another pool. With it the same replicas answered more than twice as many calls in the laboratory.
//!
//! A session is *active* while a call of it is in flight, and for a while after the last one. Its context is the prompt that
//! it sent last. Many calls are no agents' and stay alone: what they leave in the caches is of no use to anybody, and
//! nothing is gained by keeping others out for it. So a session that has made one call counts with the share of such
//! sessions that went on lately, which is nearly all of agents' and none of a batch job's. The bound is what the caches hold ([`CacheSize`](super::cache_size::CacheSize)) and a
//! tenth more, since sessions share their beginnings; while it is not known what they hold, nothing is refused.
//!
//! What it costs: new sessions wait in overload, where without it all would. When it errs: a session that paused for longer
//! than an active one may has to ask again; and an edge that has just started takes on a first burst of sessions whole, until
//! it has seen some of them go on.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lru::LruCache;

use crate::domain::ids::{ClientKey, SessionKey};

/// What active contexts may take, beside what the caches hold.
pub const FILL: f64 = 1.1;

/// From which part of the bound on a client is held to its share: below there is enough for all.
const SCARCE: f64 = 0.8;

/// What the newest session weighs in the share of those that went on: some dozens count.
const NEWEST_SHARE: f64 = 1.0 / 32.0;

/// The most sessions that are counted in one pool: more than any pool holds, so that the table is bounded. Each takes
/// about 130 bytes.
const ACTIVE_MAX: usize = 1 << 17;

/// The active sessions of one pool.
#[derive(Debug)]
pub struct Admission {
    /// Those with a call in flight.
    in_flight: HashMap<SessionKey, Active>,
    /// The others; the one that ended a call last first.
    idle: LruCache<SessionKey, Active>,
    /// How many stays there were.
    stays: u64,
    /// The contexts together of those that went on.
    chains: u64,
    /// The contexts together of those that have made one call.
    firsts: u64,
    /// The share of sessions that went on after their first call, lately.
    goes_on: f64,
    /// As `chains`.
    by_client: HashMap<ClientKey, u64>,
}

/// From when a session became active to when it ceased to be or left: a call that ends later than its stay is none of the
/// calls of the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stay(u64);

#[derive(Clone, Copy, Debug)]
struct Active {
    client: ClientKey,
    tokens: u32,
    /// Whether it has made more than one call.
    chain: bool,
    in_flight: u32,
    stay: Stay,
    /// When it began or ended a call last.
    last: Instant,
}

/// What the pool may take on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bound {
    /// Tokens that its caches hold for this edge; `None` while that is not known.
    pub tokens: Option<u64>,
    /// How long a session stays active after its last call.
    pub active: Duration,
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            in_flight: HashMap::new(),
            idle: LruCache::unbounded(),
            stays: 0,
            chains: 0,
            firsts: 0,
            goes_on: 0.0,
            by_client: HashMap::new(),
        }
    }
}

impl Admission {
    /// Whether a call of this session, with a prompt of so many tokens, may be sent now.
    pub fn admits(&mut self, session: SessionKey, client: ClientKey, tokens: u32, bound: Bound, now: Instant) -> bool {
        self.expire(bound.active, now);
        let Some(held) = bound.tokens else { return true };
        let taken = self.tokens();
        // A context larger than all caches is served alone.
        if self.is_active(session) || taken == 0 {
            return true;
        }
        let (bound, after) = (held as f64 * FILL, taken as f64 + f64::from(tokens));
        after <= bound && (after <= bound * SCARCE || self.is_within_share(client, tokens, bound))
    }

    /// Where it gets scarce no client takes more than its share: one that has much waits while others have little.
    fn is_within_share(&self, client: ClientKey, tokens: u32, bound: f64) -> bool {
        let own = self.by_client.get(&client).copied().unwrap_or(0);
        let clients = self.by_client.len() + usize::from(own == 0);
        clients == 1 || own == 0 || (own + u64::from(tokens)) as f64 <= bound / clients as f64
    }

    /// Whether the session counts as active.
    pub fn is_active(&self, session: SessionKey) -> bool {
        self.in_flight.contains_key(&session) || self.idle.contains(&session)
    }

    /// A call of this session is sent; `begun` if it is not the session's first. What is returned is to be told when it ends.
    pub fn began(&mut self, session: SessionKey, client: ClientKey, tokens: u32, begun: bool, now: Instant) -> Stay {
        let before = self.take(session);
        let chain = begun || before.is_some_and(|before| before.chain);
        if chain && before.is_some_and(|before| !before.chain) {
            self.goes_on += (1.0 - self.goes_on) * NEWEST_SHARE;
        }
        let in_flight = before.map_or(0, |before| before.in_flight) + 1;
        let stay = before.map_or(Stay(self.stays), |before| before.stay);
        self.stays += u64::from(before.is_none());
        self.put(session, Active { client, tokens, chain, in_flight, stay, last: now });
        while self.sessions() > ACTIVE_MAX && self.forget_oldest() {}
        if self.sessions() > ACTIVE_MAX {
            self.take(session);
        }
        stay
    }

    /// A call of it ended.
    pub fn ended(&mut self, session: SessionKey, stay: Stay, now: Instant) {
        if self.in_flight.get(&session).is_none_or(|active| active.stay != stay) {
            return;
        }
        if let Some(active) = self.take(session) {
            self.put(session, Active { in_flight: active.in_flight.saturating_sub(1), last: now, ..active });
        }
    }

    /// The session goes on elsewhere.
    pub fn left(&mut self, session: SessionKey) {
        self.take(session);
    }

    /// When the next session ceases to be active, if none of them calls.
    pub fn next_change(&self, active: Duration) -> Option<Instant> {
        let (_, first) = self.idle.peek_lru()?;
        Some(first.last + active)
    }

    /// How many are active, as far as is known.
    pub fn sessions(&self) -> usize {
        self.in_flight.len() + self.idle.len()
    }

    /// Their contexts together, in tokens, as they count.
    pub fn tokens(&self) -> u64 {
        self.chains + (self.firsts as f64 * self.goes_on) as u64
    }

    /// Forgets those whose last call was too long ago.
    pub fn expire(&mut self, active: Duration, now: Instant) {
        while let Some((_, oldest)) = self.idle.peek_lru()
            && now.saturating_duration_since(oldest.last) > active
        {
            if !oldest.chain {
                self.goes_on -= self.goes_on * NEWEST_SHARE;
            }
            self.forget_oldest();
        }
    }

    /// `false` when all have a call in flight.
    fn forget_oldest(&mut self) -> bool {
        let oldest = self.idle.peek_lru().map(|(session, _)| *session);
        oldest.and_then(|session| self.take(session)).is_some()
    }

    fn take(&mut self, session: SessionKey) -> Option<Active> {
        let active = self.in_flight.remove(&session).or_else(|| self.idle.pop(&session))?;
        if !active.chain {
            self.firsts -= u64::from(active.tokens);
            return Some(active);
        }
        self.chains -= u64::from(active.tokens);
        if let Some(tokens) = self.by_client.get_mut(&active.client) {
            *tokens -= u64::from(active.tokens);
            if *tokens == 0 {
                self.by_client.remove(&active.client);
            }
        }
        Some(active)
    }

    fn put(&mut self, session: SessionKey, active: Active) {
        if !active.chain {
            self.firsts += u64::from(active.tokens);
        } else if active.tokens > 0 {
            self.chains += u64::from(active.tokens);
            *self.by_client.entry(active.client).or_default() += u64::from(active.tokens);
        }
        if active.in_flight > 0 {
            self.in_flight.insert(session, active);
        } else {
            self.idle.push(session, active);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::session_key;

    const FIVE_MIN: Duration = Duration::from_secs(300);

    fn bound(tokens: u64) -> Bound {
        Bound { tokens: Some(tokens), active: FIVE_MIN }
    }

    /// Sessions of one client each hold this many tokens; who of `ask` (client, tokens) is admitted then?
    #[track_caller]
    fn check(held: &[(u128, u32)], caches: u64, client: u128, tokens: u32, admitted: bool) {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for (n, (client, tokens)) in held.iter().enumerate() {
            admission.began(session_key(n), ClientKey(*client), *tokens, true, now);
        }
        let found = admission.admits(session_key(999), ClientKey(client), tokens, bound(caches), now);
        assert_eq!(found, admitted, "{held:?}");
    }

    #[test]
    fn new_sessions_are_taken_on_while_their_contexts_fit() {
        check(&[], 1_000, 1, 5_000, true);
        check(&[(1, 500)], 1_000, 1, 600, true);
        check(&[(1, 500)], 1_000, 1, 601, false);
    }

    #[test]
    fn where_it_gets_scarce_a_client_with_much_waits_and_one_with_little_does_not() {
        check(&[(1, 700), (2, 100)], 1_000, 1, 100, false);
        check(&[(1, 700), (2, 100)], 1_000, 2, 100, true);
        check(&[(1, 700), (2, 100)], 1_000, 3, 100, true);
        check(&[(1, 400), (2, 100)], 1_000, 1, 100, true);
    }

    #[test]
    fn sessions_under_way_go_on_and_make_room_minutes_after_their_last_call() {
        let (mut admission, start, client) = (Admission::default(), Instant::now(), ClientKey(1));
        let minute = Duration::from_secs(60);
        let stay = admission.began(session_key(1), client, 900, true, start);
        assert!(admission.admits(session_key(1), client, 5_000, bound(1_000), start));
        assert!(
            !admission.admits(session_key(2), client, 300, bound(1_000), start + 60 * minute),
            "a call is in flight"
        );
        admission.ended(session_key(1), stay, start + minute);
        assert_eq!(admission.next_change(FIVE_MIN), Some(start + 6 * minute));
        assert!(!admission.admits(session_key(2), client, 300, bound(1_000), start + 6 * minute));
        assert!(admission.admits(session_key(2), client, 300, bound(1_000), start + 7 * minute));
        assert_eq!((admission.sessions(), admission.tokens(), admission.by_client.len()), (0, 0, 0));
    }

    /// So many sessions of 100 tokens come, one a second, and this share of them goes on after ten seconds.
    fn traffic(sessions: usize, go_on: f64) -> (Admission, Instant) {
        let (mut admission, start) = (Admission::default(), Instant::now());
        let at = |n: usize| start + Duration::from_secs(n as u64);
        let goes_on = |n: usize| (n as f64 * go_on).fract() + go_on >= 1.0;
        for n in 0..sessions {
            let stay = admission.began(session_key(n), ClientKey(1), 100, false, at(n));
            admission.ended(session_key(n), stay, at(n));
            if let Some(before) = n.checked_sub(10).filter(|before| goes_on(*before)) {
                let stay = admission.began(session_key(before), ClientKey(1), 100, true, at(n));
                admission.ended(session_key(before), stay, at(n));
            }
            admission.expire(FIVE_MIN, at(n));
        }
        (admission, at(sessions))
    }

    #[test]
    fn calls_that_stay_alone_keep_nobody_out_and_those_of_agents_do() {
        for (go_on, admitted) in [(0.0, true), (0.02, true), (0.9, false), (1.0, false)] {
            let (mut admission, now) = traffic(2_000, go_on);
            let found = admission.admits(session_key(9_999), ClientKey(1), 100, bound(10_000), now);
            assert_eq!(found, admitted, "{go_on}: {}", admission.tokens());
        }
    }

    #[test]
    fn a_session_that_went_elsewhere_makes_room_at_once() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let stay = admission.began(session_key(1), ClientKey(1), 900, true, now);
        admission.left(session_key(1));
        admission.ended(session_key(1), stay, now);
        assert!(admission.admits(session_key(2), ClientKey(1), 900, bound(1_000), now));
    }

    #[test]
    fn a_call_from_before_a_session_left_is_none_of_those_after_it_came_back() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let begin = |admission: &mut Admission| admission.began(session_key(1), ClientKey(1), 900, true, now);
        let before = begin(&mut admission);
        admission.left(session_key(1));
        let (after, second) = (begin(&mut admission), begin(&mut admission));
        assert!(before != after && after == second, "calls at the same time are of one stay");
        for (ended, still_in_flight) in [(before, true), (after, true), (before, true), (second, false)] {
            admission.ended(session_key(1), ended, now);
            assert_eq!(admission.next_change(FIVE_MIN).is_none(), still_in_flight, "{ended:?}");
        }
        assert!(!admission.admits(session_key(2), ClientKey(1), 900, bound(1_000), now));
    }

    #[test]
    fn the_next_to_cease_is_found_behind_any_number_in_flight_and_the_table_is_bounded() {
        let (mut admission, start) = (Admission::default(), Instant::now());
        let second = Duration::from_secs(1);
        for n in 0..ACTIVE_MAX {
            admission.began(session_key(n), ClientKey(1), 1, true, start);
        }
        let more = admission.began(session_key(ACTIVE_MAX), ClientKey(1), 1, true, start);
        assert!(!admission.is_active(session_key(ACTIVE_MAX)), "all have a call in flight");
        admission.ended(session_key(ACTIVE_MAX), more, start);
        assert_eq!((admission.sessions(), admission.next_change(FIVE_MIN)), (ACTIVE_MAX, None));
        admission.ended(session_key(7), Stay(7), start + second);
        for looks in 0..10_000 {
            assert_eq!(admission.next_change(FIVE_MIN), Some(start + second + FIVE_MIN), "{looks}");
        }
        admission.began(session_key(ACTIVE_MAX), ClientKey(1), 1, true, start + second);
        assert!(admission.is_active(session_key(ACTIVE_MAX)) && !admission.is_active(session_key(7)));
    }

    #[test]
    fn nothing_is_refused_while_it_is_not_known_what_the_caches_hold() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        admission.began(session_key(1), ClientKey(1), u32::MAX, true, now);
        let unknown = Bound { tokens: None, active: FIVE_MIN };
        assert!(admission.admits(session_key(2), ClientKey(1), u32::MAX, unknown, now));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn what_is_counted_is_what_is_active(
            steps in prop::collection::vec((0u8..4, 0usize..12, 0u32..1_000, 0u64..200), 1..200),
        ) {
            let (mut admission, mut now) = (Admission::default(), Instant::now());
            let mut stays: HashMap<usize, Stay> = HashMap::new();
            // (tokens, in flight, last, chain)
            let mut model: HashMap<usize, (u32, u32, Instant, bool)> = HashMap::new();
            let chains = |model: &HashMap<usize, (u32, u32, Instant, bool)>, chain: bool| -> u64 {
                model.values().filter(|entry| entry.3 == chain).map(|entry| u64::from(entry.0)).sum()
            };
            for (step, n, tokens, seconds) in steps {
                now += Duration::from_secs(seconds);
                let (session, client) = (session_key(n), ClientKey(n as u128 % 3));
                admission.expire(FIVE_MIN, now);
                model.retain(|_, (_, in_flight, last, _)| *in_flight > 0 || now - *last <= FIVE_MIN);
                match step {
                    0 | 1 => {
                        let admitted = admission.admits(session, client, tokens, bound(2_000), now);
                        prop_assert!(admitted || !model.contains_key(&n), "one under way goes on");
                        let fits = admission.tokens() + u64::from(tokens) <= 2_200;
                        prop_assert!(!admitted || model.contains_key(&n) || admission.tokens() == 0 || fits);
                        if admitted {
                            stays.insert(n, admission.began(session, client, tokens, step == 0, now));
                            let (_, in_flight, _, chain) = model.remove(&n).unwrap_or((0, 0, now, false));
                            model.insert(n, (tokens, in_flight + 1, now, chain || step == 0));
                        }
                    }
                    2 => if let Some((_, in_flight, last, _)) = model.get_mut(&n) {
                        admission.ended(session, stays[&n], now);
                        // None can end that is not in flight.
                        *last = if *in_flight > 0 { now } else { *last };
                        *in_flight = in_flight.saturating_sub(1);
                    },
                    _ => {
                        admission.left(session);
                        model.remove(&n);
                    }
                }
                prop_assert_eq!(admission.sessions(), model.len());
                prop_assert_eq!((admission.chains, admission.firsts), (chains(&model, true), chains(&model, false)));
                prop_assert_eq!(admission.by_client.values().sum::<u64>(), admission.chains);
                prop_assert!((0.0..=1.0).contains(&admission.goes_on));
            }
        }
    }
}

//! Which sessions a pool takes on: as many as its caches hold the contexts of.
//!
//! When the contexts of the sessions under way no longer fit the caches, each call pushes out what another session needs
//! next, and all of them read their whole prompts anew: the pool is busy and gets nothing done. The cure is the classic one
//! for thrashing (Denning's working sets, 1968): sessions that are under way go on, and new ones wait until there is room, or
//! start in another pool. With it the same replicas answered more than twice as many calls in the laboratory.
//!
//! A session is *active* while a call of it is in flight, and for a while after the last one. Its context is the larger
//! prompt of its last two calls: agents make small calls on the side under the same name (for a title, for a summary), and
//! one whose context was cut down stays small. While a call is in flight the context grows only. Many calls are no agents'
//! and stay alone: what they leave in the caches is of no use to anybody, and nothing is gained by keeping others out for
//! it. So a session that has made one call counts with the share of such sessions that went on lately, which is nearly all
//! of agents' and none of a batch job's. No session counts with more than one replica's cache, since it is in no other. The
//! bound is what the caches hold ([`CacheSize`](super::cache_size::CacheSize)) and a tenth more, since sessions share their
//! beginnings; while it is not known what they hold, nothing is refused.
//!
//! Where it gets scarce a client is held to its share, the bound divided by the clients that have sessions here or wait for
//! them. Whose first session is larger than that waits for the [entrance](super::entrance) to give it a turn.
//!
//! What it costs: new sessions wait in overload, where without it all would. When it errs: a session that paused for longer
//! than an active one may has to ask again; and an edge that has just started takes on a first burst of sessions whole, until
//! it has seen some of them go on; and a session that makes two small calls on the side at a stretch counts for less than it
//! holds until it goes on.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use lru::LruCache;

use super::queue::Turn;
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
    /// Of those that went on.
    chains: Contexts,
    /// Of those that have made one call.
    firsts: Contexts,
    /// The share of sessions that went on after their first call, lately.
    goes_on: f64,
}

/// Contexts together, in tokens.
#[derive(Default, Debug)]
struct Contexts {
    all: u64,
    /// Clients without any are left out.
    by_client: HashMap<ClientKey, u64>,
}

impl Contexts {
    fn of(&self, client: ClientKey) -> u64 {
        self.by_client.get(&client).copied().unwrap_or(0)
    }

    fn add(&mut self, client: ClientKey, tokens: u32) {
        if tokens > 0 {
            self.all += u64::from(tokens);
            *self.by_client.entry(client).or_default() += u64::from(tokens);
        }
    }

    fn remove(&mut self, client: ClientKey, tokens: u32) {
        self.all -= u64::from(tokens);
        if let Some(left) = self.by_client.get_mut(&client) {
            *left -= u64::from(tokens);
            if *left == 0 {
                self.by_client.remove(&client);
            }
        }
    }
}

/// A call of a session that asks to be taken on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asking {
    /// The session.
    pub session: SessionKey,
    /// Whose it is.
    pub client: ClientKey,
    /// Tokens of the call's prompt.
    pub tokens: u32,
    /// Whether it has begun.
    pub turn: Turn,
}

/// From when a session became active to when it ceased to be or left: a call that ends later than its stay is none of the
/// calls of the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stay(u64);

#[derive(Clone, Copy, Debug)]
struct Active {
    client: ClientKey,
    /// Its context.
    tokens: u32,
    /// The prompt of its last call, if that was smaller and no other was in flight.
    smaller: Option<u32>,
    /// Whether it has made more than one call.
    chain: bool,
    in_flight: u32,
    stay: Stay,
    /// When it began or ended a call last.
    last: Instant,
}

/// What a session with this prompt counts with from now on, and the prompt itself if it is smaller than that.
fn context(before: Option<&Active>, prompt: u32) -> (u32, Option<u32>) {
    let Some(before) = before.filter(|before| prompt < before.tokens) else { return (prompt, None) };
    if before.in_flight > 0 {
        return (before.tokens, before.smaller);
    }
    let tokens = before.smaller.map_or(before.tokens, |last| last.max(prompt));
    (tokens, Some(prompt).filter(|prompt| *prompt < tokens))
}

/// What the pool may take on.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bound {
    /// What its caches hold; `None` while that is not known.
    pub caches: Option<Caches>,
    /// How long a session stays active after its last call.
    pub active: Duration,
}

/// What the caches of a pool hold, in tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caches {
    /// All of them, for the sessions of this edge.
    pub all: u64,
    /// That of one replica: with more no session counts.
    pub one: u64,
}

/// How a session would stand to its client's share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// Within it.
    Within,
    /// The client has nothing yet, and this alone is more than its share.
    First,
    /// Beyond it.
    Beyond,
}

/// What there is room for, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Room<'a> {
    admission: &'a Admission,
    caches: Caches,
    /// Whom it is divided among.
    clients: usize,
}

impl Room<'_> {
    /// Whether a context of so many tokens fits beside those of the active sessions.
    pub fn fits(&self, tokens: u32) -> bool {
        self.after(tokens) <= self.bound()
    }

    /// Whether it fits where there is enough for all.
    pub fn is_plenty(&self, tokens: u32) -> bool {
        self.after(tokens) <= self.bound() * SCARCE
    }

    /// What it is of this client's share.
    pub fn claim(&self, client: ClientKey, tokens: u32) -> Claim {
        let own = self.admission.tokens_of(client);
        if own + self.counts(tokens) <= self.bound() / self.clients as f64 {
            return Claim::Within;
        }
        if own > 0.0 { Claim::Beyond } else { Claim::First }
    }

    fn after(&self, tokens: u32) -> f64 {
        self.admission.tokens() as f64 + self.counts(tokens)
    }

    /// Never more than all that there is, so that in an empty pool there is room for any context.
    fn counts(&self, tokens: u32) -> f64 {
        u64::from(tokens).min(self.caches.one).min(self.caches.all) as f64
    }

    fn bound(&self) -> f64 {
        self.caches.all as f64 * FILL
    }
}

impl Default for Admission {
    fn default() -> Admission {
        Admission {
            in_flight: HashMap::new(),
            idle: LruCache::unbounded(),
            stays: 0,
            chains: Contexts::default(),
            firsts: Contexts::default(),
            goes_on: 0.0,
        }
    }
}

impl Admission {
    /// What there is room for, divided among the clients with sessions here and these others, each named once.
    pub fn room(&self, caches: Caches, others: impl Iterator<Item = ClientKey>) -> Room<'_> {
        let others = others.filter(|other| !self.chains.by_client.contains_key(other)).count();
        Room { admission: self, caches, clients: (self.chains.by_client.len() + others).max(1) }
    }

    /// Whether the session counts as active.
    pub fn is_active(&self, session: SessionKey) -> bool {
        self.in_flight.contains_key(&session) || self.idle.contains(&session)
    }

    /// A call of a session is sent. What is returned is to be told when it ends.
    pub fn began(&mut self, asking: Asking, now: Instant) -> Stay {
        let Asking { session, client, tokens: prompt, turn } = asking;
        let before = self.take(session);
        let chain = turn == Turn::UnderWay || before.is_some_and(|before| before.chain);
        if chain && before.is_some_and(|before| !before.chain) {
            self.goes_on += (1.0 - self.goes_on) * NEWEST_SHARE;
        }
        let (tokens, smaller) = context(before.as_ref(), prompt);
        let in_flight = before.map_or(0, |before| before.in_flight) + 1;
        let stay = before.map_or(Stay(self.stays), |before| before.stay);
        self.stays += u64::from(before.is_none());
        self.put(session, Active { client, tokens, smaller, chain, in_flight, stay, last: now });
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

    /// What it asked for here came to nothing, and it goes on elsewhere. It stays while another call of it is in flight.
    pub fn gave_up(&mut self, session: SessionKey) {
        if !self.in_flight.contains_key(&session) {
            self.left(session);
        }
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
        self.chains.all + (self.firsts.all as f64 * self.goes_on) as u64
    }

    fn tokens_of(&self, client: ClientKey) -> f64 {
        self.chains.of(client) as f64 + self.firsts.of(client) as f64 * self.goes_on
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
        self.contexts(&active).remove(active.client, active.tokens);
        Some(active)
    }

    fn put(&mut self, session: SessionKey, active: Active) {
        self.contexts(&active).add(active.client, active.tokens);
        if active.in_flight > 0 {
            self.in_flight.insert(session, active);
        } else {
            self.idle.push(session, active);
        }
    }

    fn contexts(&mut self, active: &Active) -> &mut Contexts {
        if active.chain { &mut self.chains } else { &mut self.firsts }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::testing::session_key;

    const FIVE_MIN: Duration = Duration::from_secs(300);

    fn asking(n: usize, client: u128, tokens: u32) -> Asking {
        Asking { session: session_key(n), client: ClientKey(client), tokens, turn: Turn::UnderWay }
    }

    fn room(admission: &Admission, caches: u64, client: u128) -> Room<'_> {
        admission.room(Caches { all: caches, one: caches }, [ClientKey(client)].into_iter())
    }

    /// Whether the session would be taken on at `now` if nobody else waited.
    fn admits(admission: &mut Admission, asking: Asking, caches: u64, now: Instant) -> bool {
        admission.expire(FIVE_MIN, now);
        let room = room(admission, caches, asking.client.0);
        let scarce = room.fits(asking.tokens) && !room.is_plenty(asking.tokens);
        let may = !scarce || room.claim(asking.client, asking.tokens) == Claim::Within;
        admission.is_active(asking.session) || room.fits(asking.tokens) && may
    }

    /// Sessions of these clients each hold so many tokens: is one more of `client` taken on then?
    #[track_caller]
    fn check(held: &[(u128, u32)], caches: u64, client: u128, tokens: u32, admitted: bool) {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for (n, (client, tokens)) in held.iter().enumerate() {
            admission.began(asking(n, *client, *tokens), now);
        }
        assert_eq!(admits(&mut admission, asking(999, client, tokens), caches, now), admitted, "{held:?}");
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
    fn a_client_that_has_nothing_gets_no_more_than_its_share_either() {
        check(&[(1, 300), (2, 300)], 1_000, 3, 360, true);
        check(&[(1, 300), (2, 300)], 1_000, 3, 370, false);
        check(&[(1, 100), (2, 100)], 1_000, 3, 600, true);
        let (mut admission, now) = (Admission::default(), Instant::now());
        admission.began(asking(1, 1, 300), now);
        admission.began(asking(2, 2, 300), now);
        let claims = [(3, 360), (3, 370), (2, 60), (2, 70)];
        let claims = claims.map(|(client, tokens)| room(&admission, 1_000, 3).claim(ClientKey(client), tokens));
        assert_eq!(claims, [Claim::Within, Claim::First, Claim::Within, Claim::Beyond]);
    }

    #[test]
    fn sessions_that_made_one_call_are_of_their_clients_share_as_far_as_they_count() {
        let (mut admission, now) = traffic(2_000, 1.0);
        admission.began(asking(9_000, 2, 300), now);
        let tokens = admission.tokens_of(ClientKey(1));
        let first = Asking { turn: Turn::New, ..asking(9_001, 3, 500) };
        admission.began(first, now);
        let counted = admission.tokens_of(ClientKey(3));
        assert!((450.0..500.0).contains(&counted), "{counted}");
        assert!((tokens + 300.0 + counted - admission.tokens() as f64).abs() <= 2.0, "all of it is somebody's");
        assert_eq!(room(&admission, 2_000, 3).claim(ClientKey(3), 400), Claim::Beyond);
    }

    #[test]
    fn a_session_counts_with_no_more_than_one_cache() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        admission.began(asking(1, 1, 800), now);
        let room = admission.room(Caches { all: 1_000, one: 250 }, [ClientKey(2)].into_iter());
        assert!(room.fits(u32::MAX) && !room.is_plenty(u32::MAX));
        assert_eq!(room.claim(ClientKey(2), u32::MAX), Claim::Within);
        let part = admission.room(Caches { all: 100, one: 250 }, [ClientKey(2)].into_iter());
        assert!(!part.fits(1));
        admission.left(session_key(1));
        let empty = admission.room(Caches { all: 100, one: 250 }, [ClientKey(2)].into_iter());
        assert!(empty.fits(u32::MAX), "what this edge may use is less than one cache");
    }

    #[test]
    fn it_is_divided_among_those_too_who_wait() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        admission.began(asking(1, 1, 400), now);
        for (waiting, claim) in
            [(1..1, Claim::Within), (1..2, Claim::Within), (1..3, Claim::Within), (1..4, Claim::Beyond)]
        {
            let room = admission.room(Caches { all: 1_000, one: 1_000 }, waiting.clone().map(ClientKey));
            assert_eq!(room.claim(ClientKey(1), 100), claim, "{waiting:?}");
        }
    }

    #[test]
    fn sessions_under_way_go_on_and_make_room_minutes_after_their_last_call() {
        let (mut admission, start) = (Admission::default(), Instant::now());
        let minute = Duration::from_secs(60);
        let stay = admission.began(asking(1, 1, 900), start);
        assert!(admits(&mut admission, asking(1, 1, 5_000), 1_000, start));
        assert!(!admits(&mut admission, asking(2, 1, 300), 1_000, start + 60 * minute), "a call is in flight");
        admission.ended(session_key(1), stay, start + minute);
        assert_eq!(admission.next_change(FIVE_MIN), Some(start + 6 * minute));
        assert!(!admits(&mut admission, asking(2, 1, 300), 1_000, start + 6 * minute));
        assert!(admits(&mut admission, asking(2, 1, 300), 1_000, start + 7 * minute));
        assert_eq!((admission.sessions(), admission.tokens(), admission.chains.by_client.len()), (0, 0, 0));
    }

    /// A session makes calls with such prompts one after the other, and counts with so much after each of them.
    #[track_caller]
    fn check_context(prompts: &[u32], counted: &[u64]) {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let calls = prompts.iter().map(|prompt| {
            let stay = admission.began(asking(1, 1, *prompt), now);
            admission.ended(session_key(1), stay, now);
            admission.tokens()
        });
        assert_eq!(calls.collect::<Vec<_>>(), counted, "{prompts:?}");
    }

    #[test]
    fn one_small_call_on_the_side_makes_no_context_smaller_and_what_was_cut_down_stays_small() {
        check_context(&[900, 18, 910, 18, 920], &[900, 900, 910, 910, 920]);
        check_context(&[900, 100, 120, 140], &[900, 900, 120, 140]);
        check_context(&[900, 120, 100, 90, 80], &[900, 900, 120, 100, 90]);
        check_context(&[900, 100, 900, 100, 100], &[900, 900, 900, 900, 100]);
    }

    #[test]
    fn small_calls_beside_one_in_flight_make_its_context_no_smaller_however_many() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let begin = |admission: &mut Admission, tokens| admission.began(asking(1, 1, tokens), now);
        let large = begin(&mut admission, 900);
        for _ in 0..5 {
            let small = begin(&mut admission, 18);
            admission.ended(session_key(1), small, now);
            assert_eq!(admission.tokens(), 900);
        }
        begin(&mut admission, 950);
        assert_eq!(admission.tokens(), 950);
        (0..2).for_each(|_| admission.ended(session_key(1), large, now));
        for tokens in [950, 18] {
            let small = begin(&mut admission, 18);
            admission.ended(session_key(1), small, now);
            assert_eq!(admission.tokens(), tokens);
        }
    }

    /// So many sessions of 100 tokens come, one a second, and this share of them goes on after ten seconds.
    fn traffic(sessions: usize, go_on: f64) -> (Admission, Instant) {
        let (mut admission, start) = (Admission::default(), Instant::now());
        let at = |n: usize| start + Duration::from_secs(n as u64);
        let goes_on = |n: usize| (n as f64 * go_on).fract() + go_on >= 1.0;
        for n in 0..sessions {
            let stay = admission.began(Asking { turn: Turn::New, ..asking(n, 1, 100) }, at(n));
            admission.ended(session_key(n), stay, at(n));
            if let Some(before) = n.checked_sub(10).filter(|before| goes_on(*before)) {
                let stay = admission.began(asking(before, 1, 100), at(n));
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
            let found = admits(&mut admission, asking(9_999, 1, 100), 10_000, now);
            assert_eq!(found, admitted, "{go_on}: {}", admission.tokens());
        }
    }

    #[test]
    fn a_session_that_went_elsewhere_makes_room_at_once() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let stay = admission.began(asking(1, 1, 900), now);
        admission.left(session_key(1));
        admission.ended(session_key(1), stay, now);
        assert!(admits(&mut admission, asking(2, 1, 900), 1_000, now));
    }

    #[test]
    fn a_session_that_gave_up_makes_room_unless_another_call_of_it_is_in_flight() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let stays = [0; 2].map(|_| admission.began(asking(1, 1, 900), now));
        for (stay, sessions) in stays.into_iter().zip([1, 0]) {
            admission.ended(session_key(1), stay, now);
            admission.gave_up(session_key(1));
            assert_eq!(admission.sessions(), sessions);
        }
    }

    #[test]
    fn a_call_from_before_a_session_left_is_none_of_those_after_it_came_back() {
        let (mut admission, now) = (Admission::default(), Instant::now());
        let begin = |admission: &mut Admission| admission.began(asking(1, 1, 900), now);
        let before = begin(&mut admission);
        admission.left(session_key(1));
        let (after, second) = (begin(&mut admission), begin(&mut admission));
        assert!(before != after && after == second, "calls at the same time are of one stay");
        for (ended, still_in_flight) in [(before, true), (after, true), (before, true), (second, false)] {
            admission.ended(session_key(1), ended, now);
            assert_eq!(admission.next_change(FIVE_MIN).is_none(), still_in_flight, "{ended:?}");
        }
        assert!(!admits(&mut admission, asking(2, 1, 900), 1_000, now));
    }

    #[test]
    fn the_next_to_cease_is_found_behind_any_number_in_flight_and_the_table_is_bounded() {
        let (mut admission, start) = (Admission::default(), Instant::now());
        let second = Duration::from_secs(1);
        for n in 0..ACTIVE_MAX {
            admission.began(asking(n, 1, 1), start);
        }
        let more = admission.began(asking(ACTIVE_MAX, 1, 1), start);
        assert!(!admission.is_active(session_key(ACTIVE_MAX)), "all have a call in flight");
        admission.ended(session_key(ACTIVE_MAX), more, start);
        assert_eq!((admission.sessions(), admission.next_change(FIVE_MIN)), (ACTIVE_MAX, None));
        admission.ended(session_key(7), Stay(7), start + second);
        for looks in 0..10_000 {
            assert_eq!(admission.next_change(FIVE_MIN), Some(start + second + FIVE_MIN), "{looks}");
        }
        admission.began(asking(ACTIVE_MAX, 1, 1), start + second);
        assert!(admission.is_active(session_key(ACTIVE_MAX)) && !admission.is_active(session_key(7)));
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
                let turn = if step == 0 { Turn::UnderWay } else { Turn::New };
                let asked = Asking { turn, ..asking(n, n as u128 % 3, tokens) };
                admission.expire(FIVE_MIN, now);
                model.retain(|_, (_, in_flight, last, _)| *in_flight > 0 || now - *last <= FIVE_MIN);
                match step {
                    0 | 1 => {
                        let admitted = admits(&mut admission, asked, 2_000, now);
                        prop_assert!(admitted || !model.contains_key(&n), "one under way goes on");
                        let fits = admission.tokens() + u64::from(tokens.min(2_000)) <= 2_200;
                        prop_assert!(!admitted || model.contains_key(&n) || fits);
                        if admitted {
                            stays.insert(n, admission.began(asked, now));
                            let (before, in_flight, _, chain) = model.remove(&n).unwrap_or((0, 0, now, false));
                            let counted = admission.in_flight[&asked.session].tokens;
                            let most = tokens.max(before);
                            let may_be = if in_flight > 0 { most..=most } else { tokens..=most };
                            prop_assert!(may_be.contains(&counted), "{counted}: {tokens} after {before}");
                            model.insert(n, (counted, in_flight + 1, now, chain || step == 0));
                        }
                    }
                    2 => if let Some((_, in_flight, last, _)) = model.get_mut(&n) {
                        admission.ended(asked.session, stays[&n], now);
                        // None can end that is not in flight.
                        *last = if *in_flight > 0 { now } else { *last };
                        *in_flight = in_flight.saturating_sub(1);
                    },
                    _ => {
                        admission.left(asked.session);
                        model.remove(&n);
                    }
                }
                prop_assert_eq!(admission.sessions(), model.len());
                prop_assert_eq!((admission.chains.all, admission.firsts.all), (chains(&model, true), chains(&model, false)));
                for contexts in [&admission.chains, &admission.firsts] {
                    prop_assert_eq!(contexts.by_client.values().sum::<u64>(), contexts.all);
                }
                prop_assert!((0.0..=1.0).contains(&admission.goes_on));
            }
        }
    }
}

//! The entrance of a pool: sessions that wait to be [taken on](super::admission), in the order in which they came.
//!
//! A line for places lets those behind try when the first cannot use what is free. Here whoever asks for no more than its
//! client's share holds up everyone behind until there is room for it: else small contexts would slip past a large one for
//! ever, and what is kept free for it meanwhile is less than what it has a right to. Whoever asks for more than the share
//! holds up only those who do as well, and its client's own. A session that waited for as long as one waits and was told to
//! come again, or whose client hung up before, keeps its number: when it does come again it stands where it stood.
//!
//! For some contexts there is never room. So nobody holds up others at each of its visits: it does at its first and second,
//! fourth, eighth, and so on. What never fits stops less and less, and what does fit some time is never passed for good. A
//! client that has nothing, and whose first session alone is more than its share, has a turn from its fourth visit on, as if
//! it were within it; else it would never start among many. Sessions that paused stand before those that have not begun.
//!
//! One client may fill the entrance while nobody else wants to stand there. Then whoever stands last of the client with the
//! most makes room, and keeps its number as well.
//!
//! What it costs: while a large context is first, room that smaller ones behind it would fit stays empty.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;

use lru::LruCache;

use super::admission::{Admission, Asking, Caches, Claim, Room};
use super::queue::{Line, LineFull, Place};
use crate::domain::ids::{ClientKey, SessionKey};

/// Most sessions that wait at one pool: each holds a request with its body for up to the time that sessions wait.
pub const WAITING_MAX: usize = 1_024;

/// Most sessions that are remembered to have waited: as many as come again within minutes of a hard overload.
const SENT_AWAY_MAX: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

/// The longest that a session which was sent away is told to stay away, in seconds: it keeps its place, and must be there to
/// take it.
pub const COME_AGAIN_S_MAX: u32 = 10;

/// Most who are called at a time: rarely is there room for more, and each of them who leaves calls anew.
const CALLED_MAX: usize = 16;

/// After so many visits in vain a client that has nothing may start with more than its share.
const PATIENT: u32 = 2;

/// Those who wait to be taken on by one pool. `T` is how a waiter is called.
#[derive(Debug)]
pub struct Entrance<T> {
    line: Line<Waiter<T>>,
    /// How many wait of each client.
    clients: HashMap<ClientKey, usize>,
    sent_away: LruCache<SessionKey, SentAway>,
}

#[derive(Debug)]
struct Waiter<T> {
    asking: Asking,
    visits: u32,
    caller: T,
}

/// One who stood here in vain.
#[derive(Clone, Copy, Debug)]
struct SentAway {
    number: u64,
    visits: u32,
}

/// Why somebody leaves the entrance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It was taken on, or its pool is there no more.
    ForGood,
    /// It waited for as long as one waits, or as its client does, and may come again.
    SentAway,
}

/// Who stands before somebody and holds up others.
#[derive(Default)]
struct Before {
    clients: HashSet<ClientKey>,
    /// Whether one of them is entitled to what it asks for.
    entitled: bool,
}

impl Before {
    fn add(&mut self, room: &Room<'_>, asking: &Asking, visits: u32) {
        if holds_up(visits) {
            // Whom its own client's first keeps waiting holds up nobody else.
            let first = self.clients.insert(asking.client);
            self.entitled |= first && is_entitled(room, asking, visits);
        }
    }

    /// Whether this one may enter behind them.
    fn lets_in(&self, room: &Room<'_>, asking: &Asking, visits: u32) -> bool {
        if self.entitled || !room.fits(asking.tokens) {
            return false;
        }
        let own = self.clients.contains(&asking.client);
        (is_entitled(room, asking, visits) && !own) || (self.clients.is_empty() && room.is_plenty(asking.tokens))
    }
}

/// Whether one who was here so often before holds up those behind it.
fn holds_up(visits: u32) -> bool {
    visits.saturating_add(1).is_power_of_two()
}

/// Whether what it asks for is its client's to have, also where it gets scarce.
fn is_entitled(room: &Room<'_>, asking: &Asking, visits: u32) -> bool {
    match room.claim(asking.client, asking.tokens) {
        Claim::Within => true,
        Claim::First => visits >= PATIENT && holds_up(visits),
        Claim::Beyond => false,
    }
}

impl<T> Default for Entrance<T> {
    fn default() -> Entrance<T> {
        Entrance { line: Line::default(), clients: HashMap::new(), sent_away: LruCache::new(SENT_AWAY_MAX) }
    }
}

impl<T> Entrance<T> {
    /// Whether there is room for a call that stands here, or comes now, and nobody stands before it who holds it up.
    pub fn admits(&self, asking: &Asking, admission: &Admission, caches: Caches) -> bool {
        let newcomer = Some(asking.client).filter(|client| !self.clients.contains_key(client));
        let room = admission.room(caches, self.clients.keys().copied().chain(newcomer));
        if !room.fits(asking.tokens) {
            return false;
        }
        let mut before = Before::default();
        for (place, waiter) in self.line.all() {
            if waiter.asking.session == asking.session {
                return before.lets_in(&room, asking, waiter.visits);
            }
            if place.turn() > asking.turn {
                break;
            }
            before.add(&room, &waiter.asking, waiter.visits);
            if before.entitled {
                return false;
            }
        }
        before.lets_in(&room, asking, 0)
    }

    /// Who is to look, since there is room for them: at most as many as are called at a time.
    pub fn with_room(&self, admission: &Admission, caches: Caches) -> Vec<&T> {
        let room = admission.room(caches, self.clients.keys().copied());
        let (mut before, mut called) = (Before::default(), Vec::new());
        for (_, waiter) in self.line.all() {
            if before.lets_in(&room, &waiter.asking, waiter.visits) {
                called.push(&waiter.caller);
            }
            before.add(&room, &waiter.asking, waiter.visits);
            if before.entitled || called.len() == CALLED_MAX {
                break;
            }
        }
        called
    }

    /// Joins. Whoever had to leave for it is returned, and must be told.
    pub fn enter(&mut self, asking: Asking, caller: T) -> Result<(Place, Option<T>), LineFull> {
        let displaced = if self.len() >= WAITING_MAX { Some(self.last_for(&asking).ok_or(LineFull)?) } else { None };
        let displaced = displaced.and_then(|place| {
            let waiter = self.remove(place)?;
            self.remember(&waiter, place, waiter.visits);
            Some(waiter.caller)
        });
        let before = self.sent_away.pop(&asking.session);
        let visits = before.map_or(0, |before| before.visits);
        let number = before.map(|before| before.number);
        *self.clients.entry(asking.client).or_default() += 1;
        Ok((self.line.join(asking.turn, number, Waiter { asking, visits, caller }), displaced))
    }

    /// Leaves. Whoever is first now, and those for whom there is room, must look.
    pub fn leave(&mut self, place: Place, why: Left) {
        if let Some(waiter) = self.remove(place)
            && why == Left::SentAway
        {
            self.remember(&waiter, place, waiter.visits.saturating_add(1));
        }
    }

    /// Who makes room for this one when all places are taken: the last of the client that has most of them, if that is more
    /// than the other would have and it does not come before it; else for one under way the last of its own that is not.
    fn last_for(&self, asking: &Asking) -> Option<Place> {
        let own = self.clients.get(&asking.client).copied().unwrap_or(0);
        let last_of = |client: ClientKey| {
            let mut last_first = self.line.all().rev();
            last_first.find(|(_, waiter)| waiter.asking.client == client).map(|(place, _)| place)
        };
        // Of those that have as many it is the one that stands last.
        let most = self.clients.values().copied().max().unwrap_or(0);
        let mut last_first = self.line.all().rev().map(|(_, waiter)| waiter.asking.client);
        let theirs = last_first.find(|client| most > own + 1 && self.clients.get(client) == Some(&most));
        let theirs = theirs.and_then(last_of).filter(|place| place.turn() >= asking.turn);
        theirs.or_else(|| last_of(asking.client).filter(|place| place.turn() > asking.turn))
    }

    fn remove(&mut self, place: Place) -> Option<Waiter<T>> {
        let waiter = self.line.remove(place)?;
        if let Some(count) = self.clients.get_mut(&waiter.asking.client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&waiter.asking.client);
            }
        }
        Some(waiter)
    }

    /// Of several calls of a session the one that stood first counts.
    fn remember(&mut self, waiter: &Waiter<T>, place: Place, visits: u32) {
        let (session, number) = (waiter.asking.session, place.number());
        let before = self.sent_away.peek(&session).map_or(number, |before| before.number);
        self.sent_away.put(session, SentAway { number: number.min(before), visits });
    }

    /// Whether the place is still held.
    pub fn contains(&self, place: Place) -> bool {
        self.line.contains(place)
    }

    /// Who is first.
    pub fn first(&self) -> Option<&T> {
        self.line.first().map(|waiter| &waiter.caller)
    }

    /// Whether nobody stands before this place.
    pub fn is_first(&self, place: Place) -> bool {
        self.line.all().next().is_some_and(|(first, _)| first == place)
    }

    /// Everyone who waits, in order.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.line.all().map(|(_, waiter)| &waiter.caller)
    }

    /// The calls of a session that wait here: they are taken on together.
    pub fn of(&self, session: SessionKey) -> impl Iterator<Item = &T> {
        let own = self.line.all().filter(move |(_, waiter)| waiter.asking.session == session);
        own.map(|(_, waiter)| &waiter.caller)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::queue::Turn::{self, New, UnderWay};
    use crate::policy::testing::session_key;

    /// Caches for 1,100 tokens of contexts, 880 before it gets scarce.
    const CACHES: Caches = Caches { all: 1_000, one: 1_000 };

    fn asking(n: usize, client: u128, tokens: u32) -> Asking {
        Asking { session: session_key(n), client: ClientKey(client), tokens, turn: New }
    }

    /// Sessions of these clients with so many tokens are active.
    fn active(sessions: &[(u128, u32)]) -> Admission {
        let (mut admission, now) = (Admission::default(), Instant::now());
        for (n, (client, tokens)) in sessions.iter().enumerate() {
            admission.began(Asking { turn: UnderWay, ..asking(10_000 + n, *client, *tokens) }, now);
        }
        admission
    }

    /// An entrance where these came, each after as many visits in vain as stand last.
    fn entrance(waiting: &[(u128, u32, u32)]) -> (Entrance<usize>, Vec<Place>) {
        let mut entrance = Entrance::default();
        let mut places = Vec::new();
        for (n, (client, tokens, visits)) in waiting.iter().enumerate() {
            let enter = |entrance: &mut Entrance<usize>| entrance.enter(asking(n, *client, *tokens), n).unwrap().0;
            for _ in 0..*visits {
                let place = enter(&mut entrance);
                entrance.leave(place, Left::SentAway);
            }
            places.push(enter(&mut entrance));
        }
        (entrance, places)
    }

    /// Of those who wait, `with_room` may enter; each as it says itself, and so it is called.
    #[track_caller]
    fn check(held: &[(u128, u32)], waiting: &[(u128, u32, u32)], with_room: &[usize]) {
        let (admission, (entrance, _)) = (active(held), entrance(waiting));
        let says = |n: &usize| entrance.admits(&asking(*n, waiting[*n].0, waiting[*n].1), &admission, CACHES);
        let says: Vec<usize> = (0..waiting.len()).filter(says).collect();
        let called: Vec<usize> = entrance.with_room(&admission, CACHES).into_iter().copied().collect();
        assert_eq!((&says[..], &called[..]), (with_room, with_room), "{held:?} {waiting:?}");
    }

    #[test]
    fn nobody_passes_the_first_while_it_has_to_wait_or_enters() {
        check(&[(1, 900)], &[(1, 300, 0), (1, 50, 0)], &[]);
        check(&[(1, 900)], &[(1, 200, 0), (1, 50, 0)], &[0]);
        check(&[], &[(1, 200, 0), (1, 50, 0)], &[0]);
        let (admission, (entrance, _)) = (active(&[(1, 900)]), entrance(&[(1, 300, 0)]));
        let comes = |turn| entrance.admits(&Asking { turn, ..asking(9, 1, 50) }, &admission, CACHES);
        assert_eq!((comes(New), comes(UnderWay)), (false, true));
    }

    #[test]
    fn what_never_fits_is_passed_more_and_more_often() {
        let passed = |visits: u32| {
            let (admission, (entrance, _)) = (active(&[(1, 500)]), entrance(&[(1, u32::MAX, visits), (1, 50, 0)]));
            entrance.admits(&asking(1, 1, 50), &admission, CACHES)
        };
        let firm: Vec<u32> = (0..100).filter(|visits| !passed(*visits)).collect();
        assert_eq!(firm, [0, 1, 3, 7, 15, 31, 63]);
    }

    #[test]
    fn a_client_over_its_share_holds_up_nobody_who_is_within() {
        check(&[(1, 900), (2, 50)], &[(1, 100, 0), (1, 20, 0), (2, 100, 0)], &[2]);
        check(&[(1, 900), (2, 50)], &[(1, 100, 0), (3, 100, 0), (2, 10, 0)], &[1]);
        // But its own: else its large sessions would never start.
        check(&[(1, 500), (2, 450)], &[(1, 100, 0), (1, 20, 0), (2, 50, 0)], &[2]);
        check(&[(1, 500), (2, 450)], &[(1, 100, 2), (1, 20, 0), (2, 50, 0)], &[1]);
        // Where there is plenty such a client is served as well, in its order.
        check(&[(1, 700), (2, 50)], &[(1, 200, 0), (1, 20, 0)], &[]);
        check(&[(1, 700), (2, 50)], &[(1, 100, 0), (1, 20, 0)], &[0]);
        check(&[(1, 700), (2, 50)], &[(1, 200, 2), (1, 20, 0)], &[1]);
    }

    #[test]
    fn one_client_alone_that_fills_the_pool_and_the_line_is_over_its_share_as_soon_as_another_waits() {
        check(&[(1, 950)], &[(1, 100, 0)], &[0]);
        check(&[(1, 950)], &[(1, 100, 0), (1, 100, 0), (2, 100, 0)], &[2]);
    }

    #[test]
    fn a_first_session_that_is_more_than_a_share_has_its_turn_some_time_and_holds_up_nobody_before() {
        for (visits, with_room) in [(0, &[1][..]), (1, &[1]), (2, &[1]), (3, &[0]), (4, &[1]), (7, &[0])] {
            check(&[(1, 300), (2, 300)], &[(3, 400, visits), (4, 100, 0)], with_room);
        }
        // It has its turn only with nothing.
        check(&[(1, 300), (2, 300), (3, 10)], &[(3, 400, 3), (4, 100, 0)], &[1]);
    }

    #[test]
    fn sessions_that_paused_stand_before_those_that_have_not_begun() {
        let mut entrance = Entrance::default();
        entrance.enter(asking(1, 1, 10), 1).unwrap();
        entrance.enter(Asking { turn: UnderWay, ..asking(2, 1, 10) }, 2).unwrap();
        assert_eq!(entrance.first(), Some(&2));
    }

    #[test]
    fn whoever_was_sent_away_stands_where_it_stood_when_it_comes_again() {
        let (mut entrance, places) = entrance(&[(1, 10, 0), (1, 10, 0)]);
        entrance.leave(places[0], Left::SentAway);
        assert!(entrance.first() == Some(&1) && entrance.is_first(places[1]));
        let (again, _) = entrance.enter(asking(0, 1, 10), 0).unwrap();
        assert_eq!((again, entrance.first()), (places[0], Some(&0)));
        entrance.leave(again, Left::ForGood);
        entrance.enter(asking(0, 1, 10), 0).unwrap();
        assert_eq!(entrance.first(), Some(&1), "it was served meanwhile");
    }

    #[test]
    fn of_several_calls_of_a_session_that_are_sent_away_the_first_place_is_kept() {
        let mut entrance = Entrance::default();
        let places = [1, 2, 1].map(|n| entrance.enter(asking(n, 1, 10), n).unwrap().0);
        entrance.leave(places[0], Left::SentAway);
        entrance.leave(places[2], Left::SentAway);
        assert_eq!(entrance.enter(asking(1, 1, 10), 1).unwrap().0, places[0]);
    }

    #[test]
    fn the_calls_of_one_session_are_taken_on_together() {
        let mut entrance = Entrance::default();
        for (n, caller) in [(1, 10), (2, 20), (1, 11)] {
            entrance.enter(asking(n, 1, 10), caller).unwrap();
        }
        assert_eq!(entrance.of(session_key(1)).collect::<Vec<_>>(), [&10, &11]);
    }

    /// An entrance that one client has filled.
    fn full() -> Entrance<usize> {
        let mut entrance = Entrance::default();
        for n in 0..WAITING_MAX {
            entrance.enter(asking(n, 1, 10), n).unwrap();
        }
        entrance
    }

    #[test]
    fn it_is_bounded() {
        let mut entrance = full();
        assert_eq!(entrance.enter(asking(9_999, 1, 10), 0), Err(LineFull));
        let paused = Asking { turn: UnderWay, ..asking(9_999, 1, 10) };
        assert_eq!(entrance.enter(paused, 0).unwrap().1, Some(WAITING_MAX - 1));
        assert_eq!(entrance.len(), WAITING_MAX);
        for place in entrance.line.all().map(|(place, _)| place).collect::<Vec<_>>() {
            entrance.leave(place, Left::ForGood);
        }
        assert!(entrance.is_empty() && entrance.clients.is_empty());
    }

    #[test]
    fn one_client_that_fills_it_makes_room_for_others_until_they_have_as_much() {
        let mut entrance = full();
        for n in 0..WAITING_MAX / 2 {
            let (_, displaced) = entrance.enter(asking(2_000 + n, 2, 10), 0).unwrap();
            assert_eq!(displaced, Some(WAITING_MAX - 1 - n), "the last that came");
        }
        assert_eq!(entrance.enter(asking(9_999, 2, 10), 0), Err(LineFull));
        assert_eq!(entrance.enter(asking(9_999, 1, 10), 0), Err(LineFull));
        assert!(entrance.enter(asking(9_999, 3, 10), 0).unwrap().1.is_some());
        // Who had to leave keeps its number.
        let place = entrance.line.all().find(|(_, waiter)| waiter.asking.client == ClientKey(2)).unwrap().0;
        entrance.leave(place, Left::ForGood);
        let (again, _) = entrance.enter(asking(WAITING_MAX - 1, 1, 10), 0).unwrap();
        assert!(again < place);
    }

    #[test]
    fn new_sessions_displace_none_that_paused() {
        let mut entrance = Entrance::default();
        for n in 0..WAITING_MAX {
            entrance.enter(Asking { turn: UnderWay, ..asking(n, 1, 10) }, n).unwrap();
        }
        assert_eq!(entrance.enter(asking(9_999, 2, 10), 0), Err(LineFull));
        assert!(entrance.enter(Asking { turn: UnderWay, ..asking(9_999, 2, 10) }, 0).is_ok());
    }

    fn waiters() -> impl Strategy<Value = Vec<(u128, u32, u32)>> {
        prop::collection::vec((0u128..5, 0u32..400, 0u32..5), 0..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        /// Whoever is called may enter, whoever may enter is called, and each for itself stays within the bound.
        #[test]
        fn those_with_room_are_called(
            held in prop::collection::vec((0u128..5, 1u32..300), 0..8), waiting in waiters(),
        ) {
            let (admission, (entrance, _)) = (active(&held), entrance(&waiting));
            let called: Vec<usize> = entrance.with_room(&admission, CACHES).into_iter().copied().collect();
            let own = |client: u128| held.iter().filter(|(c, _)| *c == client).map(|(_, tokens)| *tokens).sum::<u32>();
            let clients = held.iter().map(|(c, _)| *c).chain(waiting.iter().map(|(c, ..)| *c));
            let clients = clients.collect::<std::collections::HashSet<_>>().len() as f64;
            for (n, (client, tokens, visits)) in waiting.iter().enumerate() {
                let admitted = entrance.admits(&asking(n, *client, *tokens), &admission, CACHES);
                prop_assert!(admitted == called.contains(&n) || called.len() == CALLED_MAX);
                let after = admission.tokens() + u64::from(*tokens);
                prop_assert!(!admitted || after <= 1_100);
                let within = f64::from(own(*client) + tokens) <= 1_100.0 / clients;
                let patient = own(*client) == 0 && *visits >= PATIENT;
                prop_assert!(!admitted || after <= 880 || within || patient);
            }
            // The first of those within their share enters if there is room, whoever stands before it.
            let within = |client: u128, tokens: u32| f64::from(own(client) + tokens) <= 1_100.0 / clients;
            let first = waiting.iter().position(|(client, tokens, _)| within(*client, *tokens));
            let has_turn = |n: usize| own(waiting[n].0) == 0 && waiting[n].2 >= PATIENT;
            let stands_in_the_way = |first: usize, n: usize| has_turn(n) || waiting[n].0 == waiting[first].0;
            if let Some(first) = first.filter(|first| !(0..*first).any(|n| stands_in_the_way(*first, n))) {
                let fits = admission.tokens() + u64::from(waiting[first].1) <= 1_100;
                prop_assert!(!fits || called.contains(&first) || called.len() == CALLED_MAX);
            }
        }

        #[test]
        fn the_count_of_each_client_is_that_of_its_places(
            steps in prop::collection::vec((0u8..3, 0usize..40, 0u128..4, any::<bool>()), 1..200),
        ) {
            let mut entrance: Entrance<usize> = Entrance::default();
            for (step, n, client, under_way) in steps {
                let turn = if under_way { UnderWay } else { Turn::New };
                match step {
                    0 | 1 => drop(entrance.enter(Asking { turn, ..asking(n, client, 10) }, n)),
                    _ => {
                        let place = entrance.line.all().nth(n).map(|(place, _)| place);
                        let why = if under_way { Left::SentAway } else { Left::ForGood };
                        place.into_iter().for_each(|place| entrance.leave(place, why));
                    }
                }
                let mut counted: HashMap<ClientKey, usize> = HashMap::new();
                entrance.line.all().for_each(|(_, waiter)| *counted.entry(waiter.asking.client).or_default() += 1);
                prop_assert_eq!(&entrance.clients, &counted);
            }
        }
    }
}

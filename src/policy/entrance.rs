//! The entrance of a pool: sessions that wait to be [taken on](super::admission), strictly in the order in which they came.
//!
//! A line for places lets those behind try when the first cannot use what is free. Here nobody passes the first: else small
//! contexts would slip past a large one for ever. A session that waited for as long as one waits, and was told to come
//! again, keeps its number: when it does come again it stands where it stood, so that no session starves however often it
//! is sent away. Sessions that paused stand before those that have not begun.
//!
//! What it costs: while a large context is first, room that smaller ones behind it would fit stays empty.

use std::num::NonZeroUsize;

use lru::LruCache;

use super::queue::{Line, LineFull, Place, Turn};
use crate::domain::ids::SessionKey;

/// Most sessions that wait at one pool: each holds a request with its body for up to the time that sessions wait.
pub const WAITING_MAX: usize = 1_024;

/// Most sessions that are remembered to have waited: as many as come again within minutes of a hard overload.
const SENT_AWAY_MAX: NonZeroUsize = NonZeroUsize::new(8_192).unwrap();

/// The longest that a session which was sent away is told to stay away, in seconds: it keeps its place, and must be there to
/// take it.
pub const COME_AGAIN_S_MAX: u32 = 10;

/// Those who wait to be taken on by one pool. `T` is how a waiter is called.
#[derive(Debug)]
pub struct Entrance<T> {
    line: Line<(SessionKey, T)>,
    /// The numbers of those who were sent away.
    sent_away: LruCache<SessionKey, u64>,
}

/// Why somebody leaves the entrance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// It was taken on, or the client went away.
    ForGood,
    /// It waited for as long as one waits, and may come again.
    SentAway,
}

impl<T> Default for Entrance<T> {
    fn default() -> Entrance<T> {
        Entrance { line: Line::default(), sent_away: LruCache::new(SENT_AWAY_MAX) }
    }
}

impl<T> Entrance<T> {
    /// Whether nobody stands before a call of this session that stands here with `turn`, or comes now.
    pub fn is_next(&self, session: SessionKey, turn: Turn) -> bool {
        self.line.first().is_none_or(|(first, _)| *first == session) || !self.line.overtakes(turn)
    }

    /// Joins. Whoever had to leave for it is returned, and must be told.
    pub fn enter(&mut self, session: SessionKey, turn: Turn, caller: T) -> Result<(Place, Option<T>), LineFull> {
        let number = self.sent_away.pop(&session);
        let entered = self.line.enter_again(turn, number, (session, caller), WAITING_MAX);
        entered.map(|(place, displaced)| (place, displaced.map(|(_, caller)| caller)))
    }

    /// Leaves. Whoever is first now must look for room.
    pub fn leave(&mut self, session: SessionKey, place: Place, why: Left) -> Option<&T> {
        if why == Left::SentAway {
            self.sent_away.put(session, place.number());
        }
        self.line.leave(place, true);
        self.first()
    }

    /// Whether the place is still held.
    pub fn contains(&self, place: Place) -> bool {
        self.line.contains(place)
    }

    /// Who is first.
    pub fn first(&self) -> Option<&T> {
        self.line.first().map(|(_, caller)| caller)
    }

    /// The calls of a session that wait here: they are taken on together.
    pub fn of(&self, session: SessionKey) -> impl Iterator<Item = &T> {
        self.line.all().filter(move |(own, _)| *own == session).map(|(_, caller)| caller)
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
    use super::*;
    use crate::policy::testing::session_key as session;
    use Turn::{New, UnderWay};

    #[test]
    fn nobody_passes_the_first() {
        let mut entrance = Entrance::default();
        assert!(entrance.is_next(session(1), New));
        let (first, _) = entrance.enter(session(1), New, 1).unwrap();
        entrance.enter(session(2), New, 2).unwrap();
        assert!(entrance.is_next(session(1), New) && !entrance.is_next(session(2), New));
        assert!(!entrance.is_next(session(3), New) && entrance.is_next(session(3), UnderWay));
        assert_eq!(entrance.leave(session(1), first, Left::ForGood), Some(&2));
        assert!(entrance.is_next(session(2), New));
    }

    #[test]
    fn sessions_that_paused_stand_before_those_that_have_not_begun() {
        let mut entrance = Entrance::default();
        entrance.enter(session(1), New, 1).unwrap();
        entrance.enter(session(2), UnderWay, 2).unwrap();
        assert_eq!(entrance.first(), Some(&2));
    }

    #[test]
    fn whoever_was_sent_away_stands_where_it_stood_when_it_comes_again() {
        let mut entrance = Entrance::default();
        let (first, _) = entrance.enter(session(1), New, 1).unwrap();
        entrance.enter(session(2), New, 2).unwrap();
        entrance.leave(session(1), first, Left::SentAway);
        assert_eq!(entrance.first(), Some(&2));
        let (again, _) = entrance.enter(session(1), New, 1).unwrap();
        assert_eq!((again, entrance.first()), (first, Some(&1)));
        entrance.leave(session(1), again, Left::ForGood);
        entrance.enter(session(1), New, 1).unwrap();
        assert_eq!(entrance.first(), Some(&2), "it was served meanwhile");
    }

    #[test]
    fn the_calls_of_one_session_are_taken_on_together() {
        let mut entrance = Entrance::default();
        for (n, caller) in [(1, 10), (2, 20), (1, 11)] {
            entrance.enter(session(n), New, caller).unwrap();
        }
        assert_eq!(entrance.of(session(1)).collect::<Vec<_>>(), [&10, &11]);
    }

    #[test]
    fn it_is_bounded() {
        let mut entrance = Entrance::default();
        for n in 0..WAITING_MAX {
            entrance.enter(session(n), New, n).unwrap();
        }
        assert_eq!(entrance.enter(session(9_999), New, 0), Err(LineFull));
        assert_eq!(entrance.enter(session(9_999), UnderWay, 0).unwrap().1, Some(WAITING_MAX - 1));
        assert_eq!(entrance.len(), WAITING_MAX);
    }
}

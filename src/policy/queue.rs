//! Who waits for a place in a pool, and whose turn it is.
//!
//! When every replica is at its cap a call waits a little instead of being refused: an answer that ends makes room
//! within a second or so, sooner than any SDK comes back. The line is short and its waits are bounded, since a long one
//! only turns an overload into time-outs. Calls of sessions under way stand before first calls of new ones, so that
//! chains that have begun can end; a full line takes one more of them by turning away the last of the new ones.
//!
//! It errs towards sessions under way: while they fill the line, nothing new starts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How soon a call's turn comes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Turn {
    /// Its session has begun, or the call itself was tried already.
    UnderWay,
    /// The first call of a session, or a call without one.
    New,
}

/// A place in a line: first those under way, then in the order of arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    turn: Turn,
    number: u64,
}

/// The longest that a client is told to wait: beyond it the SDKs give up, or pay no heed.
pub const RETRY_AFTER_S_MAX: u32 = 120;

/// Whole seconds after which a client may try again that would have to wait so long: at least one, and at most `most`.
pub fn retry_after_s(wait: Duration, most: u32) -> u32 {
    (wait.as_secs_f64().ceil() as u32).clamp(1, most)
}

impl Place {
    /// How soon its turn comes.
    pub fn turn(self) -> Turn {
        self.turn
    }

    /// What it is numbered by in its line.
    pub fn number(self) -> u64 {
        self.number
    }
}

/// Weight of the newest interval in the mean pace: about the last ten places that became free count.
const NEWEST_SHARE: f64 = 0.2;

/// Those who wait for one pool. `T` is how a waiter is called.
#[derive(Debug)]
pub struct Line<T> {
    waiting: BTreeMap<Place, Waiter<T>>,
    next: u64,
    last_freed: Option<Instant>,
    /// Mean time between two places that became free, in seconds, while somebody waited.
    interval_s: Option<f64>,
}

#[derive(Debug)]
struct Waiter<T> {
    caller: T,
    called: bool,
}

/// A line that takes nobody more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineFull;

impl<T> Default for Line<T> {
    fn default() -> Line<T> {
        Line { waiting: BTreeMap::new(), next: 0, last_freed: None, interval_s: None }
    }
}

impl<T> Line<T> {
    /// Takes a place in a line of at most `max`. Whoever had to leave for it is returned, and must be told.
    pub fn enter(&mut self, turn: Turn, caller: T, max: usize) -> Result<(Place, Option<T>), LineFull> {
        let mut displaced = None;
        if self.waiting.len() >= max {
            let last = self.waiting.last_key_value().map(|(place, _)| *place).filter(|last| last.turn > turn);
            displaced = Some(last.and_then(|last| self.remove(last)).ok_or(LineFull)?);
        }
        Ok((self.join(turn, None, caller), displaced))
    }

    /// The same for whoever bounds the line himself. With the number that his place had one who stood here before stands where
    /// he would stand now.
    pub fn join(&mut self, turn: Turn, number: Option<u64>, caller: T) -> Place {
        let before = number.map(|number| Place { turn, number }).filter(|place| !self.waiting.contains_key(place));
        let place = before.unwrap_or(Place { turn, number: self.next });
        self.next += u64::from(before.is_none());
        self.waiting.insert(place, Waiter { caller, called: false });
        place
    }

    /// Takes whoever stands there out of the line, as one who was not called.
    pub fn remove(&mut self, place: Place) -> Option<T> {
        self.waiting.remove(&place).map(|waiter| waiter.caller)
    }

    /// A place became free: whoever is first and was not called yet is to be called.
    pub fn freed(&mut self, now: Instant) -> Option<&T> {
        if let Some(last) = self.last_freed.replace(now) {
            let newest = now.saturating_duration_since(last).as_secs_f64();
            let mean = self.interval_s.unwrap_or(newest);
            self.interval_s = Some(mean + NEWEST_SHARE * (newest - mean));
        }
        self.call(None)
    }

    /// Who is first, called or not.
    pub fn first(&self) -> Option<&T> {
        self.waiting.first_key_value().map(|(_, waiter)| &waiter.caller)
    }

    /// Whoever was called could not use the place: it is for one who stands behind.
    pub fn pass(&mut self, from: Place) -> Option<&T> {
        if let Some(waiter) = self.waiting.get_mut(&from) {
            waiter.called = false;
        }
        self.call(Some(from))
    }

    /// Gives up a place. When its holder had been called and did not take what was free, the next one is to be called.
    pub fn leave(&mut self, place: Place, took: bool) -> Option<&T> {
        let unused = self.waiting.remove(&place).is_some_and(|waiter| waiter.called && !took);
        if self.waiting.is_empty() {
            // The pace of one overload says nothing of the next.
            (self.last_freed, self.interval_s) = (None, None);
        }
        if unused { self.call(None) } else { None }
    }

    fn call(&mut self, after: Option<Place>) -> Option<&T> {
        let mut behind = self.waiting.iter_mut().filter(|(place, _)| after.is_none_or(|after| **place > after));
        let (_, waiter) = behind.find(|(_, waiter)| !waiter.called)?;
        waiter.called = true;
        Some(&waiter.caller)
    }

    /// Whether the place is still held.
    pub fn contains(&self, place: Place) -> bool {
        self.waiting.contains_key(&place)
    }

    /// Everyone who waits, in order.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = (Place, &T)> {
        self.waiting.iter().map(|(place, waiter)| (*place, &waiter.caller))
    }

    /// Whether one that comes now would overtake somebody.
    pub fn overtakes(&self, turn: Turn) -> bool {
        self.waiting.first_key_value().is_some_and(|(first, _)| first.turn <= turn)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How long one more would wait at the present pace; `None` while that is not known.
    pub fn wait(&self) -> Option<Duration> {
        let seconds = self.interval_s? * (self.waiting.len() + 1) as f64;
        Duration::try_from_secs_f64(seconds).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 4;
    use Turn::{New, UnderWay};

    /// A line of callers named by their number of arrival.
    fn line(turns: &[Turn]) -> (Line<usize>, Vec<Place>) {
        let mut line = Line::default();
        let places = turns.iter().enumerate().map(|(n, turn)| line.enter(*turn, n, MAX).unwrap().0).collect();
        (line, places)
    }

    #[track_caller]
    fn check_calls(turns: &[Turn], order: &[usize]) {
        let (mut line, now) = (line(turns).0, Instant::now());
        let called: Vec<_> = std::iter::from_fn(|| line.freed(now).copied()).collect();
        assert_eq!(called, order);
    }

    #[test]
    fn sessions_under_way_are_called_first_and_each_kind_in_its_order() {
        check_calls(&[New, New, New], &[0, 1, 2]);
        check_calls(&[New, UnderWay, New, UnderWay], &[1, 3, 0, 2]);
        check_calls(&[], &[]);
    }

    #[test]
    fn a_full_line_turns_the_last_new_call_away_for_one_under_way() {
        let (mut line, _) = line(&[New, UnderWay, New, New]);
        assert_eq!(line.enter(New, 9, MAX), Err(LineFull));
        assert_eq!(line.enter(UnderWay, 9, MAX).unwrap().1, Some(3));
        assert_eq!(line.enter(UnderWay, 9, MAX).unwrap().1, Some(2));
        assert_eq!(line.enter(UnderWay, 9, MAX).unwrap().1, Some(0));
        assert_eq!(line.enter(UnderWay, 9, MAX), Err(LineFull));
        assert_eq!(line.enter(New, 9, 0), Err(LineFull), "no line at all");
        assert_eq!(line.len(), MAX);
    }

    #[test]
    fn a_place_that_was_not_used_goes_to_the_next() {
        let now = Instant::now();
        let (mut line, places) = line(&[New, New, New]);
        assert_eq!(line.freed(now), Some(&0));
        assert_eq!(line.pass(places[0]), Some(&1), "0 could not use it, and stays first in line");
        assert_eq!(line.leave(places[1], false), Some(&0), "1 went away without using it");
        assert_eq!(line.leave(places[0], true), None);
        assert_eq!(line.leave(places[0], true), None, "twice is once");
        assert_eq!(line.freed(now), Some(&2));
    }

    #[test]
    fn a_client_is_told_to_come_back_in_one_second_at_the_least() {
        let after = |ms| retry_after_s(Duration::from_millis(ms), RETRY_AFTER_S_MAX);
        assert_eq!([0, 1_000, 1_001, 1_000_000].map(after), [1, 1, 2, RETRY_AFTER_S_MAX]);
        assert_eq!(retry_after_s(Line::<()>::default().wait().unwrap_or_default(), RETRY_AFTER_S_MAX), 1);
    }

    #[test]
    fn whoever_stood_in_line_before_stands_where_he_stood() {
        let (mut line, places) = line(&[New, New, New]);
        line.leave(places[0], false);
        assert_eq!(line.first(), Some(&1));
        let again = line.join(New, Some(places[0].number()), 0);
        assert_eq!((again, line.first()), (places[0], Some(&0)));
        let twice = line.join(New, Some(places[0].number()), 9);
        assert!(twice > places[2], "one place is for one");
    }

    #[test]
    fn newcomers_overtake_only_those_who_stand_behind_them() {
        assert!(!line(&[]).0.overtakes(New));
        assert!(line(&[New]).0.overtakes(New));
        assert!(!line(&[New]).0.overtakes(UnderWay));
        assert!(line(&[New, UnderWay]).0.overtakes(UnderWay));
    }

    #[test]
    fn the_wait_is_the_pace_times_those_before() {
        let (mut line, places) = line(&[New, New]);
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        assert_eq!(line.wait(), None);
        line.freed(start);
        line.freed(start + second);
        assert_eq!(line.wait(), Some(3 * second));
        for place in places {
            line.leave(place, true);
        }
        assert_eq!(line.wait(), None, "forgotten with the overload");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn no_free_place_is_lost_while_somebody_waits(
            steps in prop::collection::vec((0u8..4, 0usize..8, any::<bool>()), 1..200),
        ) {
            let (mut line, now) = (Line::default(), Instant::now());
            // Those who wait, and whether each is called; a model of what the waiters see.
            let mut waiting: Vec<(Place, usize, bool)> = Vec::new();
            let called = |waiting: &mut Vec<(Place, usize, bool)>, who: Option<usize>| {
                if let Some(waiter) = waiting.iter_mut().find(|(_, n, _)| Some(*n) == who) {
                    waiter.2 = true;
                }
            };
            for (n, (step, at, under_way)) in steps.into_iter().enumerate() {
                let turn = if under_way { UnderWay } else { New };
                let uncalled = waiting.iter().filter(|(_, _, called)| !called).count();
                match (step, waiting.get(at).copied()) {
                    (0, _) => if let Ok((place, displaced)) = line.enter(turn, n, MAX) {
                        waiting.retain(|(_, n, _)| Some(*n) != displaced);
                        waiting.push((place, n, false));
                    },
                    (1, _) => {
                        let who = line.freed(now).copied();
                        prop_assert_eq!(who.is_some(), uncalled > 0);
                        called(&mut waiting, who);
                    }
                    (2, Some((place, _, true))) => {
                        waiting[at].2 = false;
                        let behind = waiting.iter().any(|(other, _, called)| *other > place && !called);
                        let who = line.pass(place).copied();
                        prop_assert_eq!(who.is_some(), behind);
                        called(&mut waiting, who);
                    }
                    (3, Some((place, _, was_called))) => {
                        waiting.remove(at);
                        let who = line.leave(place, false).copied();
                        let left = waiting.iter().any(|(_, _, called)| !called);
                        prop_assert_eq!(who.is_some(), was_called && left);
                        called(&mut waiting, who);
                    }
                    _ => {}
                }
                prop_assert!(line.len() <= MAX && line.len() == waiting.len());
            }
        }
    }
}

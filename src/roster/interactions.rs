//! The interactions under way: one entry for each session that made a call lately.
//!
//! A bounded table. Where it is full the one that was quiet for longest is closed before its time, and told as any other: a
//! call of it that is still in flight then counts in one of its own. What is closed is returned to whoever asked, since to
//! count and to log is not done under a lock.
//!
//! An interaction takes 169 bytes, measured with a million of them (`cargo bench --bench decisions`, whose bound is 200): 64 of
//! its own, the rest for its place in the list and in the hash table. Only sessions with a call in the last minutes have one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

use super::idle_table::SHARDS;
use crate::domain::ids::SessionKey;
use crate::policy::interaction::{CallEnd, Interaction};

/// The interactions under way, by session.
#[derive(Debug)]
pub struct Interactions {
    // Std mutexes: a section is one look-up and never crosses an `.await`. The longest quiet is the least recently used.
    shards: Vec<Mutex<LruCache<u128, Interaction>>>,
    /// The bound of each shard.
    capacity: AtomicUsize,
    start: Instant,
}

/// Why an interaction was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Its session made no call for so long.
    Idle,
    /// It had to make room.
    Full,
    /// The edge ends.
    End,
}

/// An interaction that is over.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Closed {
    /// Whose it was.
    pub session: SessionKey,
    /// What it came to.
    pub interaction: Interaction,
    /// When its first request came.
    pub began: Instant,
    /// Why it is over.
    pub cause: Cause,
}

/// A call that is in flight. While there is one, the interaction is not idle.
#[derive(Debug)]
pub struct Member<'a> {
    table: &'a Interactions,
    session: SessionKey,
    began: Instant,
}

impl Interactions {
    /// A table for about `capacity` interactions (rounded up to the shards).
    pub fn new(capacity: usize, start: Instant) -> Interactions {
        let shards = (0..SHARDS).map(|_| Mutex::new(LruCache::unbounded())).collect();
        let table = Interactions { shards, capacity: AtomicUsize::new(0), start };
        table.resize(capacity);
        table
    }

    /// A call of a session, whose request came at `began`. What had to make room is returned.
    pub fn begin(&self, session: SessionKey, began: Instant) -> (Member<'_>, Option<Closed>) {
        let full = self.change(session, began, |interaction, now_ms| interaction.begins(now_ms), began);
        (Member { table: self, session, began }, full)
    }

    /// Closes at most `most` interactions that have been quiet for longer than `idle`, and those beyond the bound.
    pub fn close_idle(&self, idle: Duration, now: Instant, most: usize) -> Vec<Closed> {
        let (mut closed, now_ms) = (Vec::new(), self.ms(now));
        for shard in &self.shards {
            let mut shard = lock(shard);
            // Each is looked at once at most: one with a call in flight goes to the other end.
            for _ in 0..shard.len() {
                if closed.len() >= most {
                    return closed;
                }
                let beyond = shard.len() > self.capacity.load(Ordering::Relaxed);
                let Some((key, oldest)) = shard.peek_lru().map(|(key, oldest)| (*key, *oldest)) else { break };
                if !beyond && !oldest.is_quiet(idle, now_ms) {
                    break;
                }
                if !beyond && oldest.is_under_way() {
                    if let Some(oldest) = shard.get_mut(&key) {
                        oldest.touch(now_ms);
                    }
                    continue;
                }
                closed.extend(self.pop(&mut shard, if beyond { Cause::Full } else { Cause::Idle }));
            }
        }
        closed
    }

    /// Closes at most `most` interactions, whatever they do: the edge ends.
    pub fn close_any(&self, most: usize) -> Vec<Closed> {
        let mut closed = Vec::new();
        for shard in &self.shards {
            let mut shard = lock(shard);
            while closed.len() < most && !shard.is_empty() {
                closed.extend(self.pop(&mut shard, Cause::End));
            }
        }
        closed
    }

    /// Changes the bound. What is beyond it is closed when next looked at.
    pub fn resize(&self, capacity: usize) {
        self.capacity.store(capacity.div_ceil(SHARDS).max(1), Ordering::Relaxed);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Changes a session's interaction, or the one that began at `began` where it has none.
    fn change(
        &self,
        session: SessionKey,
        began: Instant,
        change: impl FnOnce(&mut Interaction, u64),
        now: Instant,
    ) -> Option<Closed> {
        // The key is a hash already; its low bits are as good as any.
        let mut shard = lock(&self.shards[session.0 as usize % SHARDS]);
        change(shard.get_or_insert_mut(session.0, || Interaction::new(self.ms(began))), self.ms(now));
        let beyond = shard.len() > self.capacity.load(Ordering::Relaxed);
        if beyond { self.pop(&mut shard, Cause::Full) } else { None }
    }

    /// Takes the longest quiet one out. One of which no call has ended has nothing to tell: its calls will.
    fn pop(&self, shard: &mut LruCache<u128, Interaction>, cause: Cause) -> Option<Closed> {
        let (key, interaction) = shard.pop_lru()?;
        let began = self.start + Duration::from_millis(interaction.began_ms);
        (interaction.calls > 0).then_some(Closed { session: SessionKey(key), interaction, began, cause })
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Member<'_> {
    /// The call has ended at `now`. What had to make room is returned.
    pub fn end(self, call: &CallEnd, now: Instant) -> Option<Closed> {
        self.table.change(self.session, self.began, |interaction, now_ms| interaction.ends(call, now_ms), now)
    }
}

fn lock(shard: &Mutex<LruCache<u128, Interaction>>) -> MutexGuard<'_, LruCache<u128, Interaction>> {
    // Every section leaves the table whole, so a panic elsewhere does not spoil it.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Outcome;

    const IDLE: Duration = Duration::from_secs(180);
    const CALL: CallEnd = CallEnd { outcome: Outcome::Ok, cost_dollars: Some(0.01), tokens: (10, 5, 1) };

    struct World {
        table: Interactions,
        start: Instant,
    }

    impl World {
        fn new(capacity: usize) -> World {
            let start = Instant::now();
            World { table: Interactions::new(capacity, start), start }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        /// A call that takes a second.
        fn call(&self, session: u128, at: u64) -> Vec<Closed> {
            let (member, full) = self.table.begin(SessionKey(session), self.at(at));
            full.into_iter().chain(member.end(&CALL, self.at(at + 1))).collect()
        }

        fn closed(&self, at: u64) -> Vec<(u128, u32, Cause)> {
            told(&self.table.close_idle(IDLE, self.at(at), usize::MAX))
        }
    }

    fn told(closed: &[Closed]) -> Vec<(u128, u32, Cause)> {
        closed.iter().map(|one| (one.session.0, one.interaction.calls, one.cause)).collect()
    }

    #[test]
    fn an_interaction_is_a_sessions_calls_until_it_idles() {
        let world = World::new(1_000);
        for at in [0, 10, 190, 300] {
            assert!(world.call(7, at).is_empty());
        }
        world.call(8, 300);
        assert_eq!(world.closed(481), []);
        let closed = world.table.close_idle(IDLE, world.at(482), usize::MAX);
        assert_eq!(told(&closed), [(7, 4, Cause::Idle), (8, 1, Cause::Idle)]);
        let first = closed[0];
        assert_eq!((first.began, first.interaction.lasted_ms), (world.start, 301_000));
        world.call(7, 500);
        assert_eq!(world.closed(1_000), [(7, 1, Cause::Idle)], "a pause later it is another one");
        assert!(world.table.is_empty());
    }

    #[test]
    fn a_call_in_flight_keeps_it_open_and_hides_none_behind_it() {
        let world = World::new(10 * SHARDS);
        let (long, _) = world.table.begin(SessionKey(0), world.start);
        // In the same shard, and behind it in the line.
        world.call(64, 1);
        assert_eq!(world.closed(1_000), [(64, 1, Cause::Idle)]);
        assert_eq!(world.table.len(), 1);
        long.end(&CALL, world.at(1_100));
        assert_eq!(world.closed(1_280), []);
        assert_eq!(world.closed(1_281), [(0, 1, Cause::Idle)]);
    }

    #[test]
    fn where_it_is_full_the_longest_quiet_is_closed_and_nothing_is_lost() {
        let world = World::new(SHARDS); // one place in each shard
        let mut closed = Vec::new();
        for n in 0..10_000 {
            closed.extend(world.call(n, n as u64));
            assert!(world.table.len() <= SHARDS);
        }
        assert!(closed.iter().all(|one| one.cause == Cause::Full));
        closed.extend(world.table.close_any(usize::MAX));
        assert_eq!(closed.iter().map(|one| one.interaction.calls).sum::<u32>(), 10_000);
    }

    #[test]
    fn a_call_whose_interaction_had_to_go_is_counted_in_another() {
        let world = World::new(SHARDS);
        let (long, _) = world.table.begin(SessionKey(0), world.start);
        assert_eq!(world.call(64, 1), [], "of the one that went no call had ended");
        let full = long.end(&CALL, world.at(10));
        assert_eq!(told(full.as_slice()), [(64, 1, Cause::Full)]);
        let last = world.table.close_any(usize::MAX);
        assert_eq!((told(&last), last[0].interaction.lasted_ms), (vec![(0, 1, Cause::End)], 10_000));
    }

    #[test]
    fn a_smaller_bound_closes_what_is_beyond_it_when_next_looked_at() {
        let world = World::new(10 * SHARDS);
        for n in 0..640 {
            world.call(n, 0);
        }
        world.table.resize(SHARDS);
        let closed = world.closed(1);
        assert_eq!((closed.len(), world.table.len()), (640 - SHARDS, SHARDS));
        assert!(closed.iter().all(|(_, _, cause)| *cause == Cause::Full));
    }

    #[test]
    fn they_are_closed_a_few_at_a_time() {
        let world = World::new(10_000);
        for n in 0..1_000 {
            world.call(n, 0);
        }
        let mut sizes = Vec::new();
        while !world.table.is_empty() {
            sizes.push(world.table.close_idle(IDLE, world.at(1_000), 300).len());
        }
        assert_eq!(sizes, [300, 300, 300, 100]);
    }
}

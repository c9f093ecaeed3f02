//! One live record per pool: calls in flight there, who waits for a place, and how fast it is.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::cache::PoolCache;
use super::intake::Intake;
use crate::policy::admission::{Asking, Stay};
use crate::policy::cost;
use crate::policy::pace::Pace;
use crate::policy::queue::{Line, Place, Turn};
use crate::policy::replica::Candidate;
use crate::policy::spill::Level;

/// What is known of one pool. It outlives reloads that keep the pool's name.
#[derive(Debug)]
pub struct PoolLive {
    in_flight: AtomicU32,
    cap: AtomicU32,
    /// Whether it takes no new sessions, since it was full.
    past: AtomicBool,
    /// How many wait; read without the lock by everyone who has nobody to call.
    waiting: AtomicUsize,
    // A std mutex: the sections are a few instructions long and never cross an `.await`.
    line: Mutex<Line<Arc<Notify>>>,
    // The same.
    pace: Mutex<Pace>,
    /// What its replicas hold in their caches.
    pub cache: PoolCache,
    /// Which sessions it has taken on.
    pub intake: Intake,
}

impl PoolLive {
    /// A pool that is given at most `cap` requests at a time.
    pub fn new(cap: u32) -> PoolLive {
        PoolLive {
            in_flight: AtomicU32::new(0),
            cap: AtomicU32::new(cap),
            past: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            line: Mutex::default(),
            pace: Mutex::default(),
            cache: PoolCache::default(),
            intake: Intake::default(),
        }
    }

    /// Sets the cap anew. Whoever waits is called if that made room.
    pub fn set_cap(&self, cap: u32) {
        if self.cap.swap(cap, Ordering::SeqCst) < cap {
            // As in `leave`.
            fence(Ordering::SeqCst);
            self.call_all();
        }
    }

    /// Whether it has as many requests as it may.
    pub fn is_full(&self) -> bool {
        self.in_flight.load(Ordering::Relaxed) >= self.cap.load(Ordering::Relaxed)
    }

    /// A call of a session is sent to one of its replicas, and counts with no more than the cache of that holds. What is
    /// returned is to be told when it ends.
    pub fn began(&self, asking: Asking, now: Instant) -> Stay {
        let most = self.cache.known_size().and_then(|size| u32::try_from(size).ok()).unwrap_or(u32::MAX);
        self.intake.began(Asking { tokens: asking.tokens.min(most), ..asking }, now)
    }

    /// Whether it takes new sessions, now that its replicas are so. Told to whoever looks for a place to start one: nobody
    /// else needs to know, and who looks at the same time sees the same.
    pub(super) fn level(&self, replicas: &[Candidate]) -> Level {
        let of_own_cap =
            f64::from(self.in_flight.load(Ordering::Relaxed)) / f64::from(self.cap.load(Ordering::Relaxed));
        let before = if self.past.load(Ordering::Relaxed) { Level::Past } else { Level::Within };
        let level = before.now(replicas, of_own_cap);
        if level != before {
            self.past.store(level == Level::Past, Ordering::Relaxed);
        }
        level
    }

    /// Counts a request in, unless the cap is reached.
    pub(super) fn enter(&self) -> bool {
        let cap = self.cap.load(Ordering::Relaxed);
        let free = |n: u32| (n < cap).then_some(n + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).is_ok()
    }

    /// Counts a request out whose place at its replica is free already, and calls whoever waits for one.
    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        // Either this sees whoever has just begun to wait, or he sees the place that is free now: he counts himself in
        // before he looks (the other fence is in `Ticket::enter`).
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) > 0
            && let Some(first) = self.line().freed(Instant::now())
        {
            first.notify_one();
        }
    }

    /// Calls everyone who waits: a replica has come back with all of its places.
    pub(super) fn call_all(&self) {
        self.intake.changed();
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.line().all().for_each(|(_, caller)| caller.notify_one());
        }
    }

    /// Whether one that comes now would overtake somebody who waits.
    pub fn overtakes(&self, turn: Turn) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0 && self.line().overtakes(turn)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How long one more would wait; `None` while that is not known.
    pub fn wait(&self) -> Option<Duration> {
        self.line().wait()
    }

    /// How fast it is, to read and to note.
    pub fn pace(&self) -> MutexGuard<'_, Pace> {
        // A panic while noting loses one sample at most.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tokens of prompt that one of its replicas reads in a second, as far as is known.
    pub fn tokens_per_s(&self) -> f32 {
        self.pace().reads_per_s().unwrap_or(cost::ASSUMED_TOKENS_PER_S)
    }

    /// Every change of the line goes through here, so that the count without the lock follows it.
    fn change<T>(&self, change: impl FnOnce(&mut Line<Arc<Notify>>) -> T) -> T {
        let mut line = self.line();
        let result = change(&mut line);
        self.waiting.store(line.len(), Ordering::Relaxed);
        result
    }

    fn line(&self) -> MutexGuard<'_, Line<Arc<Notify>>> {
        // Every section leaves the line whole, so a panic elsewhere does not spoil it.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that waits in the lines of its pools. Dropped, it leaves them all.
#[derive(Debug)]
pub struct Ticket {
    caller: Arc<Notify>,
    stands: Vec<(Arc<PoolLive>, Place)>,
}

impl Ticket {
    /// Joins the line of each of these pools that takes one more; each comes with the most that may wait there. `None`
    /// when none does. Whoever holds the ticket must look for a place once before waiting: one may have become free.
    pub fn enter<'a>(pools: impl Iterator<Item = (&'a Arc<PoolLive>, usize)>, turn: Turn) -> Option<Ticket> {
        let caller = Arc::new(Notify::new());
        let mut stands = Vec::new();
        for (pool, max) in pools {
            if let Ok((place, displaced)) = pool.change(|line| line.enter(turn, Arc::clone(&caller), max)) {
                if let Some(displaced) = displaced {
                    displaced.notify_one();
                }
                stands.push((Arc::clone(pool), place));
            }
        }
        fence(Ordering::SeqCst);
        (!stands.is_empty()).then_some(Ticket { caller, stands })
    }

    /// Waits until a place may be free, or until this one had to leave a line.
    pub async fn called(&self) {
        self.caller.notified().await;
    }

    /// No place was free for this call: the next in each line may try. `false` when it stands in no line any more.
    pub fn pass(&mut self) -> bool {
        self.stands.retain(|(pool, place)| {
            pool.change(|line| {
                let stands = line.contains(*place);
                if stands && let Some(next) = line.pass(*place) {
                    next.notify_one();
                }
                stands
            })
        });
        !self.stands.is_empty()
    }

    /// A place was found in this pool.
    pub fn took(mut self, at: &Arc<PoolLive>) {
        self.leave(Some(at));
    }

    fn leave(&mut self, took: Option<&Arc<PoolLive>>) {
        for (pool, place) in self.stands.drain(..) {
            let took = took.is_some_and(|at| Arc::ptr_eq(at, &pool));
            pool.change(|line| {
                if let Some(next) = line.leave(place, took) {
                    next.notify_one();
                }
            });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.leave(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::candidate;

    const MAX: usize = 2;

    fn enter(pools: &[&Arc<PoolLive>], turn: Turn) -> Option<Ticket> {
        Ticket::enter(pools.iter().map(|pool| (*pool, MAX)), turn)
    }

    fn pool() -> Arc<PoolLive> {
        let pool = Arc::new(PoolLive::new(1));
        assert!(pool.enter());
        pool
    }

    async fn is_called(ticket: &Ticket) -> bool {
        tokio::select! {
            biased;
            () = ticket.called() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[test]
    fn a_pool_that_was_at_its_own_cap_takes_new_sessions_again_when_it_is_well_below() {
        let (pool, idle) = (PoolLive::new(20), [candidate(0)]);
        let level_at = |calls: u32| {
            while pool.in_flight.load(Ordering::Relaxed) < calls {
                assert!(pool.enter());
            }
            while pool.in_flight.load(Ordering::Relaxed) > calls {
                pool.leave();
            }
            pool.level(&idle)
        };
        use Level::{Past, Within};
        for (calls, level) in
            [(0, Within), (19, Within), (20, Past), (17, Past), (16, Within), (19, Within), (20, Past)]
        {
            assert_eq!(level_at(calls), level, "{calls} of 20");
        }
        assert_eq!(pool.level(&[]), Within, "it is down and not full");
    }

    #[tokio::test]
    async fn a_place_that_becomes_free_calls_the_first_in_line() {
        let pool = pool();
        assert!(pool.is_full() && !pool.enter());
        let (new, under_way) = (enter(&[&pool], Turn::New).unwrap(), enter(&[&pool], Turn::UnderWay).unwrap());
        pool.leave();
        assert!(!is_called(&new).await && is_called(&under_way).await);
        assert!(pool.enter());
        under_way.took(&pool);
        assert_eq!(pool.waiting(), 1);
        assert!(!is_called(&new).await, "it was taken");
    }

    #[tokio::test]
    async fn a_ticket_that_is_dropped_or_served_elsewhere_hands_its_call_on() {
        let (a, b) = (pool(), pool());
        let (first, second) = (enter(&[&a, &b], Turn::New).unwrap(), enter(&[&a], Turn::New).unwrap());
        a.leave();
        assert!(is_called(&first).await);
        first.took(&b);
        assert!(is_called(&second).await, "the place in a is still free");
        let third = enter(&[&a], Turn::New).unwrap();
        drop(second);
        assert!(is_called(&third).await);
        assert_eq!((a.waiting(), b.waiting()), (1, 0));
    }

    #[tokio::test]
    async fn one_that_cannot_use_a_place_passes_and_keeps_its_own() {
        let pool = pool();
        let (mut first, second) = (enter(&[&pool], Turn::New).unwrap(), enter(&[&pool], Turn::New).unwrap());
        pool.leave();
        assert!(is_called(&first).await && first.pass());
        assert!(is_called(&second).await && !is_called(&first).await);
        pool.enter();
        second.took(&pool);
        pool.leave();
        assert!(is_called(&first).await, "it had not lost its place in line");
    }

    #[tokio::test]
    async fn a_new_call_makes_room_for_one_under_way_and_learns_of_it() {
        let pool = pool();
        let (_first, mut last) = (enter(&[&pool], Turn::New).unwrap(), enter(&[&pool], Turn::New).unwrap());
        assert!(enter(&[&pool], Turn::New).is_none());
        let under_way = enter(&[&pool], Turn::UnderWay);
        assert!(under_way.is_some() && is_called(&last).await);
        assert!(!last.pass(), "it stands in no line any more");
        assert_eq!(pool.waiting(), MAX);
    }

    #[tokio::test]
    async fn everyone_is_called_when_the_cap_is_raised() {
        let pool = pool();
        let waiting = enter(&[&pool], Turn::New).unwrap();
        pool.set_cap(1);
        assert!(!is_called(&waiting).await);
        pool.set_cap(2);
        assert!(is_called(&waiting).await && pool.enter());
    }

    #[tokio::test]
    async fn everyone_is_called_when_a_replica_comes_back() {
        let pool = pool();
        let tickets = [enter(&[&pool], Turn::New).unwrap(), enter(&[&pool], Turn::New).unwrap()];
        pool.call_all();
        for ticket in &tickets {
            assert!(is_called(ticket).await);
        }
    }
}

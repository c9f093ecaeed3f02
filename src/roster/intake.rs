//! The sessions that one pool has taken on, and those that wait for that, behind one lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::pool::PoolLive;
use super::snapshot::Snapshot;
use crate::domain::ids::SessionKey;
use crate::policy::admission::{Admission, Asking, Bound, Caches, Stay};
use crate::policy::entrance::{Entrance, Left};
use crate::policy::queue::Place;

/// The intake of one pool.
#[derive(Debug, Default)]
pub struct Intake {
    // A std mutex: the sections are a few look-ups long and never cross an `.await`.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    admission: Admission,
    entrance: Entrance<Arc<Notify>>,
    /// As they were when somebody asked last, which whoever waits has done.
    caches: Option<Caches>,
}

impl Intake {
    /// Whether a call may be sent now: its session is active, or there is room and nobody stands before it whom it must not
    /// pass.
    pub fn admits(&self, asking: Asking, bound: Bound, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.expire(bound.active, now);
        inner.bounded_by(bound.caches);
        let Inner { admission, entrance, .. } = &*inner;
        let may = |caches| admission.is_active(asking.session) || entrance.admits(&asking, admission, caches);
        bound.caches.is_none_or(may)
    }

    /// Whether the session is active in the pool at `now`, where sessions are so for so long: it need not ask.
    pub fn is_active(&self, session: SessionKey, active: Duration, now: Instant) -> bool {
        let mut inner = self.lock();
        inner.expire(active, now);
        inner.admission.is_active(session)
    }

    /// A call is sent. What is returned is to be told when it ends.
    pub fn began(&self, asking: Asking, now: Instant) -> Stay {
        let mut inner = self.lock();
        let stay = inner.admission.began(asking, now);
        inner.entrance.of(asking.session).for_each(|caller| caller.notify_one());
        // A context that was cut down makes room, and a client that has its share from here on holds up nobody.
        inner.call();
        stay
    }

    /// A call of the session ended. Whoever is first is to look: from now on it can be told when the session makes room.
    pub fn ended(&self, session: SessionKey, stay: Stay, now: Instant) {
        let mut inner = self.lock();
        inner.admission.ended(session, stay, now);
        inner.call_first();
    }

    /// The session goes on in another pool.
    pub fn left(&self, session: SessionKey) {
        self.lock().make_room(|admission| admission.left(session));
    }

    /// A call of the session came to nothing here, and was answered by another pool.
    pub fn gave_up(&self, session: SessionKey) {
        self.lock().make_room(|admission| admission.gave_up(session));
    }

    /// What there is room for may be another: everyone is to look.
    pub fn changed(&self) {
        self.lock().entrance.all().for_each(|caller| caller.notify_one());
    }

    /// When there may be room next, if no session calls until then.
    pub fn next_change(&self, active: Duration) -> Option<Instant> {
        self.lock().admission.next_change(active)
    }

    /// Active sessions at `now`, and the tokens of their contexts.
    pub fn taken_on(&self, active: Duration, now: Instant) -> (usize, u64) {
        let mut inner = self.lock();
        inner.expire(active, now);
        (inner.admission.sessions(), inner.admission.tokens())
    }

    /// Sessions that wait.
    pub fn waiting(&self) -> usize {
        self.lock().entrance.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every section leaves both whole, so a panic elsewhere does not spoil them.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn expire(&mut self, active: Duration, now: Instant) {
        let before = self.admission.tokens();
        self.admission.expire(active, now);
        if self.admission.tokens() < before {
            self.call();
        }
    }

    fn make_room(&mut self, goes: impl FnOnce(&mut Admission)) {
        goes(&mut self.admission);
        self.call_first();
        self.call();
    }

    fn bounded_by(&mut self, caches: Option<Caches>) {
        let before = std::mem::replace(&mut self.caches, caches);
        if before.is_some_and(|before| caches.is_none_or(|caches| caches.all > before.all)) {
            self.call();
        }
    }

    /// Calls those for whom there is room.
    fn call(&self) {
        match self.caches {
            _ if self.entrance.is_empty() => {}
            Some(caches) => {
                self.entrance.with_room(&self.admission, caches).into_iter().for_each(|caller| caller.notify_one());
            }
            None => self.entrance.all().for_each(|caller| caller.notify_one()),
        }
    }

    /// Calls the first, who knows the time for all.
    fn call_first(&self) {
        if let Some(first) = self.entrance.first() {
            first.notify_one();
        }
    }
}

/// A call that waits at the entrances of its pools. Dropped before it was placed, it leaves them all and stands where it
/// stood when it comes again: it waited for as long as one waits, or for as long as its client does.
#[derive(Debug)]
pub struct Waiting {
    session: SessionKey,
    caller: Arc<Notify>,
    stands: Vec<(Arc<PoolLive>, Place)>,
}

impl Waiting {
    /// Joins the entrance of each of these pools that takes one more; `None` when none does.
    pub fn enter<'a>(pools: impl Iterator<Item = &'a Arc<PoolLive>>, asking: Asking) -> Option<Waiting> {
        let caller = Arc::new(Notify::new());
        let mut stands = Vec::new();
        for pool in pools {
            let mut inner = pool.intake.lock();
            if let Ok((place, displaced)) = inner.entrance.enter(asking, Arc::clone(&caller)) {
                if let Some(displaced) = displaced {
                    displaced.notify_one();
                }
                // With one client more a share is less, and who was within it may hold up others no more.
                inner.call();
                stands.push((Arc::clone(pool), place));
            }
        }
        (!stands.is_empty()).then_some(Waiting { session: asking.session, caller, stands })
    }

    /// Waits until it is to look for room, or had to leave an entrance.
    pub async fn called(&self) {
        self.caller.notified().await;
    }

    /// Whether it still stands somewhere. It leaves the pools that are configured no more.
    pub fn stands(&mut self, current: &Snapshot) -> bool {
        self.stands.retain(|(pool, place)| {
            let entrance = &mut pool.intake.lock().entrance;
            if !current.has(pool) {
                entrance.leave(*place, Left::ForGood);
            }
            entrance.contains(*place)
        });
        !self.stands.is_empty()
    }

    /// When there may be room next where it is first; `None` when it has to wait for others, or for calls to end. Who looks
    /// then finds who has room.
    pub fn next_change(&self, active: Duration) -> Option<Instant> {
        let change = |(pool, place): &(Arc<PoolLive>, Place)| {
            let inner = pool.intake.lock();
            inner.entrance.is_first(*place).then(|| inner.admission.next_change(active))?
        };
        self.stands.iter().filter_map(change).min()
    }

    /// It was placed, and leaves for good.
    pub fn placed(mut self) {
        self.leave(Left::ForGood);
    }

    fn leave(&mut self, why: Left) {
        for (pool, place) in self.stands.drain(..) {
            let mut inner = pool.intake.lock();
            // Another call of the session may have been placed meanwhile.
            let taken_on = inner.admission.is_active(self.session);
            inner.entrance.leave(place, if taken_on { Left::ForGood } else { why });
            inner.call_first();
            inner.call();
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave(Left::SentAway);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::ClientKey;
    use crate::policy::queue::Turn;

    const ACTIVE: Duration = Duration::from_secs(60);
    const BOUND: Bound = Bound { caches: Some(Caches { all: 1_000, one: 1_000 }), active: ACTIVE };

    fn asking(n: u128, tokens: u32) -> Asking {
        Asking { session: SessionKey(n), client: ClientKey(1), tokens, turn: Turn::New }
    }

    fn enter(pool: &Arc<PoolLive>, n: u128, tokens: u32) -> Waiting {
        assert!(!pool.intake.admits(asking(n, tokens), BOUND, Instant::now()));
        Waiting::enter([pool].into_iter(), asking(n, tokens)).unwrap()
    }

    async fn is_called(waiting: &Waiting) -> bool {
        tokio::select! {
            biased;
            () = waiting.called() => true,
            () = std::future::ready(()) => false,
        }
    }

    /// A pool that is full with session 1, which ended its call at the time that is returned.
    fn full() -> (Arc<PoolLive>, Instant) {
        let (pool, now) = (Arc::new(PoolLive::new(9)), Instant::now());
        let stay = pool.intake.began(Asking { turn: Turn::UnderWay, ..asking(1, 1_000) }, now);
        pool.intake.ended(SessionKey(1), stay, now);
        (pool, now)
    }

    #[tokio::test]
    async fn who_waits_first_is_taken_on_first_and_calls_the_next() {
        let (pool, now) = full();
        let (first, second) = (enter(&pool, 2, 200), enter(&pool, 3, 200));
        assert_eq!(first.next_change(ACTIVE), Some(now + ACTIVE));
        assert_eq!(second.next_change(ACTIVE), None, "it waits for the first");
        let later = now + ACTIVE + Duration::from_millis(1);
        assert!(!pool.intake.admits(asking(2, 200), BOUND, now));
        assert!(!pool.intake.admits(asking(3, 100), BOUND, later) && pool.intake.admits(asking(2, 100), BOUND, later));
        pool.intake.began(asking(2, 100), later);
        first.placed();
        assert!(is_called(&second).await && pool.intake.admits(asking(3, 100), BOUND, later));
    }

    #[tokio::test]
    async fn calls_of_one_session_are_taken_on_together() {
        let (pool, now) = full();
        let (_one, _two, other) = (enter(&pool, 2, 200), enter(&pool, 3, 200), enter(&pool, 2, 200));
        pool.intake.began(asking(2, 100), now);
        assert!(is_called(&other).await && pool.intake.admits(asking(2, 100), BOUND, now));
    }

    #[tokio::test]
    async fn a_session_that_goes_elsewhere_makes_room_at_once() {
        let (pool, _) = full();
        let first = enter(&pool, 2, 200);
        pool.intake.left(SessionKey(1));
        assert!(is_called(&first).await);
        assert_eq!(pool.intake.taken_on(ACTIVE, Instant::now()), (0, 0));
    }

    #[tokio::test]
    async fn a_call_that_ends_and_a_context_that_was_cut_down_call_the_first() {
        let (pool, now) = (Arc::new(PoolLive::new(9)), Instant::now());
        let stay = pool.intake.began(Asking { turn: Turn::UnderWay, ..asking(1, 1_000) }, now);
        let first = enter(&pool, 2, 900);
        assert_eq!(first.next_change(ACTIVE), None, "nobody knows when the call under way ends");
        pool.intake.ended(SessionKey(1), stay, now);
        assert!(is_called(&first).await && first.next_change(ACTIVE) == Some(now + ACTIVE));
        for tokens in [1_000, 100] {
            let stay = pool.intake.began(asking(1, tokens), now);
            assert!(!is_called(&first).await, "it makes no room");
            pool.intake.ended(SessionKey(1), stay, now);
            assert!(is_called(&first).await, "the time at which it ceases is another");
        }
        pool.intake.began(asking(1, 100), now);
        assert!(is_called(&first).await && pool.intake.admits(asking(2, 900), BOUND, now));
    }

    #[tokio::test]
    async fn whoever_is_sent_away_comes_again_before_those_who_stood_behind() {
        let (pool, now) = full();
        let (first, second) = (enter(&pool, 2, 200), enter(&pool, 3, 200));
        drop(first);
        assert!(is_called(&second).await && pool.intake.waiting() == 1);
        let again = enter(&pool, 2, 200);
        assert_eq!((again.next_change(ACTIVE), second.next_change(ACTIVE)), (Some(now + ACTIVE), None));
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_time_and_again_keeps_its_place_and_holds_up_nobody_meanwhile() {
        let (pool, now) = full();
        let later = now + ACTIVE + Duration::from_millis(1);
        drop(enter(&pool, 2, 200));
        let behind: Vec<_> = (3..6).map(|n| enter(&pool, n, 200)).collect();
        for _ in 0..5 {
            assert_eq!(behind[0].next_change(ACTIVE), Some(now + ACTIVE), "nobody stands before it");
            let again = enter(&pool, 2, 200);
            assert_eq!((again.next_change(ACTIVE), behind[0].next_change(ACTIVE)), (Some(now + ACTIVE), None));
        }
        assert!(pool.intake.admits(asking(3, 200), BOUND, later));
    }

    #[tokio::test]
    async fn a_session_that_was_placed_comes_as_a_new_one_when_it_comes_again() {
        let (pool, now) = full();
        let (one, other, behind) = (enter(&pool, 2, 200), enter(&pool, 2, 200), enter(&pool, 3, 200));
        let stay = pool.intake.began(asking(2, 200), now);
        one.placed();
        // Its client hangs up before this one looks.
        drop(other);
        pool.intake.ended(SessionKey(2), stay, now);
        pool.intake.left(SessionKey(2));
        let again = enter(&pool, 2, 200);
        assert_eq!((behind.next_change(ACTIVE), again.next_change(ACTIVE)), (Some(now + ACTIVE), None));
    }

    #[tokio::test]
    async fn whoever_finds_that_sessions_ceased_calls_those_who_have_room() {
        let (pool, now) = full();
        let other = Asking { client: ClientKey(2), ..asking(4, 300) };
        let (first, second) = (enter(&pool, 2, 200), Waiting::enter([&pool].into_iter(), other).unwrap());
        let later = now + ACTIVE + Duration::from_millis(1);
        assert!(!pool.intake.is_active(SessionKey(1), ACTIVE, later));
        assert!(is_called(&first).await && !is_called(&second).await, "it stands behind one who has room");
        drop(first);
        assert!(is_called(&second).await);
    }

    #[tokio::test]
    async fn a_client_within_its_share_is_called_past_one_who_has_more() {
        let pool = Arc::new(PoolLive::new(9));
        let now = Instant::now();
        pool.intake.began(Asking { turn: Turn::UnderWay, ..asking(1, 100) }, now);
        pool.intake.began(Asking { turn: Turn::UnderWay, ..asking(5, 900) }, now);
        let other = Asking { client: ClientKey(2), ..asking(4, 200) };
        let (_first, second) = (enter(&pool, 2, 200), Waiting::enter([&pool].into_iter(), other).unwrap());
        assert!(!pool.intake.admits(other, BOUND, now), "there is no room");
        pool.intake.left(SessionKey(1));
        assert!(is_called(&second).await && pool.intake.admits(other, BOUND, now));
        assert_eq!(second.next_change(ACTIVE), None, "one knows the time for all");
    }

    #[tokio::test]
    async fn whoever_finds_that_caches_grew_calls_those_who_have_room() {
        let (pool, now) = full();
        let waiting = enter(&pool, 2, 200);
        let larger = Bound { caches: Some(Caches { all: 2_000, one: 2_000 }), ..BOUND };
        assert!(!is_called(&waiting).await);
        assert!(!pool.intake.admits(asking(3, 5_000), larger, now));
        assert!(is_called(&waiting).await && pool.intake.admits(asking(2, 200), larger, now));
    }

    #[tokio::test]
    async fn a_call_counts_with_no_more_than_one_cache() {
        let (pool, now) = (Arc::new(PoolLive::new(9)), Instant::now());
        pool.cache.config_tells_size(Some(4_096));
        pool.began(Asking { turn: Turn::UnderWay, ..asking(1, u32::MAX) }, now);
        assert_eq!(pool.intake.taken_on(ACTIVE, now), (1, 4_096));
    }

    #[tokio::test]
    async fn with_one_client_more_those_are_called_whom_the_first_holds_up_no_longer() {
        let (pool, now) = (Arc::new(PoolLive::new(9)), Instant::now());
        let of = |client: u128, n: u128, tokens: u32| Asking { client: ClientKey(client), ..asking(n, tokens) };
        for (client, tokens) in [(1, 100), (2, 800)] {
            pool.intake.began(Asking { turn: Turn::UnderWay, ..of(client, client, tokens) }, now);
        }
        let stand = |asking: Asking| {
            assert!(!pool.intake.admits(asking, BOUND, now));
            Waiting::enter([&pool].into_iter(), asking).unwrap()
        };
        let (_large, small) = (stand(of(1, 11, 250)), stand(of(3, 13, 100)));
        assert!(!is_called(&small).await);
        let _other = stand(of(4, 14, 1_000));
        assert!(is_called(&small).await && pool.intake.admits(of(3, 13, 100), BOUND, now));
    }
}

//! The sessions that one pool has taken on, and those that wait for that, behind one lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::pool::PoolLive;
use crate::domain::ids::{ClientKey, SessionKey};
use crate::policy::admission::{Admission, Bound, Stay};
use crate::policy::entrance::{Entrance, Left};
use crate::policy::queue::{Place, Turn};

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
}

/// A call of a session that asks to be taken on.
#[derive(Clone, Copy, Debug)]
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

impl Intake {
    /// Whether a call may be sent now: its session is active, or there is room and nobody stands before it.
    pub fn admits(&self, asking: Asking, bound: Bound, now: Instant) -> bool {
        let Inner { admission, entrance } = &mut *self.lock();
        let Asking { session, client, tokens, turn } = asking;
        admission.admits(session, client, tokens, bound, now)
            && (bound.tokens.is_none() || admission.is_active(session) || entrance.is_next(session, turn))
    }

    /// Whether the session is active in the pool at `now`, where sessions are so for so long: it need not ask.
    pub fn is_active(&self, session: SessionKey, active: Duration, now: Instant) -> bool {
        let admission = &mut self.lock().admission;
        admission.expire(active, now);
        admission.is_active(session)
    }

    /// A call is sent. What is returned is to be told when it ends.
    pub fn began(&self, asking: Asking, now: Instant) -> Stay {
        let mut inner = self.lock();
        let (begun, before) = (asking.turn == Turn::UnderWay, inner.admission.tokens());
        let stay = inner.admission.began(asking.session, asking.client, asking.tokens, begun, now);
        inner.entrance.of(asking.session).for_each(|caller| caller.notify_one());
        // A session whose context was cut down makes room.
        if inner.admission.tokens() < before {
            inner.call_first();
        }
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
        self.lock().admission.left(session);
        self.changed();
    }

    /// There may be more room than there was: whoever is first is to look.
    pub fn changed(&self) {
        self.lock().call_first();
    }

    /// When there may be room next, if no session calls until then.
    pub fn next_change(&self, active: Duration) -> Option<Instant> {
        self.lock().admission.next_change(active)
    }

    /// Active sessions at `now`, and the tokens of their contexts.
    pub fn taken_on(&self, active: Duration, now: Instant) -> (usize, u64) {
        let mut inner = self.lock();
        inner.admission.expire(active, now);
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
    fn call_first(&self) {
        if let Some(first) = self.entrance.first() {
            first.notify_one();
        }
    }
}

/// A call that waits at the entrances of its pools. Dropped, it leaves them all for good.
#[derive(Debug)]
pub struct Waiting {
    session: SessionKey,
    turn: Turn,
    caller: Arc<Notify>,
    stands: Vec<(Arc<PoolLive>, Place)>,
}

impl Waiting {
    /// Joins the entrance of each of these pools that takes one more; `None` when none does.
    pub fn enter<'a>(
        pools: impl Iterator<Item = &'a Arc<PoolLive>>,
        session: SessionKey,
        turn: Turn,
    ) -> Option<Waiting> {
        let caller = Arc::new(Notify::new());
        let mut stands = Vec::new();
        for pool in pools {
            let entered = pool.intake.lock().entrance.enter(session, turn, Arc::clone(&caller));
            if let Ok((place, displaced)) = entered {
                if let Some(displaced) = displaced {
                    displaced.notify_one();
                }
                stands.push((Arc::clone(pool), place));
            }
        }
        (!stands.is_empty()).then_some(Waiting { session, turn, caller, stands })
    }

    /// Waits until it is to look for room, or had to leave an entrance.
    pub async fn called(&self) {
        self.caller.notified().await;
    }

    /// Whether it still stands somewhere.
    pub fn stands(&mut self) -> bool {
        self.stands.retain(|(pool, place)| pool.intake.lock().entrance.contains(*place));
        !self.stands.is_empty()
    }

    /// When there may be room next where it is first; `None` when it has to wait for others, or for calls to end.
    pub fn next_change(&self, active: Duration) -> Option<Instant> {
        let first = |pool: &&Arc<PoolLive>| pool.intake.lock().entrance.is_next(self.session, self.turn);
        let pools = self.stands.iter().map(|(pool, _)| pool).filter(first);
        pools.filter_map(|pool| pool.intake.next_change(active)).min()
    }

    /// It waited for as long as one waits. When it comes again it stands where it stood.
    pub fn sent_away(mut self) {
        self.leave(Left::SentAway);
    }

    fn leave(&mut self, why: Left) {
        for (pool, place) in self.stands.drain(..) {
            if let Some(next) = pool.intake.lock().entrance.leave(self.session, place, why) {
                next.notify_one();
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave(Left::ForGood);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIVE: Duration = Duration::from_secs(60);
    const BOUND: Bound = Bound { tokens: Some(1_000), active: ACTIVE };

    fn asking(n: u128, tokens: u32) -> Asking {
        Asking { session: SessionKey(n), client: ClientKey(1), tokens, turn: Turn::New }
    }

    fn enter(pool: &Arc<PoolLive>, n: u128) -> Waiting {
        Waiting::enter([pool].into_iter(), SessionKey(n), Turn::New).unwrap()
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
        let (first, second) = (enter(&pool, 2), enter(&pool, 3));
        assert_eq!(first.next_change(ACTIVE), Some(now + ACTIVE));
        assert_eq!(second.next_change(ACTIVE), None, "it waits for the first");
        let later = now + ACTIVE + Duration::from_millis(1);
        assert!(!pool.intake.admits(asking(2, 200), BOUND, now));
        assert!(!pool.intake.admits(asking(3, 100), BOUND, later) && pool.intake.admits(asking(2, 100), BOUND, later));
        pool.intake.began(asking(2, 100), later);
        drop(first);
        assert!(is_called(&second).await && pool.intake.admits(asking(3, 100), BOUND, later));
    }

    #[tokio::test]
    async fn calls_of_one_session_are_taken_on_together() {
        let (pool, now) = full();
        let (_one, _two, other) = (enter(&pool, 2), enter(&pool, 3), enter(&pool, 2));
        pool.intake.began(asking(2, 100), now);
        assert!(is_called(&other).await && pool.intake.admits(asking(2, 100), BOUND, now));
    }

    #[tokio::test]
    async fn a_session_that_goes_elsewhere_makes_room_at_once() {
        let (pool, _) = full();
        let first = enter(&pool, 2);
        pool.intake.left(SessionKey(1));
        assert!(is_called(&first).await);
        assert_eq!(pool.intake.taken_on(ACTIVE, Instant::now()), (0, 0));
    }

    #[tokio::test]
    async fn a_call_that_ends_and_a_context_that_was_cut_down_call_the_first() {
        let (pool, now) = (Arc::new(PoolLive::new(9)), Instant::now());
        let stay = pool.intake.began(Asking { turn: Turn::UnderWay, ..asking(1, 1_000) }, now);
        let first = enter(&pool, 2);
        assert_eq!(first.next_change(ACTIVE), None, "nobody knows when the call under way ends");
        pool.intake.ended(SessionKey(1), stay, now);
        assert!(is_called(&first).await && first.next_change(ACTIVE) == Some(now + ACTIVE));
        pool.intake.began(asking(1, 1_000), now);
        assert!(!is_called(&first).await, "it makes no room");
        pool.intake.began(asking(1, 100), now);
        assert!(is_called(&first).await && pool.intake.admits(asking(2, 900), BOUND, now));
    }

    #[tokio::test]
    async fn whoever_is_sent_away_comes_again_before_those_who_stood_behind() {
        let (pool, now) = full();
        let (first, second) = (enter(&pool, 2), enter(&pool, 3));
        first.sent_away();
        assert!(is_called(&second).await && pool.intake.waiting() == 1);
        let again = enter(&pool, 2);
        assert_eq!((again.next_change(ACTIVE), second.next_change(ACTIVE)), (Some(now + ACTIVE), None));
    }
}

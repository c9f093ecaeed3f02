//! Station 5, continued: whether a pool takes on the call's session, and how long one that none takes on waits for that.

use std::pin::pin;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;

use super::account::Account;
use super::body::Waits;
use super::dispatch::{Dispatch, Stopped};
use super::due::Due;
use super::place::{LINES_MAX, Manner, NoPlace, Placed};
use super::reply::Refusal;
use crate::domain::ids::PoolIx;
use crate::domain::outcome::Outcome;
use crate::observe::metrics::AdmissionResult;
use crate::policy::admission::Asking;
use crate::policy::entrance::COME_AGAIN_S_MAX;
use crate::policy::queue::retry_after_s;
use crate::policy::replica::{Candidate, NoReplica};
use crate::policy::retry::Tried;
use crate::roster::Waiting;

/// Sessions count up to and with the moment at which they cease to be active.
const JUST_AFTER: Duration = Duration::from_millis(1);

/// How a call came through the entrance of a pool.
pub(super) enum Entered<'a> {
    /// Nothing keeps its session out.
    Freely,
    /// To this place.
    Placed(Box<Placed>),
    /// It may, and has to wait for a place. It stands there until it has one, or is sent away.
    Standing(Waiting, Waits<'a>),
    /// It did not.
    Not(NoPlace),
}

impl Dispatch<'_> {
    /// What is asked of the pools, by a call of a session. Calls without one are no part of a chain, and what they leave in
    /// the caches goes first. Nor is a call asked that only one replica can answer.
    fn asking(&self) -> Option<Asking> {
        let session = self.session.filter(|_| !self.is_bound())?;
        Some(Asking { session: session.key, client: self.client, tokens: self.prompt.tokens, turn: self.turn(&[]) })
    }

    /// Whether one replica alone can answer.
    fn is_bound(&self) -> bool {
        self.previous.is_some_and(|previous| previous.owner.is_some())
    }

    /// Whether the pool takes on the call's session.
    pub(super) fn is_admitted(&self, pool: PoolIx, now: Instant) -> bool {
        self.asking().is_none_or(|asking| self.edge.roster.admits(self.snapshot, pool, asking, now))
    }

    /// The session's home, which takes it only while its pool does.
    pub(super) fn admitted(&self, pool: PoolIx, home: Candidate, now: Instant) -> Candidate {
        if self.is_admitted(pool, now) { home } else { Candidate { cap: 0, ..home } }
    }

    /// Whether no pool takes the session on.
    fn is_kept_out(&self, tried: &[Tried]) -> bool {
        let now = Instant::now();
        let mut pools = self.open_pools(tried).peekable();
        pools.peek().is_some() && !pools.any(|(pool, _)| self.is_admitted(pool, now))
    }

    /// What a client is told whose session no pool takes on.
    pub(super) fn kept_out(&self) -> Stopped {
        let name = &self.snapshot.config.topology.model(self.pools[0].model).name;
        let message = format!("the model '{name}' serves as many sessions as its caches hold; this one is new");
        let current = self.edge.roster.snapshot();
        // Where a pool is gone the call finds its way anew, as soon as it comes again.
        let pools = self.pools.iter().map(|pool| self.snapshot.pool(pool.pool)).filter(|pool| current.has(pool));
        let room = pools.filter_map(|pool| pool.intake.next_change(current.config.sessions.active)).min();
        let wait = room.map_or(Duration::ZERO, |room| room.saturating_duration_since(Instant::now()));
        let seconds = retry_after_s(wait, COME_AGAIN_S_MAX);
        Stopped::Refused(Refusal::new(Outcome::AtCapacity, message).retry_after_s(seconds))
    }

    /// Notes that the call is sent there.
    pub(super) fn take_on(&self, (selection, booking): Placed) -> Placed {
        let begins = self.session.is_none_or(|session| !session.view.begun);
        let booking = booking.reading(self.snapshot.slot(selection.replica), self.prompt, begins);
        let booking = match self.asking().filter(|_| self.snapshot.config.sessions.admission) {
            Some(asking) => booking.of_session(asking, Instant::now()),
            None => booking,
        };
        (selection, booking)
    }

    /// Notes that the call is answered in a pool, and its session has nothing in those where attempts of it came to nothing;
    /// but in that of its home, to which it may return.
    pub(super) fn give_up(&self, tried: &[Tried], dropped: Option<PoolIx>, answered: PoolIx) {
        let Some(session) = self.session else { return };
        let pool_of = |replica| self.snapshot.config.topology.replica(replica).pool;
        let home = session.view.home.filter(|_| session.view.begun);
        let keeps = [home.and_then(|home| self.snapshot.by_key(home)).map(pool_of), Some(answered)];
        let before = self.failed.iter().map(|replica| pool_of(*replica));
        let pools = tried.iter().map(|tried| tried.pool).chain(dropped).chain(before);
        for pool in pools.filter(|pool| !keeps.contains(&Some(*pool))) {
            self.snapshot.pool(pool).intake.gave_up(session.key);
        }
    }

    /// Waits until a pool takes the session on, and takes a place there if one is free.
    pub(super) async fn enter(&self, tried: &[Tried], rng: &mut SmallRng, account: &mut Account<'_>) -> Entered<'_> {
        let asking = self.asking().filter(|_| self.is_kept_out(tried));
        let Some(asking) = asking else { return Entered::Freely };
        let began = Instant::now();
        let entered = self.stand(Asking { turn: self.turn(tried), ..asking }, tried, rng).await;
        account.queued(began.elapsed());
        let pool = self.open_pools(tried).next().map_or("", |(_, pool)| pool.name.as_str());
        match entered {
            Entered::Not(_) => self.edge.metrics.admission(pool, AdmissionResult::SentAway),
            _ => self.edge.metrics.admission(pool, AdmissionResult::Waited),
        }
        entered
    }

    async fn stand(&self, asking: Asking, tried: &[Tried], rng: &mut SmallRng) -> Entered<'_> {
        let config = &self.snapshot.config;
        let Some(waits) = self.edge.buffered.wait(self.client, self.body.len(), &config.limits) else {
            return Entered::Not(NoPlace::KeptOut);
        };
        let open = self.open_pools(tried).take(LINES_MAX).map(|(pool, _)| self.snapshot.pool(pool));
        let Some(mut waiting) = Waiting::enter(open, asking) else {
            return Entered::Not(NoPlace::KeptOut);
        };
        let until = tokio::time::Instant::now() + config.sessions.admission_wait;
        let due = self.limit.or_before(Some(Due::new(until, Outcome::AtCapacity)));
        loop {
            if !self.is_kept_out(tried) {
                match self.choose(tried, rng, Manner::Comes) {
                    Ok(placed) => {
                        waiting.placed();
                        return Entered::Placed(Box::new(placed));
                    }
                    Err(NoReplica::Full) if self.is_kept_out(tried) => {}
                    Err(NoReplica::Full) => return Entered::Standing(waiting, waits),
                    Err(no) => return Entered::Not(NoPlace::No(no)),
                }
            }
            // As the bounds, by what is configured now.
            let current = self.edge.roster.snapshot();
            if !waiting.stands(&current) {
                return Entered::Not(NoPlace::KeptOut);
            }
            let change = waiting.next_change(current.config.sessions.active);
            drop(current);
            let look = async {
                match change {
                    Some(change) => tokio::select! {
                        () = waiting.called() => {}
                        () = tokio::time::sleep_until((change + JUST_AFTER).into()) => {}
                    },
                    None => waiting.called().await,
                }
            };
            if let Err(late) = due.bound(pin!(look)).await {
                let kept_out = late == Outcome::AtCapacity;
                return Entered::Not(if kept_out { NoPlace::KeptOut } else { NoPlace::Late(late) });
            }
        }
    }
}

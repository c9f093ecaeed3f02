//! Station 5, continued: whether a pool takes on the call's session, and how long a new one waits for that.

use std::time::Instant;

use super::dispatch::Dispatch;
use crate::domain::ids::PoolIx;
use crate::policy::replica::Candidate;
use crate::policy::retry::Tried;
use crate::policy::select::Selection;
use crate::roster::{InFlight, Ticket};

impl Dispatch<'_> {
    /// Whether the pool takes on the call's session. Calls without one are no part of a chain, and what they leave in the
    /// caches goes first.
    pub(super) fn is_admitted(&self, pool: PoolIx, now: Instant) -> bool {
        let (Some(session), true) = (self.session, self.snapshot.config.sessions.admission) else { return true };
        let bound = self.snapshot.admission_bound(pool, now);
        let cache = &self.snapshot.pool(pool).cache;
        cache.admission(|pool| pool.admits(session.key, self.client, self.prompt.tokens, bound, now))
    }

    /// The session's home, which takes it only while its pool does.
    pub(super) fn admitted(&self, pool: PoolIx, home: Candidate, now: Instant) -> Candidate {
        if self.is_admitted(pool, now) { home } else { Candidate { cap: 0, ..home } }
    }

    /// Whether some pool keeps the session out that would otherwise have been asked.
    pub(super) fn is_kept_out(&self, tried: &[Tried]) -> bool {
        let now = Instant::now();
        self.open_pools(tried).any(|(pool, _)| !self.is_admitted(pool, now))
    }

    /// Notes that the call is sent there.
    pub(super) fn take_on(&self, selection: &Selection, booking: InFlight, now: Instant) -> InFlight {
        let booking = booking.reading(self.snapshot.slot(selection.replica), self.prompt);
        match self.session {
            Some(session) => booking.of_session(session.key, self.client, self.prompt.tokens, now),
            None => booking,
        }
    }

    /// Waits until the call may try again: it is called when a place is free. Sessions that cease to be active free none,
    /// yet make room: whoever waits looks when that happens, and calls the first in line.
    pub(super) async fn called(&self, ticket: &Ticket, tried: &[Tried]) {
        loop {
            let now = Instant::now();
            let pools = || self.open_pools(tried).filter(|(pool, _)| !self.is_admitted(*pool, now));
            let active = self.snapshot.config.sessions.active;
            let change = |pool| self.snapshot.pool(pool).cache.admission(|pool| pool.next_change(active));
            let Some(next) = pools().filter_map(|(pool, _)| change(pool)).min() else { return ticket.called().await };
            // A little later: sessions count up to and with that moment.
            let due = tokio::time::Instant::from_std(next.max(now) + std::time::Duration::from_millis(1));
            tokio::select! {
                biased;
                () = ticket.called() => return,
                () = tokio::time::sleep_until(due) => {}
            }
            let now = Instant::now();
            for (pool, _) in self.open_pools(tried).filter(|(pool, _)| self.is_admitted(*pool, now)) {
                self.snapshot.pool(pool).call_first();
            }
        }
    }
}

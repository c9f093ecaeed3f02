//! Deadlines, each with the ending that it causes.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::domain::outcome::Outcome;

/// When something is out of time, and how it ends then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Due {
    pub(super) at: Instant,
    pub(super) outcome: Outcome,
}

impl Due {
    pub(super) fn new(at: Instant, outcome: Outcome) -> Due {
        Due { at, outcome }
    }

    /// The one that comes first; this one when both come at once.
    #[must_use]
    pub(super) fn or_before(self, other: Option<Due>) -> Due {
        match other {
            Some(other) if other.at < self.at => other,
            _ => self,
        }
    }

    /// What the future says in time, else the ending. Pinned by the caller, since it would else be moved and its room be
    /// taken twice: an attempt has thousands of bytes.
    pub(super) async fn bound<T>(self, future: Pin<&mut impl Future<Output = T>>) -> Result<T, Outcome> {
        timeout_at(self.at, future).await.map_err(|_| self.outcome)
    }
}

/// What the future says without waiting: most have it at once, and then need neither clock nor timer.
pub(super) async fn at_once<T>(mut future: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// How long a client says that it will wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Patience {
    /// For the next byte (`x-stainless-read-timeout`, which the official SDKs send).
    pub(super) read: Option<Duration>,
    /// For the whole answer, or a stream's first event (`x-request-timeout`).
    pub(super) total: Option<Duration>,
}

/// When a request that is here at `now` and `total`ly out of time then must have begun to be answered. `comments_every` is
/// the pause after which a waiting client hears something: one that comes sooner keeps the client from giving up.
pub(super) fn limit(total: Instant, patience: Patience, comments_every: Option<Duration>, now: Instant) -> Due {
    let hears_nothing = |read: &Duration| comments_every.is_none_or(|every| every >= *read);
    let patience = [patience.read.filter(hears_nothing), patience.total].into_iter().flatten().min();
    Due::new(total, Outcome::TotalTimeout)
        .or_before(patience.map(|patience| Due::new(now + patience, Outcome::ClientDeadline)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earlier_deadline_gives_the_ending() {
        let now = Instant::now();
        let total = Due::new(now + Duration::from_secs(9), Outcome::TotalTimeout);
        let clients = |secs| Some(Due::new(now + Duration::from_secs(secs), Outcome::ClientDeadline));
        assert_eq!(total.or_before(clients(8)).outcome, Outcome::ClientDeadline);
        assert_eq!(total.or_before(clients(9)).outcome, Outcome::TotalTimeout);
        assert_eq!(total.or_before(None), total);
    }

    #[test]
    fn a_client_that_hears_comments_does_not_give_up_between_them() {
        let secs = Duration::from_secs;
        let outcome = |read, total: Option<u64>, every: Option<u64>| {
            let patience = Patience { read: Some(secs(read)), total: total.map(secs) };
            let now = Instant::now();
            limit(now + secs(60), patience, every.map(secs), now).outcome
        };
        assert_eq!(outcome(5, None, None), Outcome::ClientDeadline);
        assert_eq!(outcome(5, None, Some(10)), Outcome::ClientDeadline);
        assert_eq!(outcome(15, None, Some(10)), Outcome::TotalTimeout);
        assert_eq!(outcome(15, Some(20), Some(10)), Outcome::ClientDeadline);
        assert_eq!(outcome(600, None, None), Outcome::TotalTimeout);
    }
}

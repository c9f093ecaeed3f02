//! Tokens that replicas have still to read: what stands before a new call's first event.
//!
//! A stream tells by its first event that its prompt was read. Until then the one that was sent first is taken to be read at
//! the pace that the pool is known for, and those behind it to wait: counted whole until its first event, a long prompt that
//! is nearly read would still send others away from caches that are free in a moment. An answer that is not streamed tells
//! nothing before its end, seconds later; its tokens are taken to be read at that pace too, and then at the latest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::live::Live;

/// What one replica has still to read, of the calls of this edge.
#[derive(Debug, Default)]
pub(super) struct Unread {
    // A std mutex: a section is a few instructions and never crosses an `.await`.
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Streams' prompts in the order in which they were sent, as many as are booked at most: each one's number and tokens.
    streamed: VecDeque<(u64, u64)>,
    /// Their tokens together.
    tokens: u64,
    /// The next one's number.
    next: u64,
    /// Since when the first of them is read.
    since: Option<Instant>,
    unseen: Unseen,
}

/// Tokens of which nobody tells when they are read.
#[derive(Clone, Copy, Default, Debug)]
struct Unseen {
    /// Those that were left when the last ones came.
    tokens: f64,
    at: Option<Instant>,
    /// Those of all calls under way. No more can be left: a replica that is faster than it is taken to be would else seem
    /// to fall behind for ever.
    under_way: u64,
}

impl Unread {
    pub(super) fn tokens(&self, tokens_per_s: f32, now: Instant) -> u64 {
        let inner = self.lock();
        let first = inner.streamed.front().zip(inner.since);
        let first_read = first.map_or(0, |((_, tokens), since)| (read(since, tokens_per_s, now) as u64).min(*tokens));
        inner.tokens - first_read + inner.unseen.left(tokens_per_s, now) as u64
    }

    fn add_unseen(&self, tokens: u64, tokens_per_s: f32, now: Instant) {
        let mut inner = self.lock();
        let left = inner.unseen.left(tokens_per_s, now) + tokens as f64;
        inner.unseen = Unseen { tokens: left, at: Some(now), under_way: inner.unseen.under_way + tokens };
    }

    fn remove_unseen(&self, tokens: u64) {
        self.lock().unseen.under_way -= tokens;
    }

    /// Adds a stream's prompt and returns its number.
    fn add(&self, tokens: u64, now: Instant) -> u64 {
        let mut inner = self.lock();
        if inner.streamed.is_empty() {
            inner.since = Some(now);
        }
        let number = inner.next;
        inner.next += 1;
        inner.tokens += tokens;
        inner.streamed.push_back((number, tokens));
        number
    }

    /// The prompt of this number is read, or will not be.
    fn remove(&self, number: u64, now: Instant) {
        let mut inner = self.lock();
        let Ok(at) = inner.streamed.binary_search_by_key(&number, |(number, _)| *number) else { return };
        if at == 0 {
            inner.since = Some(now);
        }
        let tokens = inner.streamed.remove(at).map_or(0, |(_, tokens)| tokens);
        inner.tokens -= tokens;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every section leaves the sum as it is of the list, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens that are read from `since` to `now`.
fn read(since: Instant, tokens_per_s: f32, now: Instant) -> f64 {
    now.saturating_duration_since(since).as_secs_f64() * f64::from(tokens_per_s.max(0.0))
}

impl Unseen {
    fn left(self, tokens_per_s: f32, now: Instant) -> f64 {
        let read = self.at.map_or(0.0, |at| read(at, tokens_per_s, now));
        (self.tokens - read).clamp(0.0, self.under_way as f64)
    }
}

/// One call's prompt that a replica is about to read. Over when this is dropped: with its first event, or with the end of
/// an answer that is not streamed.
#[derive(Debug)]
#[must_use]
pub struct Prefilling {
    live: Arc<Live>,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A stream's, of this number.
    Streamed(u64),
    /// So many tokens of an answer that is not streamed.
    Unseen(u64),
}

impl Prefilling {
    /// A stream's prompt of so many tokens is sent to this replica.
    pub fn begin(live: &Arc<Live>, tokens: u64, now: Instant) -> Prefilling {
        Prefilling { kind: Kind::Streamed(live.unread().add(tokens, now)), live: Arc::clone(live) }
    }

    /// The same of an answer that is not streamed, at a replica that reads so many tokens in a second.
    pub fn begin_unseen(live: &Arc<Live>, tokens: u64, tokens_per_s: f32, now: Instant) -> Prefilling {
        live.unread().add_unseen(tokens, tokens_per_s, now);
        Prefilling { kind: Kind::Unseen(tokens), live: Arc::clone(live) }
    }

    /// A stream's first event came at `now`. Dropped without this, it is over then.
    pub fn end(self, now: Instant) {
        if let Kind::Streamed(number) = self.kind {
            self.live.unread().remove(number, now);
        }
    }
}

impl Drop for Prefilling {
    fn drop(&mut self) {
        match self.kind {
            // One that has ended is not found again.
            Kind::Streamed(number) => self.live.unread().remove(number, Instant::now()),
            Kind::Unseen(tokens) => self.live.unread().remove_unseen(tokens),
        }
    }
}

//! Tokens that replicas have still to read: what stands before a new call's first event.
//!
//! A stream tells by its first event that its prompt was read. An answer that is not streamed tells nothing before its
//! end, seconds later; there the tokens are taken to be read at the pace that the pool is known for.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::live::Live;

/// What one replica has still to read, of the calls of this edge.
#[derive(Debug, Default)]
pub(super) struct Unread {
    streamed: AtomicU64,
    // A std mutex: a section is a subtraction and never crosses an `.await`.
    unseen: Mutex<Option<Unseen>>,
}

/// Tokens of which nobody tells when they are read.
#[derive(Clone, Copy, Debug)]
struct Unseen {
    tokens: f64,
    at: Instant,
}

impl Unread {
    pub(super) fn tokens(&self, tokens_per_s: f32, now: Instant) -> u64 {
        let unseen = *self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        self.streamed.load(Ordering::Relaxed) + unseen.map_or(0.0, |unseen| unseen.left(tokens_per_s, now)) as u64
    }

    fn add_unseen(&self, tokens: u64, tokens_per_s: f32, now: Instant) {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        let left = unseen.map_or(0.0, |unseen| unseen.left(tokens_per_s, now));
        *unseen = Some(Unseen { tokens: left + tokens as f64, at: now });
    }
}

impl Unseen {
    fn left(self, tokens_per_s: f32, now: Instant) -> f64 {
        let read = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(tokens_per_s.max(0.0));
        (self.tokens - read).max(0.0)
    }
}

/// One call's prompt that a replica is about to read; over with its first event, when this is dropped.
#[derive(Debug)]
pub struct Prefilling {
    live: Arc<Live>,
    tokens: u64,
}

impl Prefilling {
    /// A stream's prompt of so many tokens is sent to this replica.
    pub fn begin(live: &Arc<Live>, tokens: u64) -> Prefilling {
        live.unread().streamed.fetch_add(tokens, Ordering::Relaxed);
        Prefilling { live: Arc::clone(live), tokens }
    }

    /// The same of an answer that is not streamed, at a replica that reads so many tokens in a second.
    pub fn begin_unseen(live: &Arc<Live>, tokens: u64, tokens_per_s: f32, now: Instant) {
        live.unread().add_unseen(tokens, tokens_per_s, now);
    }
}

impl Drop for Prefilling {
    fn drop(&mut self) {
        self.live.unread().streamed.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

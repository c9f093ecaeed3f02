//! Tokens that replicas have still to read: what stands before a new call's first event.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::live::Live;

/// What one replica has still to read, of the calls of this edge.
#[derive(Debug, Default)]
pub(super) struct Unread(AtomicU64);

impl Unread {
    pub(super) fn tokens(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One call's prompt that a replica is about to read; over with its first event, when this is dropped.
#[derive(Debug)]
pub struct Prefilling {
    live: Arc<Live>,
    tokens: u64,
}

impl Prefilling {
    /// A prompt of so many tokens is sent to this replica.
    pub fn begin(live: &Arc<Live>, tokens: u64) -> Prefilling {
        live.unread().0.fetch_add(tokens, Ordering::Relaxed);
        Prefilling { live: Arc::clone(live), tokens }
    }
}

impl Drop for Prefilling {
    fn drop(&mut self) {
        self.live.unread().0.fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

//! The end of the drain: a request that is still open then is told so, instead of being cut together with the process.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Enough that many cores seldom meet at one lock: each stream takes one when it begins and when it ends.
const SHARDS: usize = 64;

/// Whether the edge ends its requests.
#[derive(Debug)]
pub(super) struct Ending {
    reached: AtomicBool,
    shards: Vec<Notify>,
    next: AtomicUsize,
}

impl Default for Ending {
    fn default() -> Ending {
        let shards = (0..SHARDS).map(|_| Notify::new()).collect();
        Ending { reached: AtomicBool::new(false), shards, next: AtomicUsize::new(0) }
    }
}

impl Ending {
    /// Ends every open request, and those that still come.
    pub(super) fn reach(&self) {
        self.reached.store(true, Ordering::SeqCst);
        self.shards.iter().for_each(Notify::notify_waiters);
    }

    /// Waits for it.
    pub(super) async fn reached(&self) {
        let shard = &self.shards[self.next.fetch_add(1, Ordering::Relaxed) % SHARDS];
        // It hears of what happens from its making on, so nothing is missed between the look and the wait.
        let heard = shard.notified();
        if !self.reached.load(Ordering::SeqCst) {
            heard.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_reaches_who_waits_already_and_who_comes_later() {
        let ending = Ending::default();
        let waiting: Vec<_> = (0..2 * SHARDS).map(|_| ending.reached()).collect();
        let all = async {
            for one in waiting {
                one.await;
            }
        };
        tokio::join!(all, async { ending.reach() });
        ending.reached().await;
    }
}

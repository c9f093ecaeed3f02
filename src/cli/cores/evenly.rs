//! Which core gets a connection: the one that has the fewest open.
//!
//! Counted is what is open and not what is busy: agents keep their connections, and one that is idle now asks next. One of
//! HTTP/2 counts as one, however many requests it carries.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// An accepted connection on its way to a core.
pub(super) struct Connection<S> {
    /// Watched by no reactor.
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    /// What serves the connections of its listener.
    pub(super) serve: Arc<S>,
    /// To be kept as long as the connection is open.
    pub(super) open: Open,
}

/// Counts a connection as its core's until it is dropped.
pub(super) struct Open(Arc<AtomicUsize>);

impl Open {
    fn one_more(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to every core. When it is dropped, the cores take what is on its way and expect no more.
pub(super) struct Cores<S> {
    cores: Vec<(mpsc::Sender<Connection<S>>, Arc<AtomicUsize>)>,
    last: AtomicUsize,
}

impl<S> Cores<S> {
    pub(super) fn new(queues: Vec<mpsc::Sender<Connection<S>>>) -> Cores<S> {
        let last = AtomicUsize::new(queues.len().saturating_sub(1));
        Cores { cores: queues.into_iter().map(|queue| (queue, Arc::default())).collect(), last }
    }

    /// How many connections each core has open, those included that are on their way to it.
    fn open(&self) -> Vec<usize> {
        self.cores.iter().map(|(_, open)| open.load(Ordering::Relaxed)).collect()
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> Vec<Arc<AtomicUsize>> {
        self.cores.iter().map(|(_, open)| Arc::clone(open)).collect()
    }

    pub(super) async fn give(&self, socket: TcpStream, peer: SocketAddr, serve: Arc<S>) {
        let Some(core) = fewest(&self.open(), self.last.load(Ordering::Relaxed)) else { return };
        self.last.store(core, Ordering::Relaxed);
        let (queue, open) = &self.cores[core];
        let connection = Connection { socket, peer, serve, open: Open::one_more(open) };
        if queue.send(connection).await.is_err() {
            log::error!("a connection from {peer} is closed: thread {core} serves no more");
        }
    }
}

/// The core with the fewest open connections; of equals the next one after who got the last.
fn fewest(open: &[usize], last: usize) -> Option<usize> {
    let from_the_next = (1..=open.len()).map(|step| (last + step) % open.len());
    from_the_next.min_by_key(|core| open[*core])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_with_the_fewest_is_chosen_and_equals_take_turns() {
        for (open, last, chosen) in [
            (&[][..], 0, None),
            (&[7], 0, Some(0)),
            (&[0, 0], 0, Some(1)),
            (&[0, 0], 1, Some(0)),
            (&[5, 4], 1, Some(1)),
            (&[4, 5], 0, Some(0)),
            (&[3, 3, 3], 2, Some(0)),
            (&[3, 3, 3], 0, Some(1)),
            (&[1, 0, 0, 1], 1, Some(2)),
            (&[1, 0, 0, 1], 2, Some(1)),
            (&[0, 9, 9, 0], 0, Some(3)),
            (&[0, 9, 9, 0], 3, Some(0)),
        ] {
            assert_eq!(fewest(open, last), chosen, "{open:?} after {last}");
        }
    }

    #[test]
    fn from_none_at_all_they_fill_in_turn() {
        let (mut open, mut last, mut turns) = ([0; 3], 2, Vec::new());
        for _ in 0..7 {
            last = fewest(&open, last).unwrap();
            open[last] += 1;
            turns.push(last);
        }
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0]);
    }
}

//! Which core gets a connection: the one that has the fewest open.
//!
//! Counted is what is open and not what is busy: agents keep their connections, and one that is idle now asks next. One of
//! HTTP/2 counts as one, however many requests it carries.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;

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
    pub(super) fn one_more(count: &Arc<AtomicUsize>) -> Open {
        count.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        // Whoever sees accepting ended sees what was accepted, too.
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// What is still to be waited for when the edge ends: connections that are open, from the moment they are accepted, and
/// accepting itself.
#[derive(Clone)]
pub(in super::super) struct Unfinished {
    /// First what accepts, as one that is open; then the cores.
    counts: Vec<Arc<AtomicUsize>>,
}

impl Unfinished {
    /// Whether there is anything.
    pub(in super::super) fn is_any(&self) -> bool {
        self.counts.iter().any(|count| count.load(Ordering::Acquire) > 0)
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

    /// How many connections each core has open, those included that are on their way to it. One that takes no more comes
    /// last, although it has none.
    fn open(&self) -> Vec<usize> {
        let open = |(queue, open): &(mpsc::Sender<_>, Arc<AtomicUsize>)| match queue.is_closed() {
            false => open.load(Ordering::Relaxed),
            true => usize::MAX,
        };
        self.cores.iter().map(open).collect()
    }

    /// What is unfinished until `accepting` is dropped and no core has a connection open.
    pub(super) fn unfinished(&self) -> (Unfinished, Open) {
        let accepting = Arc::default();
        let guard = Open::one_more(&accepting);
        let cores = self.cores.iter().map(|(_, open)| Arc::clone(open));
        (Unfinished { counts: std::iter::once(accepting).chain(cores).collect() }, guard)
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> Vec<Arc<AtomicUsize>> {
        self.cores.iter().map(|(_, open)| Arc::clone(open)).collect()
    }

    /// To one core, and if that one ends before it has taken it, to another.
    pub(super) async fn give(&self, mut socket: TcpStream, peer: SocketAddr, mut serve: Arc<S>) {
        for _ in &self.cores {
            let Some(core) = fewest(&self.open(), self.last.load(Ordering::Relaxed)) else { break };
            self.last.store(core, Ordering::Relaxed);
            let (queue, open) = &self.cores[core];
            let connection = Connection { socket, peer, serve, open: Open::one_more(open) };
            let Err(SendError(unserved)) = queue.send(connection).await else { return };
            (socket, serve) = (unserved.socket, unserved.serve);
        }
        log::error!("a connection from {peer} is closed: no thread serves any more; restart this process");
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

    #[tokio::test]
    async fn a_core_that_takes_no_more_gets_none_while_another_does() {
        let (queues, mut given): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel(8)).unzip();
        let cores = Cores::new(queues);
        drop(given.remove(0));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let (socket, peer) = listener.accept().unwrap();
            cores.give(socket, peer, Arc::new(())).await;
        }
        assert_eq!(given.iter().map(mpsc::Receiver::len).collect::<Vec<_>>(), [3, 3]);
        // With none left it is closed, not tried for ever.
        drop(given);
        let (socket, peer) = (clients.pop().unwrap(), listener.local_addr().unwrap());
        cores.give(socket, peer, Arc::new(())).await;
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

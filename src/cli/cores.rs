//! The agents' connections, each served by one thread to its end: one for each core.
//!
//! With one pool of threads whoever has nothing to do takes the others' tasks, and for a stream whose every event is a few
//! microseconds' work, waking and handing over costs a quarter of that again. So each thread has a runtime of its own and
//! keeps what it is given. What it costs: while a thread is busy with one request, the others that it has wait; that is
//! well below a millisecond, since nothing here computes for long.
//!
//! Who gets a connection is not left to the kernel: of the threads that wait at a socket it wakes the same one again and
//! again, and clients that come one after the other and stay, as agents' do, would all be on one core for good. One more
//! thread accepts, and hands each connection to the core that has the fewest open, before a byte of it is read. The core
//! watches it with its own reactor, so that from then on nobody else is woken for it.

mod acceptor;
mod evenly;
mod listeners;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use async_trait::async_trait;
use nearpool::proxy::Accept;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub(super) use acceptor::Acceptor;
pub(super) use evenly::Unfinished;
use evenly::{Connection, Cores};
pub(super) use listeners::{bound, remedy};

/// Connections that a core has been given and not begun yet. It takes them in microseconds; were it so far behind,
/// accepting waits for it, and the rest stays with the kernel.
const WAITING_MAX: usize = 1024;

/// What serves the connections of a listener, each to its end.
pub(super) trait Serve: Send + Sync + 'static {
    /// Called on the core that keeps the connection.
    fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        shutdown: ShutdownWatch,
    ) -> impl Future<Output = ()> + Send;
}

impl Serve for Accept {
    fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        shutdown: ShutdownWatch,
    ) -> impl Future<Output = ()> + Send {
        Accept::serve(self, socket, peer, shutdown)
    }
}

/// The acceptor of these listeners and so many cores, all to be run beside each other. `missing` counts the addresses that
/// cannot be listened at, as long as they cannot.
pub(super) fn cores<S: Serve>(
    listeners: Vec<(SocketAddr, Arc<S>)>,
    count: usize,
    missing: Arc<AtomicUsize>,
) -> (Acceptor<S>, Vec<Core<S>>) {
    let (queues, given): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(WAITING_MAX)).unzip();
    let cores = given.into_iter().enumerate().map(|(index, given)| Core { name: format!("agents-{index}"), given });
    (Acceptor::new(listeners, Cores::new(queues), missing), cores.collect())
}

/// One thread that serves agents.
pub(super) struct Core<S> {
    name: String,
    given: mpsc::Receiver<Connection<S>>,
}

#[async_trait]
impl<S: Serve> Service for Core<S> {
    /// Ends when the acceptor has, and all that was accepted is begun; what is begun goes on.
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        while let Some(Connection { socket, peer, serve, open }) = self.given.recv().await {
            let socket = match TcpStream::from_std(socket) {
                Ok(socket) => socket,
                Err(error) => {
                    log::warn!("a connection from {peer} cannot be served: {error}");
                    continue;
                }
            };
            // Boxed, since what is passed on from one future to the next has its place in each of them.
            let serving = Box::pin(serve.serve(socket, peer, shutdown.clone()));
            tokio::spawn(async move {
                serving.await;
                drop(open);
            });
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

#[cfg(test)]
mod tests;

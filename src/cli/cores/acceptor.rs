//! One thread that accepts at every listener of the agents, and serves none of them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nearpool::observe::seldom::Seldom;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Serve;
use super::evenly::{Cores, Open, Unfinished};
use super::listeners::{ALLOW_MORE, listen, may_pass, remedy};

/// How long accepting rests when there is nothing left to accept with: connections close in the meantime.
const REST: Duration = Duration::from_secs(1);

/// How many of the connections that wait at a listener are accepted when the edge ends, and for how long.
const LAST_MAX: usize = 1024;
const LAST_TIME: Duration = Duration::from_millis(100);

/// Accepts, and gives each connection to a core.
pub(in super::super) struct Acceptor<S> {
    listeners: Vec<(SocketAddr, Arc<S>)>,
    /// Until it is started.
    cores: Option<Cores<S>>,
    missing: Arc<AtomicUsize>,
    /// Until it has ended.
    accepting: Option<Open>,
    unfinished: Unfinished,
}

impl<S> Acceptor<S> {
    pub(super) fn new(listeners: Vec<(SocketAddr, Arc<S>)>, cores: Cores<S>, missing: Arc<AtomicUsize>) -> Acceptor<S> {
        let (unfinished, accepting) = cores.unfinished();
        Acceptor { listeners, cores: Some(cores), missing, accepting: Some(accepting), unfinished }
    }

    /// What the end of the edge has to wait for.
    pub(in super::super) fn unfinished(&self) -> Unfinished {
        self.unfinished.clone()
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> Vec<Arc<AtomicUsize>> {
        self.cores.as_ref().unwrap().counts()
    }
}

#[async_trait]
impl<S: Serve> Service for Acceptor<S> {
    /// Ends with the listeners closed; a successor has them by then, if there is one.
    async fn start_service(&mut self, table: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        let Some(cores) = self.cores.take().map(Arc::new) else { return };
        let mut accepting = JoinSet::new();
        for (address, serve) in &self.listeners {
            let at = At {
                address: *address,
                serve: Arc::clone(serve),
                cores: Arc::clone(&cores),
                missing: Arc::clone(&self.missing),
            };
            accepting.spawn(at.run(table.clone(), shutdown.clone()));
        }
        drop(cores);
        accepting.join_all().await;
        self.accepting = None;
    }

    fn name(&self) -> &str {
        "accept"
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }

    fn listen_addresses(&self) -> Option<Vec<String>> {
        Some(self.listeners.iter().map(|(address, _)| address.to_string()).collect())
    }
}

/// One address.
struct At<S> {
    address: SocketAddr,
    serve: Arc<S>,
    cores: Arc<Cores<S>>,
    /// Counts the addresses at which nobody listens.
    missing: Arc<AtomicUsize>,
}

impl<S: Serve> At<S> {
    /// Accepts until the edge ends, and then what waits already.
    async fn run(self, table: Option<ListenFds>, mut shutdown: ShutdownWatch) {
        // What already waits where a predecessor listened is not lost even if this process ends at once.
        let listener = tokio::select! {
            biased;
            listener = self.listener(table.as_ref()) => listener,
            _ = shutdown.wait_for(|ending| *ending) => return,
        };
        self.accept(&listener, &mut shutdown).await;
        self.accept_the_last(listener).await;
    }

    /// Never ends without one: an address at which nobody listens is counted as missing, so that the edge is not ready.
    async fn listener(&self, table: Option<&ListenFds>) -> TcpListener {
        let (address, mut missing, mut told) = (self.address, None, Seldom::default());
        loop {
            let error = match listen(address, table) {
                Ok(listener) => return listener,
                Err(error) => error,
            };
            let _missing = missing.get_or_insert_with(|| Open::one_more(&self.missing));
            let remedy = remedy(&error);
            if !may_pass(&error) {
                log::error!("nobody is served at {address}, and /readyz says 503: {error}; {remedy}");
                return std::future::pending().await;
            }
            if told.is_due(Instant::now()) {
                log::warn!("nobody is served at {address}, and /readyz says 503: {error}. It is tried again; {remedy}");
            }
            sleep(REST).await;
        }
    }

    async fn accept(&self, listener: &TcpListener, shutdown: &mut ShutdownWatch) {
        let (address, mut told) = (self.address, Seldom::default());
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = shutdown.wait_for(|ending| *ending) => return,
            };
            match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
                // Not in a race with the shutdown: what is accepted is served.
                Ok((socket, peer)) => self.give(socket, peer).await,
                Err(error) if is_of_one_connection(&error) => log::debug!("{address}: {error}"),
                Err(error) => {
                    if told.is_due(Instant::now()) {
                        log::warn!("cannot accept at {address}: {error}. New connections wait; {ALLOW_MORE}");
                    }
                    tokio::select! {
                        () = sleep(REST) => {}
                        _ = shutdown.wait_for(|ending| *ending) => return,
                    }
                }
            }
        }
    }

    /// What waits when the listener closes is reset, although its clients are connected and may have asked already. The
    /// kernel is asked for it, since the reactor need not have heard of the last ones. Where a successor has the listener
    /// too, it gets the rest.
    async fn accept_the_last(&self, listener: TcpListener) {
        let Ok(listener) = listener.into_std() else { return };
        let until = Instant::now() + LAST_TIME;
        for _ in 0..LAST_MAX {
            match listener.accept().and_then(|(socket, peer)| socket.set_nonblocking(true).map(|()| (socket, peer))) {
                Ok((socket, peer)) => self.give(socket, peer).await,
                Err(error) if is_of_one_connection(&error) => {}
                Err(_none_waits) => return,
            }
            if Instant::now() >= until {
                return;
            }
        }
    }

    async fn give(&self, socket: std::net::TcpStream, peer: SocketAddr) {
        self.cores.give(socket, peer, Arc::clone(&self.serve)).await;
    }
}

/// Whether an error is of the connection that would have been accepted, so that the next one may be at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn only_what_the_next_connection_would_meet_too_makes_accepting_rest() {
        for (errno, of_one) in [
            (Errno::ECONNABORTED, true),
            (Errno::ECONNRESET, true),
            (Errno::ENETUNREACH, true),
            (Errno::EHOSTUNREACH, true),
            (Errno::EINTR, true),
            (Errno::EMFILE, false),
            (Errno::ENFILE, false),
            (Errno::ENOBUFS, false),
            (Errno::ENOMEM, false),
            (Errno::EBADF, false),
        ] {
            assert_eq!(is_of_one_connection(&io::Error::from_raw_os_error(errno as i32)), of_one, "{errno}");
        }
    }
}

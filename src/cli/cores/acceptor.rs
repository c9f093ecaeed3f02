//! One thread that accepts at every listener of the agents, and serves none of them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Serve;
use super::evenly::Cores;
use super::listeners::listen;

/// How long accepting rests when there is nothing left to accept with: connections close in the meantime.
const REST: Duration = Duration::from_secs(1);

/// How often the log tells of it.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Accepts, and gives each connection to a core.
pub(in super::super) struct Acceptor<S> {
    listeners: Vec<(SocketAddr, Arc<S>)>,
    /// Until it is started.
    cores: Option<Cores<S>>,
}

impl<S> Acceptor<S> {
    pub(super) fn new(listeners: Vec<(SocketAddr, Arc<S>)>, cores: Cores<S>) -> Acceptor<S> {
        Acceptor { listeners, cores: Some(cores) }
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> Vec<Arc<std::sync::atomic::AtomicUsize>> {
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
            let (serve, cores) = (Arc::clone(serve), Arc::clone(&cores));
            accepting.spawn(accept(*address, serve, cores, table.clone(), shutdown.clone()));
        }
        drop(cores);
        accepting.join_all().await;
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

/// Accepts at one address until the process ends.
async fn accept<S: Serve>(
    address: SocketAddr,
    serve: Arc<S>,
    cores: Arc<Cores<S>>,
    table: Option<ListenFds>,
    mut shutdown: ShutdownWatch,
) {
    let listening = tokio::select! {
        listening = listen(address, table.as_ref()) => listening,
        _ = shutdown.wait_for(|ending| *ending) => return,
    };
    let listener = match listening {
        Ok(listener) => listener,
        Err(error) => return log::error!("nobody is served at {address}: {error:#}"),
    };
    let mut told: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|ending| *ending) => return,
        };
        match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
            // Not in a race with the shutdown: what is accepted is served.
            Ok((socket, peer)) => cores.give(socket, peer, Arc::clone(&serve)).await,
            Err(error) if is_of_one_connection(&error) => log::debug!("{address}: {error}"),
            Err(error) => {
                if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                    told = Some(Instant::now());
                    log::warn!(
                        "cannot accept at {address}: {error}. New connections wait; allow more open files \
                         (LimitNOFILE, ulimit -n) or set a lower limits.connections"
                    );
                }
                tokio::select! {
                    () = sleep(REST) => {}
                    _ = shutdown.wait_for(|ending| *ending) => return,
                }
            }
        }
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

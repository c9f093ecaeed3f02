//! How an edge ends: signals, draining, and handing over to a new process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nearpool::control::interactions::Interactions;
use nearpool::observe::access_log::AccessLog;
use nearpool::observe::trace::Spans;
use nearpool::proxy::Edge;
use nearpool::roster::Roster;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::BackgroundService;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::cores::Unfinished;

/// How often the end of the last request is looked for while draining.
const POLL: Duration = Duration::from_millis(50);

/// How long connections are given to close after the last request: its last bytes may still be on their way, and a head
/// that is half there is answered too.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Turns signals into endings.
///
/// SIGTERM drains: `/readyz` says 503 at once, so that DNS and load balancers turn away, and accepting goes on for
/// `drain_delay`, since they need their time. A second SIGTERM, or SIGINT, ends at once. SIGQUIT hands the listeners
/// over, but only to a process that waits for them: the framework would end this one in any case.
pub(super) struct Signals {
    pub(super) edge: Arc<Edge>,
    pub(super) roster: Arc<Roster>,
    pub(super) spans: Arc<Spans>,
    pub(super) upgrade_socket: PathBuf,
    /// Until they are waited for.
    pub(super) caught: Mutex<Option<Caught>>,
}

/// The signals that end an edge, which from now on end no process by themselves.
pub(super) struct Caught {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Caught {
    /// To be made before anything listens: the framework waits for signals last, and one that came in between would reset
    /// every connection.
    pub(super) fn now() -> io::Result<Caught> {
        // The runtime is only asked for, here: whichever runs hears of a signal, and all who wait for it are told.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let _entered = runtime.enter();
        Ok(Caught {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let caught = self.caught.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Caught { mut terminate, mut interrupt, mut quit }) = caught else {
            // The framework asks once.
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => return self.at_once().await,
                _ = terminate.recv() => {
                    self.roster.start_draining();
                    let delay = self.roster.snapshot().config.timeouts.drain_delay;
                    log::info!("draining: accepting for another {} s", delay.as_secs_f64());
                    tokio::select! {
                        () = tokio::time::sleep(delay) => return ShutdownSignal::GracefulTerminate,
                        _ = terminate.recv() => return self.at_once().await,
                        _ = interrupt.recv() => return self.at_once().await,
                    }
                }
                _ = quit.recv() => {
                    if is_listening(&self.upgrade_socket) {
                        self.roster.start_handing_over();
                        log::info!("handing over to the process at {}", self.upgrade_socket.display());
                        return ShutdownSignal::GracefulUpgrade;
                    }
                    log::error!("no process waits at {}: start one with `nearpool run --upgrade` first", self.upgrade_socket.display());
                }
            }
        }
    }
}

impl Signals {
    /// The end that does not wait for requests: they are told so, and that is all.
    async fn at_once(&self) -> ShutdownSignal {
        end_requests(&self.edge).await;
        self.spans.flush().await;
        ShutdownSignal::FastShutdown
    }
}

/// Ends the requests that are open: each is told, as far as its client takes it within [`LAST_BYTES`].
async fn end_requests(edge: &Edge) {
    let open = edge.requests_open();
    edge.end_requests();
    if open > 0 {
        log::warn!("ended by a signal: {open} requests were still open and are told so");
    }
    wait_while(|| edge.requests_open() > 0, LAST_BYTES).await;
}

/// Waits while something holds, and no longer than `most`.
async fn wait_while(holds: impl Fn() -> bool, most: Duration) {
    let deadline = Instant::now() + most;
    while holds() && Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
}

impl Drainer {
    /// Waits until every request has ended, or as long as it may. A connection that was accepted last may be about to ask:
    /// what it asks is waited for, too.
    async fn last_request(&self) {
        let deadline = Instant::now() + self.roster.snapshot().config.timeouts.drain;
        let left = || deadline.saturating_duration_since(Instant::now());
        wait_while(|| self.edge.requests_open() > 0, left()).await;
        while self.edge.requests_open() == 0 && !left().is_zero() {
            wait_while(|| self.unfinished.is_any(), LAST_BYTES).await;
            if self.edge.requests_open() == 0 {
                return log::info!("drained: every request has ended");
            }
            wait_while(|| self.edge.requests_open() > 0, left()).await;
        }
        let cut = self.edge.requests_open();
        self.edge.end_requests();
        wait_while(|| self.unfinished.is_any(), LAST_BYTES).await;
        if cut > 0 {
            log::warn!("drained: {cut} requests were still open after timeouts.drain and are ended");
        } else {
            log::info!("drained: every request has ended");
        }
    }
}

/// A signal to end, while the framework sleeps through the grace period and hears none.
async fn another_signal() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Whether a process waits at this socket. The file alone is no sign: it outlives a process that was killed. And to
/// connect would be taken for the hand-over itself, so the system's list of sockets is asked (unix(7), `/proc`).
fn is_listening(socket: &Path) -> bool {
    std::fs::read_to_string("/proc/net/unix").is_ok_and(|sockets| lists_listener(&sockets, socket))
}

/// Whether `/proc/net/unix` lists a listener at this path: `Num RefCount Protocol Flags Type St Inode Path`.
fn lists_listener(sockets: &str, path: &Path) -> bool {
    /// `__SO_ACCEPTCON` of Linux: `listen` was called.
    const ACCEPTS: u32 = 1 << 16;
    let path = path.to_string_lossy();
    sockets.lines().any(|line| {
        let flags = line.split_ascii_whitespace().nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok());
        // The path is the rest of the line, spaces included.
        let listed = (0..7).try_fold(line, |rest, _| Some(rest.trim_start().split_once(' ')?.1));
        flags.is_some_and(|flags| flags & ACCEPTS != 0) && listed == Some(&*path)
    })
}

/// Ends the process as soon as the last request has ended, instead of at the end of the whole grace period.
pub(super) struct Drainer {
    pub(super) edge: Arc<Edge>,
    pub(super) roster: Arc<Roster>,
    pub(super) log: Arc<AccessLog>,
    pub(super) interactions: Arc<Interactions>,
    pub(super) spans: Arc<Spans>,
    pub(super) unfinished: Unfinished,
}

#[async_trait]
impl BackgroundService for Drainer {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|ending| *ending).await.is_err() {
            return;
        }
        // After a hand-over the successor answers to who asks whether the edge is ready; what still comes in here agrees.
        if !self.roster.closes_connections() {
            self.roster.start_draining();
        }
        tokio::select! {
            () = self.last_request() => {}
            () = another_signal() => end_requests(&self.edge).await,
        }
        self.interactions.close_all();
        self.spans.flush().await;
        self.log.flush();
        std::process::exit(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_at_this_very_path_counts() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17231 /run/a.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 17240 /run/b.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17250 /other/run/c.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 17251 /run/with space\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 17241\n";
        for (path, listening) in [
            ("/run/a.sock", true),
            ("/run/b.sock", false),
            ("/run/c.sock", false),
            ("/run/with space", true),
            ("space", false),
            ("/run/absent", false),
        ] {
            assert_eq!(lists_listener(sockets, Path::new(path)), listening, "{path}");
        }
    }
}

//! How an edge ends: signals, draining, and handing over to a new process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use nearpool::observe::access_log::AccessLog;
use nearpool::proxy::Edge;
use nearpool::roster::Roster;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora::services::background::BackgroundService;
use tokio::signal::unix::{SignalKind, signal};

/// How often the end of the last request is looked for while draining.
const POLL: Duration = Duration::from_millis(50);

/// Turns signals into endings.
///
/// SIGTERM drains: `/readyz` says 503 at once, so that DNS and load balancers turn away, and accepting goes on for
/// `drain_delay`, since they need their time. A second SIGTERM, or SIGINT, ends at once. SIGQUIT hands the listeners
/// over, but only to a process that waits for them: the framework would end this one in any case.
pub(super) struct Signals {
    pub(super) roster: Arc<Roster>,
    pub(super) upgrade_socket: PathBuf,
}

#[async_trait]
impl ShutdownSignalWatch for Signals {
    async fn recv(&self) -> ShutdownSignal {
        let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::quit()));
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut quit)) = signals else {
            log::error!("signals cannot be watched; only a kill ends this process");
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                _ = terminate.recv() => {
                    self.roster.start_draining();
                    let delay = self.roster.snapshot().config.timeouts.drain_delay;
                    log::info!("draining: accepting for another {} s", delay.as_secs_f64());
                    tokio::select! {
                        () = tokio::time::sleep(delay) => return ShutdownSignal::GracefulTerminate,
                        _ = terminate.recv() => return ShutdownSignal::FastShutdown,
                        _ = interrupt.recv() => return ShutdownSignal::FastShutdown,
                    }
                }
                _ = quit.recv() => {
                    if self.upgrade_socket.exists() {
                        self.roster.start_draining();
                        return ShutdownSignal::GracefulUpgrade;
                    }
                    log::error!("no process waits at {}: start one with `nearpool run --upgrade` first", self.upgrade_socket.display());
                }
            }
        }
    }
}

/// Ends the process as soon as the last request has ended, instead of at the end of the whole grace period.
pub(super) struct Drainer {
    pub(super) edge: Arc<Edge>,
    pub(super) roster: Arc<Roster>,
    pub(super) log: Arc<AccessLog>,
}

#[async_trait]
impl BackgroundService for Drainer {
    async fn start(&self, mut shutdown: ShutdownWatch) {
        if shutdown.wait_for(|ending| *ending).await.is_err() {
            return;
        }
        self.roster.start_draining();
        let deadline = Instant::now() + self.roster.snapshot().config.timeouts.drain;
        while self.edge.requests_open() > 0 && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        let cut = self.edge.requests_open();
        if cut > 0 {
            log::warn!("drained: {cut} requests were still open after timeouts.drain and are cut");
        } else {
            log::info!("drained: every request has ended");
        }
        self.log.flush();
        std::process::exit(0);
    }
}

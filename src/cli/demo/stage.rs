//! What stands during the demo: the simulated world, and the edge in front of it.
//!
//! The edge is put together exactly as `nearpool run` does it, and runs on threads of its own in this process rather than
//! in a child: whatever ends the demo, also a kill, ends the edge with it, and no process or port is left behind. What
//! it is asked, it is asked over HTTP like any other edge.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use async_trait::async_trait;
use nearpool::sim::world::{World, WorldParams};
use pingora::server::{RunArgs, ShutdownSignal, ShutdownSignalWatch};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use super::config_file::{Addresses, ConfigFile, Replica};
use crate::cli::assemble::{Options, assemble};
use crate::cli::page;

/// Where agents and operators find the demo, when nobody else is there.
const AGENTS_PORT: u16 = 8080;
const ADMIN_PORT: u16 = 9901;
/// Enough that a call sent to the next one in turn more often misses its cache than not.
const REPLICAS_PER_POOL: usize = 3;
/// How long the edge may take to start; it takes some hundred milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the edge may take to end; it drops what it has.
const END_TIMEOUT: Duration = Duration::from_secs(2);
const READY_POLL: Duration = Duration::from_millis(20);

/// The world and the edge, running.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) agents: SocketAddr,
    pub(super) admin: SocketAddr,
    config: ConfigFile,
    edge: RunningEdge,
    _ports: [Port; 2],
}

impl Stage {
    /// Starts both, and waits until the edge is ready.
    pub(super) async fn set(seed: u64) -> anyhow::Result<Stage> {
        let params = WorldParams { replicas_per_pool: REPLICAS_PER_POOL, seed, ..WorldParams::default() };
        let world = World::start(params).await.context("cannot start the simulated replicas")?;
        let port = |preferred| Port::take(preferred).context("no free port on loopback");
        let (agents_port, admin_port) = (port(AGENTS_PORT)?, port(ADMIN_PORT)?);
        let (agents, admin) = (agents_port.address, admin_port.address);
        let replicas = world.replicas().map(Replica::of).collect();
        let config = ConfigFile::write(&Addresses { agents, admin, replicas })?;
        let edge = RunningEdge::start(&config, seed).await?;
        let stage = Stage { world, agents, admin, config, edge, _ports: [agents_port, admin_port] };
        stage.wait_until_ready().await?;
        Ok(stage)
    }

    pub(super) fn config_path(&self) -> &Path {
        self.config.path()
    }

    /// Ends the edge, then removes its configuration, so that it never sees the file vanish.
    pub(super) async fn strike(self) {
        let Stage { world, config, edge, .. } = self;
        edge.end().await;
        drop(config);
        drop(world);
    }

    async fn wait_until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        while page::get(self.admin, "/readyz").await.is_err() {
            if self.edge.thread.is_finished() || Instant::now() >= deadline {
                bail!("the edge did not become ready");
            }
            sleep(READY_POLL).await;
        }
        Ok(())
    }
}

/// The edge's own thread, and how it is told to end.
struct RunningEdge {
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

impl RunningEdge {
    async fn start(config: &ConfigFile, seed: u64) -> anyhow::Result<RunningEdge> {
        let (stop, stopped) = watch::channel(false);
        let (started, verdict) = oneshot::channel();
        let (path, upgrade_socket) = (config.path().to_owned(), config.beside("upgrade.sock"));
        let run = move || run_edge(path, upgrade_socket, seed, stopped, started);
        let thread = thread::Builder::new().name("edge".into()).spawn(run)?;
        verdict.await.map_err(|_| anyhow!("the edge ended while it started"))??;
        Ok(RunningEdge { stop, thread })
    }

    async fn end(self) {
        self.stop.send_replace(true);
        let ended = tokio::task::spawn_blocking(move || self.thread.join());
        if !matches!(timeout(END_TIMEOUT, ended).await, Ok(Ok(Ok(())))) {
            log::warn!("the edge did not end as it should");
        }
    }
}

/// The body of the edge's thread. It says first whether the edge could be put together.
fn run_edge(
    config: PathBuf,
    upgrade_socket: PathBuf,
    seed: u64,
    stopped: watch::Receiver<bool>,
    started: oneshot::Sender<anyhow::Result<()>>,
) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let options = Options { config: &config, access_log: false, upgrade: false, upgrade_socket, threads: cores, seed };
    // Nobody waits any more only if the demo was ended meanwhile.
    match assemble(options) {
        Ok(assembled) => {
            let _ = started.send(Ok(()));
            assembled.server.run(RunArgs { shutdown_signal: Box::new(Told(stopped)) });
        }
        Err(error) => {
            let _ = started.send(Err(error));
        }
    }
}

/// Ends the edge when told, and not at signals: those are the demo's.
struct Told(watch::Receiver<bool>);

#[async_trait]
impl ShutdownSignalWatch for Told {
    async fn recv(&self) -> ShutdownSignal {
        // An error means that nobody can tell any more, which is the end as well.
        let _ = self.0.clone().wait_for(|stop| *stop).await;
        ShutdownSignal::FastShutdown
    }
}

/// A port of loopback that no other demo takes while this is held.
///
/// The edge opens its listener itself, a little later, so holding the TCP port would keep it out. The UDP port of the same
/// number stands for it: without it two demos that start together would both find port 8080 free, and the agents of one
/// would talk to the edge of the other.
struct Port {
    address: SocketAddr,
    _reserved: UdpSocket,
}

impl Port {
    /// The preferred port, else any.
    fn take(preferred: u16) -> io::Result<Port> {
        Self::take_exactly(preferred).or_else(|_| Self::take_exactly(0))
    }

    fn take_exactly(port: u16) -> io::Result<Port> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.local_addr()?;
        Ok(Port { address, _reserved: UdpSocket::bind(address)? })
    }
}

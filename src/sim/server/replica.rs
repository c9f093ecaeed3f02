//! One replica's life: its listener, its connections, its engine; killed and healed at will.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::driver::Driver;
use super::fault::{Fault, FaultPlan, Faults};
use super::listen::Listening;
use super::request_log::{LoggedRequest, RequestLog};
use super::responses_store::ResponseStore;
use crate::sim::engine;
use crate::sim::preset::{Params, Preset};
use crate::sim::text;

/// What one replica is.
#[derive(Debug, Clone)]
pub struct ServerParams {
    /// Where it listens; port 0 takes a free one and keeps it over a restart.
    pub listen: SocketAddr,
    /// Its name, in the response header `x-sim-replica`.
    pub name: String,
    /// The model's name; a request for another is answered 404, as vLLM does.
    pub model: String,
    /// Speed and size of its engine.
    pub engine: Params,
    /// Prompt and answer may have so many tokens together; unlimited when `None`.
    pub context_tokens: Option<u64>,
    /// Fewest and most tokens of an answer for which nothing is said; the prompt decides.
    pub answer_tokens: (u64, u64),
    /// A trailing assistant message is the beginning of the answer, as in llama.cpp, without being asked for.
    pub prefill_trailing_assistant: bool,
    /// Whether it keeps to the pace that a request forces. One that does not finishes at once what a slower one began.
    pub keeps_pace: bool,
    /// GPUs that it runs on, as its page `GET /gpu/metrics` lists them.
    pub gpus: u32,
    /// What `GET /metrics` answers.
    pub metrics: MetricsPage,
    /// Every request waits so long before it is looked at: the way to a far region.
    pub network_delay: Duration,
    /// How many of the last requests are kept for [`ReplicaHandle::requests`]; 0 switches that off.
    pub log_requests: usize,
    /// Makes the ids of answers differ between replicas. The text of answers does not depend on it.
    pub seed: u64,
}

impl ServerParams {
    /// A replica of `model` on a free loopback port with the preset `measured`.
    pub fn new(name: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            name: name.into(),
            model: model.into(),
            engine: Preset::Measured.params(),
            context_tokens: None,
            answer_tokens: (32, 128),
            prefill_trailing_assistant: false,
            keeps_pace: true,
            gpus: 1,
            metrics: MetricsPage::Load,
            network_delay: Duration::ZERO,
            log_requests: 64,
            seed: 0,
        }
    }
}

/// What a replica answers on `GET /metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsPage {
    /// Its load, under vLLM's names.
    Load,
    /// 404: there is no such page, as in engines that have to be told to show one.
    None,
    /// Nothing, ever.
    Silence,
    /// These bytes with status 200.
    Bytes(Bytes),
}

/// A replica's gauges and counters. Counters survive a restart, the engine's own do not.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerStats {
    /// The engine's.
    pub engine: engine::Stats,
    /// Connections that are open.
    pub connections: usize,
    /// Connections accepted so far.
    pub connections_total: u64,
    /// Requests received whole so far, of every path.
    pub requests_total: u64,
    /// Answers completed by the engine so far.
    pub finished_total: u64,
    /// Requests cancelled in the engine so far because their client went away.
    pub cancelled_total: u64,
    /// Faults shown so far.
    pub faults_total: u64,
}

/// Starts a replica. It serves until the handle is dropped or told to stop.
pub async fn spawn(params: ServerParams) -> io::Result<ReplicaHandle> {
    let stats = Arc::new(watch::Sender::new(ServerStats::default()));
    let replica = Arc::new(Replica {
        log: RequestLog::new(params.log_requests),
        stats,
        faults: Faults::default(),
        responses: Arc::new(ResponseStore::default()),
        next_id: AtomicU64::new(1),
        driver: StdMutex::new(None),
        life: Mutex::new(Life::default()),
        addr: StdMutex::new(params.listen),
        params,
    });
    replica.start().await?;
    Ok(ReplicaHandle { replica })
}

/// A running (or killed) replica.
#[derive(Debug)]
pub struct ReplicaHandle {
    replica: Arc<Replica>,
}

impl ReplicaHandle {
    /// Where it listens, or would.
    pub fn addr(&self) -> SocketAddr {
        self.replica.addr()
    }

    /// `http://ADDR`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// The page that tells how busy its GPUs are, as NVIDIA's exporter (DCGM) would.
    pub fn gpu_metrics_url(&self) -> String {
        format!("{}/gpu/metrics", self.url())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.replica.params.name
    }

    /// Its model.
    pub fn model(&self) -> &str {
        &self.replica.params.model
    }

    /// Shows a fault from now on, or behaves again. In force when this returns. Fails only when the listener cannot come back.
    pub async fn set_fault(&self, plan: impl Into<Option<FaultPlan>>) -> io::Result<()> {
        self.replica.set_fault(plan.into()).await
    }

    /// Kills it: listener, engine and cache are gone and every connection is reset when this returns.
    pub async fn stop(&self) {
        self.replica.stop().await;
    }

    /// Kills many at once: none can be connected to any more when the first connection breaks, so that a retry does not
    /// walk from one death into the next.
    pub(in crate::sim) async fn stop_all(handles: impl Iterator<Item = &Self>) -> usize {
        let mut dying = JoinSet::new();
        let replicas: Vec<_> = handles.map(|handle| Arc::clone(&handle.replica)).collect();
        for replica in &replicas {
            replica.refuse().await;
        }
        for replica in replicas {
            dying.spawn(async move { replica.stop().await });
        }
        dying.join_all().await.len()
    }

    /// Starts it again on the same address, without faults and with an empty cache. Nothing happens when it runs.
    pub async fn restart(&self) -> io::Result<()> {
        self.replica.start().await
    }

    /// Gauges and counters now.
    pub fn stats(&self) -> ServerStats {
        *self.replica.stats.borrow()
    }

    /// Waits until its gauges and counters are as wanted. Bound it with a timeout.
    pub async fn wait_for(&self, wanted: impl FnMut(&ServerStats) -> bool) -> ServerStats {
        let mut seen = self.replica.stats.subscribe();
        // The sender lives as long as this handle, so the wait ends only well.
        seen.wait_for(wanted).await.map(|stats| *stats).unwrap_or_default()
    }

    /// The last requests, oldest first.
    pub fn requests(&self) -> Vec<LoggedRequest> {
        self.replica.log.all()
    }
}

impl Drop for ReplicaHandle {
    fn drop(&mut self) {
        // Only a fault order in progress holds the lock; its tasks then end with the runtime.
        if let Ok(mut life) = self.replica.life.try_lock() {
            life.listening.take();
            if let Some(engine) = life.engine.take() {
                engine.abort();
            }
        }
    }
}

/// What connections and the handle share.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) params: ServerParams,
    pub(super) log: RequestLog,
    pub(super) stats: Arc<watch::Sender<ServerStats>>,
    pub(super) faults: Faults,
    pub(super) responses: Arc<ResponseStore>,
    next_id: AtomicU64,
    driver: StdMutex<Option<Driver>>,
    addr: StdMutex<SocketAddr>,
    life: Mutex<Life>,
}

#[derive(Debug, Default)]
struct Life {
    listening: Option<Listening>,
    engine: Option<JoinHandle<()>>,
}

impl Replica {
    pub(super) fn addr(&self) -> SocketAddr {
        *self.addr.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The engine; `None` when it is dead.
    pub(super) fn driver(&self) -> Option<Driver> {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A number that no other request of this replica has.
    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// An identifier for an answer: 24 hex digits.
    pub(super) fn answer_id(&self, number: u64) -> String {
        let high = text::mix(self.params.seed ^ text::chained(number, self.params.name.as_bytes()));
        format!("{high:016x}{:08x}", number & 0xffff_ffff)
    }

    pub(super) async fn set_fault(self: &Arc<Self>, plan: Option<FaultPlan>) -> io::Result<()> {
        let mut life = self.life.lock().await;
        self.faults.set(plan);
        let refuse = plan.is_some_and(|plan| plan.fault == Fault::Refuse);
        if refuse {
            if let Some(listening) = life.listening.take() {
                listening.close(false).await;
            }
        } else if life.engine.is_some() && life.listening.is_none() {
            life.listening = Some(Listening::open(self, self.addr())?);
        }
        Ok(())
    }

    async fn start(self: &Arc<Self>) -> io::Result<()> {
        let mut life = self.life.lock().await;
        if life.engine.is_some() {
            return Ok(());
        }
        self.faults.set(None);
        let listening = Listening::open(self, self.addr())?;
        *self.addr.lock().unwrap_or_else(PoisonError::into_inner) = listening.addr();
        let (driver, task) = Driver::start(self.params.engine.clone(), Arc::clone(&self.stats));
        *self.driver.lock().unwrap_or_else(PoisonError::into_inner) = Some(driver);
        life.engine = Some(task);
        life.listening = Some(listening);
        Ok(())
    }

    async fn refuse(&self) {
        if let Some(listening) = &mut self.life.lock().await.listening {
            listening.refuse().await;
        }
    }

    async fn stop(&self) {
        let mut life = self.life.lock().await;
        if let Some(listening) = life.listening.take() {
            listening.close(true).await;
        }
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = life.engine.take() {
            task.abort();
            // The only error is the cancellation just asked for.
            let _ = task.await;
        }
        self.responses.clear();
        self.stats.send_modify(|stats| stats.engine = engine::Stats::default());
    }
}

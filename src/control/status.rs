//! How things stand, as `/status` tells it.

use std::path::Path;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::reload::Verdict;
use crate::domain::ids::{PoolIx, RegionIx};
use crate::domain::topology::Pool;
use crate::observe::recent::{Failover, Feed, Flow, Recent, Totals};
use crate::observe::timestamp::Timestamp;
use crate::policy::breaker::Breaker;
use crate::policy::replica::Standing;
use crate::roster::{Roster, Snapshot};

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Status<'a> {
    edge: &'a str,
    now: Timestamp,
    version: &'static str,
    uptime_s: u64,
    draining: bool,
    /// `null` when the edge is ready to serve.
    unready: Option<&'static str>,
    config_hash: &'a str,
    geo: Geo<'a>,
    sessions: usize,
    access_log_dropped: u64,
    /// Who watches `/events`.
    viewers: usize,
    totals: Totals,
    /// Of all pools, and of the calls that none of them got.
    last_minute: Recent,
    reloads: Vec<Verdict>,
    regions: Vec<Region<'a>>,
    flows: Vec<Flow<'a>>,
    failovers: Vec<Failover>,
}

#[derive(Debug, Serialize)]
struct Geo<'a> {
    /// The file, or `embedded`.
    source: std::borrow::Cow<'a, str>,
    kind: String,
    built: Timestamp,
    age_days: u64,
    /// Whether it is so old that it should be replaced.
    stale: bool,
    ip_version: u16,
    bytes: usize,
}

#[derive(Debug, Serialize)]
struct Region<'a> {
    name: &'a str,
    home: bool,
    latitude: f64,
    longitude: f64,
    /// The measured round trip; `null` while there is none.
    rtt_ms: Option<f64>,
    pools: Vec<PoolStatus<'a>>,
}

#[derive(Debug, Serialize)]
struct PoolStatus<'a> {
    name: &'a str,
    model: &'a str,
    engine: &'static str,
    gpu: Option<&'a str>,
    /// USD for one replica.
    cost_per_hour: Option<f64>,
    max_in_flight: u32,
    /// Calls that wait for a place.
    queued: usize,
    /// Sessions that it has taken on.
    sessions_active: usize,
    /// Calls of sessions that wait to be.
    sessions_waiting: usize,
    /// Tokens of the contexts of those that it has taken on, estimated.
    context_tokens: u64,
    /// What the KV cache of one replica holds; `null` while unknown.
    kv_cache_tokens: Option<u64>,
    last_minute: Recent,
    last_quarter: Recent,
    replicas: Vec<Replica<'a>>,
}

#[derive(Debug, Serialize)]
struct Replica<'a> {
    name: &'a str,
    standing: &'static str,
    healthy: bool,
    breaker: &'static str,
    in_flight: u32,
    /// Whether its host name has been resolved.
    resolved: bool,
    /// What its last failed health check found wrong; `null` while it is in use and passes them.
    failing: Option<Failing>,
    /// What its engine said last of its own load; `null` when that is too long ago, or nothing was said.
    engine_load: Option<EngineLoad>,
    /// The share of time in which its GPUs are busy; `null` while no exporter tells.
    gpu_utilization_ratio: Option<f64>,
}

#[derive(Debug, Serialize)]
struct EngineLoad {
    running: u32,
    waiting: u32,
    kv_usage_ratio: Option<f64>,
    kv_capacity_tokens: Option<u64>,
    prefix_query_tokens: Option<u64>,
    prefix_hit_tokens: Option<u64>,
    age_ms: u128,
}

#[derive(Debug, Serialize)]
struct Failing {
    /// One of a closed set.
    cause: &'static str,
    /// For people.
    why: String,
}

/// What stands neither in the roster nor in the snapshot.
pub(super) struct Beside<'a> {
    pub(super) started: Instant,
    /// The wall clock's time.
    pub(super) today: SystemTime,
    pub(super) reloads: Vec<Verdict>,
    pub(super) access_log_dropped: u64,
    pub(super) feed: &'a Feed,
    pub(super) viewers: usize,
}

/// Why the edge should get no new requests; `None` when it should.
pub(super) fn unready(roster: &Roster, snapshot: &Snapshot, now: Instant) -> Option<&'static str> {
    if roster.is_draining() {
        Some("draining")
    } else if !roster.is_listening() {
        Some("nobody listens at an address of agents; the log says which and why")
    } else if !snapshot.can_serve(now) {
        Some("no replica can serve")
    } else {
        None
    }
}

impl<'a> Status<'a> {
    /// The status at `now`.
    pub(super) fn new(roster: &Roster, snapshot: &'a Snapshot, beside: Beside<'a>, now: Instant) -> Status<'a> {
        let (config, topology) = (&snapshot.config, &snapshot.config.topology);
        let regions = topology.regions.iter().enumerate().map(|(ix, region)| Region {
            name: &region.name,
            home: topology.home == RegionIx(ix),
            latitude: region.place().latitude,
            longitude: region.place().longitude,
            rtt_ms: snapshot.region(RegionIx(ix)).rtt_ms(),
            pools: pools(snapshot, RegionIx(ix), beside.feed, now),
        });
        Status {
            edge: &topology.edge,
            now: Timestamp(beside.today),
            version: env!("CARGO_PKG_VERSION"),
            uptime_s: now.saturating_duration_since(beside.started).as_secs(),
            draining: roster.is_draining(),
            unready: unready(roster, snapshot, now),
            config_hash: &config.hash,
            geo: geo(snapshot, beside.today),
            sessions: roster.sessions.sweep(config.sessions.idle, now),
            access_log_dropped: beside.access_log_dropped,
            viewers: beside.viewers,
            totals: beside.feed.totals(),
            last_minute: beside.feed.last_minute(now),
            regions: regions.collect(),
            reloads: beside.reloads,
            flows: beside.feed.flows(topology, now),
            failovers: beside.feed.failovers(),
        }
    }
}

fn geo(snapshot: &Snapshot, today: SystemTime) -> Geo<'_> {
    let metadata = snapshot.geo.metadata();
    let file = snapshot.config.geo.database.as_deref();
    Geo {
        source: file.map_or("embedded".into(), Path::to_string_lossy),
        built: Timestamp(metadata.built()),
        age_days: metadata.age_days(today),
        stale: metadata.is_stale(today),
        kind: metadata.kind,
        ip_version: metadata.ip_version,
        bytes: metadata.bytes,
    }
}

fn pools<'a>(snapshot: &'a Snapshot, region: RegionIx, feed: &Feed, now: Instant) -> Vec<PoolStatus<'a>> {
    let topology = &snapshot.config.topology;
    let here = topology.pools.iter().enumerate().filter(|(_, pool)| pool.region == region);
    here.map(|(ix, pool)| {
        let live = snapshot.pool(PoolIx(ix));
        let (sessions_active, context_tokens) = live.intake.taken_on(snapshot.config.sessions.active, now);
        let [last_minute, last_quarter] = feed.recent(&pool.name, now);
        PoolStatus {
            name: &pool.name,
            model: &topology.model(pool.model).name,
            engine: pool.engine.name(),
            gpu: pool.gpu.as_deref(),
            cost_per_hour: pool.cost_per_hour,
            max_in_flight: pool.max_in_flight,
            queued: live.waiting(),
            sessions_active,
            sessions_waiting: live.intake.waiting(),
            context_tokens,
            kv_cache_tokens: live.cache.known_size(),
            last_minute,
            last_quarter,
            replicas: replicas(snapshot, pool, now),
        }
    })
    .collect()
}

fn replicas<'a>(snapshot: &'a Snapshot, pool: &'a Pool, now: Instant) -> Vec<Replica<'a>> {
    let status = |&ix| {
        let live = snapshot.live(ix);
        let reading = live.reading();
        Replica {
            name: &snapshot.config.topology.replica(ix).name,
            standing: match live.standing(snapshot.config.circuit_breaker, now) {
                Standing::Usable => "usable",
                Standing::Probe => "probe",
                Standing::Unhealthy => "unhealthy",
                Standing::BreakerOpen => "breaker_open",
            },
            healthy: reading.healthy,
            breaker: match reading.breaker {
                Breaker::Closed { .. } => "closed",
                Breaker::HalfOpen { .. } => "half_open",
                Breaker::Open { .. } => "open",
            },
            in_flight: reading.in_flight,
            resolved: live.resolved().is_some(),
            failing: live.failing().map(|failure| Failing { cause: failure.label(), why: failure.to_string() }),
            engine_load: live.engine().filter(|report| report.tells(now)).map(|report| EngineLoad {
                running: report.load.running,
                waiting: report.load.waiting,
                kv_usage_ratio: report.load.kv_usage,
                kv_capacity_tokens: report.load.kv_capacity_tokens,
                prefix_query_tokens: report.load.prefix_queries,
                prefix_hit_tokens: report.load.prefix_hits,
                age_ms: report.age(now).as_millis(),
            }),
            gpu_utilization_ratio: live.gpu_utilization(now),
        }
    };
    pool.replicas.iter().map(status).collect()
}

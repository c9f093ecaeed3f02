//! The immutable view that a request holds, and its swapping.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::budget::RetryBudget;
use super::live::Live;
use super::pool::PoolLive;
use super::sessions::SessionTable;
use crate::config::Config;
use crate::domain::ids::{PoolIx, ReplicaIx, ReplicaKey};
use crate::domain::topology::{Pool, Replica};
use crate::policy::replica::Candidate;
use crate::policy::select::Home;
use crate::policy::weight;
use crate::wire::geoip::GeoDb;

/// One configuration with the live records of its replicas. A request takes it once and keeps it to its end.
#[derive(Debug)]
pub struct Snapshot {
    /// The configuration.
    pub config: Arc<Config>,
    /// The places of addresses.
    pub geo: Arc<GeoDb>,
    /// Live records, by [`ReplicaIx`].
    live: Vec<Arc<Live>>,
    /// Live records, by [`PoolIx`].
    pools: Vec<Arc<PoolLive>>,
    by_key: HashMap<ReplicaKey, ReplicaIx>,
}

impl Snapshot {
    /// A snapshot of `config`. Pools that `before` knows by name, and its replicas at the same address, keep their live
    /// record. A replica that is new in a pool where others serve has to pass a health check before it is used.
    pub fn new(config: Arc<Config>, geo: Arc<GeoDb>, before: Option<&Snapshot>) -> Snapshot {
        let topology = &config.topology;
        let pools: Vec<_> = topology.pools.iter().map(|pool| pool_live(pool, before)).collect();
        let kept: Vec<Option<&Arc<Live>>> = topology.replicas.iter().map(|replica| kept(replica, before)).collect();
        let healthy = |ix: &ReplicaIx| kept[ix.0].is_some_and(|live| live.reading().healthy);
        let serves: Vec<bool> = topology.pools.iter().map(|pool| pool.replicas.iter().any(healthy)).collect();
        let live: Vec<Arc<Live>> = topology
            .replicas
            .iter()
            .zip(&kept)
            .map(|(replica, kept)| {
                if let Some(live) = kept {
                    return Arc::clone(live);
                }
                let fresh = Live::new(replica.key, replica.address.clone(), Arc::clone(&pools[replica.pool.0]));
                Arc::new(if serves[replica.pool.0] { fresh.as_newcomer() } else { fresh })
            })
            .collect();
        let by_key = live.iter().enumerate().map(|(ix, live)| (live.key(), ReplicaIx(ix))).collect();
        Snapshot { config, geo, live, pools, by_key }
    }

    /// The live record of a replica.
    pub fn live(&self, replica: ReplicaIx) -> &Arc<Live> {
        &self.live[replica.0]
    }

    /// The live record of a pool.
    pub fn pool(&self, pool: PoolIx) -> &Arc<PoolLive> {
        &self.pools[pool.0]
    }

    /// Every live record with its index.
    pub fn replicas(&self) -> impl Iterator<Item = (ReplicaIx, &Arc<Live>)> {
        self.live.iter().enumerate().map(|(ix, live)| (ReplicaIx(ix), live))
    }

    /// The replica with this key, if it is still configured.
    pub fn by_key(&self, key: ReplicaKey) -> Option<ReplicaIx> {
        self.by_key.get(&key).copied()
    }

    /// Appends a pool's replicas as they are at `now`.
    pub fn candidates(&self, pool: PoolIx, tried: impl Fn(ReplicaIx) -> bool, now: Instant, into: &mut Vec<Candidate>) {
        let pool = self.config.topology.pool(pool);
        let before = into.len();
        into.extend(pool.replicas.iter().map(|&replica| self.candidate(replica, pool, tried(replica), now)));
        weight::lower_outliers(&mut into[before..]);
    }

    /// The replica with this key as it is at `now`, if it is still configured: the home of a session.
    pub fn home(&self, key: ReplicaKey, tried: impl Fn(ReplicaIx) -> bool, now: Instant) -> Option<Home> {
        let replica = self.by_key(key)?;
        let pool = self.config.topology.replica(replica).pool;
        let candidate = self.candidate(replica, self.config.topology.pool(pool), tried(replica), now);
        Some(Home { pool, candidate })
    }

    fn candidate(&self, replica: ReplicaIx, pool: &Pool, tried: bool, now: Instant) -> Candidate {
        let (live, pool_live) = (self.live(replica), self.pool(self.config.topology.replica(replica).pool));
        let breaker = self.config.circuit_breaker;
        live.read(|record| Candidate {
            replica,
            key: live.key(),
            standing: record.standing(breaker, now),
            open_since: record.breaker.open_since(),
            in_flight: live.in_flight(),
            // A pool at its own cap has no place at any replica.
            cap: if pool_live.is_full() { 0 } else { pool.max_in_flight },
            weight: record.weight(breaker, now),
            ttft: record.ttft(now),
            rests: record.rests(now),
            tried,
        })
    }

    /// Whether at least one replica may be used at `now`.
    pub fn can_serve(&self, now: Instant) -> bool {
        self.live.iter().any(|live| live.standing(self.config.circuit_breaker, now).is_usable())
    }
}

/// The live record that `before` has of this replica at its address.
fn kept<'a>(replica: &Replica, before: Option<&'a Snapshot>) -> Option<&'a Arc<Live>> {
    let before = before?;
    let live = before.live(before.by_key(replica.key)?);
    (*live.address() == replica.address).then_some(live)
}

/// The live record of this pool, with the cap as it is configured now.
fn pool_live(pool: &Pool, before: Option<&Snapshot>) -> Arc<PoolLive> {
    let cap = pool.max_in_flight_total.unwrap_or(u32::MAX);
    let known = before.and_then(|before| {
        let at = before.config.topology.pools.iter().position(|other| other.name == pool.name)?;
        Some(Arc::clone(&before.pools[at]))
    });
    let live = known.unwrap_or_else(|| Arc::new(PoolLive::new(cap)));
    live.set_cap(cap);
    live
}

/// The current snapshot, the sessions, the retry budget, and whether the edge is draining.
#[derive(Debug)]
pub struct Roster {
    current: ArcSwap<Snapshot>,
    /// Where sessions are warm.
    pub sessions: SessionTable,
    /// What clients have left to retry with.
    pub retries: RetryBudget,
    /// What clients have left for hedges.
    pub hedges: RetryBudget,
    draining: AtomicBool,
    handing_over: AtomicBool,
}

impl Roster {
    /// A roster that starts with this snapshot.
    pub fn new(snapshot: Snapshot, start: Instant) -> Roster {
        let sessions = SessionTable::new(snapshot.config.sessions.capacity, start);
        Roster {
            current: ArcSwap::from_pointee(snapshot),
            sessions,
            retries: RetryBudget::default(),
            hedges: RetryBudget::default(),
            draining: AtomicBool::new(false),
            handing_over: AtomicBool::new(false),
        }
    }

    /// The snapshot of now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Swaps in a configuration, a database, or both. Requests in flight keep the snapshot that they hold.
    pub fn swap(&self, config: Arc<Config>, geo: Arc<GeoDb>) {
        let before = self.snapshot();
        if before.config.sessions.capacity != config.sessions.capacity {
            self.sessions.resize(config.sessions.capacity);
        }
        self.current.store(Arc::new(Snapshot::new(config, geo, Some(&before))));
    }

    /// Says that the edge is about to end.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// From now on connections are closed after their answer, since a successor takes the next ones. The edge as a whole
    /// stays ready: both processes answer at the same address for a while.
    pub fn start_handing_over(&self) {
        self.handing_over.store(true, Ordering::Relaxed);
    }

    /// Whether clients should make their next request on another connection.
    pub fn closes_connections(&self) -> bool {
        self.is_draining() || self.handing_over.load(Ordering::Relaxed)
    }

    /// Whether the edge is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

//! The immutable view that a request holds, and its swapping.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::budget::RetryBudget;
use super::cache::{Slot, Tenant};
use super::identity::Identity;
use super::interactions::{Closed, Interactions};
use super::live::Live;
use super::pool::PoolLive;
use super::regions::RegionLive;
use super::responses::ResponseTable;
use super::sessions::SessionTable;
use crate::config::Config;
use crate::domain::ids::{PoolIx, RegionIx, ReplicaIx, ReplicaKey, SessionKey};
use crate::domain::prompt::Cut;
use crate::domain::topology::{Engine, Pool, Replica};
use crate::policy::admission::{Asking, Bound, Caches};
use crate::policy::client_rule::Asker;
use crate::policy::record::Record;
use crate::policy::region::Standings;
use crate::policy::replica::Candidate;
use crate::policy::select::Home;
use crate::policy::spill::{self, Level};
use crate::policy::{cost, weight};
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
    /// Places in their pools' caches, by [`ReplicaIx`].
    slots: Vec<Slot>,
    /// Live records, by [`RegionIx`].
    regions: Vec<Arc<RegionLive>>,
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
        let tenant = |ix: &ReplicaIx| Tenant { key: topology.replica(*ix).key, stays: kept[ix.0].is_some() };
        let tenants = |pool: &Pool| pool.replicas.iter().map(tenant).collect::<Vec<_>>();
        // Pools list their replicas in the order of the topology, pool by pool.
        let slots =
            pools.iter().zip(&topology.pools).flat_map(|(live, pool)| live.cache.slots(&tenants(pool))).collect();
        let by_key = live.iter().enumerate().map(|(ix, live)| (live.key(), ReplicaIx(ix))).collect();
        let regions = topology.regions.iter().map(|region| region_live(&region.name, before)).collect();
        Snapshot { config, geo, live, pools, slots, regions, by_key }
    }

    /// The live record of a region.
    pub fn region(&self, region: RegionIx) -> &RegionLive {
        &self.regions[region.0]
    }

    /// The regions to which the round trip is measured, by name, in ms.
    pub fn round_trips(&self) -> impl Iterator<Item = (&str, f64)> {
        let regions = self.config.topology.regions.iter().zip(&self.regions);
        regions.filter_map(|(region, live)| Some((region.name.as_str(), live.rtt_ms()?)))
    }

    /// How all regions stand to a client.
    pub fn standings(&self, asker: Asker<'_>) -> Standings {
        let rules = &self.config.geo.rules;
        rules.standings(&self.config.topology, asker, |region| self.region(region).rtt_ms())
    }

    /// The round trip to a region of this name is so long, as whoever measures it says. Tells whether there is one.
    pub fn measured(&self, region: &str, rtt_ms: f64) -> bool {
        let mut regions = self.config.topology.regions.iter().zip(&self.regions);
        regions.find(|(known, _)| known.name == region).map(|(_, live)| live.measured(rtt_ms)).is_some()
    }

    /// A health check of a replica was answered after so long.
    pub fn round_trip(&self, key: ReplicaKey, took: Duration) {
        let Some(replica) = self.by_key(key) else { return };
        self.live(replica).round_trip(took);
        let topology = &self.config.topology;
        let region = topology.pool(topology.replica(replica).pool).region;
        let pools = topology.pools.iter().filter(|pool| pool.region == region);
        let shortest_ms = pools.flat_map(|pool| &pool.replicas).filter_map(|ix| self.live(*ix).shortest_ms());
        if let Some(shortest_ms) = shortest_ms.reduce(f64::min) {
            self.region(region).measured(shortest_ms);
        }
    }

    /// The live record of a replica.
    pub fn live(&self, replica: ReplicaIx) -> &Arc<Live> {
        &self.live[replica.0]
    }

    /// The live record of a pool.
    pub fn pool(&self, pool: PoolIx) -> &Arc<PoolLive> {
        &self.pools[pool.0]
    }

    /// Whether it has this pool.
    pub fn has(&self, pool: &Arc<PoolLive>) -> bool {
        self.pools.iter().any(|own| Arc::ptr_eq(own, pool))
    }

    /// Every live record with its index.
    pub fn replicas(&self) -> impl Iterator<Item = (ReplicaIx, &Arc<Live>)> {
        self.live.iter().enumerate().map(|(ix, live)| (ReplicaIx(ix), live))
    }

    /// The replica with this key, if it is still configured.
    pub fn by_key(&self, key: ReplicaKey) -> Option<ReplicaIx> {
        self.by_key.get(&key).copied()
    }

    /// Where a replica's cache stands in that of its pool.
    pub fn slot(&self, replica: ReplicaIx) -> Slot {
        self.slots[replica.0]
    }

    /// Appends a pool's replicas as they are at `now` to a call whose prompt has these cuts, and tells whether it takes new
    /// sessions.
    pub fn candidates(
        &self,
        pool_ix: PoolIx,
        cuts: &[Cut],
        tried: impl Fn(ReplicaIx) -> bool,
        now: Instant,
        into: &mut Vec<Candidate>,
    ) -> Level {
        let pool = self.config.topology.pool(pool_ix);
        let shared = self.shared(pool_ix, pool);
        let before = into.len();
        let (mut cached, mut shared_tokens) = (Vec::new(), 0);
        if !cuts.is_empty() {
            let slots = pool.replicas.iter().map(|replica| self.slot(*replica));
            shared_tokens = self.pool(pool_ix).cache.cached(cuts, slots, &mut cached);
        }
        into.extend(pool.replicas.iter().enumerate().map(|(n, &replica)| {
            let cached_tokens = cached.get(n).copied().unwrap_or(0);
            Candidate { cached_tokens, shared_tokens, ..self.candidate(replica, shared, tried(replica), now) }
        }));
        weight::lower_outliers(&mut into[before..]);
        self.pool(pool_ix).level(&into[before..])
    }

    /// The replica with this key as it is at `now`, if it is still configured: the home of a session.
    pub fn home(&self, key: ReplicaKey, cuts: &[Cut], tried: impl Fn(ReplicaIx) -> bool, now: Instant) -> Option<Home> {
        let replica = self.by_key(key)?;
        let pool = self.config.topology.replica(replica).pool;
        let (cached_tokens, shared_tokens) = self.pool(pool).cache.held(self.slot(replica), cuts);
        let shared = self.shared(pool, self.config.topology.pool(pool));
        let candidate =
            Candidate { cached_tokens, shared_tokens, ..self.candidate(replica, shared, tried(replica), now) };
        Some(Home { pool, candidate })
    }

    fn shared(&self, ix: PoolIx, pool: &Pool) -> Shared {
        let live = self.pool(ix);
        // A pool at its own cap has no place at any replica.
        let cap = if live.is_full() { 0 } else { pool.max_in_flight };
        let pace = live.pace();
        Shared { cap, engine: pool.engine, tokens_per_s: pace.reads_per_s(), computed_tokens: pace.computed_tokens() }
    }

    fn candidate(&self, replica: ReplicaIx, shared: Shared, tried: bool, now: Instant) -> Candidate {
        let live = self.live(replica);
        let breaker = self.config.circuit_breaker;
        let tokens_per_s = shared.tokens_per_s.unwrap_or(cost::ASSUMED_TOKENS_PER_S);
        let own = live.unread_tokens(tokens_per_s, now);
        live.read(|record| Candidate {
            replica,
            key: live.key(),
            standing: record.standing(breaker, now),
            open_since: record.breaker.open_since(),
            in_flight: live.in_flight(),
            others: record.engine.map_or(0.0, |load| load.foreign_running(now)),
            cap: shared.cap,
            engine_full: record.engine.map_or(0.0, |report| spill::of_engine(shared.engine, &report, now)),
            weight: record.weight(breaker, now),
            ttft: record.ttft(now),
            rests: record.rests(now),
            refuses: record.refuses(breaker, now),
            tried,
            cached_tokens: 0,
            shared_tokens: 0,
            // Of others' calls only their number is known.
            queued_tokens: own
                + record.engine.map_or(0.0, |load| load.foreign_waiting(now) * f64::from(shared.computed_tokens))
                    as u64,
            tokens_per_s: shared.tokens_per_s,
        })
    }

    /// What a pool's caches hold for the sessions of this edge, and for how long a session counts.
    pub fn admission_bound(&self, pool: PoolIx, now: Instant) -> Bound {
        let size = self.pool(pool).cache.known_size();
        let caches = size.map(|size| Caches { all: self.cache_tokens(pool, size, now), one: size });
        Bound { caches, active: self.config.sessions.active }
    }

    /// What a pool's caches of this size hold for the sessions of this edge.
    fn cache_tokens(&self, pool: PoolIx, size: u64, now: Instant) -> u64 {
        let (breaker, share) = (self.config.circuit_breaker, self.config.sessions.admission_share);
        let (mut usable, mut others) = (0u32, 0.0);
        for ix in &self.config.topology.pool(pool).replicas {
            self.live(*ix).read(|record| {
                usable += u32::from(record.standing(breaker, now).is_usable());
                // What others' calls hold of the caches is not for this edge's sessions.
                others += record.engine.and_then(|load| load.foreign_tokens(now)).unwrap_or(0.0);
            });
        }
        ((size as f64 * f64::from(usable) * share) as u64).saturating_sub(others as u64)
    }

    /// Whether at least one replica may be used at `now` and has not failed every check since the start.
    pub fn can_serve(&self, now: Instant) -> bool {
        let breaker = self.config.circuit_breaker;
        let serves = |record: &Record| record.standing(breaker, now).is_usable() && !record.health.has_only_failed();
        self.live.iter().any(|live| live.read(serves))
    }
}

/// What all replicas of a pool have in common.
#[derive(Clone, Copy)]
struct Shared {
    cap: u32,
    engine: Engine,
    tokens_per_s: Option<f32>,
    computed_tokens: f32,
}

/// The live record that `before` has of this replica at its address.
fn kept<'a>(replica: &Replica, before: Option<&'a Snapshot>) -> Option<&'a Arc<Live>> {
    let before = before?;
    let live = before.live(before.by_key(replica.key)?);
    (*live.address() == replica.address).then_some(live)
}

fn region_live(name: &str, before: Option<&Snapshot>) -> Arc<RegionLive> {
    let known = before.and_then(|before| {
        let at = before.config.topology.regions.iter().position(|region| region.name == name)?;
        before.regions.get(at).cloned()
    });
    known.unwrap_or_default()
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
    live.cache.config_tells_size(pool.kv_cache_tokens.map(u64::from));
    live
}

/// In place of a home.
const NOWHERE: ReplicaKey = ReplicaKey(0);

/// The current snapshot, the sessions, the retry budget, and whether the edge is draining.
#[derive(Debug)]
pub struct Roster {
    current: ArcSwap<Snapshot>,
    /// Where sessions are warm.
    pub sessions: SessionTable,
    /// The sessions of those that name none, whichever models they ask: what their calls come to counts together.
    conversations: SessionTable,
    /// What sessions' calls come to until they idle.
    pub interactions: Interactions,
    /// Where stored responses are held.
    pub responses: ResponseTable,
    /// What clients have left to retry with.
    pub retries: RetryBudget,
    /// What clients have left for hedges.
    pub hedges: RetryBudget,
    /// How many addresses there are at which agents should be served and nobody listens.
    pub missing_listeners: Arc<AtomicUsize>,
    draining: AtomicBool,
    handing_over: AtomicBool,
}

impl Roster {
    /// A roster that starts with this snapshot.
    pub fn new(snapshot: Snapshot, start: Instant) -> Roster {
        let sessions = SessionTable::new(snapshot.config.sessions.capacity, start);
        let conversations = SessionTable::new(snapshot.config.sessions.capacity, start);
        let responses = ResponseTable::new(snapshot.config.sessions.capacity, start);
        let interactions = Interactions::new(snapshot.config.sessions.capacity, start);
        Roster {
            current: ArcSwap::from_pointee(snapshot),
            sessions,
            conversations,
            interactions,
            responses,
            retries: RetryBudget::default(),
            hedges: RetryBudget::default(),
            missing_listeners: Arc::default(),
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
            self.conversations.resize(config.sessions.capacity);
            self.interactions.resize(config.sessions.capacity);
            self.responses.resize(config.sessions.capacity);
        }
        self.current.store(Arc::new(Snapshot::new(config, geo, Some(&before))));
        // Whoever waits to be taken on goes by what is configured now.
        before.pools.iter().for_each(|pool| pool.intake.changed());
    }

    /// What stands for the session of a call of this identity, whichever model it asks: its name, or where it has none and
    /// goes on with a conversation of the last `idle`, that.
    pub fn session_key(&self, identity: &Identity, idle: Duration, now: Instant) -> Option<SessionKey> {
        if let Identity::Named { session, .. } = identity {
            return Some(*session);
        }
        let session = self.conversations.find(identity, idle, now)?;
        // Where it is warm is each model's own affair.
        self.conversations.remember(session, NOWHERE, now);
        Some(session.key)
    }

    /// Closes at most `most` interactions that have been quiet for longer than `idle`, and forgets what conversations of
    /// such an age were known by.
    pub fn close_idle(&self, idle: Duration, now: Instant, most: usize) -> Vec<Closed> {
        self.conversations.sweep(idle, now);
        self.interactions.close_idle(idle, now, most)
    }

    /// Whether a pool of this snapshot takes the call's session on as it is configured now, be the snapshot an earlier one:
    /// whoever waits must not wait by a bound that is gone, the less since others stand behind.
    pub fn admits(&self, held: &Snapshot, pool: PoolIx, asking: Asking, now: Instant) -> bool {
        let (current, own) = (self.current.load(), held.pool(pool));
        let is_own = |ix: &PoolIx| current.pools.get(ix.0).is_some_and(|other| Arc::ptr_eq(other, own));
        let there = Some(pool).filter(is_own).or_else(|| (0..current.pools.len()).map(PoolIx).find(is_own));
        let (by, pool) = there.map_or((held, pool), |ix| (&**current, ix));
        let sessions = &by.config.sessions;
        // Most calls are of active sessions; what there is room for costs a look at every replica.
        !sessions.admission
            || own.intake.is_active(asking.session, sessions.active, now)
            || own.intake.admits(asking, by.admission_bound(pool, now), now)
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
        self.is_draining() || self.is_handing_over()
    }

    /// Whether a successor takes the listeners.
    pub fn is_handing_over(&self) -> bool {
        self.handing_over.load(Ordering::Relaxed)
    }

    /// Whether somebody listens at every address at which agents should be served.
    pub fn is_listening(&self) -> bool {
        self.missing_listeners.load(Ordering::Relaxed) == 0
    }

    /// Whether the edge is about to end.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

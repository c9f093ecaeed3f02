//! What happened lately, for people who look: the last minute and the last quarter of an hour of each pool, where calls
//! come from, and the last failovers. Prometheus keeps the past; this is for a page that is opened on a lone edge.
//!
//! Each pool counts in slots of ten seconds. A call costs one short section of a mutex at its end. Everything is bounded:
//! 90 slots of a pool with at most half a KiB for each kind of time, in the last six of them the countries that exist, and 50
//! failovers. A pool without calls takes nothing, so an idle edge stays as small as it is; a busy one takes about 40 KiB,
//! and never more than 220 KiB. Time is an argument, so tests need no clock.

mod failovers;
mod histogram;
mod pool;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use self::failovers::Failovers;
pub use self::failovers::{At, Failover, Kind, LATE};
use self::pool::PoolRecent;
pub use self::pool::{Point, Recent};
use super::metrics::CacheState;
use super::timestamp::Timestamp;
use crate::domain::code::Code;
use crate::domain::place::Place;
use crate::domain::topology::Topology;
use crate::policy::countries;

/// Length of a slot.
const SLOT_S: u64 = 10;
/// Slots that are kept: 15 minutes.
const SLOTS: usize = 90;
/// Slots of a minute.
const MINUTE_SLOTS: usize = 6;
/// Calls that no pool got count under this name, which no pool has.
const NOWHERE: &str = "";
/// Flows that are told; those with the fewest calls are left out.
const FLOWS_MAX: usize = 200;

/// What happened since the edge started, most of it lately.
#[derive(Debug)]
pub struct Feed {
    start: Instant,
    calls: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
    // Std mutexes: the sections are short and never cross an `.await`. Readers take the first for one pool at a time.
    pools: Mutex<HashMap<String, PoolRecent>>,
    failovers: Mutex<Failovers>,
}

/// How one agent's call ended.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The pool of its last attempt; `None` when there was none.
    pub pool: Option<&'a str>,
    /// Whether neither the edge nor a replica failed it.
    pub ok: bool,
    /// Where the client is.
    pub country: Option<Code>,
    /// The same, more exactly.
    pub place: Option<Place>,
    /// When the first event came, after the request was there whole.
    pub ttft: Option<(CacheState, Duration)>,
    /// Tokens of the prompt, those of them that were cached where that is told, and those of the answer, as its replica
    /// reports them.
    pub tokens: Option<(u64, Option<u64>, u64)>,
}

/// Agents' calls since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Totals {
    /// Those that ended.
    pub calls: u64,
    /// Those of them that the edge or a replica failed.
    pub errors: u64,
    /// Those under way.
    pub in_flight: u64,
}

/// Calls of the last minute from one country to one pool.
#[derive(Serialize, Debug)]
pub struct Flow<'a> {
    country: Option<String>,
    /// The middle of where they came from, else that of the country's people.
    latitude: Option<f64>,
    longitude: Option<f64>,
    pool: &'a str,
    region: &'a str,
    calls: u32,
    errors: u32,
}

/// Every pool's last quarter of an hour, slot by slot.
#[derive(Serialize, Debug)]
pub struct History<'a> {
    step_s: u64,
    /// Until then; the last slot is under way.
    end: Timestamp,
    pools: Vec<PoolHistory<'a>>,
}

#[derive(Serialize, Debug)]
struct PoolHistory<'a> {
    name: &'a str,
    /// Oldest first.
    points: Vec<Point>,
}

impl Feed {
    /// Nothing yet; slots count from `start`.
    pub fn new(start: Instant) -> Feed {
        Feed {
            start,
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            pools: Mutex::default(),
            failovers: Mutex::default(),
        }
    }

    /// An agent's call has begun. Each is to be [ended](Feed::ended).
    pub fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// It has ended.
    pub fn ended(&self, call: &Call<'_>, now: Instant) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(!call.ok), Ordering::Relaxed);
        let name = call.pool.unwrap_or(NOWHERE);
        let slot = self.seconds(now) / SLOT_S;
        let mut pools = lock(&self.pools);
        if let Some(pool) = pools.get_mut(name) {
            return pool.count(call, slot);
        }
        // A new name is rare. Those that reloads have removed would else stay for ever.
        pools.retain(|_, pool| pool.is_alive(slot));
        pools.entry(name.to_owned()).or_default().count(call, slot);
    }

    /// An attempt failed and the call went on, or nowhere on.
    pub fn failed_over(&self, failover: Failover) {
        lock(&self.failovers).add(failover);
    }

    /// Calls since the start.
    pub fn totals(&self) -> Totals {
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Totals { calls: told(&self.calls), errors: told(&self.errors), in_flight: told(&self.in_flight) }
    }

    /// The last minute and the last quarter of an hour of the pool of this name.
    pub fn recent(&self, pool: &str, now: Instant) -> [Recent; 2] {
        let now_s = self.seconds(now);
        let pools = lock(&self.pools);
        let known = pools.get(pool);
        let recent = |slots| known.map_or_else(|| pool::idle(slots, now_s), |pool| pool.recent(slots, now_s));
        [recent(MINUTE_SLOTS), recent(SLOTS)]
    }

    /// The last minute of all pools together, with the calls that none of them got.
    pub fn last_minute(&self, now: Instant) -> Recent {
        let now_s = self.seconds(now);
        // Held for all of them: some microseconds a pool, once a second while somebody looks.
        let pools = lock(&self.pools);
        pool::together(pools.values(), MINUTE_SLOTS, now_s)
    }

    /// Where the calls of the last minute came from and which of these pools they went to, most calls first.
    pub fn flows<'a>(&self, topology: &'a Topology, now: Instant) -> Vec<Flow<'a>> {
        let slot = self.seconds(now) / SLOT_S;
        let mut flows = Vec::new();
        for pool in &topology.pools {
            let own = lock(&self.pools).get(&pool.name).map(|pool| pool.flows(slot)).unwrap_or_default();
            flows.extend(own.into_iter().map(|flow| {
                let at = flow.from.place().or_else(|| Some(countries::of(flow.country?)?.centroid));
                let degrees = |degrees: f64| (degrees * 100.0).round() / 100.0;
                Flow {
                    country: flow.country.map(|country| country.to_string()),
                    latitude: at.map(|at| degrees(at.latitude)),
                    longitude: at.map(|at| degrees(at.longitude)),
                    pool: &pool.name,
                    region: &topology.region(pool.region).name,
                    calls: flow.calls,
                    errors: flow.errors,
                }
            }));
        }
        flows.sort_by_key(|flow| std::cmp::Reverse(flow.calls));
        flows.truncate(FLOWS_MAX);
        flows
    }

    /// The last failovers, newest first.
    pub fn failovers(&self) -> Vec<Failover> {
        lock(&self.failovers).all()
    }

    /// The last quarter of an hour of each of these pools, slot by slot; `end` is `now` on the wall.
    pub fn history<'a>(&self, topology: &'a Topology, now: Instant, end: Timestamp) -> History<'a> {
        let slot = self.seconds(now) / SLOT_S;
        let points = |name: &str| lock(&self.pools).get(name).map(|pool| pool.history(slot));
        let pools = topology.pools.iter().map(|pool| PoolHistory {
            name: &pool.name,
            points: points(&pool.name).unwrap_or_else(pool::idle_history),
        });
        History { step_s: SLOT_S, end, pools: pools.collect() }
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic elsewhere left half counted is as good as whole here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What pools tell of their caches and of the sessions that they have taken on.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::{AdmissionResult, Maker};
use crate::domain::ids::PoolIx;
use crate::roster::Snapshot;

/// Handles of these metrics.
#[derive(Debug)]
pub(super) struct Pools {
    admissions: IntCounterVec,
    active: IntGaugeVec,
    context: IntGaugeVec,
    waiting: IntGaugeVec,
    cache: IntGaugeVec,
}

impl Pools {
    #[rustfmt::skip] // one metric, one line
    pub(super) fn new(new: &Maker<'_>) -> Result<Pools, prometheus::Error> {
        Ok(Pools {
            admissions: new.counters("nearpool_admissions_total", "Sessions that no pool took on at once; result: waited, sent_away.", &["pool", "result"])?,
            active: new.gauges("nearpool_sessions_active", "Sessions that a pool has taken on.", &["pool"])?,
            context: new.gauges("nearpool_sessions_context_tokens", "Tokens of their contexts together, estimated.", &["pool"])?,
            waiting: new.gauges("nearpool_sessions_waiting", "Calls of sessions that wait to be taken on.", &["pool"])?,
            cache: new.gauges("nearpool_kv_cache_tokens", "Tokens that one replica's KV cache holds, as configured, told or learned.", &["pool"])?,
        })
    }

    pub(super) fn admission(&self, pool: &str, result: AdmissionResult) {
        self.admissions.with_label_values(&[pool, result.name()]).inc();
    }

    pub(super) fn set(&self, snapshot: &Snapshot, now: std::time::Instant) {
        let set = |gauge: &IntGaugeVec, pool: &str, value: u64| {
            gauge.with_label_values(&[pool]).set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        for (ix, pool) in snapshot.config.topology.pools.iter().enumerate() {
            let (live, name) = (snapshot.pool(PoolIx(ix)), pool.name.as_str());
            let (sessions, tokens) = live.intake.taken_on(snapshot.config.sessions.active, now);
            set(&self.active, name, sessions as u64);
            set(&self.context, name, tokens);
            set(&self.waiting, name, live.intake.waiting() as u64);
            match live.cache.known_size() {
                Some(tokens) => set(&self.cache, name, tokens),
                None => drop(self.cache.remove_label_values(&[name])),
            }
        }
    }

    pub(super) fn remove(&self, pool: &str) {
        for gauge in [&self.active, &self.context, &self.waiting, &self.cache] {
            let _gone = gauge.remove_label_values(&[pool]);
        }
    }
}

//! Active health checks of every replica, and the small chores that need a clock.
//!
//! Each replica is checked on its own schedule: the first time at a random point of its first interval, then every
//! `health.interval` ± 10 %, so that neither many replicas nor many edges check at the same moment. The schedule is laid
//! against the current snapshot again and again, so a reload adds, moves and removes replicas here without a word.
//!
//! Host names are resolved here too, never on a request's way. Of several addresses the one in use is kept while it is
//! still among them: engines behind one name that rotates would otherwise lose their warm connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora::connectors::http::v2::Connector;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use rand::RngExt;
use tokio::task::JoinSet;

use super::health_check::{Check, Failure};
use crate::domain::ids::{ReplicaIx, ReplicaKey};
use crate::roster::{Live, Roster, Snapshot};

/// Checks under way at a time; more would be a burst of connections from one thread.
const CHECKS_MAX: usize = 64;
/// Longest pause between two looks at the snapshot: how late a new replica gets its first check.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often the idle sessions are forgotten.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How often a host name is resolved anew.
const RESOLVE_EVERY: Duration = Duration::from_secs(30);
/// How long resolving one may take; resolvers' own limits are mostly 5 s a server.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The background service.
pub struct Probe {
    roster: Arc<Roster>,
    connector: Arc<Connector>,
}

impl Probe {
    /// Checks the replicas of this roster.
    pub fn new(roster: Arc<Roster>) -> Probe {
        // Here and not in the service: root certificates that cannot be read must end the start, not the checks.
        Probe { roster, connector: Arc::new(Connector::new(None)) }
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

#[async_trait]
impl BackgroundService for Probe {
    /// Goes on while the edge drains, since it still chooses replicas then; ends with its runtime.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut schedule = Schedule::default();
        let mut checks = JoinSet::new();
        let mut next_sweep = Instant::now() + SWEEP_EVERY;
        loop {
            let snapshot = self.roster.snapshot();
            let now = Instant::now();
            if now >= next_sweep {
                self.roster.sessions.sweep(snapshot.config.sessions.idle, now);
                next_sweep = now + SWEEP_EVERY;
            }
            schedule.follow(&snapshot, now);
            for round in schedule.due(&snapshot, CHECKS_MAX.saturating_sub(checks.len()), now) {
                let connector = Arc::clone(&self.connector);
                checks.spawn(async move {
                    let resolved = round.run(&connector).await;
                    (round.live, resolved)
                });
            }
            let wake = schedule.next().unwrap_or(now + LOOK_EVERY).clamp(now, now + LOOK_EVERY);
            tokio::select! {
                Some(done) = checks.join_next() => {
                    if let Ok((live, resolved)) = done {
                        schedule.done(&live, resolved, Instant::now());
                    }
                }
                // At the bound, only an end makes room.
                () = tokio::time::sleep_until(wake.into()), if checks.len() < CHECKS_MAX => {}
            }
        }
    }
}

/// When each replica is to be checked.
#[derive(Default)]
struct Schedule {
    slots: HashMap<ReplicaKey, Slot>,
}

struct Slot {
    live: Arc<Live>,
    replica: ReplicaIx,
    due: Instant,
    busy: bool,
    resolve_due: Instant,
}

impl Schedule {
    /// Takes up replicas that are new in the snapshot and drops those that are gone.
    fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        let interval = snapshot.config.health.interval;
        self.slots.retain(|key, _| snapshot.by_key(*key).is_some());
        for (replica, live) in snapshot.replicas() {
            // A replica that moved to another address has a new record, and with it a new schedule.
            let known = self.slots.get_mut(&live.key()).filter(|slot| Arc::ptr_eq(&slot.live, live));
            if let Some(slot) = known {
                slot.replica = replica;
                // A shorter interval holds from now on, not from the next check on.
                slot.due = slot.due.min(now + interval.mul_f64(1.1));
                continue;
            }
            // What has no address yet cannot be used at all, so its name is resolved at once.
            let due = match live.resolved() {
                Some(_) => now + interval.mul_f64(rand::rng().random_range(0.0..1.0)),
                None => now,
            };
            let slot = Slot { live: Arc::clone(live), replica, due, busy: false, resolve_due: now };
            self.slots.insert(live.key(), slot);
        }
    }

    /// Starts the rounds that are due, at most `room` of them, the longest overdue first.
    fn due(&mut self, snapshot: &Snapshot, room: usize, now: Instant) -> Vec<Round> {
        let config = &snapshot.config;
        let mut due: Vec<&mut Slot> = self.slots.values_mut().filter(|slot| !slot.busy && slot.due <= now).collect();
        due.sort_by_key(|slot| slot.due);
        due.truncate(room);
        due.into_iter()
            .map(|slot| {
                slot.busy = true;
                slot.due = now + config.health.interval.mul_f64(rand::rng().random_range(0.9..1.1));
                let replica = config.topology.replica(slot.replica);
                let pool = config.topology.pool(replica.pool);
                Round {
                    live: Arc::clone(&slot.live),
                    pool: pool.name.clone(),
                    replica: replica.name.clone(),
                    check: Check::new(pool, &replica.address, &config.health),
                    thresholds: config.health.thresholds,
                    breaker: config.circuit_breaker,
                    resolve: slot.resolve_due <= now,
                }
            })
            .collect()
    }

    /// When the next round is due.
    fn next(&self) -> Option<Instant> {
        self.slots.values().filter(|slot| !slot.busy).map(|slot| slot.due).min()
    }

    /// Notes that a round has ended; `resolved` tells whether it found an address for the host name.
    fn done(&mut self, live: &Arc<Live>, resolved: bool, now: Instant) {
        // The round of a replica that has moved since says nothing of its successor's.
        if let Some(slot) = self.slots.get_mut(&live.key()).filter(|slot| Arc::ptr_eq(&slot.live, live)) {
            slot.busy = false;
            if resolved {
                slot.resolve_due = now + RESOLVE_EVERY;
            }
        }
    }
}

/// One round of one replica.
struct Round {
    live: Arc<Live>,
    pool: String,
    replica: String,
    check: Check,
    thresholds: crate::policy::health::Params,
    breaker: crate::policy::breaker::Params,
    resolve: bool,
}

impl Round {
    /// Resolves if that is due, checks, and reports. Returns whether a host name was resolved.
    async fn run(&self, connector: &Connector) -> bool {
        let resolved = self.resolve && self.resolve().await;
        let verdict = match self.live.resolved() {
            Some(at) => self.check.run(connector, at).await,
            None => Err(Failure::Unresolved),
        };
        let (pool, replica) = (&self.pool, &self.replica);
        match (self.live.checked(verdict.is_ok(), self.thresholds, self.breaker), verdict) {
            (Some(true), _) => log::info!("replica is healthy again pool={pool} replica={replica}"),
            (Some(false), Err(why)) => log::warn!("replica is unhealthy pool={pool} replica={replica} why={why}"),
            (None, Err(why)) => log::debug!("health check failed pool={pool} replica={replica} why={why}"),
            (Some(false) | None, Ok(())) => {}
        }
        resolved
    }

    /// Resolves the host name. An address that is known stays when this fails.
    async fn resolve(&self) -> bool {
        let address = self.live.address();
        let lookup = tokio::net::lookup_host((address.host.as_str(), address.port));
        let Ok(Ok(found)) = tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await else {
            log::debug!("host name does not resolve pool={} replica={}", self.pool, self.replica);
            return false;
        };
        let Some(chosen) = keep_or_first(self.live.resolved(), found) else { return false };
        if self.live.resolved() != Some(chosen) {
            self.live.set_resolved(chosen);
        }
        true
    }
}

/// The address in use if it is still among those found, else the first (the resolver sorts by RFC 6724).
fn keep_or_first(in_use: Option<SocketAddr>, found: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let found: Vec<SocketAddr> = found.collect();
    in_use.filter(|address| found.contains(address)).or_else(|| found.first().copied())
}

#[cfg(test)]
mod tests;

//! One live record per replica: what is known of it, its last complaint, requests in flight, prompts that it has still to
//! read, and where its name resolves to.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::inflight::InFlight;
use super::pool::PoolLive;
use super::prefill::Unread;
use crate::domain::health_check::Failure;
use crate::domain::ids::ReplicaKey;
use crate::domain::outcome::Outcome;
use crate::domain::topology::ReplicaAddress;
use crate::policy::breaker::{self, Breaker};
use crate::policy::engine_load::LoadReport;
use crate::policy::gpu_load::GpuReport;
use crate::policy::health::{self, Health};
use crate::policy::record::Record;
use crate::policy::replica::Standing;
use crate::policy::rtt::Window;
use crate::policy::share;

/// What is known of one replica. It outlives reloads that keep the replica's name and address.
#[derive(Debug)]
pub struct Live {
    key: ReplicaKey,
    address: ReplicaAddress,
    /// What `Host` says to it, at each request.
    authority: String,
    pool: Arc<PoolLive>,
    resolved: ArcSwapOption<SocketAddr>,
    failing: ArcSwapOption<Failure>,
    in_flight: AtomicU32,
    unread: Unread,
    round_trips: Mutex<Window>,
    // A std mutex: the sections are a few instructions long and never cross an `.await`.
    record: Mutex<Record>,
}

/// A replica's state for people and gauges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Whether its health checks pass.
    pub healthy: bool,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// Requests in flight from this edge.
    pub in_flight: u32,
}

impl Live {
    /// A record of a replica that nothing is known of yet.
    pub fn new(key: ReplicaKey, address: ReplicaAddress, pool: Arc<PoolLive>) -> Live {
        let literal: Option<IpAddr> = address.host.parse().ok();
        let resolved = ArcSwapOption::from_pointee(literal.map(|ip| SocketAddr::new(ip, address.port)));
        Live {
            key,
            authority: address.authority(),
            address,
            pool,
            resolved,
            failing: ArcSwapOption::empty(),
            in_flight: AtomicU32::new(0),
            unread: Unread::default(),
            round_trips: Mutex::default(),
            record: Mutex::default(),
        }
    }

    /// The same for a replica that comes to others that serve: it is used from its first passed check on.
    #[must_use]
    pub fn as_newcomer(self) -> Live {
        self.lock().health = Health::newcomer();
        self
    }

    /// Its stable key.
    pub fn key(&self) -> ReplicaKey {
        self.key
    }

    /// A health check was answered after so long.
    pub(super) fn round_trip(&self, took: Duration) {
        self.round_trips.lock().unwrap_or_else(PoisonError::into_inner).note(took);
    }

    /// The shortest of the last few, in ms.
    pub(super) fn shortest_ms(&self) -> Option<f64> {
        self.round_trips.lock().unwrap_or_else(PoisonError::into_inner).shortest_ms()
    }

    /// Its pool.
    pub fn pool(&self) -> &Arc<PoolLive> {
        &self.pool
    }

    /// Where it listens, as configured.
    pub fn address(&self) -> &ReplicaAddress {
        &self.address
    }

    /// What `Host` says to it.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Where it listens, as an address; `None` until its host name has been resolved once.
    pub fn resolved(&self) -> Option<SocketAddr> {
        self.resolved.load().as_deref().copied()
    }

    /// Notes where its host name points to now.
    pub fn set_resolved(&self, address: SocketAddr) {
        self.resolved.store(Some(Arc::new(address)));
    }

    /// Requests in flight from this edge.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Reads what is known of it. `read` runs under its lock: it may only look things up.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Record) -> T) -> T {
        read(&self.lock())
    }

    /// Tokens of prompts that it has still to read at `now`, of the calls of this edge, as far as they can be known; it
    /// reads so many in a second.
    pub fn unread_tokens(&self, tokens_per_s: f32, now: Instant) -> u64 {
        self.unread.tokens(tokens_per_s, now)
    }

    pub(super) fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Whether it may be used at `now`.
    pub fn standing(&self, breaker: breaker::Params, now: Instant) -> Standing {
        self.lock().standing(breaker, now)
    }

    /// Books one request there, unless its cap was reached or the probe's place taken since it was looked at.
    /// The booking ends when the returned guard is dropped. A last resort passes an open breaker too.
    pub fn begin(
        self: &Arc<Live>,
        cap: u32,
        params: breaker::Params,
        last_resort: bool,
        now: Instant,
    ) -> Option<Box<InFlight>> {
        let free = |n: u32| (n < cap).then_some(n + 1);
        self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        if !self.pool.enter() {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        // From here on the guard gives the place back.
        let guard = Box::new(InFlight::new(Arc::clone(self), params));
        let mut record = self.lock();
        record.admit(params, last_resort, now).then(|| guard.sent_at(now, record.share.begin(now)))
    }

    /// A call that was let through has ended: its share of the replica's time, in seconds.
    pub(super) fn share_ended(&self, began: share::Began, now: Instant) -> f64 {
        self.lock().share.end(began, now)
    }

    pub(super) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.pool.leave();
    }

    /// Takes in how an attempt ended that was booked at `sent`.
    pub(super) fn report(&self, outcome: Outcome, sent: Instant, params: breaker::Params, now: Instant) {
        self.lock().ended(outcome, sent, params, now);
    }

    pub(super) fn doubt(&self, sent: Instant) {
        self.lock().doubt(sent);
    }

    pub(super) fn first_event(&self, ttft: Duration, at_home: bool, now: Instant) {
        self.lock().first_event(ttft, at_home, now);
    }

    /// Leaves it alone for so long: it said that it is busy (see [`rest_of`](crate::policy::record::rest_of)).
    pub fn rest(&self, rest: Duration, now: Instant) {
        self.lock().rest(rest, now);
    }

    /// Takes in one health check. Returns the new side if the replica changed sides.
    pub fn checked(
        &self,
        passed: bool,
        health: health::Params,
        breaker: breaker::Params,
        now: Instant,
    ) -> Option<bool> {
        let turned = self.lock().checked(passed, health, breaker, now);
        match turned {
            Some(true) => self.pool.call_all(),
            // Most likely its process ended, and its cache with it. If it did not, its sessions find home by themselves.
            Some(false) => self.pool.cache.lost(self.key),
            None => {}
        }
        turned
    }

    /// Whether one more passed check would make it healthy: the moment to warm it up.
    pub fn rises(&self, health: health::Params) -> bool {
        self.lock().health.rises(health)
    }

    /// What its last failed check found wrong, until it passes one and is in use.
    pub fn failing(&self) -> Option<Arc<Failure>> {
        self.failing.load_full()
    }

    /// Notes what its last failed check found wrong.
    pub fn set_failing(&self, failure: Option<Failure>) {
        self.failing.store(failure.map(Arc::new));
    }

    /// What its engine said last of its own load, however long ago. What that is worth by now, the report says itself.
    pub fn engine(&self) -> Option<LoadReport> {
        self.read(|record| record.engine)
    }

    /// Notes what its engine says of its own load.
    pub fn set_engine(&self, report: LoadReport) {
        if let Some(tokens) = report.load.kv_capacity_tokens {
            self.pool.cache.engine_tells_size(self.key, tokens);
        }
        self.lock().engine = Some(report);
    }

    /// The share of time in which its GPUs are busy, 0 to 1; `None` while their exporter does not tell at `now`.
    pub fn gpu_utilization(&self, now: Instant) -> Option<f64> {
        self.read(|record| record.gpu)?.utilization(now)
    }

    /// Notes what an exporter says of its GPUs.
    pub fn set_gpu(&self, report: GpuReport) {
        self.lock().gpu = Some(report);
    }

    /// Its state for people and gauges.
    pub fn reading(&self) -> Reading {
        let (healthy, breaker) = self.read(|record| (record.health.is_healthy(), record.breaker));
        Reading { healthy, breaker, in_flight: self.in_flight() }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        // A panic while holding it cannot leave the record half written: every section is one pure step.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::{Bill, Prefilling};

    const PARAMS: breaker::Params = breaker::Params { failure_threshold: 2, ..crate::policy::testing::BREAKER };

    fn live() -> Arc<Live> {
        let address =
            ReplicaAddress { tls: false, host: "127.0.0.1".into(), port: 8000, base_path: String::new(), http2: false };
        Arc::new(Live::new(ReplicaKey(1), address, Arc::new(PoolLive::new(u32::MAX))))
    }

    #[test]
    fn a_booking_ends_with_its_guard_also_when_nothing_was_reported() {
        let (live, now) = (live(), Instant::now());
        let first = live.begin(2, PARAMS, false, now).unwrap();
        let second = live.begin(2, PARAMS, false, now).unwrap();
        assert!(live.begin(2, PARAMS, false, now).is_none(), "the cap holds");
        assert_eq!(live.in_flight(), 2);
        drop(first);
        drop(second);
        assert_eq!(live.in_flight(), 0);
    }

    #[test]
    fn every_attempt_pays_its_share_of_the_replica_whatever_becomes_of_it() {
        let (live, start) = (live(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let (bill, other) = (Arc::new(Bill::default()), Arc::new(Bill::default()));
        let begin = |bill: &Arc<Bill>, now| live.begin(9, PARAMS, false, now).unwrap().billed_to(Arc::clone(bill), 0.5);
        let failed = begin(&bill, at(0));
        let beside = begin(&other, at(10));
        failed.end(Outcome::Reset, at(20));
        assert_eq!(bill.dollars(), 7.5, "10 s alone and 5 of 10 s in two");
        let second = begin(&bill, at(20));
        second.end(Outcome::Ok, at(24));
        beside.end(Outcome::Ok, at(24));
        assert_eq!((bill.dollars(), other.dollars()), (8.5, 3.5), "together the 24 s in which it was in use");
        // Given up by its client: it ends now, long before what was said of the others.
        drop(begin(&bill, at(24)));
        assert_eq!((bill.dollars(), live.in_flight()), (8.5, 0));
    }

    #[test]
    fn failures_open_the_breaker_and_one_probe_of_many_callers_closes_it() {
        let (live, start) = (live(), Instant::now());
        for _ in 0..2 {
            live.begin(9, PARAMS, false, start).unwrap().end(Outcome::Reset, start);
        }
        assert_eq!(live.standing(PARAMS, start), Standing::BreakerOpen);
        let later = start + Duration::from_secs(60);
        assert_eq!(live.standing(PARAMS, later), Standing::Probe);
        let probes: Vec<_> = (0..1000).filter_map(|_| live.begin(2000, PARAMS, false, later)).collect();
        assert_eq!(probes.len(), 1, "exactly one caller is the probe");
        assert_eq!(live.in_flight(), 1, "those turned away gave their places back");
        for probe in probes {
            probe.end(Outcome::Ok, later);
        }
        assert_eq!(live.standing(PARAMS, later), Standing::Usable);
    }

    #[test]
    fn a_probe_without_a_verdict_frees_its_place() {
        let (live, start) = (live(), Instant::now());
        for _ in 0..2 {
            live.begin(9, PARAMS, false, start).unwrap().end(Outcome::Reset, start);
        }
        let later = start + Duration::from_secs(60);
        live.begin(9, PARAMS, false, later).unwrap().end(Outcome::ClientGone, later);
        assert_eq!(live.standing(PARAMS, later), Standing::Probe);
        drop(live.begin(9, PARAMS, false, later));
        assert_ne!(live.standing(PARAMS, Instant::now() + Duration::from_secs(120)), Standing::BreakerOpen);
    }

    #[test]
    fn a_straggler_does_not_speak_for_the_probe() {
        let (live, start) = (live(), Instant::now());
        let straggler = live.begin(9, PARAMS, false, start).unwrap();
        for _ in 0..2 {
            live.begin(9, PARAMS, false, start).unwrap().end(Outcome::Reset, start);
        }
        let later = start + Duration::from_secs(60);
        let probe = live.begin(9, PARAMS, false, later).unwrap();
        straggler.end(Outcome::Ok, later);
        assert_eq!(live.standing(PARAMS, later), Standing::BreakerOpen, "the probe is still out");
        probe.end(Outcome::Ok, later);
        assert_eq!(live.standing(PARAMS, later), Standing::Usable);
    }

    #[test]
    fn a_newcomer_is_used_from_its_first_passed_check_on() {
        let live = Arc::into_inner(live()).unwrap().as_newcomer();
        let now = Instant::now();
        let health = health::Params { unhealthy_after: 3, healthy_after: 2 };
        assert_eq!(live.standing(PARAMS, now), Standing::Unhealthy);
        assert!(live.rises(health));
        assert_eq!(live.checked(true, health, PARAMS, now), Some(true));
        assert_eq!(live.standing(PARAMS, now), Standing::Usable);
    }

    #[test]
    fn a_last_resort_passes_an_open_breaker_and_its_success_closes_it() {
        let (live, now) = (live(), Instant::now());
        for _ in 0..2 {
            live.begin(9, PARAMS, false, now).unwrap().end(Outcome::Reset, now);
        }
        let later = now + Duration::from_secs(1);
        assert!(live.begin(9, PARAMS, false, later).is_none());
        live.begin(9, PARAMS, true, later).unwrap().end(Outcome::Ok, later);
        assert_eq!(live.standing(PARAMS, later), Standing::Usable);
    }

    #[test]
    fn a_prompt_is_unread_until_its_first_event_or_its_end() {
        let live = live();
        let now = Instant::now();
        let (one, other) = (Prefilling::begin(&live, 100, now), Prefilling::begin(&live, 20, now));
        assert_eq!(live.unread_tokens(10.0, now), 120);
        drop(one);
        assert_eq!(live.unread_tokens(10.0, now), 20);
        other.end(now);
        assert_eq!(live.unread_tokens(10.0, now), 0);
    }

    #[test]
    fn the_prompt_that_was_sent_first_is_read_at_the_pools_pace_and_those_behind_it_wait() {
        let (live, start) = (live(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = Prefilling::begin(&live, 100, start);
        let (second, third) = (Prefilling::begin(&live, 50, at(2)), Prefilling::begin(&live, 30, at(4)));
        assert_eq!(live.unread_tokens(10.0, at(4)), 60 + 50 + 30);
        assert_eq!(live.unread_tokens(10.0, at(99)), 50 + 30, "those behind it have not begun");
        third.end(at(5));
        assert_eq!(live.unread_tokens(10.0, at(6)), 40 + 50);
        first.end(at(7));
        assert_eq!(live.unread_tokens(10.0, at(9)), 30);
        assert_eq!(live.unread_tokens(0.0, at(9)), 50);
        second.end(at(9));
        assert_eq!(live.unread_tokens(10.0, at(9)), 0);
    }

    #[test]
    fn a_prompt_of_which_nobody_tells_is_read_at_the_pools_pace() {
        let (live, start) = (live(), Instant::now());
        let second = Duration::from_secs(1);
        let _one = Prefilling::begin_unseen(&live, 100, 10.0, start);
        assert_eq!(live.unread_tokens(10.0, start + 4 * second), 60);
        let _other = Prefilling::begin_unseen(&live, 40, 10.0, start + 4 * second);
        assert_eq!(live.unread_tokens(10.0, start + 9 * second), 50);
        assert_eq!(live.unread_tokens(10.0, start + 60 * second), 0);
    }

    #[test]
    fn what_was_answered_was_read_also_where_the_pool_is_faster_than_it_is_known_for() {
        let (live, now) = (live(), Instant::now());
        for _ in 0..100 {
            drop(Prefilling::begin_unseen(&live, 100, 10.0, now));
        }
        assert_eq!(live.unread_tokens(10.0, now), 0);
        let (one, other) =
            (Prefilling::begin_unseen(&live, 100, 10.0, now), Prefilling::begin_unseen(&live, 20, 10.0, now));
        drop(one);
        assert_eq!(live.unread_tokens(10.0, now), 20);
        drop(other);
        assert_eq!(live.unread_tokens(10.0, now), 0);
    }

    #[test]
    fn an_address_needs_no_resolving() {
        assert_eq!(live().resolved(), Some("127.0.0.1:8000".parse().unwrap()));
    }
}

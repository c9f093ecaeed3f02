//! The decisions walked together in virtual time: a small fleet, random outages, agents that go on calling. Laws are
//! asserted at every step, for many seeds; a failing seed is printed and repeats exactly.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::SmallRng;

use super::breaker::{self, Breaker, Gate};
use super::health::{self, Health};
use super::pool::{self, PoolCandidate};
use super::replica::{Candidate, NoReplica, SessionView, Standing};
use super::retry::{self, FREE_ATTEMPTS_MAX, Next, Tried};
use super::select::{self, Home, Reason, Selection};
use super::testing::{Fleet, rng, session_key};
use super::{affinity, retry::Params};
use crate::domain::ask::Dialect;
use crate::domain::ids::{ModelIx, PoolIx, RegionIx, ReplicaIx};
use crate::domain::outcome::Outcome;
use crate::domain::topology::Topology;

const SEEDS: u64 = 256;
const SESSIONS: usize = 60;
const CALLS_PER_SESSION: u32 = 12;
/// Sessions start, and outages begin, within this time.
const BUSY_FOR: Duration = Duration::from_secs(300);

const BREAKER: breaker::Params = breaker::Params { failure_threshold: 5, reset_timeout: Duration::from_secs(60) };
const HEALTH: health::Params = health::Params { unhealthy_after: 3, healthy_after: 2 };
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
const RETRY: Params = Params {
    attempts: 4,
    attempts_per_pool: 2,
    backoff: Duration::from_millis(25),
    backoff_max: Duration::from_secs(1),
};

/// What a replica suffers from.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    /// Its process is dead: what runs there breaks off, nothing new connects.
    Dead,
    /// It takes requests and health checks and answers nothing.
    Stalls,
    /// It answers 500 to requests, and well to health checks.
    Errs,
}

#[derive(Clone, Debug)]
enum Event {
    Call { session: usize },
    Attempt { request: usize },
    Ended { request: usize, attempt: u32, outcome: Outcome },
    Outage { replicas: Vec<usize>, fault: Fault, lasts: Duration },
    Heal { replica: usize },
    Checks,
}

/// A replica as it truly is, and as the edge knows it.
struct Live {
    fault: Option<Fault>,
    heals_at: Duration,
    breaker: Breaker,
    health: Health,
    in_flight: u32,
}

struct Session {
    known: bool,
    region: RegionIx,
    calls_left: u32,
    /// Where it was last, model by model.
    homes: HashMap<ModelIx, ReplicaIx>,
}

struct Request {
    session: usize,
    model: ModelIx,
    pools: Vec<PoolCandidate>,
    tried: Vec<Tried>,
    /// The attempt under way: where, and since when.
    running: Option<(Selection, Instant)>,
    attempts: u32,
    ended: bool,
}

/// What happened over a run; also what shows that the run was worth it.
#[derive(Default, PartialEq, Eq, Debug)]
struct Tally {
    served: u32,
    failed: u32,
    refused: u32,
    crashed: u32,
    probes: u32,
    last_resorts: u32,
    reasons: HashMap<Reason, u32>,
}

struct World {
    topology: Topology,
    rng: SmallRng,
    epoch: Instant,
    now: Duration,
    /// By time, then in order of arrival.
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: HashMap<u64, Event>,
    sequence: u64,
    replicas: Vec<Live>,
    sessions: Vec<Session>,
    requests: Vec<Request>,
    tally: Tally,
}

impl World {
    fn new(seed: u64) -> World {
        let mut fleet = Fleet::new().region("us", 45.8, -119.7).region("eu", 50.1, 8.7).region("ap", 1.4, 103.8);
        fleet = fleet.model("8b", &[]).model("70b", &[]).fallback("70b", "8b");
        for (name, region, model) in [
            ("us-8b", "us", "8b"),
            ("us-70b", "us", "70b"),
            ("eu-8b", "eu", "8b"),
            ("eu-70b", "eu", "70b"),
            ("ap-8b", "ap", "8b"),
            ("ap-70b", "ap", "70b"),
        ] {
            fleet = fleet.pool(name, region, model, 3);
        }
        let topology = fleet.build();
        let replicas = topology.replicas.iter().map(|_| Live {
            fault: None,
            heals_at: Duration::ZERO,
            breaker: Breaker::default(),
            health: Health::default(),
            in_flight: 0,
        });
        let mut world = World {
            replicas: replicas.collect(),
            topology,
            rng: rng(seed),
            epoch: Instant::now(),
            // The breaker must not take "never" for "at the very start".
            now: Duration::from_secs(1),
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            sequence: 0,
            sessions: Vec::new(),
            requests: Vec::new(),
            tally: Tally::default(),
        };
        world.plan();
        world
    }

    /// Puts sessions and outages into the queue.
    fn plan(&mut self) {
        for session in 0..SESSIONS {
            // Half of the agents are in one region, so that it fills up.
            let region = if session % 2 == 0 { RegionIx(0) } else { RegionIx(self.rng.random_range(0..3)) };
            let known = self.rng.random_bool(0.8);
            self.sessions.push(Session { known, region, calls_left: CALLS_PER_SESSION, homes: HashMap::new() });
            let start = self.random_time(BUSY_FOR);
            self.after(start, Event::Call { session });
        }
        for outage in 0..14 {
            let replicas = match outage {
                // Every pool of a region, else one replica.
                0..3 => {
                    let region = RegionIx(self.rng.random_range(0..3));
                    (0..18).filter(|n| self.pool_of(ReplicaIx(*n)).region == region).collect()
                }
                _ => vec![self.rng.random_range(0..18)],
            };
            let fault = [Fault::Dead, Fault::Stalls, Fault::Errs][self.rng.random_range(0..3)];
            let lasts = Duration::from_secs(self.rng.random_range(5..120));
            let start = self.random_time(BUSY_FOR);
            self.after(start, Event::Outage { replicas, fault, lasts });
        }
        self.after(HEALTH_INTERVAL, Event::Checks);
    }

    fn run(mut self) -> Tally {
        while let Some(Reverse((time, sequence))) = self.queue.pop() {
            assert!(time >= self.now);
            self.now = time;
            let event = self.events.remove(&sequence).unwrap();
            self.handle(event);
        }
        assert!(self.sessions.iter().all(|session| session.calls_left == 0), "a session hangs");
        assert!(self.requests.iter().all(|request| request.ended), "a request hangs");
        assert!(self.replicas.iter().all(|replica| replica.in_flight == 0), "a place leaked");
        self.tally
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Call { session } => self.call(session),
            Event::Attempt { request } => self.attempt(request),
            Event::Ended { request, attempt, outcome } => {
                // An attempt that broke off earlier has no second end.
                if self.requests[request].attempts == attempt && self.requests[request].running.is_some() {
                    self.end_attempt(request, outcome);
                }
            }
            Event::Outage { replicas, fault, lasts } => {
                replicas.into_iter().for_each(|replica| self.strike(replica, fault, lasts));
            }
            Event::Heal { replica } => {
                let live = &mut self.replicas[replica];
                if live.fault.is_some() && live.heals_at <= self.now {
                    live.fault = None;
                }
            }
            Event::Checks => {
                for live in &mut self.replicas {
                    let passed = !matches!(live.fault, Some(Fault::Dead | Fault::Stalls));
                    let was_healthy = live.health.is_healthy();
                    live.health = live.health.after(passed, HEALTH);
                    if live.health.is_healthy() && !was_healthy {
                        live.breaker = live.breaker.recovered(BREAKER);
                    }
                }
                if !self.queue.is_empty() {
                    self.after(HEALTH_INTERVAL, Event::Checks);
                }
            }
        }
    }

    fn strike(&mut self, replica: usize, fault: Fault, lasts: Duration) {
        let live = &mut self.replicas[replica];
        live.fault = Some(fault);
        live.heals_at = live.heals_at.max(self.now + lasts);
        let heals_in = live.heals_at - self.now;
        self.after(heals_in, Event::Heal { replica });
        if fault == Fault::Dead {
            let there = |request: &Request| request.running.is_some_and(|(at, _)| at.replica.0 == replica);
            let cut: Vec<_> = (0..self.requests.len()).filter(|n| there(&self.requests[*n])).collect();
            cut.into_iter().for_each(|request| self.end_attempt(request, Outcome::Reset));
        }
    }

    fn call(&mut self, session: usize) {
        self.sessions[session].calls_left -= 1;
        let model = ModelIx(self.rng.random_range(0..2));
        let from = self.topology.region(self.sessions[session].region).place;
        let pools = pool::order(&self.topology, model, Dialect::Chat, Some(from)).unwrap();
        let request = Request { session, model, pools, tried: Vec::new(), running: None, attempts: 0, ended: false };
        self.requests.push(request);
        self.attempt(self.requests.len() - 1);
    }

    fn attempt(&mut self, n: usize) {
        let now = self.instant();
        let request = &self.requests[n];
        let session = &self.sessions[request.session];
        let home = session.homes.get(&request.model).copied().filter(|_| session.known);
        let name = &self.topology.model(request.model).name;
        let view = session.known.then(|| SessionView {
            key: affinity::for_model(session_key(request.session), name),
            home: home.map(|home| self.topology.replica(home).key),
        });
        let home = home.map(|home| Home {
            pool: self.topology.replica(home).pool,
            candidate: self.candidate(home, &request.tried),
        });
        let mut coin = self.rng.clone();
        let selected = select::select(
            &request.pools,
            view,
            home,
            |pool, view| {
                view.extend(self.topology.pool(pool).replicas.iter().map(|at| self.candidate(*at, &request.tried)));
            },
            |pool| retry::exhausted(&request.tried, pool, RETRY),
            false,
            &mut coin,
        );
        self.rng = coin;
        match selected {
            Ok(selection) => {
                self.assert_lawful_choice(n, selection, home);
                self.tally.last_resorts += u32::from(selection.last_resort);
                if selection.probe {
                    let live = &mut self.replicas[selection.replica.0];
                    live.breaker = live.breaker.claim(BREAKER, now).unwrap();
                    self.tally.probes += 1;
                }
                self.send(n, selection);
            }
            Err(refusal) => {
                self.assert_lawful_refusal(n, refusal);
                self.tally.refused += 1;
                self.finish(n);
            }
        }
    }

    /// The chosen replica can be used and has room; a session left its home only because it had to.
    fn assert_lawful_choice(&self, n: usize, selection: Selection, home: Option<Home>) {
        let request = &self.requests[n];
        let chosen = self.candidate(selection.replica, &request.tried);
        assert!(!chosen.tried && chosen.in_flight < chosen.cap, "{chosen:?}");
        assert_eq!(selection.probe, chosen.standing == Standing::Probe);
        assert_eq!(selection.last_resort, !chosen.takes_more(), "{chosen:?}");
        if selection.last_resort {
            assert!(!self.open_to(n).iter().any(Candidate::takes_more), "a better one than {chosen:?} was left");
        }
        assert_eq!(self.topology.replica(selection.replica).pool, selection.pool.pool);
        if let Some(home) = home.filter(|home| home.candidate.replica != selection.replica) {
            let of_fallback = self.topology.pool(home.pool).model != request.model;
            let had_to = !home.candidate.takes_more() || retry::exhausted(&request.tried, home.pool, RETRY);
            assert!(had_to || of_fallback, "{selection:?} although {home:?}");
        }
    }

    /// The replicas that a request may still try, as the edge knows them.
    fn open_to(&self, n: usize) -> Vec<Candidate> {
        let request = &self.requests[n];
        let pools = request.pools.iter().filter(|pool| !retry::exhausted(&request.tried, pool.pool, RETRY));
        pools
            .flat_map(|pool| &self.topology.pool(pool.pool).replicas)
            .map(|replica| self.candidate(*replica, &request.tried))
            .filter(|candidate| !candidate.tried)
            .collect()
    }

    /// A request is refused only when there is no replica left that it has not tried, or none that has room.
    fn assert_lawful_refusal(&self, n: usize, refusal: NoReplica) {
        let open = self.open_to(n);
        match refusal {
            NoReplica::Unusable => assert!(open.is_empty(), "refused although there is {open:?}"),
            NoReplica::Full => {
                assert!(!open.iter().any(Candidate::takes_more), "refused as full although there is {open:?}");
                let usable_is_full = open.iter().any(Candidate::eligible);
                assert!(
                    usable_is_full || open.iter().all(|candidate| candidate.in_flight >= candidate.cap),
                    "{open:?}"
                );
            }
        }
    }

    fn send(&mut self, n: usize, selection: Selection) {
        let sent = self.instant();
        let live = &mut self.replicas[selection.replica.0];
        live.in_flight += 1;
        assert!(live.in_flight <= self.topology.pool(selection.pool.pool).max_in_flight, "over its cap");
        let (takes_ms, outcome) = match live.fault {
            Some(Fault::Dead) => (1, Outcome::ConnectFailed),
            Some(Fault::Stalls) => (30_000, Outcome::FirstByteTimeout),
            Some(Fault::Errs) => (5, Outcome::ServerError),
            None => match self.rng.random_range(0..100) {
                0 => (50, Outcome::ServerError),
                1 => (5, Outcome::Busy),
                2 => (500, Outcome::ClientGone),
                _ => (self.rng.random_range(200..6_000), Outcome::Ok),
            },
        };
        let request = &mut self.requests[n];
        request.running = Some((selection, sent));
        request.attempts += 1;
        assert!(request.attempts as usize <= RETRY.attempts as usize + FREE_ATTEMPTS_MAX);
        let attempt = request.attempts;
        *self.tally.reasons.entry(selection.reason).or_default() += 1;
        self.after(Duration::from_millis(takes_ms), Event::Ended { request: n, attempt, outcome });
    }

    fn end_attempt(&mut self, n: usize, outcome: Outcome) {
        let now = self.instant();
        let (selection, sent) = self.requests[n].running.take().unwrap();
        let live = &mut self.replicas[selection.replica.0];
        live.in_flight -= 1;
        live.breaker = match outcome {
            Outcome::Ok => live.breaker.succeeded(sent),
            _ if outcome.counts_against_replica() => live.breaker.failed(BREAKER, sent, now),
            _ => live.breaker.released(sent),
        };
        if outcome == Outcome::Ok {
            let (session, model) = (self.requests[n].session, self.requests[n].model);
            self.sessions[session].homes.insert(model, selection.replica);
            self.tally.served += 1;
            return self.finish(n);
        }
        self.requests[n].tried.push(Tried { replica: selection.replica, pool: selection.pool.pool, outcome });
        self.assert_bounds(n);
        match retry::after(&self.requests[n].tried, RETRY, &mut self.rng) {
            Next::Again(pause) => self.after(pause, Event::Attempt { request: n }),
            Next::Stop(ending) => {
                self.assert_lawful_stop(n, ending);
                self.tally.failed += 1;
                self.tally.crashed += u32::from(ending == Outcome::Crashed);
                self.finish(n);
            }
        }
    }

    fn assert_bounds(&self, n: usize) {
        let tried = &self.requests[n].tried;
        let replicas: HashSet<_> = tried.iter().map(|t| t.replica).collect();
        assert_eq!(replicas.len(), tried.len(), "a replica was tried twice");
        assert!(counted(tried, |_| true) <= RETRY.attempts);
        for pool in 0..6 {
            assert!(counted(tried, |t| t.pool == PoolIx(pool)) <= RETRY.attempts_per_pool);
        }
    }

    /// A request that was tried is given up only at a bound, or when its ending would be the same anywhere.
    fn assert_lawful_stop(&self, n: usize, ending: Outcome) {
        let tried = &self.requests[n].tried;
        let breakdowns = tried.iter().filter(|t| matches!(t.outcome, Outcome::Reset | Outcome::Cut)).count();
        let lawful = match ending {
            Outcome::Crashed => breakdowns == 2,
            Outcome::ClientGone => true,
            _ => counted(tried, |_| true) == RETRY.attempts,
        };
        assert!(lawful, "{ending:?} after {tried:?}");
    }

    fn finish(&mut self, n: usize) {
        self.requests[n].ended = true;
        let session = self.requests[n].session;
        if self.sessions[session].calls_left > 0 {
            let thinks = self.random_time(Duration::from_secs(4));
            self.after(thinks, Event::Call { session });
        }
    }

    fn candidate(&self, replica: ReplicaIx, tried: &[Tried]) -> Candidate {
        let live = &self.replicas[replica.0];
        let gate: Gate = live.breaker.gate(BREAKER, self.instant());
        Candidate {
            replica,
            key: self.topology.replica(replica).key,
            standing: Standing::of(live.health.is_healthy(), gate),
            open_since: live.breaker.open_since(),
            in_flight: live.in_flight,
            cap: self.pool_of(replica).max_in_flight,
            rests: false,
            tried: tried.iter().any(|t| t.replica == replica),
        }
    }

    fn pool_of(&self, replica: ReplicaIx) -> &crate::domain::topology::Pool {
        self.topology.pool(self.topology.replica(replica).pool)
    }

    fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    fn random_time(&mut self, below: Duration) -> Duration {
        Duration::from_micros(self.rng.random_range(0..below.as_micros() as u64))
    }

    fn after(&mut self, pause: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + pause, self.sequence)));
        self.events.insert(self.sequence, event);
    }
}

fn counted(tried: &[Tried], which: impl Fn(&Tried) -> bool) -> u32 {
    tried.iter().filter(|t| which(t) && t.counts()).count() as u32
}

/// Says which seed it was when a law is broken.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("broken with seed {}", self.0);
        }
    }
}

fn run(seed: u64) -> Tally {
    let _seed = Seed(seed);
    World::new(seed).run()
}

#[test]
fn the_laws_hold_for_every_seed() {
    let mut total = Tally::default();
    for seed in 0..SEEDS {
        let tally = run(seed);
        total.served += tally.served;
        total.failed += tally.failed;
        total.refused += tally.refused;
        total.crashed += tally.crashed;
        total.probes += tally.probes;
        total.last_resorts += tally.last_resorts;
        for (reason, count) in tally.reasons {
            *total.reasons.entry(reason).or_default() += count;
        }
    }
    println!("{total:?}");
    // The laws would hold of a world in which nothing happens, too.
    for reason in Reason::ALL {
        assert!(total.reasons.get(&reason).is_some_and(|count| *count > 100), "{reason:?} hardly occurs: {total:?}");
    }
    assert!(total.refused > 10 && total.crashed > 3 && total.probes > 100 && total.last_resorts > 100, "{total:?}");
    assert!(total.served > SEEDS as u32 * SESSIONS as u32 * CALLS_PER_SESSION * 9 / 10, "{total:?}");
}

#[test]
fn a_seed_repeats_exactly() {
    assert_eq!(run(42), run(42));
}

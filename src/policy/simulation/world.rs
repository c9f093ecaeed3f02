//! A fleet in virtual time: agents call, replicas answer or fail, and the edge decides as it does in earnest.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::domain::ask::Dialect;
use crate::domain::ids::{ModelIx, PoolIx, RegionIx, ReplicaIx};
use crate::domain::outcome::Outcome;
use crate::domain::topology::{Pool, Topology};
use crate::domain::whereabouts::Whereabouts;
use crate::policy::blame::{self, Verdict};
use crate::policy::budget::{self, Credit, Floor};
use crate::policy::client_rule::Asker;
use crate::policy::health;
use crate::policy::pool::{self, NoPool, PoolCandidate};
use crate::policy::record::Record;
use crate::policy::region::Rules;
use crate::policy::replica::{Call, Candidate, NoReplica, SessionView};
use crate::policy::retry::{self, FREE_ATTEMPTS_MAX, Next, Tried};
use crate::policy::select::{self, Home, Reason, Selection};
use crate::policy::spill::Level;
use crate::policy::testing::{BREAKER, rng, session_key};
use crate::policy::{affinity, weight};

pub(super) const RETRY: retry::Params = retry::Params {
    attempts: 4,
    attempts_per_pool: 2,
    backoff: Duration::from_millis(25),
    backoff_max: Duration::from_secs(1),
};
pub(super) const BUDGET: budget::Params = budget::Params { share: 0.2, floor_per_s: 10 };
const HEALTH: health::Params = health::Params { unhealthy_after: 3, healthy_after: 2 };
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);
/// Of every prompt: a cache that is worth more than any load says against it.
const CONTEXT_TOKENS: u32 = 20_000;

/// What a replica suffers from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Fault {
    /// Its process is dead: what runs there breaks off, nothing new connects.
    Dead,
    /// It takes requests and health checks and answers nothing.
    Stalls,
    /// It answers 500 to requests, and well to health checks.
    Errs,
    /// It answers 503 to every second request, at random.
    BrownsOut,
    /// It takes five times as long.
    Slow,
    /// It breaks off every second answer in the middle.
    Cuts,
}

/// What is odd about an agent's calls.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Oddity {
    /// They kill their replica after this time.
    Kills(Duration),
    /// They end so at every replica, after this time.
    Ends(Outcome, Duration),
}

#[derive(Clone, Debug)]
pub(super) enum Event {
    Call {
        session: usize,
    },
    Attempt {
        request: usize,
    },
    /// An attempt reaches its first event.
    Began {
        request: usize,
        attempt: u32,
    },
    /// An attempt's first event is late.
    Late {
        request: usize,
        attempt: u32,
    },
    Ended {
        request: usize,
        attempt: u32,
        outcome: Outcome,
    },
    Outage {
        replicas: Vec<usize>,
        fault: Fault,
        lasts: Duration,
    },
    Heal {
        replica: usize,
    },
    Checks,
}

/// A replica as it truly is, and as the edge knows it.
pub(super) struct Live {
    pub(super) fault: Option<Fault>,
    heals_at: Duration,
    pub(super) record: Record,
    pub(super) in_flight: u32,
    pub(super) served: u32,
}

/// One agent; it is a client of its own.
pub(super) struct Session {
    pub(super) known: bool,
    pub(super) whereabouts: Whereabouts,
    pub(super) keys: Vec<String>,
    /// The regions that its calls may reach.
    pub(super) allowed: Vec<RegionIx>,
    pub(super) calls_left: u32,
    pub(super) odd: Option<Oddity>,
    /// Where it was last, model by model.
    homes: HashMap<ModelIx, ReplicaIx>,
    credit: Credit,
}

pub(super) struct Request {
    pub(super) session: usize,
    pub(super) model: ModelIx,
    pub(super) pools: Vec<PoolCandidate>,
    pub(super) tried: Vec<Tried>,
    /// Those of them whose fault is in doubt, with the time they were sent at.
    doubts: Vec<(Tried, Instant)>,
    /// The attempts under way; the second one is a hedge.
    pub(super) running: Vec<Running>,
    attempts: u32,
    pub(super) hedges: u32,
    /// Replicas that broke off an answer which had begun, and how many of them broke down.
    pub(super) failed: Vec<ReplicaIx>,
    pub(super) breakdowns: usize,
    pub(super) resumes: u32,
    ended: bool,
}

/// One attempt under way.
#[derive(Clone, Copy)]
pub(super) struct Running {
    pub(super) selection: Selection,
    pub(super) sent: Instant,
    pub(super) number: u32,
    /// Whether it has reached its first event.
    pub(super) began: bool,
}

impl Request {
    /// What speaks against trying a replica or a pool: failures, and the attempt beside which there is to be another.
    pub(super) fn besides(&self) -> Vec<Tried> {
        let late = |running: &Running| Tried {
            replica: running.selection.replica,
            pool: running.selection.pool.pool,
            outcome: Outcome::FirstByteTimeout,
        };
        self.tried.iter().copied().chain(self.running.iter().map(late)).collect()
    }
}

/// What happened over a run; also what shows that the run was worth it.
#[derive(Default, PartialEq, Eq, Debug)]
pub(super) struct Tally {
    pub(super) calls: u32,
    pub(super) attempts: u32,
    /// Retries that the budget paid for, and those it did not.
    pub(super) paid: u32,
    pub(super) denied: u32,
    pub(super) served: u32,
    pub(super) failed: u32,
    pub(super) refused: u32,
    pub(super) crashed: u32,
    pub(super) probes: u32,
    pub(super) opened: u32,
    pub(super) last_resorts: u32,
    /// Hedges, and those of them that were first.
    pub(super) hedges: u32,
    pub(super) hedges_won: u32,
    /// Answers that went on at another replica after they broke off.
    pub(super) resumes: u32,
    /// Calls that residency left no region for, and attempts of calls that may not go everywhere.
    pub(super) nowhere: u32,
    pub(super) kept: u32,
    pub(super) reasons: HashMap<Reason, u32>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        let Tally { calls, attempts, paid, denied, served, failed, refused, crashed, probes, opened, .. } = other;
        let Tally { last_resorts, hedges, hedges_won, resumes, nowhere, kept, reasons, .. } = other;
        for (sum, part) in [
            (&mut self.calls, calls),
            (&mut self.attempts, attempts),
            (&mut self.paid, paid),
            (&mut self.denied, denied),
            (&mut self.served, served),
            (&mut self.failed, failed),
            (&mut self.refused, refused),
            (&mut self.crashed, crashed),
            (&mut self.probes, probes),
            (&mut self.opened, opened),
            (&mut self.last_resorts, last_resorts),
            (&mut self.hedges, hedges),
            (&mut self.hedges_won, hedges_won),
            (&mut self.resumes, resumes),
            (&mut self.nowhere, nowhere),
            (&mut self.kept, kept),
        ] {
            *sum += part;
        }
        for (reason, count) in reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
    }
}

pub(super) struct World {
    pub(super) topology: Topology,
    pub(super) rng: SmallRng,
    epoch: Instant,
    pub(super) now: Duration,
    /// Whether a call now and then ends badly by itself.
    pub(super) noisy: bool,
    /// Whether calls are streams: a late one is tried at a second replica too, and one that breaks off is resumed.
    pub(super) streams: bool,
    /// The rules of the regions.
    pub(super) rules: Rules,
    /// By time, then in order of arrival.
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: HashMap<u64, Event>,
    sequence: u64,
    floor: Floor,
    pub(super) replicas: Vec<Live>,
    /// Whether each pool takes new sessions.
    levels: Vec<Cell<Level>>,
    /// How often that changed.
    pub(super) switches: Cell<u32>,
    /// The regions where sessions started, in their order.
    pub(super) starts: Vec<RegionIx>,
    pub(super) sessions: Vec<Session>,
    pub(super) requests: Vec<Request>,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn new(seed: u64, topology: Topology) -> World {
        let live =
            || Live { fault: None, heals_at: Duration::ZERO, record: Record::default(), in_flight: 0, served: 0 };
        let mut world = World {
            replicas: topology.replicas.iter().map(|_| live()).collect(),
            levels: vec![Cell::default(); topology.pools.len()],
            switches: Cell::default(),
            starts: Vec::new(),
            rules: Rules::default(),
            topology,
            rng: rng(seed),
            epoch: Instant::now(),
            // The breaker must not take "never" for "at the very start".
            now: Duration::from_secs(1),
            noisy: false,
            streams: false,
            queue: BinaryHeap::new(),
            events: HashMap::new(),
            sequence: 0,
            floor: Floor::default(),
            sessions: Vec::new(),
            requests: Vec::new(),
            tally: Tally::default(),
        };
        world.after(HEALTH_INTERVAL, Event::Checks);
        world
    }

    /// An agent that makes so many calls, the first within `busy_for`.
    pub(super) fn agent(&mut self, region: RegionIx, calls: u32, busy_for: Duration) -> &mut Session {
        let session = self.sessions.len();
        self.sessions.push(Session {
            known: true,
            whereabouts: Whereabouts { place: Some(self.topology.region(region).place()), ..Whereabouts::NOWHERE },
            keys: Vec::new(),
            allowed: (0..self.topology.regions.len()).map(RegionIx).collect(),
            calls_left: calls,
            odd: None,
            homes: HashMap::new(),
            credit: Credit::none(self.epoch),
        });
        let start = self.random_time(busy_for);
        self.after(start, Event::Call { session });
        &mut self.sessions[session]
    }

    /// From `start` on these replicas have a fault.
    pub(super) fn outage(&mut self, replicas: Vec<usize>, fault: Fault, start: Duration, lasts: Duration) {
        self.after(start, Event::Outage { replicas, fault, lasts });
    }

    pub(super) fn run(mut self) -> World {
        while let Some(Reverse((time, sequence))) = self.queue.pop() {
            assert!(time >= self.now);
            self.now = time;
            let event = self.events.remove(&sequence).unwrap();
            self.handle(event);
        }
        assert!(self.sessions.iter().all(|session| session.calls_left == 0), "a session hangs");
        assert!(self.requests.iter().all(|request| request.ended), "a request hangs");
        assert!(self.replicas.iter().all(|replica| replica.in_flight == 0), "a place leaked");
        self
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Call { session } => self.call(session),
            Event::Attempt { request } => self.attempt(request),
            // An attempt that broke off earlier has no second end.
            Event::Ended { request, attempt, outcome } => self.end_attempt(request, attempt, outcome),
            Event::Began { request, attempt } => self.began(request, attempt),
            Event::Late { request, attempt } => self.hedge(request, attempt),
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
                let now = self.instant();
                for live in &mut self.replicas {
                    let passed = !matches!(live.fault, Some(Fault::Dead | Fault::Stalls));
                    live.record.checked(passed, HEALTH, BREAKER, now);
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
            let there = |running: &&Running| running.selection.replica.0 == replica;
            let broken =
                |(n, request): (usize, &Request)| request.running.iter().find(there).map(|at| (n, at.number, at.began));
            let cut: Vec<_> = self.requests.iter().enumerate().filter_map(broken).collect();
            for (request, attempt, began) in cut {
                self.end_attempt(request, attempt, if began { Outcome::Cut } else { Outcome::Reset });
            }
        }
    }

    fn call(&mut self, n: usize) {
        let now = self.instant();
        let models = self.topology.models.len();
        let model = ModelIx(self.rng.random_range(0..models));
        let session = &mut self.sessions[n];
        session.calls_left -= 1;
        session.credit = session.credit.after_request(false, BUDGET, now);
        let asker = Asker { whereabouts: &session.whereabouts, keys: &session.keys };
        let standings = self.rules.standings(&self.topology, asker, |_| None);
        let pools = pool::order(&self.topology, model, Dialect::Chat, &standings);
        self.requests.push(Request {
            session: n,
            model,
            pools: pools.clone().unwrap_or_default(),
            tried: Vec::new(),
            doubts: Vec::new(),
            running: Vec::new(),
            attempts: 0,
            hedges: 0,
            failed: Vec::new(),
            breakdowns: 0,
            resumes: 0,
            ended: false,
        });
        self.tally.calls += 1;
        let request = self.requests.len() - 1;
        match pools {
            Ok(_) => self.attempt(request),
            Err(no) => {
                assert!(no == NoPool::Residency && self.sessions[n].allowed.is_empty(), "{no:?}");
                self.tally.nowhere += 1;
                self.finish(request, Verdict::Moot);
            }
        }
    }

    /// Sends the next attempt, if there is a replica for it.
    pub(super) fn attempt(&mut self, n: usize) {
        let home = self.home(n);
        match self.choose(n) {
            Ok(selection) => {
                self.assert_lawful_choice(n, selection, home);
                self.tally.last_resorts += u32::from(selection.last_resort);
                self.tally.probes += u32::from(selection.probe);
                if home.is_none() {
                    self.starts.push(selection.pool.region);
                }
                self.send(n, selection);
            }
            Err(refusal) => {
                self.assert_lawful_refusal(n, refusal);
                self.tally.refused += 1;
                let last = self.requests[n].tried.last().map_or(Outcome::NoReplica, |last| last.outcome);
                self.finish(n, Verdict::of_ending(last));
            }
        }
    }

    /// The replica where the session was last, holding what it read there.
    fn home(&self, n: usize) -> Option<Home> {
        let request = &self.requests[n];
        let session = &self.sessions[request.session];
        let home = session.homes.get(&request.model).copied().filter(|_| session.known)?;
        let candidate = Candidate { cached_tokens: CONTEXT_TOKENS, ..self.candidate(home, request) };
        Some(Home { pool: self.topology.replica(home).pool, candidate })
    }

    /// Selects a replica as the edge does.
    pub(super) fn choose(&mut self, n: usize) -> Result<Selection, NoReplica> {
        let (request, home) = (&self.requests[n], self.home(n));
        let name = &self.topology.model(request.model).name;
        let known = self.sessions[request.session].known.then(|| SessionView {
            placement: affinity::for_model(session_key(request.session), name),
            home: home.map(|home| home.candidate.key),
            begun: home.is_some(),
        });
        let as_it_is = |at: &ReplicaIx| match home {
            Some(home) if home.candidate.replica == *at => home.candidate,
            _ => self.candidate(*at, request),
        };
        let (besides, mut coin) = (request.besides(), self.rng.clone());
        let selected = select::select(
            &request.pools,
            Call { session: known, tokens: CONTEXT_TOKENS, ..Call::default() },
            home,
            |pool, view| {
                view.extend(self.topology.pool(pool).replicas.iter().map(as_it_is));
                weight::lower_outliers(view);
                self.level(pool, view)
            },
            |pool| retry::exhausted(&besides, pool, RETRY),
            false,
            &mut coin,
        );
        self.rng = coin;
        selected
    }

    pub(super) fn send(&mut self, n: usize, selection: Selection) {
        let sent = self.instant();
        self.assert_allowed(n, selection);
        assert!(self.replicas[selection.replica.0].record.admit(BREAKER, selection.last_resort, sent));
        let live = &mut self.replicas[selection.replica.0];
        live.in_flight += 1;
        assert!(live.in_flight <= self.topology.pool(selection.pool.pool).max_in_flight, "over its cap");
        let (fault, noisy) = (live.fault, self.noisy);
        let odd = self.sessions[self.requests[n].session].odd;
        let usual = Duration::from_millis(self.rng.random_range(200..6_000));
        let ms = Duration::from_millis;
        let (takes, outcome) = match (fault, odd) {
            (Some(Fault::Dead), _) => (ms(1), Outcome::ConnectFailed),
            (Some(Fault::Stalls), _) => (ms(30_000), Outcome::FirstByteTimeout),
            (Some(Fault::Errs), _) => (ms(5), Outcome::ServerError),
            (Some(Fault::BrownsOut), _) if self.rng.random_bool(0.5) => (ms(5), Outcome::ServerError),
            (Some(Fault::Cuts), _) if self.rng.random_bool(0.5) => (usual, Outcome::Cut),
            (_, Some(Oddity::Kills(after))) => {
                self.outage(vec![selection.replica.0], Fault::Dead, after, ms(20_000));
                (after + ms(1), Outcome::Reset)
            }
            (_, Some(Oddity::Ends(outcome, after))) => (after, outcome),
            (Some(Fault::Slow), _) => (usual * 5, Outcome::Ok),
            _ => match self.rng.random_range(0..100) {
                0 if noisy => (ms(50), Outcome::ServerError),
                1 if noisy => (ms(5), Outcome::Busy),
                2 if noisy => (ms(500), Outcome::ClientGone),
                _ => (usual, Outcome::Ok),
            },
        };
        let request = &mut self.requests[n];
        request.attempts += 1;
        let (attempt, legs) = (request.attempts, request.resumes + 1);
        request.running.push(Running { selection, sent, number: attempt, began: false });
        assert!(attempt - request.hedges <= legs * (RETRY.attempts + FREE_ATTEMPTS_MAX as u32));
        self.tally.attempts += 1;
        *self.tally.reasons.entry(selection.reason).or_default() += 1;
        if self.streams {
            self.expect_first_event(n, attempt, takes, outcome);
        }
        self.after(takes, Event::Ended { request: n, attempt, outcome });
    }

    fn end_attempt(&mut self, n: usize, attempt: u32, outcome: Outcome) {
        let now = self.instant();
        let running = &mut self.requests[n].running;
        let Some(at) = running.iter().position(|running| running.number == attempt) else { return };
        let Running { selection, sent, began, .. } = running.remove(at);
        self.replicas[selection.replica.0].in_flight -= 1;
        let last = Tried { replica: selection.replica, pool: selection.pool.pool, outcome };
        if blame::in_doubt(outcome) {
            self.requests[n].doubts.push((last, sent));
        } else {
            self.report(last, sent);
        }
        if outcome == Outcome::Ok {
            let live = &mut self.replicas[selection.replica.0];
            live.served += 1;
            // A tenth of a call is its prefill.
            live.record.first_event((now - sent) / 10, selection.reason == Reason::Session, now);
            let (session, model) = (self.requests[n].session, self.requests[n].model);
            self.sessions[session].homes.insert(model, selection.replica);
            self.tally.served += 1;
            return self.finish(n, Verdict::Answered);
        }
        if began {
            return self.broke_off(n, last);
        }
        self.requests[n].tried.push(last);
        self.assert_bounds(n);
        // A failure of one of two waits for the other.
        if self.requests[n].running.is_empty() {
            self.go_on(n, last);
        }
    }

    fn go_on(&mut self, n: usize, last: Tried) {
        let request = &self.requests[n];
        match retry::after(&request.tried, request.breakdowns, RETRY, &mut self.rng) {
            Next::Again(_) if last.must_be_paid_for() && !self.pay(n) => {
                self.tally.denied += 1;
                self.tally.failed += 1;
                self.finish(n, Verdict::Moot);
            }
            Next::Again(pause) => self.after(pause, Event::Attempt { request: n }),
            Next::Stop(ending) => {
                self.assert_lawful_stop(n, ending);
                self.tally.failed += 1;
                self.tally.crashed += u32::from(ending == Outcome::Crashed);
                self.finish(n, Verdict::of_ending(ending));
            }
        }
    }

    fn pay(&mut self, n: usize) -> bool {
        if self.requests[n].resumes > 0 {
            return true;
        }
        let now = self.instant();
        let credit = &mut self.sessions[self.requests[n].session].credit;
        let paid = match credit.pay(now) {
            Some(left) => {
                *credit = left;
                true
            }
            None => self.floor.pay(BUDGET, now),
        };
        self.tally.paid += u32::from(paid);
        self.assert_within_budget();
        paid
    }

    pub(super) fn report(&mut self, attempt: Tried, sent: Instant) {
        let now = self.instant();
        let record = &mut self.replicas[attempt.replica.0].record;
        let before = record.breaker.open_since();
        record.ended(attempt.outcome, sent, BREAKER, now);
        let after = record.breaker.open_since();
        self.tally.opened += u32::from(after.is_some() && after != before);
    }

    pub(super) fn finish(&mut self, n: usize, verdict: Verdict) {
        let doubts = std::mem::take(&mut self.requests[n].doubts);
        let fault = verdict.falls_on(doubts.len());
        for (attempt, sent) in doubts {
            match fault {
                blame::Fault::Replicas => self.report(attempt, sent),
                blame::Fault::Open => self.replicas[attempt.replica.0].record.doubt(sent),
                blame::Fault::Nobody => self.report(Tried { outcome: Outcome::ClientGone, ..attempt }, sent),
            }
        }
        self.requests[n].ended = true;
        let session = self.requests[n].session;
        if self.sessions[session].calls_left > 0 {
            let thinks = self.random_time(Duration::from_secs(4));
            self.after(thinks, Event::Call { session });
        }
    }

    /// A replica as it is to a request.
    pub(super) fn candidate(&self, replica: ReplicaIx, request: &Request) -> Candidate {
        let (live, now) = (&self.replicas[replica.0], self.instant());
        Candidate {
            replica,
            key: self.topology.replica(replica).key,
            standing: live.record.standing(BREAKER, now),
            open_since: live.record.breaker.open_since(),
            in_flight: live.in_flight,
            others: 0.0,
            cap: self.pool_of(replica).max_in_flight,
            engine_full: 0.0,
            weight: live.record.weight(BREAKER, now),
            ttft: live.record.ttft(now),
            rests: live.record.rests(now),
            refuses: live.record.refuses(BREAKER, now),
            cached_tokens: 0,
            shared_tokens: 0,
            queued_tokens: 0,
            tokens_per_s: None,
            tried: request.failed.contains(&replica) || request.besides().iter().any(|t| t.replica == replica),
        }
    }

    /// Whether a pool takes new sessions, now that its replicas are so.
    fn level(&self, pool: PoolIx, replicas: &[Candidate]) -> Level {
        let level = &self.levels[pool.0];
        let before = level.replace(level.get().now(replicas, 0.0));
        self.switches.set(self.switches.get() + u32::from(before != level.get()));
        level.get()
    }

    pub(super) fn pool_of(&self, replica: ReplicaIx) -> &Pool {
        self.topology.pool(self.topology.replica(replica).pool)
    }

    pub(super) fn instant(&self) -> Instant {
        self.epoch + self.now
    }

    pub(super) fn random_time(&mut self, below: Duration) -> Duration {
        Duration::from_micros(self.rng.random_range(0..below.as_micros() as u64))
    }

    pub(super) fn after(&mut self, pause: Duration, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((self.now + pause, self.sequence)));
        self.events.insert(self.sequence, event);
    }
}

/// Says which seed it was when a law is broken.
pub(super) struct Seed(pub(super) u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("broken with seed {}", self.0);
        }
    }
}

//! Nearpool's own: its configuration, roster and policies as they are, on the laboratory's clock. What is done here is
//! what the proxy does with them around a call, less the sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearpool::domain::ask::Dialect;
use nearpool::domain::ids::{ClientKey, ModelIx};
use nearpool::domain::outcome::Outcome;
use nearpool::domain::prompt::Prompt;
use nearpool::policy::pool::{self, PoolCandidate};
use nearpool::policy::queue::{Line, Place, Turn};
use nearpool::policy::replica::{self, Candidate, NoReplica};
use nearpool::policy::select::{Home, Reason, Selection, select};
use nearpool::roster::{InFlight, Prefilling, Roster, Session, Snapshot};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::engine::Engines;
use super::super::time::{Micros, SECOND};
use super::super::workload::Call;
use super::router::{Ask, Decision, Router};
use super::setting::{self, Besides, Reading};

/// What a client is told to wait that is refused, in seconds: as the proxy bounds it.
const RETRY_AFTER_S: (f64, f64) = (1.0, 120.0);

/// An edge with one pool, without sockets.
pub(crate) struct Nearpool<'w> {
    reading: &'w Reading,
    client: ClientKey,
    roster: Roster,
    snapshot: Arc<Snapshot>,
    pools: Vec<PoolCandidate>,
    start: Instant,
    rng: SmallRng,
    line: Line<usize>,
    places: HashMap<usize, Place>,
    /// Those who had to leave the line and are yet to be told.
    displaced: Vec<usize>,
    /// Who was called when a place became free.
    freed: Option<usize>,
    sent: HashMap<usize, Sent>,
}

/// A call that is not answered yet.
struct Sent {
    booking: InFlight,
    prefilling: Option<Prefilling>,
    selection: Selection,
    session: Option<Session>,
    at: Instant,
    ttft: Duration,
    cached: u32,
}

impl<'w> Nearpool<'w> {
    /// An edge whose configuration has these lines besides.
    pub(crate) fn new(reading: &'w Reading, engines: usize, besides: &Besides, seed: u64) -> Result<Nearpool<'w>> {
        let start = Instant::now();
        let snapshot = setting::snapshot(engines, besides)?;
        let pools = pool::order(&snapshot.config.topology, ModelIx(0), Dialect::Chat, None).ok();
        let roster = Roster::new(snapshot, start);
        Ok(Nearpool {
            reading,
            client: ClientKey(1),
            snapshot: roster.snapshot(),
            roster,
            pools: pools.context("the pool serves the model")?,
            start,
            rng: SmallRng::seed_from_u64(seed),
            line: Line::default(),
            places: HashMap::new(),
            displaced: Vec::new(),
            freed: None,
            sent: HashMap::new(),
        })
    }

    fn instant(&self, now: Micros) -> Instant {
        self.start + Duration::from_micros(now)
    }

    fn session(&self, number: usize, now: Instant) -> Option<Session> {
        let identity = self.reading.prompts[number].1.as_ref()?;
        self.roster.sessions.find(identity, self.snapshot.config.sessions.idle, now)
    }

    fn is_admitted(&self, session: Option<Session>, prompt: &Prompt, now: Instant) -> bool {
        let (Some(session), true) = (session, self.snapshot.config.sessions.admission) else { return true };
        let pool = self.pools[0].pool;
        let bound = self.snapshot.admission_bound(pool, now);
        let cache = &self.snapshot.pool(pool).cache;
        cache.admission(|admission| admission.admits(session.key, self.client, prompt.tokens, bound, now))
    }

    fn select(
        &mut self,
        session: Option<Session>,
        prompt: &Prompt,
        admitted: bool,
        waits: bool,
        now: Instant,
    ) -> Result<Selection, NoReplica> {
        let call = replica::Call { session: session.map(|session| session.view), tokens: prompt.tokens };
        let close = |candidate: Candidate| if admitted { candidate } else { Candidate { cap: 0, ..candidate } };
        let home = call.session.and_then(|session| session.home);
        let home = home.and_then(|home| self.snapshot.home(home, &prompt.cuts, |_| false, now));
        select(
            &self.pools,
            call,
            home.map(|home| Home { candidate: close(home.candidate), ..home }),
            |pool, into| {
                let before = into.len();
                self.snapshot.candidates(pool, &prompt.cuts, |_| false, now, into);
                into[before..].iter_mut().for_each(|candidate| *candidate = close(*candidate));
            },
            |_| false,
            waits,
            &mut self.rng,
        )
    }

    /// Books a place and sends the call there.
    fn send(&mut self, number: usize, selection: Selection, session: Option<Session>, now: Instant) -> Option<usize> {
        let prompt = &self.reading.prompts[number].0;
        let config = &self.snapshot.config;
        let live = self.snapshot.live(selection.replica);
        let cap = config.topology.pool(selection.pool.pool).max_in_flight;
        let booking = live.begin(cap, config.circuit_breaker, selection.last_resort, now)?;
        let booking = booking.reading(self.snapshot.slot(selection.replica), prompt);
        if let Some(session) = session {
            let cache = &self.snapshot.pool(selection.pool.pool).cache;
            cache.admission(|admission| admission.began(session.key, self.client, prompt.tokens, now));
        }
        let prefilling = Some(Prefilling::begin(live, u64::from(selection.uncached_tokens)));
        let sent = Sent { booking, prefilling, selection, session, at: now, ttft: Duration::ZERO, cached: 0 };
        self.sent.insert(number, sent);
        Some(selection.replica.0)
    }

    fn refuse(&mut self, number: usize) -> Decision {
        if let Some(place) = self.places.remove(&number) {
            self.line.leave(place, false);
        }
        let wait = self.line.wait().unwrap_or_default().as_secs_f64().ceil();
        Decision::Refuse(wait.clamp(RETRY_AFTER_S.0, RETRY_AFTER_S.1) as Micros * SECOND)
    }

    fn wait(&mut self, ask: &Ask<'_>, turn: Turn, kept_out: bool, now: Instant) -> Decision {
        let (config, pool) = (&self.snapshot.config, self.pools[0].pool);
        let pool = config.topology.pool(pool);
        let Some(since) = ask.waits_since else {
            return match self.line.enter(turn, ask.number, pool.queue as usize) {
                Ok((place, displaced)) => {
                    self.places.insert(ask.number, place);
                    if let Some(displaced) = displaced {
                        self.places.remove(&displaced);
                        self.displaced.push(displaced);
                    }
                    Decision::Wait
                }
                Err(_) => self.refuse(ask.number),
            };
        };
        let most = if kept_out { config.sessions.admission_wait } else { pool.queue_timeout };
        let late = now.saturating_duration_since(self.instant(since)) >= most;
        if late || !self.places.contains_key(&ask.number) { self.refuse(ask.number) } else { Decision::Wait }
    }
}

impl Router for Nearpool<'_> {
    fn route(&mut self, ask: &Ask<'_>, _engines: &Engines<'_>, now: Micros) -> Decision {
        let now = self.instant(now);
        let reading = self.reading;
        let prompt = &reading.prompts[ask.number].0;
        let session = self.session(ask.number, now);
        let turn = if session.is_some_and(|session| session.view.begun) { Turn::UnderWay } else { Turn::New };
        let admitted = self.is_admitted(session, prompt, now);
        let selected = self.select(session, prompt, admitted, true, now).ok();
        // Whoever would overtake joins the line; he looks once for a place before he waits, and may find one there.
        let overtakes = ask.waits_since.is_none() && self.line.overtakes(turn);
        let joins = overtakes && selected.is_some_and(|selection| !selection.last_resort);
        if joins && let Decision::Refuse(after) = self.wait(ask, turn, !admitted, now) {
            return Decision::Refuse(after);
        }
        let sent = selected.and_then(|selection| self.send(ask.number, selection, session, now));
        if let Some(replica) = sent {
            if let Some(place) = self.places.remove(&ask.number) {
                self.line.leave(place, true);
            }
            return Decision::Go(replica);
        }
        if joins { Decision::Wait } else { self.wait(ask, turn, !admitted, now) }
    }

    fn next_in_line(&mut self, after: Option<usize>, _now: Micros) -> Option<usize> {
        if let Some(place) = after.and_then(|after| self.places.get(&after)) {
            return self.line.pass(*place).copied();
        }
        self.displaced.pop().or_else(|| self.freed.take()).or_else(|| self.line.first().copied())
    }

    fn prefilled(&mut self, number: usize, _call: &Call, _replica: usize, cached: u32, now: Micros) {
        let now = self.instant(now);
        let Some(sent) = self.sent.get_mut(&number) else { return };
        sent.prefilling = None;
        sent.ttft = now.saturating_duration_since(sent.at);
        sent.cached = cached;
        sent.booking.first_event(sent.selection.reason == Reason::Session, now);
        self.snapshot.pool(sent.selection.pool.pool).pace().first_event(sent.ttft);
        if let Some(session) = sent.session {
            let key = self.snapshot.live(sent.selection.replica).key();
            self.roster.sessions.remember(session, key, now);
        }
    }

    fn answered(&mut self, number: usize, call: &Call, _replica: usize, now: Micros) {
        let now = self.instant(now);
        let Some(sent) = self.sent.remove(&number) else { return };
        let pool = self.snapshot.pool(sent.selection.pool.pool);
        sent.booking.cached(f64::from(sent.cached) / f64::from(call.input));
        pool.pace().prefilled(u64::from(call.input - sent.cached), sent.ttft);
        sent.booking.end(Outcome::Ok, now);
        if let Some(session) = sent.session {
            pool.cache.admission(|admission| admission.ended(session.key, now));
        }
        // While nobody waits the line learns no pace.
        if !self.line.is_empty() {
            self.freed = self.line.freed(now).copied();
        }
    }
}

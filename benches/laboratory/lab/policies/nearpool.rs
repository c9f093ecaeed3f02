//! Nearpool's own: its configuration, roster and policies as they are, on the laboratory's clock. What is done here is
//! what the proxy does with them around a call, less the sockets.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearpool::domain::ask::Dialect;
use nearpool::domain::ids::{ClientKey, ModelIx, SessionKey};
use nearpool::domain::outcome::Outcome;
use nearpool::domain::prompt::Prompt;
use nearpool::policy::client_rule::Asker;
use nearpool::policy::entrance::{COME_AGAIN_S_MAX, Entrance, Left};
use nearpool::policy::pool::{self, PoolCandidate};
use nearpool::policy::queue::{Line, Place, RETRY_AFTER_S_MAX, Turn, retry_after_s};
use nearpool::policy::replica::{self, NoReplica};
use nearpool::policy::select::{Reason, Selection, select};
use nearpool::roster::{Asking, InFlight, Prefilling, Roster, Session, Snapshot};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::engine::Engines;
use super::super::time::{Micros, SECOND};
use super::super::workload::Call;
use super::reading::Reading;
use super::router::{Ask, Decision, Router};
use super::setting::{self, Besides};

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
    entrance: Entrance<usize>,
    /// Those who stand at the entrance, and those who came there, oldest first.
    entering: HashMap<usize, (SessionKey, Place)>,
    came: VecDeque<(Micros, usize)>,
    /// When the first at the entrance was found to have to wait on.
    entrance_asked: Option<Micros>,
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
        let pools =
            pool::order(&snapshot.config.topology, ModelIx(0), Dialect::Chat, &snapshot.standings(Asker::NOBODY)).ok();
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
            entrance: Entrance::default(),
            entering: HashMap::new(),
            came: VecDeque::new(),
            entrance_asked: None,
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

    fn asking(&self, session: Option<Session>, prompt: &Prompt) -> Option<Asking> {
        let session = session.filter(|_| self.snapshot.config.sessions.admission)?;
        let turn = if session.view.begun { Turn::UnderWay } else { Turn::New };
        Some(Asking { session: session.key, client: self.client, tokens: prompt.tokens, turn })
    }

    fn is_admitted(&self, asking: Option<Asking>, now: Instant) -> bool {
        let Some(asking) = asking else { return true };
        let pool = self.pools[0].pool;
        let (intake, active) = (&self.snapshot.pool(pool).intake, self.snapshot.config.sessions.active);
        if intake.is_active(asking.session, active, now) {
            return true;
        }
        let bound = self.snapshot.admission_bound(pool, now);
        // Who stands at the entrance is known here, since here a waiter is a number.
        let is_next = bound.tokens.is_none() || self.entrance.is_next(asking.session, asking.turn);
        intake.admits(asking, bound, now) && is_next
    }

    /// Waits at the entrance.
    fn stand(&mut self, ask: &Ask<'_>, asking: Asking, now: Micros) -> Decision {
        let Some(since) = ask.waits_since else {
            return match self.entrance.enter(asking.session, asking.turn, ask.number) {
                Ok((place, displaced)) => {
                    self.entering.insert(ask.number, (asking.session, place));
                    self.came.push_back((now, ask.number));
                    if let Some(displaced) = displaced {
                        self.entering.remove(&displaced);
                        self.displaced.push(displaced);
                    }
                    Decision::Wait
                }
                Err(_) => self.come_again(now),
            };
        };
        let most = self.snapshot.config.sessions.admission_wait.as_micros() as Micros;
        if now - since < most && self.entering.contains_key(&ask.number) {
            return Decision::Wait;
        }
        self.leave_entrance(ask.number, Left::SentAway);
        self.come_again(now)
    }

    fn leave_entrance(&mut self, number: usize, why: Left) {
        if let Some((session, place)) = self.entering.remove(&number) {
            self.entrance.leave(session, place, why);
            // Whoever is first now looks at once.
            self.entrance_asked = None;
        }
    }

    fn come_again(&self, now: Micros) -> Decision {
        let intake = &self.snapshot.pool(self.pools[0].pool).intake;
        let room = intake.next_change(self.snapshot.config.sessions.active);
        let wait = room.map_or(Duration::ZERO, |room| room.saturating_duration_since(self.instant(now)));
        Decision::Refuse(Micros::from(retry_after_s(wait, COME_AGAIN_S_MAX)) * SECOND)
    }

    fn select(
        &mut self,
        session: Option<Session>,
        prompt: &Prompt,
        waits: bool,
        now: Instant,
    ) -> Result<Selection, NoReplica> {
        let call = replica::Call {
            session: session.map(|session| session.view),
            tokens: prompt.tokens,
            has_answer: prompt.has_answer(),
        };
        let home = call.session.and_then(|session| session.home);
        let home = home.and_then(|home| self.snapshot.home(home, &prompt.cuts, |_| false, now));
        select(
            &self.pools,
            call,
            home,
            |pool, into| self.snapshot.candidates(pool, &prompt.cuts, |_| false, now, into),
            |_| false,
            waits,
            &mut self.rng,
        )
    }

    /// Books a place and sends the call there.
    fn send(&mut self, number: usize, selection: Selection, session: Option<Session>, now: Instant) -> Option<usize> {
        let prompt = &self.reading.prompts[number].0;
        let config = &self.snapshot.config;
        let snapshot = Arc::clone(&self.snapshot);
        let live = snapshot.live(selection.replica);
        let cap = config.topology.pool(selection.pool.pool).max_in_flight;
        let booking = live.begin(cap, config.circuit_breaker, selection.last_resort, now)?;
        let begins = session.is_none_or(|session| !session.view.begun);
        let booking = booking.reading(self.snapshot.slot(selection.replica), prompt, begins);
        let booking = match self.asking(session, prompt) {
            Some(asking) => booking.of_session(asking, now),
            None => booking,
        };
        self.leave_entrance(number, Left::ForGood);
        let prefilling = Some(Prefilling::begin(live, u64::from(selection.uncached_tokens), now));
        let sent = Sent { booking, prefilling, selection, session, at: now, ttft: Duration::ZERO, cached: 0 };
        self.sent.insert(number, sent);
        Some(selection.replica.0)
    }

    fn refuse(&mut self, number: usize) -> Decision {
        if let Some(place) = self.places.remove(&number) {
            self.line.leave(place, false);
        }
        let wait = self.line.wait().unwrap_or_default();
        Decision::Refuse(Micros::from(retry_after_s(wait, RETRY_AFTER_S_MAX)) * SECOND)
    }

    fn wait(&mut self, ask: &Ask<'_>, turn: Turn, now: Instant) -> Decision {
        let (config, pool) = (&self.snapshot.config, self.pools[0].pool);
        let pool = config.topology.pool(pool);
        let Some(since) = ask.waits_since.filter(|_| self.places.contains_key(&ask.number)) else {
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
        let late = now.saturating_duration_since(self.instant(since)) >= pool.queue_timeout;
        if late || !self.places.contains_key(&ask.number) { self.refuse(ask.number) } else { Decision::Wait }
    }
}

impl Router for Nearpool<'_> {
    fn route(&mut self, ask: &Ask<'_>, _engines: &Engines<'_>, now: Micros) -> Decision {
        let (clock, now) = (now, self.instant(now));
        let reading = self.reading;
        let prompt = &reading.prompts[ask.number].0;
        let session = self.session(ask.number, now);
        let turn = if session.is_some_and(|session| session.view.begun) { Turn::UnderWay } else { Turn::New };
        let asking = self.asking(session, prompt);
        if let Some(asking) = asking
            && !self.is_admitted(Some(asking), now)
        {
            return self.stand(ask, asking, clock);
        }
        let selected = self.select(session, prompt, true, now).ok();
        // Whoever would overtake joins the line; he looks once for a place before he waits, and may find one there.
        let overtakes = ask.waits_since.is_none() && self.line.overtakes(turn);
        let joins = overtakes && selected.is_some_and(|selection| !selection.last_resort);
        if joins && let Decision::Refuse(after) = self.wait(ask, turn, now) {
            return Decision::Refuse(after);
        }
        let sent = selected.and_then(|selection| self.send(ask.number, selection, session, now));
        if let Some(replica) = sent {
            if let Some(place) = self.places.remove(&ask.number) {
                self.line.leave(place, true);
            }
            return Decision::Go(replica);
        }
        self.leave_entrance(ask.number, Left::ForGood);
        if joins { Decision::Wait } else { self.wait(ask, turn, now) }
    }

    fn next_in_line(&mut self, after: Option<usize>, now: Micros) -> Option<usize> {
        if after.is_some_and(|after| self.entering.contains_key(&after)) {
            self.entrance_asked = Some(now);
        }
        let most = self.snapshot.config.sessions.admission_wait.as_micros() as Micros;
        while let Some((came, number)) = self.came.front().copied()
            && (now - came >= most || !self.entering.contains_key(&number))
        {
            self.came.pop_front();
            if self.entering.contains_key(&number) {
                return Some(number);
            }
        }
        if self.entrance_asked != Some(now)
            && let Some(first) = self.entrance.first()
        {
            return Some(*first);
        }
        if let Some(place) = after.and_then(|after| self.places.get(&after)) {
            return self.line.pass(*place).copied();
        }
        self.displaced.pop().or_else(|| self.freed.take()).or_else(|| self.line.first().copied())
    }

    fn prefilled(&mut self, number: usize, _call: &Call, _replica: usize, cached: u32, now: Micros) {
        let now = self.instant(now);
        let Some(sent) = self.sent.get_mut(&number) else { return };
        if let Some(prefilling) = sent.prefilling.take() {
            prefilling.end(now);
        }
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
        // While nobody waits the line learns no pace.
        if !self.line.is_empty() {
            self.freed = self.line.freed(now).copied();
        }
    }
}

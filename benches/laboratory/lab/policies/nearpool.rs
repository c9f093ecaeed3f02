//! Nearpool's own: its configuration, roster and policies as they are, on the laboratory's clock. What is done here is
//! what the proxy does with them around a call, less the sockets.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context as Polling, Waker};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nearpool::domain::ask::Dialect;
use nearpool::domain::ids::{ClientKey, ModelIx};
use nearpool::domain::outcome::Outcome;
use nearpool::domain::prompt::Prompt;
use nearpool::policy::admission::Asking;
use nearpool::policy::client_rule::Asker;
use nearpool::policy::entrance::COME_AGAIN_S_MAX;
use nearpool::policy::pool::{self, PoolCandidate};
use nearpool::policy::queue::{Line, Place, RETRY_AFTER_S_MAX, Turn, retry_after_s};
use nearpool::policy::replica::{self, NoReplica};
use nearpool::policy::select::{Reason, Selection, select};
use nearpool::roster::{InFlight, Prefilling, Roster, Session, Snapshot, Waiting};
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
    /// Those who stand at the entrance, and since when: those who came first come first.
    entering: BTreeMap<(Micros, usize), Waiting>,
    /// When one of them looked last: at each tick one does, since the world ticks only while somebody is told to wait.
    looked: Option<Micros>,
    /// Those who had to leave the line and are yet to be told.
    displaced: Vec<usize>,
    /// Who was called when a place became free.
    freed: Option<usize>,
    sent: HashMap<usize, Sent>,
}

/// A call that is not answered yet.
struct Sent {
    booking: Box<InFlight>,
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
            entering: BTreeMap::new(),
            looked: None,
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
        intake.admits(asking, self.snapshot.admission_bound(pool, now), now)
    }

    /// Waits at the entrance.
    fn stand(&mut self, ask: &Ask<'_>, asking: Asking, now: Micros) -> Decision {
        let Some(since) = ask.waits_since else {
            let pool = self.snapshot.pool(self.pools[0].pool);
            let Some(waiting) = Waiting::enter([pool].into_iter(), asking) else { return self.come_again(now) };
            self.entering.insert((now, ask.number), waiting);
            return Decision::Wait;
        };
        let most = self.snapshot.config.sessions.admission_wait.as_micros() as Micros;
        let stands = |waiting: &mut Waiting| waiting.stands(&self.snapshot);
        if now - since < most && self.entering.get_mut(&(since, ask.number)).is_some_and(stands) {
            return Decision::Wait;
        }
        self.entering.remove(&(since, ask.number)).into_iter().for_each(drop);
        self.come_again(now)
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
        let prefilling = Some(Prefilling::begin(live, u64::from(selection.uncached_tokens), now));
        let sent = Sent { booking, prefilling, selection, session, at: now, ttft: Duration::ZERO, cached: 0 };
        self.sent.insert(number, sent);
        Some(selection.replica.0)
    }

    fn refuse(&mut self, number: usize, since: Option<Micros>) -> Decision {
        // Who was let in keeps its number until it has a place.
        let entering = since.and_then(|since| self.entering.remove(&(since, number)));
        entering.into_iter().for_each(drop);
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
                Err(_) => self.refuse(ask.number, ask.waits_since),
            };
        };
        let late = now.saturating_duration_since(self.instant(since)) >= pool.queue_timeout;
        if late || !self.places.contains_key(&ask.number) {
            self.refuse(ask.number, Some(since))
        } else {
            Decision::Wait
        }
    }
}

/// Whether it is to look for room.
fn was_called(waiting: &Waiting) -> bool {
    pin!(waiting.called()).poll(&mut Polling::from_waker(Waker::noop())).is_ready()
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
            let waited = ask.waits_since.and_then(|since| self.entering.remove(&(since, ask.number)));
            waited.into_iter().for_each(Waiting::placed);
            return Decision::Go(replica);
        }
        if joins { Decision::Wait } else { self.wait(ask, turn, now) }
    }

    fn next_in_line(&mut self, after: Option<usize>, now: Micros) -> Option<usize> {
        let sessions = &self.snapshot.config.sessions;
        let (most, at) = (sessions.admission_wait.as_micros() as Micros, self.instant(now));
        let late = self.entering.first_key_value().filter(|((since, _), _)| now - since >= most);
        let is_due = |waiting: &Waiting| waiting.next_change(sessions.active).is_some_and(|change| change < at);
        let called = |waiting: &Waiting| was_called(waiting) || is_due(waiting);
        let called = || self.entering.iter().find(|(_, waiting)| called(waiting));
        let one = || self.entering.first_key_value().filter(|_| self.looked != Some(now));
        if let Some(((_, number), _)) = late.or_else(called).or_else(one) {
            self.looked = Some(now);
            return Some(*number);
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

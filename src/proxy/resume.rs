//! Station 8, continued: a stream whose replica dies goes on from another one, and the client sees one answer.
//!
//! Each replica that had a part in the answer is a leg of it. When one breaks off, the request is put again, with what the
//! client was told so far, to another replica of the same served model: by the same walk that found the first one, so that
//! places, breakers and bounds hold as ever. What may be resumed and how often is decided in [`policy`]; the bytes are
//! made in [`wire::resume`](crate::wire::resume).

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::protocols::http::ServerSession;

use super::account::Account;
use super::apart::apart;
use super::attempt::{Began, UnderWay};
use super::body::{Kept, Received};
use super::booking::Booking;
use super::dispatch::{Dispatch, Reached};
use super::due::Due;
use super::edge::Edge;
use super::head::AnswerHead;
use super::headers::Template;
use super::relay::Relay;
use super::waiting::{self, KeepAlive, Unserved};
use crate::domain::ask::{Dialect, Endpoint};
use crate::domain::ids::{ClientKey, ReplicaIx};
use crate::domain::outcome::Outcome;
use crate::domain::prompt::Prompt;
use crate::domain::topology::Engine;
use crate::observe::recent::Kind;
use crate::policy::pool::PoolCandidate;
use crate::policy::resume::{self as policy, Broken, Obstacle, Rescue, Resumed};
use crate::policy::select::Selection;
use crate::roster::{Session, Snapshot};
use crate::wire::body::Edit;
use crate::wire::resume::{Asked, Told};

/// What makes of a request one for the rest of its answer, as each kind of engine wants to be asked.
pub(super) struct Rest(Vec<(Engine, Vec<Edit>)>);

impl Rest {
    pub(super) fn edits(&self, engine: Engine) -> Vec<Edit> {
        self.0.iter().find(|(own, _)| *own == engine).map(|(_, edits)| edits.clone()).unwrap_or_default()
    }
}

/// One replica's part of an answer.
pub(super) struct Leg {
    pub(super) under: Box<UnderWay>,
    pub(super) selection: Selection,
    pub(super) booking: Booking,
}

/// An answer under way, with all that it takes to go on elsewhere.
pub(super) struct Stream<'a> {
    pub(super) edge: &'a Edge,
    pub(super) snapshot: &'a Snapshot,
    pub(super) relay: Relay<'a>,
    pub(super) endpoint: Endpoint,
    pub(super) client: ClientKey,
    pub(super) session: Option<Session>,
    /// How long the prompt is; what it is made of was given back.
    pub(super) prompt_tokens: u32,
    /// In the order of the first walk.
    pub(super) pools: Vec<PoolCandidate>,
    pub(super) kept: Result<Kept<'a>, Obstacle>,
    /// What asks for the usage, where the client did not.
    pub(super) usage: Option<Edit>,
    pub(super) comments_every: Option<Duration>,
    /// Replicas that broke down over the request or broke off.
    pub(super) failed: Vec<ReplicaIx>,
    /// Replicas that broke down over the request, before their first event or after it.
    pub(super) breakdowns: usize,
    pub(super) resumes: u32,
}

/// What is done about a leg that broke off.
enum Next {
    /// Another replica goes on.
    Leg(Box<Leg>, Box<Told>),
    /// Nothing but these bytes is missing.
    End(Bytes),
    /// It ends with an error.
    Lost,
    /// The client went away meanwhile.
    Gone,
}

/// Keeps the request of a stream that could be resumed; else its bytes are given back.
pub(super) fn keep<'a>(
    received: Box<Received<'a>>,
    stream: bool,
    pools: &[PoolCandidate],
    edge: &'a Edge,
    snapshot: &Snapshot,
    dialect: Dialect,
) -> Result<Kept<'a>, Obstacle> {
    let continues = |pool: &PoolCandidate| policy::continues(snapshot.config.topology.pool(pool.pool).engine);
    if !stream || !Told::follows(dialect) {
        return Err(Obstacle::Dialect);
    }
    if !pools.iter().any(continues) {
        return Err(Obstacle::Engine);
    }
    received.keep(&snapshot.config.limits, &edge.buffered).ok_or(Obstacle::NotKept)
}

/// What a leg's engine says it used.
fn used(leg: &mut Leg, account: &mut Account<'_>) {
    let usage = leg.under.events.as_ref().and_then(|events| events.usage());
    account.used(usage);
    leg.booking.used(usage);
}

impl Stream<'_> {
    /// Sends the head, then everything, from as many replicas as it takes. An error means that the connection must be
    /// closed, not ended; what an engine itself reported as a failure is told and ended as the engine did.
    pub(super) async fn run(
        &mut self,
        session: &mut ServerSession,
        head: Box<AnswerHead>,
        mut leg: Box<Leg>,
        account: &mut Account<'_>,
    ) -> Result<Outcome, Outcome> {
        if let (Err(obstacle), Some(events)) = (&self.kept, &mut leg.under.events) {
            events.cannot_go_on(*obstacle);
        }
        let mut result = match apart(|| self.relay.open(session, head, account)).await {
            Ok(()) => self.relay.body(session, &mut leg.under, account).await,
            Err(outcome) => Err(outcome),
        };
        loop {
            let Err(outcome) = result else { return apart(|| self.whole(leg, session, account)).await };
            match apart(|| self.broke_off(leg, outcome, session, account)).await {
                ControlFlow::Continue((next, told)) => {
                    leg = next;
                    result = apart(|| self.relay.go_on(session, &mut leg.under, told, account)).await;
                }
                ControlFlow::Break(result) => return result,
            }
        }
    }

    /// The last leg has said everything.
    async fn whole(
        &mut self,
        mut leg: Box<Leg>,
        session: &mut ServerSession,
        account: &mut Account<'_>,
    ) -> Result<Outcome, Outcome> {
        used(&mut leg, account);
        self.learn(&leg, account);
        let failed = leg.under.events.as_ref().is_some_and(|events| events.failed());
        let outcome = if failed { Outcome::ServerError } else { Outcome::Ok };
        let under = self.ended(*leg, outcome);
        self.relay.close(session, Some(under.exchange), account).await?;
        Ok(outcome)
    }

    /// A leg broke off: goes on with another one and what the client was told, or ends the answer, as well as it can.
    async fn broke_off(
        &mut self,
        mut leg: Box<Leg>,
        outcome: Outcome,
        session: &mut ServerSession,
        account: &mut Account<'_>,
    ) -> ControlFlow<Result<Outcome, Outcome>, (Box<Leg>, Box<Told>)> {
        used(&mut leg, account);
        let replica = leg.selection.replica;
        let UnderWay { events, exchange, .. } = *self.ended(*leg, outcome);
        // A replica that is merely too late stops at once.
        drop(exchange);
        // What is no stream has no event either that could tell of its end.
        let Some(mut events) = events else { return ControlFlow::Break(Err(outcome)) };
        self.failed.push(replica);
        self.breakdowns += usize::from(outcome == Outcome::Cut);
        match self.rescue(outcome, events.take_told(), session, account).await {
            Next::Leg(next, told) => ControlFlow::Continue((next, told)),
            Next::End(end) => ControlFlow::Break(self.relay.last(session, end, account).await.map(|()| Outcome::Ok)),
            Next::Lost => {
                self.relay.broke_off(session, outcome, events.count()).await;
                ControlFlow::Break(Err(outcome))
            }
            Next::Gone => ControlFlow::Break(Err(Outcome::ClientGone)),
        }
    }

    /// Notes how fast the replica read the prompt, and how much of it was cached. A continuation's prompt is none of the usual ones.
    fn learn(&self, leg: &Leg, account: &Account<'_>) {
        if self.resumes > 0 {
            return;
        }
        if let Some(share) = account.cached_share() {
            leg.booking.cached(share);
        }
        if let Some(tokens) = account.computed_tokens() {
            self.snapshot.pool(leg.selection.pool.pool).pace().prefilled(tokens, leg.under.ttft);
        }
    }

    /// Books a leg's end.
    fn ended(&self, leg: Leg, outcome: Outcome) -> Box<UnderWay> {
        match outcome {
            // An engine's own report within a stream: it may be the client's fault (a prompt that is too long), which
            // only its words tell. So it speaks neither for nor against the replica.
            Outcome::ServerError => leg.booking.end_unjudged(outcome),
            _ => leg.booking.end(outcome, Instant::now()),
        }
        self.edge.count_attempt(self.snapshot, &leg.selection, outcome);
        leg.under
    }

    async fn rescue(
        &mut self,
        outcome: Outcome,
        told: Option<Box<Told>>,
        session: &mut ServerSession,
        account: &mut Account<'_>,
    ) -> Next {
        let unknown = if Told::follows(self.endpoint.dialect()) { Obstacle::Unread } else { Obstacle::Dialect };
        let obstacle = told.as_ref().map_or(Some(unknown), |told| told.obstacle());
        let finished = told.as_ref().is_some_and(|told| told.finished());
        let broken = Broken { outcome, finished, obstacle, resumes: self.resumes, breakdowns: self.breakdowns };
        match (policy::rescue(&broken), told) {
            (Rescue::NoCase, _) => Next::Lost,
            (Rescue::MakeUpEnd, Some(told)) => self.end(told, account),
            (Rescue::Continue, Some(told)) => self.go_on(outcome, told, session, account).await,
            (Rescue::Give(result), _) => self.lost(result, obstacle, account),
            (Rescue::MakeUpEnd | Rescue::Continue, None) => self.lost(Resumed::Unsafe, obstacle, account),
        }
    }

    fn lost(&self, result: Resumed, obstacle: Option<Obstacle>, account: &mut Account<'_>) -> Next {
        self.edge.metrics.resume(result);
        account.not_resumed = Some(obstacle.map_or(result.name(), Obstacle::name));
        Next::Lost
    }

    /// The closing words alone are missing.
    fn end(&self, mut told: Box<Told>, account: &mut Account<'_>) -> Next {
        let end = told.end(self.asked().usage);
        account.used(told.known_usage());
        self.edge.metrics.resume(Resumed::Ended);
        Next::End(end.into())
    }

    /// The request, read again: once for each break, since that is rare and to keep what was read is not free.
    fn asked(&self) -> Asked {
        let Ok(kept) = &self.kept else { return Asked::default() };
        Asked::read(self.endpoint.dialect(), &kept.body.slice(0..kept.body.len()))
    }

    /// Finds a replica that goes on where one ended so.
    async fn go_on(
        &mut self,
        outcome: Outcome,
        told: Box<Told>,
        session: &mut ServerSession,
        account: &mut Account<'_>,
    ) -> Next {
        let (pools, rest) = match self.rest(&told) {
            Ok(Some(rest)) => rest,
            Ok(None) => return self.end(told, account),
            Err(obstacle) => return self.lost(Resumed::Unsafe, Some(obstacle), account),
        };
        self.resumes += 1;
        let (attempts, from) = (account.attempts, self.failed.last().copied());
        let reached = match self.walk(&pools, &rest, session, account).await {
            Ok(reached) => reached,
            Err(Unserved::Gone) => return Next::Gone,
            Err(Unserved::Drained) => None,
        };
        if let Some(from) = from {
            let to = reached.as_ref().map(|leg| leg.selection.replica);
            account.failed_over(Kind::Resume, from, to, outcome.facts().label);
        }
        match reached {
            Some(leg) => {
                self.edge.remember(self.snapshot, self.session, &leg.selection);
                self.edge.metrics.resume(Resumed::Ok);
                account.resumes += 1;
                Next::Leg(Box::new(leg), told)
            }
            None if account.attempts == attempts => self.lost(Resumed::NoneLeft, None, account),
            None => self.lost(Resumed::Failed, None, account),
        }
    }

    /// The pools that may go on, and how their engines are asked to; `None` when no token is left to ask for.
    fn rest(&self, told: &Told) -> Result<Option<(Vec<PoolCandidate>, Rest)>, Obstacle> {
        let topology = &self.snapshot.config.topology;
        let served_as = |pool: &PoolCandidate| &topology.model(pool.model).served_as;
        let engine = |pool: &PoolCandidate| topology.pool(pool.pool).engine;
        let began_in = self.failed.last().map(|replica| topology.replica(*replica).pool);
        let Some(began) = self.pools.iter().find(|pool| Some(pool.pool) == began_in) else {
            return Err(Obstacle::Engine);
        };
        let mut pools: Vec<_> = self.pools.iter().filter(|pool| served_as(pool) == served_as(began)).copied().collect();
        let (asked, mut rest, mut result) = (self.asked(), Vec::new(), Err(Obstacle::Engine));
        for kind in [Engine::Vllm, Engine::Sglang, Engine::LlamaCpp] {
            if pools.iter().any(|pool| engine(pool) == kind) {
                match asked.continuation(told, kind) {
                    Ok(Some(edits)) => rest.push((kind, edits)),
                    Ok(None) => result = Ok(None),
                    Err(obstacle) => result = Err(obstacle),
                }
            }
        }
        pools.retain(|pool| rest.iter().any(|(kind, _)| *kind == engine(pool)));
        if rest.is_empty() { result } else { Ok(Some((pools, Rest(rest)))) }
    }

    /// The walk of stations 5 to 7 once more, while the client is watched and hears comments if it takes long.
    async fn walk(
        &mut self,
        pools: &[PoolCandidate],
        rest: &Rest,
        session: &mut ServerSession,
        account: &mut Account<'_>,
    ) -> Result<Option<Leg>, Unserved> {
        let Ok(kept) = &self.kept else { return Ok(None) };
        let Ok(template) = Template::of(
            session.req_header(),
            &self.snapshot.config.geo.stripped_headers,
            account.client,
            &account.request_id,
            &account.trace,
        ) else {
            return Ok(None);
        };
        let keep_alive = KeepAlive::new(self.comments_every, account, self.snapshot);
        let dispatch = Dispatch {
            edge: self.edge,
            snapshot: self.snapshot,
            endpoint: self.endpoint,
            stream: true,
            client: self.client,
            session: self.session,
            prompt: &Prompt { tokens: self.prompt_tokens, ..Prompt::default() },
            pools,
            body: &kept.body,
            model: &kept.model,
            usage: self.usage.as_ref(),
            continuing: Some(rest),
            failed: &self.failed,
            breakdowns: self.breakdowns,
            leaves_state: false,
            previous: None,
            template: &template,
            limit: Due::new(self.relay.total, Outcome::TotalTimeout),
        };
        // The head went down long ago.
        let mut comment_bytes = Some(0);
        let walk = Box::pin(dispatch.run(account));
        let walked = waiting::wait(session, keep_alive, &mut comment_bytes, &self.edge.ending, walk).await;
        account.going_down.sent(comment_bytes.unwrap_or_default());
        let Ok(Reached { began, selection, booking, broke_down }) = walked? else { return Ok(None) };
        self.breakdowns += broke_down.len();
        self.failed.extend(broke_down);
        let outcome = match began {
            Began::Under(_, under) if under.events.is_some() => return Ok(Some(Leg { under, selection, booking })),
            // No stream, although one was asked for.
            Began::Under(..) => Outcome::Garbage,
            Began::Whole(answer) => match answer.outcome() {
                Outcome::Ok => Outcome::Garbage,
                refused => refused,
            },
        };
        booking.end(outcome, Instant::now());
        self.edge.count_attempt(self.snapshot, &selection, outcome);
        Ok(None)
    }
}

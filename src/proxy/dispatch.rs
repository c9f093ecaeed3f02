//! Stations 4 to 7: choose a pool and a replica, send, and do so again elsewhere until something answers.

use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora::http::RequestHeader;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::account::Account;
use super::attempt::{Answer, Attempt, Began, Failed, Missed};
use super::booking::{Booking, Sent};
use super::due::Due;
use super::edge::Edge;
use super::headers::{Template, To};
use super::owner::Previous;
use super::place::NoPlace;
use super::reply::Refusal;
use super::resume::Rest;
use super::rewritten::{self, Rewritten};
use crate::domain::ask::Endpoint;
use crate::domain::ids::{ClientKey, ReplicaIx};
use crate::domain::outcome::Outcome;
use crate::domain::prompt::Prompt;
use crate::domain::topology::Credential;
use crate::domain::trace::TraceContext;
use crate::observe::recent::Kind;
use crate::observe::trace::AttemptKind;
use crate::policy::blame::{self, Verdict};
use crate::policy::pool::PoolCandidate;
use crate::policy::record;
use crate::policy::replica::NoReplica;
use crate::policy::retry::{self, Next, Tried};
use crate::policy::select::{Reason, Selection};
use crate::roster::{Doubt, Prefilling, Session, Snapshot};
use crate::wire::body::{Body, Edit};
use crate::wire::scan::Model;

/// Seconds after which a client may try again what failed. Short: the SDKs add a pause of their own.
const RETRY_AFTER_S: u32 = 1;

/// A request on its way to a replica.
pub(super) struct Dispatch<'a> {
    pub(super) edge: &'a Edge,
    pub(super) snapshot: &'a Snapshot,
    pub(super) endpoint: Endpoint,
    pub(super) stream: bool,
    /// Whose retries are paid for.
    pub(super) client: ClientKey,
    pub(super) session: Option<Session>,
    pub(super) prompt: &'a Prompt,
    /// Nearest first.
    pub(super) pools: &'a [PoolCandidate],
    pub(super) body: &'a Body,
    /// Where the model's name stands in the body.
    pub(super) model: &'a Model,
    /// What asks for the usage of a stream, where the client did not.
    pub(super) usage: Option<&'a Edit>,
    /// What makes of the body a request for the rest of an answer that broke off.
    pub(super) continuing: Option<&'a Rest>,
    /// The stored response that the call goes on with.
    pub(super) previous: Option<&'a Previous>,
    /// Replicas that failed the request before this walk.
    pub(super) failed: &'a [ReplicaIx],
    /// How many of them broke down over it.
    pub(super) breakdowns: usize,
    /// Whether an engine keeps something of this call, or goes on with it by itself.
    pub(super) leaves_state: bool,
    pub(super) template: &'a Template,
    /// When the request must have begun to be answered.
    pub(super) limit: Due,
}

/// An attempt that reached its first event, with its booking.
pub(super) struct Reached {
    pub(super) began: Began,
    pub(super) selection: Selection,
    pub(super) booking: Booking,
    /// Replicas that broke down in this walk. A request that is continued does not go to them again.
    pub(super) broke_down: Vec<ReplicaIx>,
}

/// Why nothing answered.
pub(super) enum Stopped {
    /// The edge answers.
    Refused(Refusal),
    /// The last replica's own answer is passed on.
    Answered(Outcome, Box<Answer>),
}

impl Dispatch<'_> {
    /// Tries replicas until one has something to show. Knows nothing of the client's connection: whoever waits for this
    /// watches the client, and drops it when the client goes away, which cancels the attempt at its replica.
    pub(super) async fn run(&self, account: &mut Account<'_>) -> Result<Reached, Stopped> {
        let mut doubts = Vec::new();
        let mut elsewhere = None;
        let result = self.walk(account, &mut doubts, &mut elsewhere).await;
        let result = result.map_err(|stopped| match (self.previous, elsewhere) {
            (Some(previous), elsewhere) => previous.ended(stopped, elsewhere),
            // Nobody did better: it was no fault of the replica's own.
            (None, Some(refusal)) => Stopped::Answered(Outcome::ClientError, refusal),
            (None, None) => stopped,
        });
        let ending = match &result {
            Ok(reached) => reached.began.outcome(),
            Err(Stopped::Refused(refusal)) => refusal.outcome,
            Err(Stopped::Answered(outcome, _)) => *outcome,
        };
        if !doubts.is_empty() {
            let (fault, now) = (Verdict::of_ending(ending).falls_on(doubts.len()), Instant::now());
            doubts.into_iter().for_each(|doubt| doubt.decide(fault, now));
        }
        result
    }

    /// `elsewhere` takes the last answer of a replica that does not hold the stored response which is asked for, or the last
    /// refusal that may be the replica's own fault.
    async fn walk(
        &self,
        account: &mut Account<'_>,
        doubts: &mut Vec<Doubt>,
        elsewhere: &mut Option<Box<Answer>>,
    ) -> Result<Reached, Stopped> {
        let mut rng = SmallRng::seed_from_u64(self.edge.next_seed());
        let params = self.snapshot.config.retry;
        let mut tried: Vec<Tried> = Vec::new();
        let mut last_answer = None;
        let mut body = Rewritten::default();
        loop {
            let placed = self.place(&tried, &mut rng, account).await;
            // One that merely does not hold a stored response, or refused, did not fail.
            if let Some(last) = tried.last().filter(|last| last.outcome != Outcome::ClientError) {
                let to = placed.as_ref().ok().map(|placed| placed.0.replica);
                account.failed_over(Kind::Retry, last.replica, to, last.outcome.facts().label);
            }
            let placed = match placed {
                Ok(placed) => placed,
                Err(no) => return Err(self.nothing_left(no, &tried, last_answer.take())),
            };
            account.selection = Some(placed.0);
            let placed = account.attempt(placed);
            account.leaving();
            let segments = body.for_pool(self, &placed.0.pool);
            let placed = self.sent(placed, self.kind(&tried), account);
            let raced = self.race(placed, segments, &tried, &mut rng, account).await;
            let before = tried.len();
            for (placed, failed) in raced.failed {
                tried.push(self.count_failure(placed, &failed, doubts));
                last_answer = failed.answer;
            }
            if let Some(((selection, mut booking), began)) = raced.began {
                account.selection = Some(selection);
                let began = match self.previous {
                    Some(previous) => previous.is_elsewhere(began, &tried),
                    None => self.refused(began, &selection, &tried),
                };
                let began = match began {
                    Ok(began) => began,
                    Err(answer) => {
                        *elsewhere = Some(answer);
                        self.give_up(&[], raced.dropped, selection.pool.pool);
                        tried.push(self.count_failure((selection, booking), &Outcome::ClientError.into(), doubts));
                        continue;
                    }
                };
                self.note_first(&selection, &mut booking, &began, account);
                self.give_up(&tried, raced.dropped, selection.pool.pool);
                let broke_down = tried.iter().filter(|tried| tried.broke_down()).map(|tried| tried.replica).collect();
                return Ok(Reached { began, selection, booking, broke_down });
            }
            let Some(last) = tried.last().copied() else { continue };
            match retry::after(&tried, self.breakdowns, params, &mut rng) {
                Next::Stop(outcome) => return Err(self.stopped(outcome, last_answer)),
                // What an engine does for a call that leaves state behind must not be done twice.
                Next::Again(_) if last.counts() && self.leaves_state => {
                    return Err(self.stopped(last.outcome, last_answer));
                }
                // Of two that raced, the later one may have been free.
                Next::Again(_) if tried[before..].iter().any(Tried::must_be_paid_for) && !self.pay() => {
                    self.edge.metrics.retry_denied();
                    // Those that could tell whose fault it was are not asked.
                    doubts.clear();
                    return Err(self.stopped(last.outcome, last_answer));
                }
                Next::Again(pause) => {
                    self.edge.metrics.retry(last.outcome);
                    self.pause(pause).await;
                }
            }
        }
    }

    /// Which kind of attempt the next one is.
    fn kind(&self, tried: &[Tried]) -> AttemptKind {
        match (self.continuing, tried) {
            (Some(_), _) => AttemptKind::Resume,
            (None, []) => AttemptKind::First,
            (None, _) => AttemptKind::Retry,
        }
    }

    /// A refusal that another replica may not share is kept back.
    fn refused(&self, began: Began, selection: &Selection, tried: &[Tried]) -> Result<Began, Box<Answer>> {
        match began {
            Began::Whole(answer) if answer.outcome() == Outcome::ClientError => {
                let credential = &self.snapshot.config.topology.pool(selection.pool.pool).credential;
                let keys_are_passed = *credential == Credential::Pass;
                match retry::may_be_the_replicas_own(answer.head.status.as_u16(), keys_are_passed, tried) {
                    true => Err(answer),
                    false => Ok(Began::Whole(answer)),
                }
            }
            began => Ok(began),
        }
    }

    /// Takes in that an answer has begun.
    fn note_first(&self, selection: &Selection, booking: &mut Booking, began: &Began, account: &mut Account<'_>) {
        if let (Some(model), Some(recording)) = (booking.began(began), account.trace.recording_mut()) {
            recording.response_model = Some(model);
        }
        match began.ttft() {
            Some(ttft) => {
                booking.first_event(selection.reason == Reason::Session, Instant::now());
                self.snapshot.pool(selection.pool.pool).pace().first_event(ttft);
            }
            None if began.outcome() == Outcome::Ok => booking.was_read(),
            // Refused: the prompt was looked at, but not read.
            None => {}
        }
    }

    /// Takes in that an attempt failed.
    fn count_failure(&self, (selection, mut booking): Sent, failed: &Failed, doubts: &mut Vec<Doubt>) -> Tried {
        self.rest(&selection, failed);
        booking.failed(failed);
        match failed.outcome {
            outcome if blame::in_doubt(outcome) => doubts.push(booking.end_in_doubt(outcome)),
            outcome => booking.end(outcome, Instant::now()),
        }
        self.edge.count_attempt(self.snapshot, &selection, failed.outcome);
        Tried { replica: selection.replica, pool: selection.pool.pool, outcome: failed.outcome }
    }

    /// Pays for one more attempt from the retry budget. To continue an answer is free: what was streamed would be lost.
    fn pay(&self) -> bool {
        self.continuing.is_some()
            || self.edge.roster.retries.take(self.client, self.snapshot.config.retry_budget, Instant::now())
    }

    /// Leaves a replica alone that is busy.
    fn rest(&self, selection: &Selection, failed: &Failed) {
        if failed.outcome != Outcome::Busy {
            return;
        }
        let credential = &self.snapshot.config.topology.pool(selection.pool.pool).credential;
        if let Some(rest) = record::rest_of(failed.retry_after, credential) {
            self.snapshot.live(selection.replica).rest(rest, Instant::now());
        }
    }

    /// One attempt, at the pace that its pool is known for.
    pub(super) async fn attempt(
        &self,
        selection: Selection,
        segments: &[Bytes],
        span: Option<TraceContext>,
    ) -> Result<Began, Failed> {
        let (pool, live) = (self.snapshot.pool(selection.pool.pool), self.snapshot.live(selection.replica));
        let timeouts = &self.snapshot.config.timeouts;
        let body_bytes = segments.iter().map(Bytes::len).sum();
        // Its own prompt counts as cold, since even a warm session's cache may be gone.
        let (tokens_per_s, now) = (pool.tokens_per_s(), Instant::now());
        let unread = live.unread_tokens(tokens_per_s, now) + u64::from(self.prompt.tokens);
        let base = if self.stream { timeouts.first_byte } else { timeouts.answer };
        let attempt = Attempt {
            upstream: &self.edge.upstream,
            live,
            segments,
            dialect: self.endpoint.dialect(),
            stream: self.stream,
            unasked: rewritten::unasked(self, &selection.pool),
            timeouts,
            patience: pool.pace().deadline(base, unread),
            limit: self.limit,
        };
        let to_read = u64::from(selection.uncached_tokens);
        let _prefilling = match self.stream {
            true => Prefilling::begin(live, to_read, now),
            false => Prefilling::begin_unseen(live, to_read, tokens_per_s, now),
        };
        let mut fresh = false;
        loop {
            // A header that was taken in and cannot be sent on is not the replica's fault, but there is nothing to send.
            let head = self.head(&selection, body_bytes, span).map_err(|_| Outcome::BadHeader)?;
            match attempt.run(Box::new(head), fresh).await {
                Ok(began) => return Ok(began),
                Err(Missed::Failed(failed)) => return Err(failed),
                Err(Missed::Stale) if fresh => return Err(Outcome::Reset.into()),
                Err(Missed::Stale) => fresh = true,
            }
        }
    }

    fn head(
        &self,
        selection: &Selection,
        body_bytes: usize,
        span: Option<TraceContext>,
    ) -> pingora::Result<RequestHeader> {
        let live = self.snapshot.live(selection.replica);
        self.template.head(&To {
            path: self.endpoint.path(),
            base_path: &live.address().base_path,
            authority: live.authority(),
            credential: &self.snapshot.config.topology.pool(selection.pool.pool).credential,
            body_bytes,
            span,
        })
    }

    async fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            tokio::time::sleep_until((tokio::time::Instant::now() + pause).min(self.limit.at)).await;
        }
    }

    fn nothing_left(&self, no: NoPlace, tried: &[Tried], last_answer: Option<Box<Answer>>) -> Stopped {
        // Where a stored response is asked for, the answer of a replica that failed says more than that of one without it.
        let failed = tried.iter().rev().find(|tried| tried.outcome != Outcome::ClientError);
        match (failed.or(tried.last()), no) {
            (_, NoPlace::Late(outcome)) => self.stopped(outcome, last_answer),
            (_, NoPlace::No(no @ NoReplica::Full)) if self.previous.is_some() => self.no_place(no),
            (Some(last), NoPlace::No(_) | NoPlace::KeptOut) => self.stopped(last.outcome, last_answer),
            (None, NoPlace::No(no)) => self.no_place(no),
            (None, NoPlace::KeptOut) => self.kept_out(),
        }
    }

    fn stopped(&self, outcome: Outcome, last_answer: Option<Box<Answer>>) -> Stopped {
        match last_answer {
            Some(answer) if matches!(outcome, Outcome::ServerError | Outcome::Busy) => {
                Stopped::Answered(outcome, answer)
            }
            _ => Stopped::Refused(Refusal::new(outcome, explain(outcome)).retry_after_s(RETRY_AFTER_S)),
        }
    }
}

/// What a client is told when every attempt failed. Which replica it was stands in the receipt.
fn explain(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::ConnectFailed => "no replica could be connected to",
        Outcome::ConnectTimeout => "no replica could be connected to in time",
        Outcome::FirstByteTimeout => "no replica began to answer in time",
        Outcome::AnswerTimeout => "no replica answered in time",
        Outcome::TotalTimeout => "the request took longer than it may",
        Outcome::ClientDeadline => "the deadline that the request itself states has passed",
        Outcome::Crashed => "two replicas broke down over this request; it is not tried a third time",
        Outcome::Busy => "the replicas are busy",
        Outcome::BadHeader => "a header cannot be sent on",
        _ => "the replicas that were tried failed",
    }
}

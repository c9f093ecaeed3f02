//! One request's way through the stations, in order. Start reading here.
//!
//! | station | done in |
//! |---|---|
//! | 1 accept | [`accept`], [`body`] |
//! | 2 identify | [`identify`], [`route`] |
//! | 3 resolve, 4 choose pool, 5 choose replica | `policy`, walked here and in [`dispatch`](super::dispatch) |
//! | 6 send, 7 retry | [`attempt`](super::attempt), [`dispatch`](super::dispatch) |
//! | 8 stream, observe | [`relay`], [`resume`] |
//! | 9 account | [`account`](super::account) |

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{StatusCode, Version};
use pingora::protocols::http::ServerSession;

use super::accept;
use super::account::Account;
use super::apart::apart;
use super::attempt::{Answer, Began};
use super::body::{self, Received};
use super::booking::Booking;
use super::dispatch::{Dispatch, Reached, Stopped};
use super::due;
use super::edge::Edge;
use super::head::{self, AnswerHead};
use super::headers::Template;
use super::identify::{self, Caller};
use super::owner::Chain;
use super::relay::{self, Relay};
use super::reply::{self, Refusal};
use super::resume::{self, Leg, Stream};
use super::route::{self, Target};
use super::trace::Trace;
use super::waiting::{self, KeepAlive, Unserved};
use super::whereabouts;
use crate::domain::ask::{Dialect, Endpoint};
use crate::domain::ids::ModelIx;
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::prompt::{Prompt, estimated_tokens};
use crate::domain::whereabouts::Whereabouts;
use crate::observe::metrics::ResidencyResult;
use crate::policy::client::Client;
use crate::policy::client_rule::Asker;
use crate::policy::pool::{self, PoolCandidate};
use crate::policy::region::Standings;
use crate::policy::select::Selection;
use crate::policy::{resolve, steer};
use crate::roster::{Identity, Session, Snapshot};
use crate::wire::body::Edit;
use crate::wire::include_usage;
use crate::wire::late_error::late_error_event;
use crate::wire::prompt;
use crate::wire::reply::{Failure, error_event, models};
use crate::wire::scan::Model;

/// How a request ended that was not answered to its end here.
enum Ended {
    /// The edge answers.
    Refused(Refusal),
    /// The connection must be closed: the client is gone, or the answer broke off.
    Broken(Outcome),
}

impl From<Refusal> for Ended {
    fn from(refusal: Refusal) -> Ended {
        match refusal.outcome {
            Outcome::ClientGone => Ended::Broken(Outcome::ClientGone),
            _ => Ended::Refused(refusal),
        }
    }
}

/// One request with all that it holds: one snapshot to its end, and its account.
struct Serving<'a, 's> {
    edge: &'a Edge,
    snapshot: &'a Snapshot,
    session: &'s mut ServerSession,
    account: &'s mut Account<'a>,
    /// Whether the client's stream was opened before there was an answer: no status can follow then.
    opened: bool,
    /// Whether residency leaves out some regions.
    kept_in: bool,
}

impl Edge {
    /// Serves one request whose head has been read. False when its connection, which is closed then, broke off.
    pub(super) async fn serve(&self, session: &mut ServerSession) -> bool {
        let open = self.request();
        let snapshot = self.roster.snapshot();
        if self.roster.closes_connections() {
            session.set_keepalive(None);
        }
        // A client that stops reading must not hold a replica's place for ever.
        session.set_write_timeout(Some(snapshot.config.timeouts.idle));
        // Boxed, so that what leads to a stream under way stands close together.
        let mut account = Box::new(Account::open(self, Arc::clone(&snapshot)));
        account.http = if session.req_header().version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
        // Whether the edge is well is asked all day, and nobody wants to trace that.
        if session.req_header().uri.path() != route::HEALTH {
            account.trace = Trace::begin(&self.spans, &snapshot, session);
        }
        let mut serving =
            Serving { edge: self, snapshot: &snapshot, session, account: &mut account, opened: false, kept_in: false };
        let mut result = serving.answer().await;
        if let Err(Ended::Refused(refusal)) = result {
            result = apart(|| serving.refuse(&refusal)).await;
        }
        if let Err(Ended::Broken(outcome)) = result {
            account.outcome = outcome;
        }
        drop(account);
        drop(open);
        if result.is_err() {
            // Closed in mid-answer, so that nobody takes what came for the whole.
            apart(|| session.shutdown()).await;
        }
        result.is_ok()
    }

    /// Answers a request whose head could not be read, and closes.
    pub(super) async fn refuse_unread(&self, mut session: ServerSession, refusal: Refusal) {
        let mut account = Account::open(self, self.roster.snapshot());
        account.outcome = refusal.outcome;
        account.status = refusal.outcome.facts().status;
        account.request_id = identify::new_request_id(self.next_seed());
        account.client = whereabouts::peer(&session).map(|(address, _)| address);
        session.set_keepalive(None);
        // `METHOD PATH, Host: HOST`, as far as they could be read: the head itself may be missing, and must not be asked for.
        let summary = session.request_summary();
        let path = summary.split([' ', ',', '?']).nth(1).unwrap_or_default();
        let dialect = Endpoint::of_path(path).map_or(Dialect::Chat, |endpoint| endpoint.dialect());
        let (head, body) = reply::refusal_answer(dialect, &refusal, &account.receipt());
        // The framework's own error path: it works without a request, which there is none of here.
        if session.write_error_response(*head::outgoing(head), body).await.is_err() {
            account.outcome = Outcome::ClientGone;
        }
        drop(account);
        accept::linger(session).await;
    }
}

/// An answer that goes down as it comes.
struct Under<'a> {
    head: Box<AnswerHead>,
    leg: Box<Leg>,
    stream: Box<Stream<'a>>,
}

impl<'a> Serving<'a, '_> {
    /// All stations. The account's outcome is set by whoever knows it.
    async fn answer(&mut self) -> Result<(), Ended> {
        // An answer that goes down for minutes does not hold what it took to get it.
        let Some(mut under) = apart(|| self.reach()).await? else { return Ok(()) };
        let result = under.stream.run(self.session, under.head, under.leg, self.account).await;
        self.account.outcome = result.unwrap_or_else(|outcome| outcome);
        result.map(|_| ()).map_err(Ended::Broken)
    }

    /// Stations 1 to 3, then the rest, up to an answer's first event. `None` when all has been said.
    async fn reach(&mut self) -> Result<Option<Under<'a>>, Ended> {
        // 1 accept: the head.
        let config = &self.snapshot.config;
        self.account.request_id = identify::request_id(self.session, || self.edge.next_seed());
        // Known before anything is refused, so that the log says who asked for what.
        let (who, target) =
            (whereabouts::client(self.session, config), Target::of_path(self.session.req_header().uri.path()));
        (self.account.client, self.account.path) = (who.address, target.map_or("", Target::path));
        accept::check_head(self.session, &config.limits)?;

        // 2 identify.
        let endpoint = match route::route(self.session, target)? {
            Target::Endpoint(endpoint) => endpoint,
            Target::Health => return self.say("text/plain", "ok\n".into()).await.map(|()| None),
            Target::Models => {
                let anthropic = self.session.req_header().headers.contains_key("anthropic-version");
                let entries: Vec<_> = config.topology.models.iter().map(route::entry).collect();
                return self.say("application/json", models(anthropic, &entries)).await.map(|()| None);
            }
        };
        self.account.endpoint = Some(endpoint);
        let caller = identify::caller(self.session, config, who)?;

        // 1 accept: the body.
        let received = body::receive(self.session, &config.limits, &self.edge.buffered).await?;
        let now = Instant::now();
        self.account.received(received.body.len(), now);
        self.forward(endpoint, &caller, received, now).await
    }

    /// Stations 3 to 8: the request is here whole.
    async fn forward(
        &mut self,
        endpoint: Endpoint,
        caller: &Caller,
        received: Box<Received<'a>>,
        now: Instant,
    ) -> Result<Option<Under<'a>>, Ended> {
        let config = &self.snapshot.config;
        let total = tokio::time::Instant::from_std(now) + config.timeouts.total;
        let (model, served) = self.resolve(caller, &received)?;
        let chain = Chain::of(self.edge, self.snapshot, caller.client, endpoint, &received);
        let pools = self.pools(endpoint, caller, &model.name, served, chain.as_ref())?;
        let (prompt, session) = self.read(endpoint, caller, &received, served, now);

        // 5 choose a replica, 6 send, 7 retry.
        self.earn(caller, now);
        let template = Template::of(
            self.session.req_header(),
            &config.geo.stripped_headers,
            caller.who.address,
            &self.account.request_id,
            &self.account.trace,
        )
        .map_err(|_| Refusal::new(Outcome::BadHeader, "a header cannot be sent on"))?;
        let usage = self.unasked_usage(endpoint, &received);
        let dispatch = Dispatch {
            edge: self.edge,
            snapshot: self.snapshot,
            endpoint,
            stream: self.account.stream,
            client: caller.client,
            session,
            prompt: &prompt,
            pools: &pools,
            body: &received.body,
            model,
            usage: usage.as_ref(),
            continuing: None,
            previous: chain.as_ref().and_then(|chain| chain.previous.as_ref()),
            failed: &[],
            breakdowns: 0,
            leaves_state: endpoint == Endpoint::Responses && received.scan.leaves_state,
            template: &template,
            limit: due::limit(total, caller.patience, self.comments_every(endpoint), now.into()),
        };
        let reached = match self.walk(&dispatch, endpoint).await? {
            Ok(reached) => reached,
            Err(Stopped::Refused(refusal)) => return Err(self.within_residency(refusal).into()),
            Err(Stopped::Answered(outcome, answer)) => {
                return self.pass_on(outcome, answer, endpoint.dialect(), total).await.map(|()| None);
            }
        };
        // A replica that refused it has read nothing: as home, the session's every call would be refused there.
        if reached.began.outcome() == Outcome::Ok {
            self.edge.remember(self.snapshot, session, &reached.selection);
        }
        if let Some(chain) = chain {
            chain.remember(self.edge, self.snapshot, &reached);
        }

        // 8 stream, observe. Where nothing is tried again from here on, the body's bytes are given back before the answer,
        // which may be long, goes down.
        let dialect = endpoint.dialect();
        let kept = resume::keep(received, self.account.stream, &pools, self.edge, self.snapshot, dialect);
        let Reached { began, selection, booking, broke_down } = reached;
        let (head, under) = match began {
            Began::Under(head, under) => (head, under),
            Began::Whole(answer) => {
                drop(kept);
                return self.pass_whole(answer, &selection, booking, dialect, total).await.map(|()| None);
            }
        };
        let stream = Stream {
            edge: self.edge,
            snapshot: self.snapshot,
            relay: Relay { edge: self.edge, timeouts: &config.timeouts, dialect, opened: self.opened, total },
            endpoint,
            client: caller.client,
            session,
            prompt_tokens: prompt.tokens,
            pools,
            kept,
            usage,
            comments_every: self.comments_every(endpoint),
            breakdowns: broke_down.len(),
            failed: broke_down,
            resumes: 0,
        };
        let leg = Box::new(Leg { under, selection, booking });
        Ok(Some(Under { head, leg, stream: Box::new(stream) }))
    }

    /// Station 3: the model as the body names it, and the one that is meant.
    fn resolve<'r>(&mut self, caller: &Caller, received: &'r Received<'_>) -> Result<(&'r Model, ModelIx), Refusal> {
        let Some(model) = &received.scan.model else {
            let message = "the body names no model; send {\"model\": \"…\"}";
            return Err(Refusal::new(Outcome::MissingModel, message).param("model"));
        };
        self.account.model_asked = Some(model.name.clone());
        self.account.stream = received.scan.stream.unwrap_or(false);
        let resolved = resolve::resolve(&self.snapshot.config.topology, &model.name, caller.step.as_deref())
            .map_err(|unknown| route::unknown_model(&model.name, &unknown))?;
        self.account.resolved(resolved.model, resolved.step);
        Ok((model, resolved.model))
    }

    /// Station 4: the pools that may serve the call. Geography decides where a session starts, the cache where it stays.
    fn pools(
        &mut self,
        endpoint: Endpoint,
        caller: &Caller,
        asked: &str,
        model: ModelIx,
        chain: Option<&Chain>,
    ) -> Result<Vec<PoolCandidate>, Refusal> {
        let standings = self.standings(caller);
        let pools = pool::order(&self.snapshot.config.topology, model, endpoint.dialect(), &standings)
            .map_err(|no| self.within_residency(route::no_pool(no, asked, endpoint)))?;
        match chain {
            Some(chain) => chain.narrow(self.snapshot, pools),
            None => Ok(pools),
        }
    }

    /// What the choice of a replica needs of the call's words: its prompt, and its session where it tells one. What
    /// generates nothing has neither a cache nor a session to come back to, and of its prompt only the length counts.
    fn read(
        &mut self,
        endpoint: Endpoint,
        caller: &Caller,
        received: &Received<'_>,
        model: ModelIx,
        now: Instant,
    ) -> (Prompt, Option<Session>) {
        if !endpoint.generates() {
            return (Prompt { tokens: estimated_tokens(received.body.len()), ..Prompt::default() }, None);
        }
        let config = &self.snapshot.config;
        let names = caller.names.with(&received.scan.fields);
        let prompt = prompt::read(&received.scan, &received.body, endpoint);
        let roster = &self.edge.roster;
        let Some(identity) = Identity::of(&caller.scope, &names, &prompt) else { return (prompt, None) };
        if let Some(key) = roster.session_key(&identity, config.sessions.interaction_idle, now) {
            self.account.of_session(key, &roster.interactions);
        }
        let at_model = identity.at_model(&config.topology.model(model).name);
        let session = roster.sessions.find(&at_model, config.sessions.idle, now);
        (prompt, session)
    }

    /// Stations 5 to 7, while the client is watched and its stream kept alive.
    async fn walk(&mut self, dispatch: &Dispatch<'_>, endpoint: Endpoint) -> Result<Result<Reached, Stopped>, Ended> {
        let keep_alive = KeepAlive::new(self.comments_every(endpoint), self.account, self.snapshot);
        let mut opened = None;
        // Boxed, so that a stream under way does not hold what its attempts took.
        let walk = Box::pin(dispatch.run(self.account));
        let walked = waiting::wait(self.session, keep_alive, &mut opened, &self.edge.ending, walk).await;
        if let Some(comment_bytes) = opened {
            self.opened = true;
            self.account.status = StatusCode::OK.as_u16();
            self.account.going_down.sent(comment_bytes);
        }
        walked.map_err(|unserved| match unserved {
            Unserved::Gone => Ended::Broken(Outcome::ClientGone),
            Unserved::Drained => {
                Refusal::new(Outcome::Drained, "this edge is about to end; try again").retry_after_s(1).into()
            }
        })
    }

    /// What asks for the usage of a stream whose client did not.
    fn unasked_usage(&self, endpoint: Endpoint, received: &Received<'_>) -> Option<Edit> {
        let told_if_asked = matches!(endpoint.dialect(), Dialect::Chat | Dialect::Completions);
        (self.account.stream && told_if_asked).then(|| include_usage::ask(&received.scan, &received.body))?
    }

    /// What a request earns its client: part of a retry, and of a hedge.
    fn earn(&self, caller: &Caller, now: Instant) {
        let (roster, config) = (&self.edge.roster, &self.snapshot.config);
        roster.retries.request(caller.client, caller.sdk_retry, config.retry_budget, now);
        if config.hedging.enabled {
            roster.hedges.request(caller.client, false, config.hedging.budget, now);
        }
    }

    /// The pause after which a client that waits for its stream is sent a comment, and then again.
    fn comments_every(&self, endpoint: Endpoint) -> Option<Duration> {
        let every = self.snapshot.config.timeouts.keep_alive_comment;
        (self.account.stream && endpoint.generates() && !every.is_zero()).then_some(every)
    }

    /// Books the end of an attempt that answered whole, and passes the answer on.
    async fn pass_whole(
        &mut self,
        answer: Box<Answer>,
        selection: &Selection,
        mut booking: Booking,
        dialect: Dialect,
        total: tokio::time::Instant,
    ) -> Result<(), Ended> {
        let outcome = answer.outcome();
        // The replica has done its part: a client that is slow to take the answer holds no place there.
        let usage = answer.usage();
        self.account.used(usage);
        booking.used(usage);
        if let Some(share) = self.account.cached_share() {
            booking.cached(share);
        }
        booking.end(outcome, Instant::now());
        self.edge.count_attempt(self.snapshot, selection, outcome);
        self.pass_on(outcome, answer, dialect, total).await
    }

    /// Ends a stream that was opened before there was an answer: with this event, and the receipt behind it.
    async fn break_off(&mut self, event: Bytes) {
        let last = Bytes::from([event, self.account.receipt().comment()].concat());
        self.account.going_down.sent(last.len());
        relay::break_off(self.session, last).await;
    }

    /// Passes a whole answer on. Where the client waits in an open stream, it is told by an event what went wrong.
    async fn pass_on(
        &mut self,
        outcome: Outcome,
        answer: Box<Answer>,
        dialect: Dialect,
        total: tokio::time::Instant,
    ) -> Result<(), Ended> {
        if !self.opened {
            let passed = relay::whole(self.session, answer, self.account, total).await;
            self.account.outcome = passed.map_or_else(|outcome| outcome, |()| outcome);
            return passed.map_err(Ended::Broken);
        }
        let event = match outcome {
            Outcome::Ok => {
                error_event(dialect, &Failure::new(Outcome::Garbage, "the replica answered without streaming"), 0)
            }
            _ => late_error_event(dialect, outcome, &answer.body.concat(), 0),
        };
        self.break_off(event).await;
        Err(Ended::Broken(if outcome == Outcome::Ok { Outcome::Garbage } else { outcome }))
    }

    /// How the regions stand to this client.
    fn standings(&mut self, caller: &Caller) -> Standings {
        let whereabouts = self.whereabouts(&caller.who);
        let standings = self.snapshot.standings(Asker { whereabouts: &whereabouts, keys: &caller.keys });
        self.kept_in = standings.leave_out();
        if self.kept_in {
            self.edge.metrics.residency(ResidencyResult::Kept);
        }
        standings
    }

    /// A client whose calls may go to some regions only is told so when nobody there can serve: other regions might, and
    /// never will.
    fn within_residency(&self, refusal: Refusal) -> Refusal {
        let facts = refusal.outcome.facts();
        let failed = refusal.outcome == Outcome::NoReplica || facts.blame == Blame::Upstream && facts.status >= 500;
        let refusal = match self.kept_in && failed {
            true => {
                let message = format!("{}, in the regions where this client's calls may go", refusal.message);
                Refusal { outcome: Outcome::ResidencyUnavailable, message, ..refusal }
            }
            false => refusal,
        };
        if refusal.outcome == Outcome::ResidencyUnavailable {
            self.edge.metrics.residency(ResidencyResult::Refused);
        }
        refusal
    }

    /// Where the client is, as far as trusted peers and the database know, and whether another edge is nearer.
    fn whereabouts(&mut self, who: &Client) -> Whereabouts {
        let (at, looked_up) = whereabouts::find(&self.session.req_header().headers, who, self.snapshot);
        if let Some(result) = looked_up {
            self.edge.metrics.geo_lookup(result);
        }
        (self.account.country, self.account.place, self.account.place_source) = (at.country, at.place, Some(at.source));
        self.account.nearer_edge = steer::nearer_edge(&self.snapshot.config.topology, &at);
        if self.account.nearer_edge.is_some() {
            self.edge.metrics.misdirected(at.country);
        }
        at
    }

    /// Sends an answer of the edge's own.
    async fn say(&mut self, content_type: &'static str, body: Bytes) -> Result<(), Ended> {
        let gone = |_| Ended::Broken(Outcome::ClientGone);
        let head = reply::whole_head(StatusCode::OK, content_type, body.len(), &self.account.receipt());
        let bytes = reply::send(self.session, head, body).await.map_err(gone)?;
        self.account.status = 200;
        self.account.outcome = Outcome::Ok;
        self.account.going_down.sent(bytes);
        Ok(())
    }

    async fn refuse(&mut self, refusal: &Refusal) -> Result<(), Ended> {
        self.account.outcome = refusal.outcome;
        self.account.status = refusal.outcome.facts().status;
        let dialect = route::dialect_of(self.session);
        if self.opened {
            self.account.status = StatusCode::OK.as_u16();
            let event = error_event(dialect, &Failure::new(refusal.outcome, &refusal.message), 0);
            self.break_off(event).await;
            return Err(Ended::Broken(refusal.outcome));
        }
        match reply::refuse(self.session, dialect, refusal, &self.account.receipt()).await {
            Ok(bytes) => {
                self.account.going_down.sent(bytes);
                Ok(())
            }
            Err(_) => Err(Ended::Broken(refusal.outcome)),
        }
    }
}

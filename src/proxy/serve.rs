//! One request's way through the stations, in order. Start reading here.
//!
//! | station | done in |
//! |---|---|
//! | 1 accept | [`accept`], [`body`] |
//! | 2 identify | [`identify`] |
//! | 3 resolve, 4 choose pool, 5 choose replica | `policy`, walked here and in [`dispatch`](super::dispatch) |
//! | 6 send, 7 retry | [`attempt`](super::attempt), [`dispatch`](super::dispatch) |
//! | 8 stream, observe | [`relay`] |
//! | 9 account | [`account`](super::account) |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{Method, Version};
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;

use super::accept::{self, Reusable};
use super::account::Account;
use super::attempt::Began;
use super::body::{self, Buffered};
use super::dispatch::{Dispatch, Reached, Stopped};
use super::identify;
use super::relay::{self, Relay};
use super::reply::{self, Receipt, Refusal};
use super::upstream::Upstream;
use crate::domain::ask::{Dialect, Endpoint};
use crate::domain::outcome::Outcome;
use crate::domain::place::Place;
use crate::domain::topology::Model;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::{GeoResult, Metrics};
use crate::policy::pool::{self, NoPool};
use crate::policy::replica::SessionView;
use crate::policy::select::Selection;
use crate::policy::{affinity, limits, resolve};
use crate::roster::{Roster, Snapshot};
use crate::wire::reply::{Failure, ModelEntry, error_body, models};

/// Streams of one client connection at a time; h2's own default is no bound.
const H2_STREAMS_MAX: u32 = 100;

/// Flow-control window of one stream: a megabyte of body in a few round trips and not in sixteen.
const H2_STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Flow-control window of one connection.
const H2_CONNECTION_WINDOW_BYTES: u32 = 4 << 20;

/// What an edge is made of.
pub struct Parts {
    /// The replicas, the sessions and the configuration of now.
    pub roster: Arc<Roster>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Where requests are logged.
    pub log: Arc<AccessLog>,
    /// Any number; seeds what is random about choices.
    pub seed: u64,
}

/// The data plane of one edge.
pub struct Edge {
    roster: Arc<Roster>,
    metrics: Arc<Metrics>,
    log: Arc<AccessLog>,
    seed: AtomicU64,
    upstream: Upstream,
    buffered: Buffered,
    open: AtomicUsize,
    connections: AtomicUsize,
    options: HttpServerOptions,
}

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

impl Edge {
    /// An edge of these parts.
    pub fn new(parts: Parts) -> Edge {
        let Parts { roster, metrics, log, seed } = parts;
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(roster.snapshot().config.limits.keepalive_timeout);
        Edge {
            roster,
            metrics,
            log,
            seed: AtomicU64::new(seed),
            upstream: Upstream::new(),
            buffered: Buffered::default(),
            open: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            options,
        }
    }

    /// Requests that are being served now.
    pub fn requests_open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections of clients that are open now. A request's last bytes may still be on their way out of its connection
    /// when the request has ended.
    pub fn connections_open(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(super) fn connections(&self) -> &AtomicUsize {
        &self.connections
    }

    /// Serves one request whose head has been read. `None` when its connection cannot carry another.
    pub(super) async fn serve(&self, mut session: ServerSession) -> Option<Reusable> {
        let open = Open::one_more(&self.open);
        let snapshot = self.roster.snapshot();
        if self.roster.closes_connections() {
            session.set_keepalive(None);
        }
        // A client that stops reading must not hold a replica's place for ever.
        session.set_write_timeout(Some(snapshot.config.timeouts.idle));
        let mut account = Account::open(&self.metrics, &self.log, Arc::clone(&snapshot));
        account.http = if session.req_header().version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" };
        let dialect = dialect_of(&session);
        let result = match self.answer(&mut session, &snapshot, &mut account).await {
            Err(Ended::Refused(refusal)) => self.refuse(&mut session, dialect, refusal, &snapshot, &mut account).await,
            other => other,
        };
        if let Err(Ended::Broken(outcome)) = result {
            account.outcome = outcome;
        }
        drop(account);
        drop(open);
        match result {
            Ok(()) => Reusable::after(session).await,
            Err(_) => {
                // Closed in mid-answer, so that nobody takes what came for the whole.
                session.shutdown().await;
                None
            }
        }
    }

    /// The stations. The account's outcome is set by whoever knows it.
    async fn answer(
        &self,
        session: &mut ServerSession,
        snapshot: &Snapshot,
        account: &mut Account<'_>,
    ) -> Result<(), Ended> {
        // 1 accept: the head.
        let config = &snapshot.config;
        account.request_id = request_id(session, || self.next_seed());
        accept::check_head(session, &config.limits)?;
        let endpoint = match route(session)? {
            Target::Endpoint(endpoint) => endpoint,
            Target::Health => return self.say(session, "text/plain", "ok\n".into(), snapshot, account).await,
            Target::Models => {
                let anthropic = session.req_header().headers.contains_key("anthropic-version");
                let entries: Vec<_> = config.topology.models.iter().map(entry).collect();
                return self.say(session, "application/json", models(anthropic, &entries), snapshot, account).await;
            }
        };
        account.endpoint = Some(endpoint);

        // 2 identify.
        let caller = identify::caller(session, config)?;
        account.client = caller.address;

        // 1 accept: the body.
        let received = body::receive(session, &config.limits, &self.buffered).await?;
        account.received(received.body.len());
        let total = tokio::time::Instant::now() + config.timeouts.total;
        let Some(model) = &received.scan.model else {
            let message = "the body names no model; send {\"model\": \"…\"}";
            return Err(Refusal::new(Outcome::MissingModel, message).param("model").into());
        };
        account.model_asked = Some(model.name.clone());
        account.stream = received.scan.stream.unwrap_or(false);

        // 3 resolve.
        let resolved = resolve::resolve(&config.topology, &model.name, caller.step.as_deref())
            .map_err(|unknown| unknown_model(&model.name, &unknown))?;
        account.model = Some(resolved.model);
        account.step = Some(resolved.step.to_owned());

        // 4 choose pools: geography decides where a session starts, the cache where it stays.
        let place = self.place(snapshot, account);
        let pools = pool::order(&config.topology, resolved.model, endpoint.dialect(), place)
            .map_err(|no| no_pool(no, &model.name, endpoint))?;
        account.session = caller.session.filter(|_| endpoint.generates());
        let key = account.session.map(|key| affinity::for_model(key, &config.topology.model(resolved.model).name));
        let view = key
            .map(|key| SessionView { key, home: self.roster.sessions.home(key, config.sessions.idle, Instant::now()) });

        // 5 choose a replica, 6 send, 7 retry.
        let dispatch = Dispatch {
            edge: self,
            snapshot,
            endpoint,
            stream: account.stream,
            session: view,
            pools: &pools,
            received: &received,
            model,
            total,
        };
        let reached = match dispatch.run(session, account).await {
            Ok(reached) => reached,
            Err(Stopped::Gone) => return Err(Ended::Broken(Outcome::ClientGone)),
            Err(Stopped::Refused(refusal)) => return Err(refusal.into()),
            Err(Stopped::Answered(outcome, answer)) => {
                account.outcome = outcome;
                account.status = answer.head.status.as_u16();
                let receipt = receipt(snapshot, account);
                let bytes = relay::whole(session, answer, &receipt).await.map_err(Ended::Broken)?;
                account.sent(bytes);
                return Ok(());
            }
        };
        if let (Some(key), false) = (key, reached.selection.pool.fallback) {
            let replica = snapshot.live(reached.selection.replica).key();
            self.roster.sessions.remember(key, replica, Instant::now());
        }

        // Nothing is tried again from here on: the body's bytes are given back before the answer, which may be long, goes down.
        drop(received);

        // 8 stream, observe.
        self.relay(session, snapshot, account, reached, total, endpoint.dialect()).await
    }

    async fn relay(
        &self,
        session: &mut ServerSession,
        snapshot: &Snapshot,
        account: &mut Account<'_>,
        reached: Reached,
        total: tokio::time::Instant,
        dialect: Dialect,
    ) -> Result<(), Ended> {
        let Reached { began, selection, booking } = reached;
        let result = match began {
            Began::Whole(answer) => {
                account.status = answer.head.status.as_u16();
                let outcome = Outcome::of_status(account.status, false);
                account.used(answer.usage());
                let sent = relay::whole(session, answer, &receipt(snapshot, account)).await;
                sent.map(|bytes| account.sent(bytes)).map(|()| outcome)
            }
            Began::Under(under) => {
                account.status = under.head.status.as_u16();
                let relay = Relay { upstream: &self.upstream, timeouts: &snapshot.config.timeouts, dialect, total };
                relay.run(session, *under, snapshot, account).await.map(|()| Outcome::Ok)
            }
        };
        let outcome = result.unwrap_or_else(|outcome| outcome);
        account.outcome = outcome;
        booking.end(outcome, Instant::now());
        self.count_attempt(snapshot, &selection, outcome);
        result.map(|_| ()).map_err(Ended::Broken)
    }

    /// The client's place, as far as the database knows it.
    fn place(&self, snapshot: &Snapshot, account: &mut Account<'_>) -> Option<Place> {
        let address = account.client?;
        let (place, result) = match snapshot.geo.lookup(address) {
            Ok(Some(located)) => {
                account.country = located.country;
                (located.place, located.place.map_or(GeoResult::Unknown, |_| GeoResult::Found))
            }
            Ok(None) if !identify::is_public(address) => (None, GeoResult::Private),
            Ok(None) => (None, GeoResult::Unknown),
            Err(_) => (None, GeoResult::Error),
        };
        self.metrics.geo_lookup(result);
        place
    }

    /// Sends an answer of the edge's own.
    async fn say(
        &self,
        session: &mut ServerSession,
        content_type: &'static str,
        body: bytes::Bytes,
        snapshot: &Snapshot,
        account: &mut Account<'_>,
    ) -> Result<(), Ended> {
        let gone = |_| Ended::Broken(Outcome::ClientGone);
        let head = ResponseHeader::build_no_case(200, Some(8)).map_err(gone)?;
        let bytes = reply::send(session, head, content_type, body, &receipt(snapshot, account)).await.map_err(gone)?;
        account.status = 200;
        account.outcome = Outcome::Ok;
        account.sent(bytes);
        Ok(())
    }

    async fn refuse(
        &self,
        session: &mut ServerSession,
        dialect: Dialect,
        refusal: Refusal,
        snapshot: &Snapshot,
        account: &mut Account<'_>,
    ) -> Result<(), Ended> {
        account.outcome = refusal.outcome;
        account.status = refusal.outcome.facts().status;
        match reply::refuse(session, dialect, &refusal, &receipt(snapshot, account)).await {
            Ok(bytes) => {
                account.sent(bytes);
                Ok(())
            }
            Err(_) => Err(Ended::Broken(refusal.outcome)),
        }
    }

    /// Answers a request whose head could not be read, and closes.
    pub(super) async fn refuse_unread(&self, mut session: ServerSession, refusal: Refusal) {
        let snapshot = self.roster.snapshot();
        let mut account = Account::open(&self.metrics, &self.log, Arc::clone(&snapshot));
        account.outcome = refusal.outcome;
        account.status = refusal.outcome.facts().status;
        account.request_id = new_request_id(self.next_seed());
        session.set_keepalive(None);
        // `METHOD PATH, Host: HOST`, as far as they could be read: the head itself may be missing, and must not be asked for.
        let summary = session.request_summary();
        let path = summary.split([' ', ',', '?']).nth(1).unwrap_or_default();
        let dialect = Endpoint::of_path(path).map_or(Dialect::Chat, |endpoint| endpoint.dialect());
        let failure =
            Failure { request_id: Some(&account.request_id), ..Failure::new(refusal.outcome, &refusal.message) };
        let body = error_body(dialect, &failure);
        if let Ok(mut head) = ResponseHeader::build_no_case(account.status, Some(8)) {
            receipt(&snapshot, &account).write(&mut head);
            let sized = head.insert_header("content-type", "application/json").is_ok()
                && head.set_content_length(body.len()).is_ok();
            // The framework's own error path: it works without a request, which there is none of here.
            if sized && session.write_error_response(head, body).await.is_err() {
                account.outcome = Outcome::ClientGone;
            }
        }
        drop(account);
        accept::linger(session).await;
    }

    pub(super) fn count_attempt(&self, snapshot: &Snapshot, selection: &Selection, outcome: Outcome) {
        let topology = &snapshot.config.topology;
        let (pool, replica) = (topology.pool(selection.pool.pool), topology.replica(selection.replica));
        self.metrics.attempt(&pool.name, &replica.name, outcome);
    }

    pub(super) fn limits(&self) -> limits::Params {
        self.roster.snapshot().config.limits
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub(super) fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// A different number for each request. Spread by a multiplication, so that neighbours share no bits.
    pub(super) fn next_seed(&self) -> u64 {
        // Odd constant of the golden ratio (Knuth, Fibonacci hashing).
        self.seed.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Counts a request while it is served.
struct Open<'a>(&'a AtomicUsize);

impl<'a> Open<'a> {
    fn one_more(count: &'a AtomicUsize) -> Open<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Open(count)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// HTTP/2: the framework accepts the streams and calls this once for each.
#[async_trait]
impl HttpServerApp for Edge {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        self.serve(session).await;
        None
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(H2_STREAMS_MAX)
            .initial_window_size(H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES);
        Some(options)
    }
}

/// Where a request is going.
enum Target {
    Endpoint(Endpoint),
    Health,
    Models,
}

fn route(session: &ServerSession) -> Result<Target, Refusal> {
    let head = session.req_header();
    let (method, path) = (&head.method, head.uri.path());
    let (target, allow) = match path {
        "/health" => (Target::Health, "GET, HEAD"),
        "/v1/models" => (Target::Models, "GET, HEAD"),
        _ => match Endpoint::of_path(path) {
            Some(endpoint) => (Target::Endpoint(endpoint), "POST"),
            None => {
                let message = format!("there is no {}; see GET /v1/models for what is served", printable(path));
                return Err(Refusal::new(Outcome::NotFound, message));
            }
        },
    };
    let allowed = match allow {
        "POST" => *method == Method::POST,
        _ => *method == Method::GET || *method == Method::HEAD,
    };
    if allowed {
        return Ok(target);
    }
    let message = format!("{path} takes {allow}, not {}", printable(method.as_str()));
    Err(Refusal::new(Outcome::MethodNotAllowed, message).allow(allow))
}

/// The dialect of a refusal: by the path, and where that does not tell, by the header that Anthropic's clients send.
fn dialect_of(session: &ServerSession) -> Dialect {
    let head = session.req_header();
    match Endpoint::of_path(head.uri.path()) {
        Some(endpoint) => endpoint.dialect(),
        None if head.headers.contains_key("anthropic-version") => Dialect::Messages,
        None => Dialect::Chat,
    }
}

fn entry(model: &Model) -> ModelEntry<'_> {
    ModelEntry { id: &model.name, created_s: 0, context_tokens: model.context_tokens }
}

/// A client's own text in an error message: short, and nothing that a terminal would act on.
fn printable(text: &str) -> String {
    text.chars().take(100).filter(|c| !c.is_control()).collect()
}

fn unknown_model(asked: &str, unknown: &resolve::UnknownModel<'_>) -> Refusal {
    let known = unknown.known.join(", ");
    let message = if unknown.auto_without_step {
        format!("the model 'auto' needs a known step in the header x-agent-step; known names: {known}")
    } else {
        format!("the model '{}' does not exist; known names: {known}", printable(asked))
    };
    Refusal::new(Outcome::ModelNotFound, message).param("model")
}

fn no_pool(no: NoPool, asked: &str, endpoint: Endpoint) -> Refusal {
    let asked = printable(asked);
    match no {
        NoPool::NotServed => Refusal::new(Outcome::NoReplica, format!("no pool serves the model '{asked}'")),
        NoPool::Dialect => {
            let message = format!("no engine of the model '{asked}' serves {}", endpoint.path());
            Refusal::new(Outcome::DialectNotServed, message).param("model")
        }
    }
}

pub(super) fn receipt<'a>(snapshot: &'a Snapshot, account: &'a Account<'_>) -> Receipt<'a> {
    Receipt {
        request_id: &account.request_id,
        edge: &snapshot.config.topology.edge,
        route: account.selection.as_ref().map(|selection| reply::Route::of(&snapshot.config.topology, selection)),
        attempts: account.attempts,
    }
}

/// Longest request id that is kept.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The client's request id if it can be kept, else a new one.
fn request_id(session: &ServerSession, seed: impl FnOnce() -> u64) -> String {
    let given = session.req_header().headers.get(identify::REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) => id.to_owned(),
        _ => new_request_id(seed()),
    }
}

fn new_request_id(seed: u64) -> String {
    let time = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_micros() as u64;
    format!("{time:016x}{seed:016x}")
}

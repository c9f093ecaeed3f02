//! Station 9, account: every request is counted once and logged once, also when it is cancelled.
//!
//! The account is opened when a request's head is read, filled in on its way, and closed by `Drop`, so that no path out
//! of the request can forget it.

mod span;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::cost::Cost;
use super::edge::Edge;
use super::place::Placed;
use super::reply::{Receipt, Route};
use super::trace::Trace;
use crate::domain::ask::{Dialect, Endpoint};
use crate::domain::code::Code;
use crate::domain::ids::{ModelIx, RegionIx, ReplicaIx, SessionKey};
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::place::Place;
use crate::domain::whereabouts::Source;
use crate::observe::access_log::{AccessLine, AccessLog, Times, Tokens};
use crate::observe::interaction;
use crate::observe::metrics::{CacheState, Metrics, RequestEnd, StreamMetrics};
use crate::observe::recent::{At, Call, Failover, Feed, Kind};
use crate::observe::timestamp::Timestamp;
use crate::policy::interaction::CallEnd;
use crate::policy::resolve::NO_STEP;
use crate::policy::select::{Reason, Selection};
use crate::roster::{Closed, Interactions, Member, Snapshot};
use crate::wire::usage::Usage;

/// A prompt counts as warm from this share of cached tokens on: an agent's next call repeats nearly all of its last one,
/// while a shared system prompt alone is a small part of it.
const WARM_SHARE: f64 = 0.5;

/// What is known of one request.
pub(super) struct Account<'a> {
    metrics: &'a Metrics,
    log: &'a AccessLog,
    feed: &'a Feed,
    snapshot: Arc<Snapshot>,
    arrived: SystemTime,
    start: Instant,
    /// When the request had been read whole.
    received: Option<Instant>,
    pub(super) request_id: String,
    pub(super) trace: Trace,
    pub(super) client: Option<IpAddr>,
    pub(super) country: Option<Code>,
    pub(super) place: Option<Place>,
    pub(super) place_source: Option<Source>,
    /// The region whose edge is nearer to the client.
    pub(super) nearer_edge: Option<RegionIx>,
    pub(super) http: &'static str,
    pub(super) endpoint: Option<Endpoint>,
    /// What was asked for, if that is one of our paths.
    pub(super) path: &'static str,
    pub(super) model_asked: Option<String>,
    /// The model asked for, resolved.
    model: Option<ModelIx>,
    /// The step as a label.
    step: Option<String>,
    pub(super) stream: bool,
    pub(super) session: Option<SessionKey>,
    /// Where the last attempt went.
    pub(super) selection: Option<Selection>,
    pub(super) attempts: u32,
    /// How often another replica went on with the answer.
    pub(super) resumes: u32,
    /// Why none did, of an answer that broke off.
    pub(super) not_resumed: Option<&'static str>,
    pub(super) status: u16,
    pub(super) bytes_in: usize,
    /// How it ended; until it is said, the client is taken to have gone.
    pub(super) outcome: Outcome,
    overhead: Option<Duration>,
    /// Time in line for a place.
    queued: Duration,
    ttft: Option<Duration>,
    pub(super) going_down: GoingDown,
    usage: Option<Usage>,
    cost: Cost,
    /// Its place in its session's interaction.
    member: Option<Member<'a>>,
}

/// What changes with every event. A stream under way takes it to what else an event asks for, and gives it back at its end.
#[derive(Default)]
#[repr(C)]
pub(super) struct GoingDown {
    /// Of the answer's body.
    bytes: usize,
    last_event: Option<Instant>,
    metrics: Option<StreamMetrics>,
}

impl GoingDown {
    /// A later event of a stream has come.
    pub(super) fn event(&mut self, now: Instant) {
        if let (Some(last), Some(metrics)) = (self.last_event.replace(now), &mut self.metrics) {
            metrics.gap((now - last).as_secs_f32());
        }
    }

    /// So many bytes of the answer's body went down.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.bytes += bytes;
    }
}

impl<'a> Account<'a> {
    pub(super) fn open(edge: &'a Edge, snapshot: Arc<Snapshot>) -> Account<'a> {
        Account {
            metrics: &edge.metrics,
            log: &edge.log,
            feed: &edge.feed,
            snapshot,
            arrived: SystemTime::now(),
            start: Instant::now(),
            received: None,
            request_id: String::new(),
            trace: Trace::Off,
            client: None,
            country: None,
            place: None,
            place_source: None,
            nearer_edge: None,
            http: "HTTP/1.1",
            endpoint: None,
            path: "",
            model_asked: None,
            model: None,
            step: None,
            stream: false,
            session: None,
            selection: None,
            attempts: 0,
            resumes: 0,
            not_resumed: None,
            status: 0,
            bytes_in: 0,
            outcome: Outcome::ClientGone,
            overhead: None,
            queued: Duration::ZERO,
            ttft: None,
            going_down: GoingDown::default(),
            usage: None,
            cost: Cost::default(),
            member: None,
        }
    }

    /// The call belongs to this session, and to its interaction.
    pub(super) fn of_session(&mut self, session: SessionKey, interactions: &'a Interactions) {
        self.session = Some(session);
        let (member, full) = interactions.begin(session, self.start);
        self.member = Some(member);
        self.closed(full);
    }

    /// An attempt has its place: it counts, and is paid for.
    pub(super) fn attempt(&mut self, placed: Placed) -> Placed {
        self.attempts += 1;
        self.cost.attempt(&self.snapshot.config.topology, placed)
    }

    /// The request has been read whole; TTFT and the edge's own time count from here.
    pub(super) fn received(&mut self, bytes: usize, now: Instant) {
        self.bytes_in = bytes;
        self.received = Some(now);
    }

    /// The request is an agent's call of this model, at this step.
    pub(super) fn resolved(&mut self, model: ModelIx, step: &str) {
        (self.model, self.step) = (Some(model), Some(step.to_owned()));
        self.feed.began();
    }

    /// The request waited so long for a place.
    pub(super) fn queued(&mut self, waited: Duration) {
        self.queued += waited;
    }

    /// The first attempt is about to leave.
    pub(super) fn leaving(&mut self) {
        if let (None, Some(received)) = (self.overhead, self.received) {
            let overhead = received.elapsed().saturating_sub(self.queued);
            self.overhead = Some(overhead);
            self.metrics.overhead(overhead.as_secs_f64());
        }
    }

    /// The first event is there: the commit point.
    pub(super) fn first_event(&mut self) {
        let now = Instant::now();
        self.ttft = self.received.map(|received| now - received);
        self.going_down.last_event = Some(now);
        if let Some(route) = self.route() {
            self.going_down.metrics = Some(self.metrics.stream_metrics(route.pool, route.model));
        }
    }

    /// An attempt ended so at one replica, and the request goes on at another one; at none if there is none left.
    pub(super) fn failed_over(&self, kind: Kind, from: ReplicaIx, to: Option<ReplicaIx>, cause: &'static str) {
        let topology = &self.snapshot.config.topology;
        let at = |replica: ReplicaIx| {
            let replica = topology.replica(replica);
            let pool = topology.pool(replica.pool);
            let region = topology.region(pool.region).name.clone();
            At { region, pool: pool.name.clone(), replica: replica.name.clone() }
        };
        self.feed.failed_over(Failover {
            ts: Timestamp(SystemTime::now()),
            request_id: self.request_id.clone(),
            model: self.model_name().unwrap_or_default().to_owned(),
            kind,
            from: at(from),
            to: to.map(at),
            cause,
        });
    }

    /// What the engine says it used.
    pub(super) fn used(&mut self, usage: Option<Usage>) {
        self.usage = usage.or(self.usage.take());
    }

    /// Tokens of the prompt that the replica computed, as far as it can be told: an engine that does not tell what it had
    /// cached computed all of a session's first prompt, but for what sessions share.
    pub(super) fn computed_tokens(&self) -> Option<u64> {
        let usage = self.usage.as_ref()?;
        let warm = self.selection.is_none_or(|selection| selection.reason == Reason::Session);
        match usage.cached_tokens {
            Some(cached) => Some(usage.prompt_tokens.saturating_sub(cached)),
            None if warm => None,
            None => Some(usage.prompt_tokens),
        }
    }

    /// Which part of the prompt was cached, if the engine tells.
    pub(super) fn cached_share(&self) -> Option<f64> {
        let usage = self.usage.as_ref().filter(|usage| usage.prompt_tokens > 0)?;
        Some(usage.cached_tokens? as f64 / usage.prompt_tokens as f64)
    }

    /// The names of where it went.
    pub(super) fn route(&self) -> Option<Route<'_>> {
        self.selection.as_ref().map(|selection| Route::of(&self.snapshot.config.topology, selection))
    }

    /// What the answer says of how it came about.
    pub(super) fn receipt(&self) -> Receipt<'_> {
        let edge = &self.snapshot.config.topology.edge;
        let nearest_edge = self.nearest_edge(&self.snapshot);
        Receipt { request_id: &self.request_id, edge, nearest_edge, route: self.route(), attempts: Some(self.attempts) }
    }

    /// The edge that is nearer to the client, by this snapshot, which must be the request's own.
    pub(super) fn nearest_edge<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s str> {
        snapshot.config.topology.region(self.nearer_edge?).edge.as_deref()
    }

    /// The model that answered, else the one asked for.
    fn model_name(&self) -> Option<&str> {
        let answered = self.selection.map(|selection| selection.pool.model);
        answered.or(self.model).map(|model| self.snapshot.config.topology.model(model).name.as_str())
    }

    /// What it cost, once its attempts have ended.
    fn cost_dollars(&self) -> Option<f64> {
        self.cost.dollars(&self.snapshot.config.topology, self.selection.as_ref(), self.usage.as_ref())
    }

    /// Adds it to its session's interaction.
    fn leave_interaction(&mut self, cost_dollars: Option<f64>, now: Instant) {
        let Some(member) = self.member.take() else { return };
        let tokens = self.usage.map_or((0, 0, 0), |usage| {
            (usage.prompt_tokens, usage.cached_tokens.unwrap_or(0), usage.completion_tokens)
        });
        let call = CallEnd { outcome: self.outcome, cost_dollars, tokens };
        self.closed(member.end(&call, now));
    }

    fn closed(&self, interaction: Option<Closed>) {
        if let Some(closed) = interaction {
            interaction::tell(&closed, self.metrics, self.log, Instant::now());
        }
    }

    fn count(&self, cost_dollars: Option<f64>, now: Instant) {
        let model = self.model_name().unwrap_or("");
        let route = self.route();
        self.metrics.request(&RequestEnd {
            region: route.map_or("", |route| route.region),
            pool: route.map_or("", |route| route.pool),
            model,
            step: self.step.as_deref().unwrap_or(NO_STEP),
            outcome: self.outcome,
            reason: route.map(|route| route.reason),
            seconds: (now - self.start).as_secs_f64(),
            cost_dollars,
        });
        let ttft = self.ttft.map(|ttft| (cache_state(self.usage, self.resumes > 0), ttft));
        self.feed(route, ttft, now);
        let Some(route) = route else { return };
        if let Some((cache, ttft)) = ttft {
            self.metrics.ttft(route.pool, model, cache, ttft.as_secs_f64());
        }
        if let Some(usage) = &self.usage {
            let (prompt, completion) = (Some(usage.prompt_tokens), Some(usage.completion_tokens));
            self.metrics.tokens(route.pool, prompt, usage.cached_tokens, completion);
        }
    }

    /// Tells it to whoever watches, if it was an agent's call.
    fn feed(&self, route: Option<Route<'_>>, ttft: Option<(CacheState, Duration)>, now: Instant) {
        if self.model.is_none() {
            return;
        }
        let call = Call {
            pool: route.map(|route| route.pool),
            // As the alerts have it: what a client does to itself is no fault of the edge's to be looked into.
            ok: matches!(self.outcome.facts().blame, Blame::None | Blame::Client),
            country: self.country,
            place: self.place,
            ttft,
            tokens: self.usage.map(|usage| (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)),
        };
        self.feed.ended(&call, now);
    }

    fn line(&self, cost_dollars: Option<f64>, now: Instant) -> AccessLine<'_> {
        let (route, total) = (self.route(), now - self.start);
        let usage = self.usage.as_ref();
        let receive = self.received.map(|received| received - self.start);
        AccessLine {
            ts: Timestamp(self.arrived),
            request_id: &self.request_id,
            trace_id: self.trace.recording().map(|recording| recording.trace_id.as_str()),
            edge: &self.snapshot.config.topology.edge,
            client: self.client,
            country: self.country.as_ref().map(Code::as_str),
            place_source: self.place_source.map(Source::name),
            http: self.http,
            endpoint: self.path,
            dialect: self.endpoint.map(|endpoint| endpoint.dialect()).map(Dialect::name),
            model_asked: self.model_asked.as_deref(),
            model: self.model_name(),
            step: self.step.as_deref(),
            stream: self.stream,
            session: self.session,
            region: route.map(|route| route.region),
            pool: route.map(|route| route.pool),
            replica: route.map(|route| route.replica),
            reason: route.map(|route| route.reason),
            attempts: self.attempts,
            resumes: self.resumes,
            not_resumed: self.not_resumed,
            status: self.status,
            outcome: self.outcome,
            bytes_in: self.bytes_in as u64,
            bytes_out: self.going_down.bytes as u64,
            ms: Times {
                receive,
                overhead: self.overhead,
                queue: (!self.queued.is_zero()).then_some(self.queued),
                ttft: self.ttft,
                stream: receive.zip(self.ttft).map(|(receive, ttft)| total.saturating_sub(receive + ttft)),
                total: Some(total),
            },
            tokens: usage.map(Tokens::from).unwrap_or_default(),
            cost_dollars,
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if self.status == 0 && self.outcome == Outcome::ClientGone {
            // Nothing went down; 499 is the custom of the field.
            self.status = self.outcome.facts().status;
        }
        let (cost_dollars, now) = (self.cost_dollars(), Instant::now());
        // Whoever reads its line finds it counted, its last events too.
        drop(self.going_down.metrics.take());
        self.count(cost_dollars, now);
        self.log.request(&self.line(cost_dollars, now));
        self.record_span();
        // Its line is there before the interaction's.
        self.leave_interaction(cost_dollars, now);
    }
}

impl From<&Usage> for Tokens {
    fn from(usage: &Usage) -> Tokens {
        Tokens {
            prompt: Some(usage.prompt_tokens),
            cached: usage.cached_tokens,
            completion: Some(usage.completion_tokens),
        }
    }
}

/// Whether the replica whose first event came had the prompt in its cache. Of an answer that another one ended, that one's
/// cache is told of, and not the first one's.
fn cache_state(usage: Option<Usage>, resumed: bool) -> CacheState {
    match usage.map(|usage| (usage.prompt_tokens, usage.cached_tokens)) {
        None | Some((0, _) | (_, None)) => CacheState::Unknown,
        Some(_) if resumed => CacheState::Unknown,
        Some((prompt, Some(cached))) if cached as f64 >= prompt as f64 * WARM_SHARE => CacheState::Warm,
        Some(_) => CacheState::Cold,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttft_is_warm_or_cold_where_the_engine_says_so_of_the_replica_that_it_is_of() {
        for (prompt_tokens, cached_tokens, resumed, expected) in [
            (100, Some(50), false, CacheState::Warm),
            (100, Some(100), false, CacheState::Warm),
            (100, Some(120), false, CacheState::Warm),
            (100, Some(49), false, CacheState::Cold),
            (100, Some(0), false, CacheState::Cold),
            (100, None, false, CacheState::Unknown),
            (0, Some(0), false, CacheState::Unknown),
            (100, Some(100), true, CacheState::Unknown),
            (100, Some(0), true, CacheState::Unknown),
        ] {
            let usage = Usage { prompt_tokens, cached_tokens, completion_tokens: 1 };
            assert_eq!(cache_state(Some(usage), resumed), expected, "{usage:?} {resumed}");
        }
        assert_eq!(cache_state(None, false), CacheState::Unknown);
    }
}

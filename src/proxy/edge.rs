//! What one edge is made of, shared by all of its requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use async_trait::async_trait;
use pingora::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;

use super::accept::Reusable;
use super::body::Buffered;
use super::ending::Ending;
use super::upstream::Upstream;
use crate::domain::outcome::Outcome;
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::Metrics;
use crate::observe::recent::Feed;
use crate::observe::trace::Spans;
use crate::policy::limits;
use crate::policy::select::Selection;
use crate::roster::{Roster, Session, Snapshot};

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
    /// What people who watch are told.
    pub feed: Arc<Feed>,
    /// Where spans of requests go.
    pub spans: Arc<Spans>,
    /// Any number; seeds what is random about choices.
    pub seed: u64,
    /// Threads that serve; each keeps connections to replicas of its own.
    pub threads: usize,
}

/// The data plane of one edge.
pub struct Edge {
    pub(super) roster: Arc<Roster>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) log: Arc<AccessLog>,
    pub(super) feed: Arc<Feed>,
    pub(super) spans: Arc<Spans>,
    seed: AtomicU64,
    pub(super) upstream: Upstream,
    pub(super) buffered: Buffered,
    pub(super) ending: Ending,
    open: AtomicUsize,
    connections: AtomicUsize,
    options: HttpServerOptions,
}

impl Edge {
    /// An edge of these parts.
    pub fn new(parts: Parts) -> Edge {
        let Parts { roster, metrics, log, feed, spans, seed, threads } = parts;
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(roster.snapshot().config.limits.keepalive_timeout);
        Edge {
            roster,
            metrics,
            log,
            feed,
            spans,
            seed: AtomicU64::new(seed),
            upstream: Upstream::new(threads),
            buffered: Buffered::default(),
            ending: Ending::default(),
            open: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            options,
        }
    }

    /// Requests that are being served now.
    pub fn requests_open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends the requests that are open: each is told so, in its answer's head or by an event.
    pub fn end_requests(&self) {
        self.ending.reach();
    }

    /// Counts a connection in until the guard is dropped, unless `max` are open.
    pub(super) fn connection(&self, max: usize) -> Option<Counted<'_>> {
        Counted::below(&self.connections, max)
    }

    /// Counts a request in until the guard is dropped.
    pub(super) fn request(&self) -> Counted<'_> {
        Counted::one_more(&self.open)
    }

    /// Remembers a session, and where it is warm now. A fallback changes the home of none that has one: the session
    /// returns to its own model.
    pub(super) fn remember(&self, snapshot: &Snapshot, session: Option<Session>, selection: &Selection) {
        let Some(session) = session else { return };
        let live = snapshot.live(selection.replica);
        let keeps = session.view.home.filter(|_| selection.pool.fallback);
        self.roster.sessions.remember(session, keeps.unwrap_or(live.key()), Instant::now());
        if keeps.is_some() {
            return;
        }
        let home = session.view.home.filter(|home| session.view.begun && *home != live.key());
        if let Some(left) = home.and_then(|home| snapshot.by_key(home)).map(|home| snapshot.live(home).pool())
            && !Arc::ptr_eq(left, live.pool())
        {
            left.intake.left(session.key);
        }
    }

    pub(super) fn count_attempt(&self, snapshot: &Snapshot, selection: &Selection, outcome: Outcome) {
        let topology = &snapshot.config.topology;
        let (pool, replica) = (topology.pool(selection.pool.pool), topology.replica(selection.replica));
        self.metrics.attempt(&pool.name, &replica.name, outcome);
    }

    pub(super) fn limits(&self) -> limits::Params {
        self.roster.snapshot().config.limits
    }

    /// A different number for each request. Spread by a multiplication, so that neighbours share no bits.
    pub(super) fn next_seed(&self) -> u64 {
        // Odd constant of the golden ratio (Knuth, Fibonacci hashing).
        self.seed.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// Counts a request or a connection until it is dropped.
pub(super) struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn one_more(count: &'a AtomicUsize) -> Counted<'a> {
        count.fetch_add(1, Ordering::Relaxed);
        Counted(count)
    }

    /// One more, unless there are `max` already.
    fn below(count: &'a AtomicUsize, max: usize) -> Option<Counted<'a>> {
        let free = |n: usize| (n < max).then_some(n + 1);
        count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok().map(|_| Counted(count))
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// HTTP/2: the framework accepts the streams and calls this once for each.
#[async_trait]
impl HttpServerApp for Edge {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if self.serve(&mut session).await {
            Reusable::after(Box::new(session)).await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let count = AtomicUsize::new(0);
        let one = Counted::below(&count, 2);
        let two = Counted::below(&count, 2);
        assert!(one.is_some() && two.is_some() && Counted::below(&count, 2).is_none());
        drop(one);
        assert!(Counted::below(&count, 2).is_some());
    }
}

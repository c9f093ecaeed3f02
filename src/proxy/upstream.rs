//! Connections to replicas: pooled, kept alive, HTTP/1.1 or HTTP/2, plain or TLS.

mod direct;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::v2::{ConnectionRef, Connector};
use pingora::http::ResponseHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::HttpSession as Http1Session;
use pingora::protocols::http::v2::client::Http2Session;
use pingora::protocols::l4::ext::connect;
use pingora::protocols::l4::socket::SocketAddr as Address;
use pingora::protocols::{ALPN, Stream};
use pingora::upstreams::peer::{HttpPeer, Peer};
use pingora::{ErrorType, OrErr};
use tokio::time::timeout;

pub(super) use self::direct::{Direct, own};
use super::corked::Corked;
use super::socket::Socket;
use crate::domain::topology::ReplicaAddress;

/// llama.cpp closes an idle connection after 5 s, so ours go first: a request never meets a connection that is closing.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Idle connections kept, over all replicas and threads. Each holds a socket and a few KiB.
const POOL_SIZE: usize = 4096;

/// The least of them for one thread.
const POOL_SIZE_MIN: usize = 64;

/// Streams in one HTTP/2 connection; engines allow 100 or more.
const H2_STREAMS_MAX: usize = 100;

/// How many HTTP/2 connections that died unnoticed are passed over for one request; each is gone from the pool then. One
/// replica's rarely exceed a handful; beyond, a new connection is as good.
const H2_DEAD_MAX: usize = 16;

/// How late the word of a closed connection may be noticed on a busy machine, beside its way.
const STALE_SLACK: Duration = Duration::from_millis(100);

/// The same where the round trip is not known, whatever that is: 0.3 s at the far side of the Earth.
const STALE_WITHIN_MAX: Duration = Duration::from_millis(500);

/// The connections of one edge. One connector for both protocols, since each holds the system's root certificates; and one
/// for each thread that serves, since a connection wakes the thread that opened it, and another one would have to be woken
/// in turn.
pub(super) struct Upstream {
    connectors: Box<[Connector]>,
}

/// Threads are numbered as they first ask for a connection.
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// A replica whose pooled connections are asked for. The framework would have the kernel tell with every request whom the
/// connection leads to; that is known from its making on ([`leads_to`]).
#[derive(Clone)]
struct Pooled<'a>(&'a HttpPeer);

impl fmt::Display for Pooled<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Peer for Pooled<'_> {
    fn address(&self) -> &Address {
        self.0.address()
    }

    fn tls(&self) -> bool {
        self.0.tls()
    }

    fn sni(&self) -> &str {
        self.0.sni()
    }

    fn reuse_hash(&self) -> u64 {
        self.0.reuse_hash()
    }

    fn matches_fd<V: AsRawFd>(&self, _: V) -> bool {
        true
    }
}

/// Whether a connection leads there: two replicas whose hashes in the pool are the same are told apart by it.
fn leads_to(stream: &Stream, at: &Address) -> bool {
    stream.get_socket_digest().is_some_and(|digest| digest.peer_addr() == Some(at))
}

/// One exchange with a replica. Dropping it without [`Upstream::release`] closes the connection or resets the stream,
/// which is how an engine learns that its answer is no longer wanted.
pub(super) struct Exchange {
    pub(super) session: HttpSession,
    pub(super) peer: Box<HttpPeer>,
    /// Whether the connection had served requests before, and may have been closed by the replica in the meantime.
    pub(super) reused: bool,
    /// Whether the request may have gone out in part only. The replica would take the next one for the rest of it.
    pub(super) unfinished: bool,
    /// Reads the answer's body, where the framework does not.
    pub(super) direct: Option<Direct>,
}

impl Exchange {
    fn new(session: HttpSession, peer: Box<HttpPeer>, reused: bool) -> Box<Exchange> {
        Box::new(Exchange { session, peer, reused, unfinished: false, direct: None })
    }

    /// Prepares for an answer that is a stream of events: asked before anything is read of it.
    pub(super) fn expect_stream(&self) {
        self.keep_behind_head(true);
    }

    fn keep_behind_head(&self, keep: bool) {
        if let HttpSession::H1(session) = &self.session
            && let Some(corked) = Corked::among(session.stream())
        {
            corked.keep_behind_head(keep);
        }
    }

    /// Reads the answer's next head: an informational one, or its own.
    pub(super) async fn read_head(&mut self) -> pingora::Result<Option<&ResponseHeader>> {
        self.session.read_response_header().await?;
        self.keep_behind_head(false);
        Ok(self.session.response_header())
    }

    /// Says that the answer is a stream of events, once its head is read.
    pub(super) fn is_stream(&mut self) {
        if let HttpSession::H1(session) = &self.session {
            self.direct = Direct::begin(session);
        }
    }

    /// What has come of the answer's body; `None` at its end.
    pub(super) async fn read(&mut self) -> io::Result<Option<Bytes>> {
        poll_fn(|cx| self.poll_read(cx)).await
    }

    /// The same.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match &mut self.direct {
            Some(direct) => direct.poll_next(cx).map_ok(|mut body| {
                body.iter_mut().for_each(own);
                body
            }),
            // The framework holds nothing in its futures: it drops them itself when something else comes first.
            None => pin!(self.session.read_response_body()).poll(cx).map_err(io::Error::other),
        }
    }

    /// Whether the answer's body has come to its end, as far as that is known without asking for more.
    pub(super) fn is_done(&mut self) -> bool {
        match &self.direct {
            Some(direct) => direct.is_done(),
            None => self.session.response_done(),
        }
    }

    /// The connection, where other requests share it.
    pub(super) fn shared(&self) -> Option<ConnectionRef> {
        match &self.session {
            HttpSession::H2(session) => Some(session.conn.clone()),
            HttpSession::H1(_) | HttpSession::Custom(()) => None,
        }
    }

    /// Whether the request could not even be begun, since its connection takes no more of them. There is no answer to
    /// be read then, and the framework panics if one is.
    pub(super) fn takes_no_stream(&self) -> bool {
        matches!(&self.session, HttpSession::H2(session) if session.request_header().is_none())
    }

    /// How soon after the request was sent a kept-alive connection breaks if the replica had closed it before it saw the
    /// request: the word of that takes one round trip. One that breaks later broke over the request.
    pub(super) fn stale_within(&self) -> Duration {
        let socket = self.session.digest().and_then(|digest| digest.socket_digest.as_ref());
        // The kernel's smoothed estimate may lag behind, hence twice.
        let round_trip = socket.and_then(|socket| socket.tcp_info()).map(|info| info.tcpi_rtt).filter(|us| *us > 0);
        let window = round_trip.map(|us| STALE_SLACK + 2 * Duration::from_micros(us.into()));
        window.map_or(STALE_WITHIN_MAX, |window| window.min(STALE_WITHIN_MAX))
    }
}

impl Upstream {
    /// For so many threads that serve.
    pub(super) fn new(threads: usize) -> Upstream {
        let threads = threads.max(1);
        let connector = |_| Connector::new(Some(ConnectorOptions::new((POOL_SIZE / threads).max(POOL_SIZE_MIN))));
        Upstream { connectors: (0..threads).map(connector).collect() }
    }

    /// This thread's own. Were there more threads than was said, some would share one.
    fn connector(&self) -> &Connector {
        &self.connectors[THREAD.with(|thread| *thread) % self.connectors.len()]
    }

    /// How the framework is told where a replica listens.
    pub(super) fn peer(address: &ReplicaAddress, at: SocketAddr, connect: Duration) -> Box<HttpPeer> {
        let sni = if address.tls { address.host.clone() } else { String::new() };
        let mut peer = Box::new(HttpPeer::new(at, address.tls, sni));
        peer.options.connection_timeout = Some(connect);
        peer.options.total_connection_timeout = Some(connect);
        peer.options.idle_timeout = Some(IDLE_MAX);
        if address.http2 {
            peer.options.max_h2_streams = H2_STREAMS_MAX;
            peer.options.alpn = if address.tls { ALPN::H2H1 } else { ALPN::H2 };
        }
        peer
    }

    /// A connection from the pool, or a new one. `fresh` asks for a new one where connections are not shared.
    pub(super) async fn connect(&self, peer: Box<HttpPeer>, fresh: bool) -> pingora::Result<Box<Exchange>> {
        let http1 = self.connector().transport();
        let http2 = peer.options.alpn.get_max_http_version() > 1;
        if http2 && let Some(session) = self.reused_http2(&peer).await {
            return Ok(Exchange::new(HttpSession::H2(session), peer, true));
        }
        let pooled = if fresh { None } else { http1.reused_stream(&Pooled(&peer)).await };
        let pooled = pooled.filter(|stream| leads_to(stream, peer.address()));
        if http2 && pooled.is_none() {
            // What opens a connection is boxed: most requests find one open, and would else carry 8 KiB for it.
            let session = Box::pin(self.connector().new_http_session(&*peer)).await?;
            return Ok(Exchange::new(session, peer, false));
        }
        let (stream, reused) = match pooled {
            Some(stream) => (stream, true),
            None => (Box::pin(self.open(&peer)).await?, false),
        };
        let session = Http1Session::new_with_options(Box::new(Corked::new(stream)), &*peer);
        Ok(Exchange::new(HttpSession::H1(session), peer, reused))
    }

    /// A new connection for HTTP/1.
    async fn open(&self, peer: &HttpPeer) -> pingora::Result<Stream> {
        let (Address::Inet(at), false) = (peer.address(), peer.tls()) else {
            return self.connector().transport().new_stream(peer).await;
        };
        let connecting = timeout(peer.options.connection_timeout.unwrap_or(Duration::MAX), connect(at, None));
        let stream = connecting.await.or_err(ErrorType::ConnectTimedout, "no connection in time")??;
        Ok(Box::new(Socket::new(stream, *at).or_err(ErrorType::SocketError, "a new connection")?))
    }

    /// A stream of a connection that lives, as far as is known. One that broke unnoticed is no reason to fail: its end
    /// says nothing of whether the replica takes a new one.
    async fn reused_http2(&self, peer: &HttpPeer) -> Option<Http2Session> {
        for _ in 0..H2_DEAD_MAX {
            match self.connector().reused_http_session(peer).await {
                Ok(Some(session)) if session.conn.is_shutting_down() => {}
                Ok(found) => return found,
                Err(_) => {}
            }
        }
        None
    }

    /// Gives the connection back for the next request, if the request went out whole, its answer was read to the end and
    /// it may be kept.
    pub(super) async fn release(&self, mut exchange: Box<Exchange>) {
        if exchange.unfinished {
            return;
        }
        if let HttpSession::H1(session) = &mut exchange.session {
            session.respect_keepalive();
        }
        let peer = exchange.peer;
        match exchange.session {
            HttpSession::H2(session) => self.connector().release_http_session(session, &*peer, Some(IDLE_MAX)),
            HttpSession::H1(session) => {
                let stream = match exchange.direct {
                    None => session.reuse().await,
                    Some(direct) => direct.end(session),
                };
                if let Some(stream) = stream.and_then(Corked::uncork) {
                    self.connector().transport().release_stream(stream, peer.reuse_hash(), Some(IDLE_MAX));
                }
            }
            HttpSession::Custom(()) => {}
        }
    }
}

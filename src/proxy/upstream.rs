//! Connections to replicas: pooled, kept alive, HTTP/1.1 or HTTP/2, plain or TLS.

use std::net::SocketAddr;
use std::time::Duration;

use pingora::connectors::ConnectorOptions;
use pingora::connectors::http::v2::Connector;
use pingora::protocols::ALPN;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::HttpSession as Http1Session;
use pingora::upstreams::peer::{HttpPeer, Peer};

use super::corked::Corked;
use crate::domain::topology::ReplicaAddress;

/// llama.cpp closes an idle connection after 5 s, so ours go first: a request never meets a connection that is closing.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// Idle connections kept, over all replicas. Each holds a socket and a few KiB.
const POOL_SIZE: usize = 4096;

/// Streams in one HTTP/2 connection; engines allow 100 or more.
const H2_STREAMS_MAX: usize = 100;

/// The connections of one edge. One connector for both protocols, since each holds the system's root certificates.
pub(super) struct Upstream {
    connector: Connector,
}

/// One exchange with a replica. Dropping it without [`Upstream::release`] closes the connection or resets the stream,
/// which is how an engine learns that its answer is no longer wanted.
pub(super) struct Exchange {
    pub(super) session: HttpSession,
    pub(super) peer: HttpPeer,
    /// Whether the connection had served requests before, and may have been closed by the replica in the meantime.
    pub(super) reused: bool,
    /// Whether the request may have gone out in part only. The replica would take the next one for the rest of it.
    pub(super) unfinished: bool,
}

impl Upstream {
    pub(super) fn new() -> Upstream {
        Upstream { connector: Connector::new(Some(ConnectorOptions::new(POOL_SIZE))) }
    }

    /// How the framework is told where a replica listens.
    pub(super) fn peer(address: &ReplicaAddress, at: SocketAddr, connect: Duration) -> HttpPeer {
        let sni = if address.tls { address.host.clone() } else { String::new() };
        let mut peer = HttpPeer::new(at, address.tls, sni);
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
    pub(super) async fn connect(&self, peer: HttpPeer, fresh: bool) -> pingora::Result<Exchange> {
        let http1 = self.connector.transport();
        let http2 = peer.options.alpn.get_max_http_version() > 1;
        if http2 && let Some(session) = self.connector.reused_http_session(&peer).await? {
            return Ok(Exchange { session: HttpSession::H2(session), peer, reused: true, unfinished: false });
        }
        let pooled = if fresh { None } else { http1.reused_stream(&peer).await };
        if http2 && pooled.is_none() {
            let session = self.connector.new_http_session(&peer).await?;
            return Ok(Exchange { session, peer, reused: false, unfinished: false });
        }
        let (stream, reused) = match pooled {
            Some(stream) => (stream, true),
            None => (http1.new_stream(&peer).await?, false),
        };
        let session = Http1Session::new_with_options(Box::new(Corked::new(stream)), &peer);
        Ok(Exchange { session: HttpSession::H1(session), peer, reused, unfinished: false })
    }

    /// Gives the connection back for the next request, if the request went out whole, its answer was read to the end and
    /// it may be kept.
    pub(super) async fn release(&self, exchange: Exchange) {
        let Exchange { session, peer, unfinished, .. } = exchange;
        if unfinished {
            return;
        }
        match session {
            HttpSession::H2(session) => self.connector.release_http_session(session, &peer, Some(IDLE_MAX)),
            HttpSession::H1(mut session) => {
                session.respect_keepalive();
                if let Some(stream) = session.reuse().await.and_then(Corked::uncork) {
                    self.connector.transport().release_stream(stream, peer.reuse_hash(), Some(IDLE_MAX));
                }
            }
            HttpSession::Custom(()) => {}
        }
    }
}

//! A connection on which a replica is asked how it is, or a collector is told of spans.
//!
//! Kept alive between questions: over an ocean each new one costs two or three round trips. A health check has one of its
//! own, since a replica that no longer accepts connections can keep answering on those that it has; for an engine's
//! metrics it is kept from one round to the next, so that hundreds of replicas can be asked every other second.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use pingora::connectors::http::v2::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::Stream;
use pingora::protocols::http::client::HttpSession;
use pingora::protocols::http::v1::client::HttpSession as Http1Session;
use pingora::upstreams::peer::HttpPeer;
use pingora::{ErrorType, OrErr};

use crate::config::Secret;
use crate::domain::health_check::Failure;
use crate::domain::topology::ReplicaAddress;

/// How long a connection is kept between two questions of a check.
const KEPT_FOR_CHECK: Duration = Duration::from_secs(1);

/// How long a connection is kept between two rounds: llama.cpp closes an idle one after 5 s.
pub(super) const KEPT_FOR_METRICS: Duration = Duration::from_secs(4);

/// What the connections of the control plane are made with. One for all of it: each holds the system's root certificates.
#[derive(Clone)]
pub struct Connections(Arc<Connector>);

impl Connections {
    /// With the system's root certificates. Made before the services start: what cannot be read must end the start, and
    /// not the checks.
    pub fn new() -> Connections {
        Connections(Arc::new(Connector::new(None)))
    }
}

impl Default for Connections {
    fn default() -> Connections {
        Connections::new()
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").finish_non_exhaustive()
    }
}

/// What somebody is asked for, as it is told in `User-Agent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    HealthCheck,
    Metrics,
    Traces,
}

impl Purpose {
    const fn user_agent(self) -> &'static str {
        match self {
            Purpose::HealthCheck => concat!("nearpool/", env!("CARGO_PKG_VERSION"), " (health check)"),
            Purpose::Metrics => concat!("nearpool/", env!("CARGO_PKG_VERSION"), " (metrics)"),
            Purpose::Traces => concat!("nearpool/", env!("CARGO_PKG_VERSION"), " (traces)"),
        }
    }

    const fn kept_for(self) -> Duration {
        match self {
            Purpose::HealthCheck => KEPT_FOR_CHECK,
            Purpose::Metrics | Purpose::Traces => KEPT_FOR_METRICS,
        }
    }
}

/// What is asked: a GET, or a POST of JSON or, of spans, of protobuf.
#[derive(Clone)]
pub(super) struct Question<'a> {
    /// Below the replica's base path.
    pub(super) path: &'a str,
    pub(super) body: Option<Bytes>,
    pub(super) key: Option<&'a str>,
    /// Where the answer is cut off.
    pub(super) answer_bytes_max: usize,
}

/// What is answered.
pub(super) struct Reply {
    /// From the question's last byte to the answer's head.
    pub(super) took: Duration,
    pub(super) status: u16,
    /// The body, as far as it was read and kept.
    pub(super) body: Vec<u8>,
    ended: Result<(), Failure>,
}

impl Reply {
    /// The body, if it came whole.
    pub(super) fn whole(&self) -> Result<&[u8], Failure> {
        self.ended.clone().map(|()| &self.body[..])
    }
}

/// A connection to a replica, made when it is needed.
pub(super) struct Line<'a> {
    connections: &'a Connections,
    address: &'a ReplicaAddress,
    purpose: Purpose,
    headers: &'a [(String, Secret)],
    peer: HttpPeer,
    kept: Option<Kept>,
}

/// Where the pieces of an answer's body go.
pub(super) type Sink<'a> = dyn FnMut(&[u8]) + Send + 'a;

/// What remains of the last question: an idle connection.
#[derive(Debug)]
pub(super) enum Kept {
    H1(Stream),
    /// With the connector.
    H2,
}

impl<'a> Line<'a> {
    pub(super) fn new(
        connections: &'a Connections,
        address: &'a ReplicaAddress,
        at: SocketAddr,
        purpose: Purpose,
    ) -> Line<'a> {
        Line { connections, address, purpose, headers: &[], peer: peer(address, at, purpose), kept: None }
    }

    /// The same with these headers in every question.
    pub(super) fn with_headers(self, headers: &'a [(String, Secret)]) -> Self {
        Line { headers, ..self }
    }

    /// The same over what an earlier one kept.
    pub(super) fn over(self, kept: Option<Kept>) -> Self {
        Line { kept, ..self }
    }

    /// What the next one may go on with.
    pub(super) fn into_kept(self) -> Option<Kept> {
        self.kept
    }

    /// Asks; takes at most `timeout`, connecting included.
    pub(super) async fn ask(&mut self, question: Question<'_>, timeout: Duration) -> Result<Reply, Failure> {
        let mut body = Vec::new();
        let asked = self.ask_into(question, timeout, &mut |piece| body.extend_from_slice(piece)).await?;
        Ok(Reply { body, ..asked })
    }

    /// The same, for answers that nobody wants to hold: the body goes to `sink` as it comes, and the reply has none.
    pub(super) async fn ask_into(
        &mut self,
        question: Question<'_>,
        timeout: Duration,
        sink: &mut Sink<'_>,
    ) -> Result<Reply, Failure> {
        let asked = async {
            let kept = self.kept.is_some();
            match self.exchange(question.clone(), sink).await {
                // The replica may have closed it just then; that says nothing. Of its body nothing had come.
                Err(Failure::Reset) if kept => self.exchange(question, sink).await,
                asked => asked,
            }
        };
        tokio::time::timeout(timeout, asked).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn exchange(&mut self, question: Question<'_>, sink: &mut Sink<'_>) -> Result<Reply, Failure> {
        let mut session = self.open().await.map_err(|error| failure(&error))?;
        send(&mut session, self.request(&question), question.body).await.map_err(|error| failure(&error))?;
        let sent = Instant::now();
        let status = loop {
            session.read_response_header().await.map_err(|error| failure(&error))?;
            match session.response_header().map(|header| header.status) {
                // Nobody asked for another protocol.
                None | Some(http::StatusCode::SWITCHING_PROTOCOLS) => return Err(Failure::Garbage),
                Some(status) if status.is_informational() => {}
                Some(status) => break status.as_u16(),
            }
        };
        let took = sent.elapsed();
        let mut body_bytes = 0;
        let ended = loop {
            match session.read_response_body().await {
                Ok(Some(bytes)) => {
                    body_bytes += bytes.len();
                    sink(&bytes);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(failure(&error)),
            }
            if body_bytes > question.answer_bytes_max {
                break Err(Failure::Garbage);
            }
        };
        if ended.is_ok() {
            self.keep(session).await;
        }
        Ok(Reply { status, took, body: Vec::new(), ended })
    }

    async fn open(&mut self) -> pingora::Result<HttpSession> {
        match self.kept.take() {
            Some(Kept::H1(stream)) => {
                return Ok(HttpSession::H1(Http1Session::new_with_options(stream, &self.peer)));
            }
            Some(Kept::H2) => {
                if let Some(session) = self.connections.0.reused_http_session(&self.peer).await? {
                    return Ok(HttpSession::H2(session));
                }
            }
            None => {}
        }
        self.connections.0.new_http_session(&self.peer).await
    }

    async fn keep(&mut self, session: HttpSession) {
        self.kept = match session {
            HttpSession::H1(mut session) => {
                session.respect_keepalive();
                session.reuse().await.map(Kept::H1)
            }
            HttpSession::H2(session) => {
                self.connections.0.release_http_session(session, &self.peer, Some(self.purpose.kept_for()));
                Some(Kept::H2)
            }
            HttpSession::Custom(()) => None,
        };
    }

    fn request(&self, question: &Question<'_>) -> pingora::Result<RequestHeader> {
        let method = if question.body.is_some() { "POST" } else { "GET" };
        let path = format!("{}{}", self.address.base_path, question.path);
        let mut request = RequestHeader::build(method, path.as_bytes(), Some(8))?;
        request.insert_header("host", self.address.authority())?;
        request.insert_header("user-agent", self.purpose.user_agent())?;
        request.insert_header("accept", "*/*")?;
        if let Some(body) = &question.body {
            request.insert_header("content-length", body.len())?;
            if self.purpose == Purpose::Traces {
                request.insert_header("content-type", "application/x-protobuf")?;
            } else {
                request.insert_header("content-type", "application/json")?;
                // Servers of Anthropic's dialect may insist on it; to the others it means nothing.
                request.insert_header("anthropic-version", "2023-06-01")?;
            }
        }
        if let Some(key) = question.key {
            request.insert_header("authorization", format!("Bearer {key}"))?;
        }
        for (name, value) in self.headers {
            let mut value = HeaderValue::from_str(&value.0).or_err(ErrorType::InvalidHTTPHeader, "a header")?;
            value.set_sensitive(true);
            request.insert_header(name.clone(), value)?;
        }
        Ok(request)
    }
}

async fn send(
    session: &mut HttpSession,
    request: pingora::Result<RequestHeader>,
    body: Option<Bytes>,
) -> pingora::Result<()> {
    let request = Box::new(request?);
    match (session, body) {
        // The common method leaves an h2 stream open for a body.
        (HttpSession::H2(session), None) => session.write_request_header(request, true),
        (session, body) => {
            session.write_request_header(request).await?;
            if let Some(body) = body {
                session.write_request_body(body, true).await?;
            }
            session.finish_request_body().await
        }
    }
}

fn peer(address: &ReplicaAddress, at: SocketAddr, purpose: Purpose) -> HttpPeer {
    // Never an empty name: Pingora takes that as a wish not to verify. An address is verified as an address.
    let mut peer = HttpPeer::new(at, address.tls, address.host.clone());
    // A health check goes on no connection of another purpose.
    peer.group_key = purpose as u64;
    match (address.http2, address.tls) {
        (true, true) => peer.options.set_http_version(2, 1),
        (true, false) => peer.options.set_http_version(2, 2),
        (false, _) => peer.options.set_http_version(1, 1),
    }
    peer
}

/// Pingora's full text is not told: it can carry what the peer sent.
fn failure(error: &pingora::Error) -> Failure {
    use ErrorType as E;
    match error.etype() {
        E::ConnectRefused => Failure::Refused,
        E::ConnectTimedout | E::TLSHandshakeTimedout | E::ReadTimedout | E::WriteTimedout => Failure::Timeout,
        E::TLSHandshakeFailure | E::TLSWantX509Lookup | E::InvalidCert => Failure::Tls,
        E::ConnectNoRoute | E::ConnectError | E::BindError | E::SocketError => Failure::Unreachable,
        E::InvalidHTTPHeader | E::H1Error | E::H2Error | E::InvalidH2 | E::H2Downgrade | E::HandshakeError => {
            Failure::Garbage
        }
        _ => Failure::Reset,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(tls: bool, host: &str, port: u16) -> ReplicaAddress {
        ReplicaAddress { tls, host: host.into(), port, base_path: String::new(), http2: false }
    }

    #[test]
    fn the_name_to_verify_is_never_empty() {
        let at = ([10, 0, 0, 1], 443).into();
        assert_eq!(peer(&address(true, "10.0.0.1", 443), at, Purpose::HealthCheck).sni, "10.0.0.1");
    }
}

//! Station 1, accept: may we take this on? Connections and request heads.
//!
//! What the framework leaves open is closed here: how many connections there are, how long a client may take over a
//! request's head (on the first request of a connection and on every later one), and heads that can be read in two ways.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{Method, Version, header};
use pingora::apps::{HttpPersistentSettings, ServerApp};
use pingora::listeners::tls::{Acceptor, TlsSettings};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{ALPN, Stream};
use pingora::server::ShutdownWatch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::apart::apart;
use super::batched::Batched;
use super::client::Client;
use super::edge::{Counted, Edge};
use super::headers::chunked_alone;
use super::proxied;
use super::reply::Refusal;
use super::socket::Socket;
use super::tls::Certificates;
use crate::domain::outcome::Outcome;
use crate::policy::limits;

/// How every HTTP/2 connection begins (RFC 9113, 3.4). Its first three bytes begin no HTTP/1.1 method.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection that is closed is read from after the answer, so that the client reads the answer and not a
/// reset: a close with bytes unread is one, and may overtake what was sent.
const LINGER: Duration = Duration::from_secs(5);

/// Room for a request's head, and a small body, to be read at once.
const HEAD_BYTES: usize = 4096;

/// How long a client may take over the handshake of TLS, with the PROXY header in front of it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);

/// Serves the connections of a listener and hands their requests to the [`Edge`].
pub struct Accept {
    edge: Arc<Edge>,
    tls: Option<Acceptor>,
}

impl Accept {
    /// For a listener of HTTP/1.1 and HTTP/2 in plain text. Listeners that share an edge share its bound on connections.
    pub fn plain(edge: Arc<Edge>) -> Accept {
        Accept { edge, tls: None }
    }

    /// For a listener of the same over TLS.
    pub fn over_tls(edge: Arc<Edge>, certificates: Arc<Certificates>) -> pingora::Result<Accept> {
        let mut settings = TlsSettings::intermediate("", "")?;
        settings.set_cert_resolver(certificates);
        settings.enable_h2();
        Ok(Accept { edge, tls: Some(settings.build()) })
    }

    /// Serves one connection to its end, on the thread that calls this. The parts are boxed, the session too, so that a
    /// connection holds only the part that it is in, and finds its way there in few places of memory: 3 KiB while a
    /// request is served, and little while it is idle.
    pub fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        mut shutdown: ShutdownWatch,
    ) -> impl Future<Output = ()> + Send {
        // Boxed, since what a future is made of has its place in it to the end.
        let come = Box::new((stream, peer));
        async move {
            let Some((_place, spoken)) = apart(|| self.begin(come)).await else { return };
            let mut connection = match spoken {
                Spoken::Http1(connection) => connection,
                Spoken::Http2(stream) => {
                    apart(|| ServerApp::process_new(&self.edge, stream, &shutdown)).await;
                    return;
                }
            };
            let mut first = true;
            // One request after the other.
            loop {
                let Some(mut session) = apart(|| self.next_request(connection, first, &mut shutdown)).await else {
                    return;
                };
                if !apart(|| self.edge.serve(&mut session)).await {
                    return;
                }
                let Some(reusable) = apart(|| Reusable::after(session)).await else { return };
                connection = reusable;
                first = false;
            }
        }
    }

    /// Finds out what a connection's client speaks.
    async fn begin(&self, come: Box<(TcpStream, SocketAddr)>) -> Option<(Counted<'_>, Spoken)> {
        let (stream, peer) = *come;
        let socket = Socket::new(stream, peer).ok()?;
        match &self.tls {
            None => self.begin_plain(socket).await,
            Some(tls) => self.begin_over_tls(socket, peer, tls).await,
        }
    }

    async fn begin_plain(&self, mut socket: Socket) -> Option<(Counted<'_>, Spoken)> {
        let place = self.place()?;
        proxied::take_off(&self.edge, &mut socket).await?;
        let begun = timeout(self.edge.limits().header_timeout, begun(&mut socket)).await.ok()??;
        if begun.starts_with(PREFACE) {
            socket.rewind(&begun);
            return Some((place, Spoken::Http2(Box::new(Batched::new(socket)))));
        }
        Some((place, Spoken::http1(Box::new(Batched::new(socket)), Some(begun))))
    }

    async fn begin_over_tls(&self, socket: Socket, peer: SocketAddr, tls: &Acceptor) -> Option<(Counted<'_>, Spoken)> {
        let stream = match timeout(HANDSHAKE_TIMEOUT, Box::pin(self.handshake(socket, tls))).await {
            Ok(shaken) => shaken?.inspect_err(|error| log::info!("no TLS with {peer}: {error}")).ok()?,
            Err(_late) => {
                log::info!("no TLS with {peer}: the handshake took {} s", HANDSHAKE_TIMEOUT.as_secs());
                return None;
            }
        };
        let place = self.place()?;
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            return Some((place, Spoken::Http2(stream)));
        }
        Some((place, Spoken::http1(stream, None)))
    }

    /// `None` where there is no PROXY header and should be one.
    async fn handshake(&self, mut socket: Socket, tls: &Acceptor) -> Option<pingora::Result<Stream>> {
        proxied::take_off(&self.edge, &mut socket).await?;
        let stream = tls.tls_handshake(Batched::new(socket)).await;
        Some(stream.map(|stream| -> Stream { Box::new(stream) }))
    }

    /// Counts a connection in until the guard is dropped, unless there are too many.
    fn place(&self) -> Option<Counted<'_>> {
        let limits = self.edge.limits();
        let place = self.edge.connection(limits.connections_max);
        if place.is_none() {
            log::warn!(
                "connection refused: {} connections are open, as many as limits.connections",
                limits.connections_max
            );
        }
        place
    }

    /// Waits for the next request and reads its head. `None` when the connection has ended, or was ended with a refusal.
    async fn next_request(
        &self,
        connection: Box<Reusable>,
        first: bool,
        shutdown: &mut ShutdownWatch,
    ) -> Option<Box<ServerSession>> {
        let Reusable { mut stream, prefix, settings } = *connection;
        let limits = self.edge.limits();
        let mut prefix = match prefix {
            Some(prefix) => prefix,
            // The first bytes are read here, so that the head's time counts from them, and handed on as a prefix: the
            // framework then parses them at once.
            None => {
                let pause = if first { limits.header_timeout } else { limits.keepalive_timeout };
                let mut begun = BytesMut::with_capacity(HEAD_BYTES);
                tokio::select! {
                    biased;
                    read = timeout(pause, stream.read_buf(&mut begun)) => {
                        if read.ok()?.ok()? == 0 {
                            return None;
                        }
                    }
                    _ = shutdown.wait_for(|ending| *ending) => return None,
                }
                begun
            }
        };
        // As much as was asked for: a body has begun that is worth reading past the framework.
        if prefix.len() >= HEAD_BYTES
            && let Some(client) = Client::among(&stream)
        {
            prefix = client.keep_behind_head(prefix);
        }
        let mut session = Box::new(ServerSession::new_http1(stream));
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
        session.set_pipelined_prefix(prefix);
        session.set_keepalive(Some(seconds(limits.header_timeout)));
        let refusal = match timeout(limits.header_timeout, session.read_request()).await {
            Ok(Ok(true)) => None,
            Ok(Ok(false)) => return None,
            Ok(Err(error)) => Some(unreadable(&error)),
            Err(_) => {
                let message = format!("the request's head did not arrive within {} s", limits.header_timeout.as_secs());
                Some(Refusal::new(Outcome::BodyTimeout, message))
            }
        };
        if let Some(refusal) = refusal {
            Box::pin(self.edge.refuse_unread(*session, refusal)).await;
            return None;
        }
        session.set_pipelining_enabled(true);
        // The framework takes an empty line for a chunk's size, and so for the body's end, where others see an error:
        // after chunks, what follows is not certain to be a request. Agents' SDKs all send a length.
        let chunked = session.req_header().headers.contains_key(header::TRANSFER_ENCODING);
        if chunked || *shutdown.borrow() {
            session.set_keepalive(None);
        }
        Some(session)
    }
}

/// What a connection's client speaks.
enum Spoken {
    Http1(Box<Reusable>),
    Http2(Stream),
}

impl Spoken {
    fn http1(stream: Stream, begun: Option<BytesMut>) -> Spoken {
        Spoken::Http1(Box::new(Reusable { stream: Box::new(Client::new(stream)), prefix: begun, settings: None }))
    }
}

/// A connection whose answer is sent and which may carry another request.
pub(super) struct Reusable {
    stream: Stream,
    /// What the client has sent of the next request already.
    prefix: Option<BytesMut>,
    settings: Option<HttpPersistentSettings>,
}

impl Reusable {
    /// Ends a request. `None` when the connection cannot be used again.
    pub(super) async fn after(mut session: Box<ServerSession>) -> Option<Box<Reusable>> {
        if session.as_http1().is_some_and(|http1| !http1.will_keepalive()) {
            Box::pin(linger(*session)).await;
            return None;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        // The two steps of the framework's `finish`, whose future holds the session three times.
        session.finish_body().await.ok()?;
        let ServerSession::H1(session) = *session else { return None };
        let (stream, prefix) = session.reuse().await.ok()??.into_parts();
        Some(Box::new(Reusable { stream, prefix, settings: Some(settings) }))
    }
}

/// Closes an HTTP/1 connection so that its last answer arrives: nothing more is sent, and what still comes is thrown away.
pub(super) async fn linger(session: ServerSession) {
    let ServerSession::H1(session) = session else { return };
    let mut stream = session.into_inner();
    let discard = async {
        AsyncWriteExt::shutdown(&mut stream).await.ok()?;
        let mut buffer = vec![0; 4096];
        while stream.read(&mut buffer).await.ok()? > 0 {}
        Some(())
    };
    let _enough = timeout(LINGER, discard).await;
}

/// What a client is told of a head that the framework cannot read. The error's own text holds the client's bytes, keys
/// too: it is neither for the answer nor for the log.
fn unreadable(error: &pingora::Error) -> Refusal {
    let cause = error.cause.as_ref().map(ToString::to_string).unwrap_or_default();
    let too_long = error.context.as_ref().is_some_and(|context| context.as_str().starts_with("Request header larger"));
    if too_long || cause == "too many headers" {
        return Refusal::new(Outcome::HeadersTooLarge, "the request's head is larger than is taken");
    }
    Refusal::new(Outcome::BadHeader, "the request's head is not valid HTTP/1.1")
}

/// What a connection in plain text begins with: HTTP/2's preface, or what is none. No more is waited for than either
/// protocol must send; the framework would wait for 24 bytes, and without end. `None` when the connection breaks.
async fn begun(socket: &mut Socket) -> Option<BytesMut> {
    let mut begun = BytesMut::with_capacity(HEAD_BYTES);
    while begun.len() < 3 || (begun[..3] == PREFACE[..3] && begun.len() < PREFACE.len()) {
        if socket.read_buf(&mut begun).await.ok()? == 0 {
            return None;
        }
    }
    Some(begun)
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs_f64().ceil() as u64
}

/// Refuses heads that are too large or can be read in two ways (RFC 9112, sections 3.2 and 6).
pub(super) fn check_head(session: &ServerSession, limits: &limits::Params) -> Result<(), Refusal> {
    let head = session.req_header();
    let raw = session.as_http1().map(|http1| http1.get_headers_raw_bytes());
    let bytes = raw.as_ref().map_or_else(
        || head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum(),
        |raw| raw.len(),
    );
    if limits.check_head(bytes, head.headers.len()).is_err() {
        let message = format!(
            "the request's head has {} headers and {bytes} bytes; at most {} and {} are taken",
            head.headers.len(),
            limits.header_count_max,
            limits.header_bytes_max
        );
        return Err(Refusal::new(Outcome::HeadersTooLarge, message));
    }
    let ambiguous = |message: &str| Err(Refusal::new(Outcome::AmbiguousFraming, message));
    if head.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return ambiguous("the request has more than one Content-Length");
    }
    if chunked_alone(&head.headers) == Some(false) {
        return ambiguous("the only transfer coding that is taken is chunked, once");
    }
    // The framework has dropped Content-Length by now if Transfer-Encoding came with it; only the raw head still tells.
    if head.headers.contains_key(header::TRANSFER_ENCODING)
        && raw.is_some_and(|raw| has_header_line(&raw, b"content-length"))
    {
        return ambiguous("the request has both Content-Length and Transfer-Encoding");
    }
    if head.method == Method::CONNECT {
        return Err(Refusal::new(Outcome::MethodNotAllowed, "CONNECT is not served here").allow("GET, HEAD, POST"));
    }
    if head.version == Version::HTTP_11 && head.headers.get_all(header::HOST).iter().count() != 1 {
        return ambiguous("an HTTP/1.1 request needs exactly one Host header");
    }
    Ok(())
}

/// Whether a raw head has a line for this header (lower case).
fn has_header_line(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name) && line[name.len()] == b':'
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_lines_are_found_in_any_case_and_only_at_a_lines_start() {
        let raw = b"POST /content-length: HTTP/1.1\r\nhost: a\r\nConTent-LENGTH: 3\r\n\r\n";
        assert!(has_header_line(raw, b"content-length"));
        assert!(!has_header_line(b"POST / HTTP/1.1\r\nx-content-length: 3\r\n\r\n", b"content-length"));
        assert!(!has_header_line(b"POST / HTTP/1.1\r\nx: content-length: 3\r\n\r\n", b"content-length"));
    }
}

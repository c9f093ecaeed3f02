//! Connections that a load balancer passes on: each begins with a PROXY header, which is read before TLS and before HTTP.
//!
//! Listeners that the config names take nothing else; all others take none, and see in it a malformed request. The header
//! is read within `limits.header_timeout`; a connection without a whole and valid one is closed and counted, as whatever
//! was said to such a client would go to somebody unknown.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{GetProxyDigest, GetSocketDigest};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::edge::Edge;
use super::socket::Socket;
use crate::observe::metrics::ProxyHeaderFault;
use crate::wire::proxy_protocol::{self, Read};

/// Room for a header to be read at once, with the beginning of what follows.
const BEGUN_BYTES: usize = 256;

/// Whose connection it is. Kept with the socket, where it outlives the handshake and every request.
struct Announced(IpAddr);

/// Whom the PROXY header of this session's connection named.
pub(super) fn source(session: &ServerSession) -> Option<IpAddr> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Announced>().map(|announced| announced.0)
}

/// Takes the PROXY header off a connection, where its listener asks for one, and notes whom it names. `None` ends the
/// connection; it is counted unless nothing came at all, which is how load balancers see whether anybody listens.
pub(super) async fn take_off(edge: &Edge, socket: &mut Socket) -> Option<()> {
    if !is_asked(edge, socket) {
        return Some(());
    }
    // Boxed, so that a connection does not hold it for as long as it is open.
    let source = match timeout(edge.limits().header_timeout, Box::pin(header(socket))).await {
        Ok(read) => read,
        Err(_late) => Err(Some(ProxyHeaderFault::Late)),
    };
    match source {
        Ok(source) => {
            let head = || ResponseHeader::build(http::StatusCode::OK, Some(0)).ok();
            // The framework's place for this holds the answer of a proxy that was asked, too: an empty one.
            if let Some((source, head)) = source.zip(head()) {
                socket.set_proxy_digest(ProxyDigest::new(Box::new(head), Some(Box::new(Announced(source)))));
            }
            Some(())
        }
        Err(fault) => {
            if let Some(fault) = fault {
                edge.metrics.proxy_header_fault(fault);
            }
            None
        }
    }
}

/// Reads up to the header's end; what came with it is put back.
async fn header(socket: &mut Socket) -> Result<Option<IpAddr>, Option<ProxyHeaderFault>> {
    let mut begun = BytesMut::with_capacity(BEGUN_BYTES);
    loop {
        match proxy_protocol::read(&begun) {
            Read::Whole { source, bytes } => {
                socket.rewind(&begun[bytes..]);
                return Ok(source);
            }
            Read::Malformed => return Err(Some(ProxyHeaderFault::Malformed)),
            // So little has come that there is room for more: a header is bounded.
            Read::Incomplete => {}
        }
        let ended = |read: io::Result<usize>| read.ok().is_none_or(|bytes| bytes == 0);
        if ended(socket.read_buf(&mut begun).await) {
            return Err((!begun.is_empty()).then_some(ProxyHeaderFault::Cut));
        }
    }
}

/// Whether this socket's listener takes PROXY headers. One that cannot be told is taken for such a one, lest a client pass
/// for the load balancer.
fn is_asked(edge: &Edge, socket: &Socket) -> bool {
    let snapshot = edge.roster.snapshot();
    let listeners = &snapshot.config.proxy_protocol;
    if listeners.is_empty() {
        return false;
    }
    let digest = socket.get_socket_digest();
    let local = digest.as_ref().and_then(|digest| digest.local_addr()).and_then(|address| address.as_inet());
    local.is_none_or(|local| listeners.iter().any(|listener| takes(*listener, *local)))
}

/// Whether a listener took the connection to this local address.
fn takes(listener: SocketAddr, local: SocketAddr) -> bool {
    let everywhere = listener.ip().is_unspecified() && (listener.is_ipv6() || local.is_ipv4());
    listener.port() == local.port() && (everywhere || listener.ip().to_canonical() == local.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_known_by_its_port_and_by_its_address_where_it_has_one() {
        let takes = |listener: &str, local: &str| takes(listener.parse().unwrap(), local.parse().unwrap());
        assert!(takes("192.0.2.1:80", "192.0.2.1:80") && takes("0.0.0.0:80", "192.0.2.1:80"));
        assert!(takes("[::]:80", "192.0.2.1:80") && takes("[::]:80", "[::ffff:192.0.2.1]:80"));
        assert!(takes("[::]:80", "[2001:db8::1]:80") && takes("[::ffff:192.0.2.1]:80", "192.0.2.1:80"));
        assert!(!takes("192.0.2.1:80", "192.0.2.1:81") && !takes("192.0.2.1:80", "192.0.2.2:80"));
        assert!(!takes("0.0.0.0:80", "[2001:db8::1]:80") && !takes("[::1]:80", "127.0.0.1:80"));
    }
}

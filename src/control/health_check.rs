//! One health check of one replica: a GET over a fresh connection, judged by its status.
//!
//! Fresh each time, since a replica that no longer accepts connections can keep answering on those that it has.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use pingora::connectors::http::v2::Connector;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::HttpPeer;

use crate::config::Health;
use crate::domain::topology::{Credential, Engine, Pool, ReplicaAddress};

/// Bytes of an answer's body that are read, so that a server is not cut off while it writes; the rest is not worth it.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Why a check failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No answer within `health.timeout`.
    Timeout,
    /// No connection, or no HTTP on it. Pingora's word for the kind; its full text can carry what the peer sent.
    Broken(String),
    /// An answer, but not 2xx.
    Status(u16),
    /// The host name does not resolve.
    Unresolved,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Timeout => f.write_str("timeout"),
            Failure::Broken(kind) => f.write_str(kind),
            Failure::Status(status) => write!(f, "status {status}"),
            Failure::Unresolved => f.write_str("unresolved"),
        }
    }
}

/// One check, ready to be made.
#[derive(Clone, Debug)]
pub(super) struct Check {
    address: ReplicaAddress,
    path: String,
    bearer: Option<String>,
    timeout: Duration,
}

impl Check {
    /// The check of a replica of `pool` at `address`.
    pub(super) fn new(pool: &Pool, address: &ReplicaAddress, health: &Health) -> Check {
        let own = match pool.engine {
            Engine::Vllm | Engine::Sglang | Engine::LlamaCpp => "/health",
            Engine::OpenAi => "/v1/models",
        };
        let path = health.path.as_deref().unwrap_or(own);
        // Engines guard /v1 only; a key has no business elsewhere.
        let bearer = match &pool.credential {
            Credential::Key(key) if path.starts_with("/v1/") => Some(key.clone()),
            Credential::Key(_) | Credential::Pass | Credential::None => None,
        };
        let path = format!("{}{path}", address.base_path);
        Check { address: address.clone(), path, bearer, timeout: health.timeout }
    }

    /// Makes the check; takes at most `health.timeout`.
    pub(super) async fn run(&self, connector: &Connector, at: SocketAddr) -> Result<(), Failure> {
        match tokio::time::timeout(self.timeout, self.exchange(connector, at)).await {
            Ok(Ok(200..=299)) => Ok(()),
            Ok(Ok(status)) => Err(Failure::Status(status)),
            Ok(Err(error)) => Err(Failure::Broken(error.etype().as_str().to_owned())),
            Err(_elapsed) => Err(Failure::Timeout),
        }
    }

    async fn exchange(&self, connector: &Connector, at: SocketAddr) -> pingora::Result<u16> {
        let mut session: HttpSession = connector.new_http_session(&self.peer(at)).await?;
        let request = Box::new(self.request()?);
        match &mut session {
            // The common method leaves an h2 stream open for a body.
            HttpSession::H2(session) => session.write_request_header(request, true)?,
            session => session.write_request_header(request).await?,
        }
        let status = loop {
            session.read_response_header().await?;
            match session.response_header() {
                Some(header) if header.status.is_informational() => {}
                Some(header) => break header.status.as_u16(),
                None => break 0,
            }
        };
        let mut read = 0;
        // The status is the verdict; how the body ends does not matter.
        while let Ok(Some(bytes)) = session.read_response_body().await {
            read += bytes.len();
            if read > BODY_BYTES_MAX {
                break;
            }
        }
        Ok(status)
    }

    fn peer(&self, at: SocketAddr) -> HttpPeer {
        // Never an empty name: Pingora takes that as a wish not to verify. An address is verified as an address.
        let mut peer = HttpPeer::new(at, self.address.tls, self.address.host.clone());
        match (self.address.http2, self.address.tls) {
            (true, true) => peer.options.set_http_version(2, 1),
            (true, false) => peer.options.set_http_version(2, 2),
            (false, _) => peer.options.set_http_version(1, 1),
        }
        peer
    }

    fn request(&self) -> pingora::Result<RequestHeader> {
        let mut request = RequestHeader::build("GET", self.path.as_bytes(), Some(4))?;
        request.insert_header("host", authority(&self.address))?;
        request.insert_header("user-agent", concat!("nearpool/", env!("CARGO_PKG_VERSION"), " (health check)"))?;
        request.insert_header("accept", "*/*")?;
        if let Some(key) = &self.bearer {
            request.insert_header("authorization", format!("Bearer {key}"))?;
        }
        Ok(request)
    }
}

/// The value of `Host`: without the port where it is the scheme's own.
fn authority(address: &ReplicaAddress) -> String {
    let host = if address.host.contains(':') { format!("[{}]", address.host) } else { address.host.clone() };
    match (address.tls, address.port) {
        (true, 443) | (false, 80) => host,
        (_, port) => format!("{host}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::observe::testing;

    /// Starts a server that answers one request with these bytes and hands over what it was sent.
    async fn server(answer: &'static str) -> (SocketAddr, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::channel();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).await.unwrap();
                request.extend(byte);
            }
            sender.send(String::from_utf8(request).unwrap()).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Until the other side has had enough.
            let _ = stream.read(&mut [0]).await;
        });
        (at, asked)
    }

    fn check_of(at: SocketAddr, edit: impl FnOnce(&mut Pool, &mut ReplicaAddress, &mut Health)) -> Check {
        let mut config = testing::config(&[at.port()]);
        let mut address = config.topology.replicas[0].address.clone();
        edit(&mut config.topology.pools[0], &mut address, &mut config.health);
        Check::new(&config.topology.pools[0], &address, &config.health)
    }

    #[tokio::test]
    async fn a_2xx_passes_and_the_engines_own_path_is_asked() {
        let (at, asked) = server("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        let check = check_of(at, |pool, _, _| pool.credential = Credential::Key("sk-1".into()));
        assert_eq!(check.run(&Connector::new(None), at).await, Ok(()));
        let request = asked.recv().unwrap().to_lowercase();
        assert!(request.starts_with("get /health http/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("host: 127.0.0.1:{}\r\n", at.port())), "{request}");
        assert!(!request.contains("authorization"), "the key goes to /v1 only: {request}");
    }

    #[tokio::test]
    async fn an_openai_server_is_asked_for_its_models_with_the_key_below_its_base_path() {
        let (at, asked) = server("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n").await;
        let check = check_of(at, |pool, address, _| {
            pool.engine = Engine::OpenAi;
            pool.credential = Credential::Key("sk-1".into());
            address.base_path = "/team-a".into();
        });
        assert_eq!(check.run(&Connector::new(None), at).await, Ok(()));
        let request = asked.recv().unwrap();
        assert!(request.starts_with("GET /team-a/v1/models HTTP/1.1\r\n"), "{request}");
        assert!(request.to_lowercase().contains("authorization: bearer sk-1\r\n"), "{request}");
    }

    #[tokio::test]
    async fn h2c_is_spoken_where_the_address_says_so() {
        use http_body_util::Empty;
        use hyper::service::service_fn;
        use hyper_util::rt::{TokioExecutor, TokioIo};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::channel();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                use hyper::body::Body;
                sender.send((request.uri().to_string(), request.body().is_end_stream())).unwrap();
                async { hyper::Response::builder().status(204).body(Empty::<bytes::Bytes>::new()) }
            });
            let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
        let check = check_of(at, |_, address, _| address.http2 = true);
        assert_eq!(check.run(&Connector::new(None), at).await, Ok(()));
        let (uri, no_body) = asked.recv().unwrap();
        assert!(uri.ends_with("/health"), "{uri}");
        assert!(no_body, "the stream is closed with the headers");
    }

    #[test]
    fn the_name_to_verify_is_never_empty() {
        let check = check_of(([10, 0, 0, 1], 443).into(), |_, address, _| address.tls = true);
        assert_eq!(check.peer(([10, 0, 0, 1], 443).into()).sni, "127.0.0.1");
    }

    #[tokio::test]
    async fn another_status_fails() {
        let (at, _asked) = server("HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n").await;
        let check = check_of(at, |_, _, health| health.path = Some("/ready".into()));
        assert_eq!(check.run(&Connector::new(None), at).await, Err(Failure::Status(503)));
    }

    #[tokio::test]
    async fn silence_fails_in_time() {
        let (at, _asked) = server("HTTP/1.1 200").await;
        let check = check_of(at, |_, _, health| health.timeout = Duration::from_millis(50));
        assert_eq!(check.run(&Connector::new(None), at).await, Err(Failure::Timeout));
    }

    #[tokio::test]
    async fn a_closed_port_fails_and_nothing_of_the_peer_is_quoted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        drop(listener);
        let check = check_of(at, |_, _, _| ());
        assert_eq!(check.run(&Connector::new(None), at).await, Err(Failure::Broken("ConnectRefused".into())));
    }

    #[test]
    fn the_host_header_leaves_out_the_schemes_own_port() {
        let address = |tls, host: &str, port| ReplicaAddress {
            tls,
            host: host.into(),
            port,
            base_path: String::new(),
            http2: false,
        };
        assert_eq!(authority(&address(false, "a.example", 80)), "a.example");
        assert_eq!(authority(&address(true, "a.example", 443)), "a.example");
        assert_eq!(authority(&address(true, "a.example", 80)), "a.example:80");
        assert_eq!(authority(&address(false, "2001:db8::1", 8000)), "[2001:db8::1]:8000");
    }
}

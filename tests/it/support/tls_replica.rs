//! A replica over TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::certs::Pair;
use super::http1::Http1;
use super::replicas::SERVED;

/// It is healthy, has the model, and answers every call with `{"secure":true}`. Nobody can connect to it any more once it
/// is dropped; connections that are open go on.
pub struct TlsReplica {
    /// Where it listens.
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

/// A replica that shows this certificate.
pub fn tls_replica(pair: &Pair, listener: TcpListener) -> TlsReplica {
    let chain = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let (acceptor, address) = (TlsAcceptor::from(Arc::new(config)), listener.local_addr().unwrap());
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, acceptor.clone()));
        }
    });
    TlsReplica { address, accepting }
}

impl TlsReplica {
    /// Stops listening.
    pub async fn stop(mut self) {
        self.accepting.abort();
        // It ends by being cancelled.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for TlsReplica {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor) -> Option<()> {
    let mut connection = Http1::over_any(acceptor.accept(stream).await.ok()?);
    loop {
        let (line, head) = connection.try_request_head().await.ok()?;
        connection.body(&head).await.1.ok()?;
        let body = match line.starts_with("GET /v1/models ") {
            true => json!({"data": [{"id": SERVED}]}),
            false => json!({"secure": true}),
        };
        let (body, json) = (body.to_string(), "content-type: application/json");
        let head = format!("HTTP/1.1 200 OK\r\n{json}\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.try_send((head + &body).as_bytes()).await.ok()?;
    }
}

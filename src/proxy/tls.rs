//! The certificate of the TLS listeners: one place, swapped while connections are open.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// A file is no PEM, or the wrong one.
    #[error("{path} holds no {what} in PEM: {error}")]
    Pem {
        /// The file.
        path: String,
        /// What was looked for.
        what: &'static str,
        /// What is wrong.
        error: String,
    },
    /// The key cannot be used with the certificate.
    #[error("the key in {path} does not fit its certificate: {error}")]
    Key {
        /// The key's file.
        path: String,
        /// What is wrong.
        error: rustls::Error,
    },
}

/// A certificate chain with its key, ready to be served.
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Reads a chain and a key, and checks that they belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Certificate, CertificateError> {
        let bytes = |path: &Path| {
            fs::read(path).map_err(|error| CertificateError::Read { path: path.display().to_string(), error })
        };
        let pem =
            |path: &Path, what, error: String| CertificateError::Pem { path: path.display().to_string(), what, error };
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes(chain)?)
            .collect::<Result<_, _>>()
            .map_err(|error| pem(chain, "certificate", error.to_string()))?;
        if certificates.is_empty() {
            return Err(pem(chain, "certificate", "it has none".into()));
        }
        let key_der =
            PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| pem(key, "private key", error.to_string()))?;
        CertifiedKey::from_der(certificates, key_der, &ring::default_provider())
            .map(|certified| Certificate(Arc::new(certified)))
            .map_err(|error| CertificateError::Key { path: key.display().to_string(), error })
    }
}

/// Gives each handshake the certificate of now.
#[derive(Debug)]
pub struct Certificates(ArcSwap<CertifiedKey>);

impl Certificates {
    /// Starts with this certificate.
    pub fn new(certificate: Certificate) -> Certificates {
        Certificates(ArcSwap::new(certificate.0))
    }

    /// Serves another one from the next handshake on.
    pub fn swap(&self, certificate: Certificate) {
        self.0.store(certificate.0);
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

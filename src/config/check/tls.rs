//! The certificate and its key, checked before they are needed: a listener that cannot shake hands is found out here.

use std::path::PathBuf;

use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::outside::Outside;
use crate::config::raw::{At, Report};

/// Reads both files; the paths, if the key belongs to the chain's first certificate.
pub(super) fn check(
    certificate: &At<&str>,
    key: &At<&str>,
    outside: &Outside<'_>,
    report: &Report,
) -> Option<(PathBuf, PathBuf)> {
    let chain = outside.file("edge.tls.certificate", certificate, report);
    let private = outside.file("edge.tls.key", key, report);
    let ((chain_path, chain), (key_path, private)) = (chain?, private?);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let Some(chain) = chain.ok().filter(|chain| !chain.is_empty()) else {
        let hint = "it must hold `-----BEGIN CERTIFICATE-----`, the edge's own certificate first, then its issuers";
        report.error(&certificate.span, "the file holds no certificate in PEM", hint);
        return None;
    };
    let Ok(private) = PrivateKeyDer::from_pem_slice(&private) else {
        let hint = "it must hold `-----BEGIN PRIVATE KEY-----` (or EC or RSA PRIVATE KEY), without a passphrase";
        report.error(&key.span, "the file holds no private key in PEM", hint);
        return None;
    };
    let provider = rustls::crypto::ring::default_provider();
    let Ok(signer) = provider.key_provider.load_private_key(private) else {
        report.error(
            &key.span,
            "the private key is of no kind that TLS here can use",
            "use an ECDSA, RSA or Ed25519 key",
        );
        return None;
    };
    match CertifiedKey::new(chain, signer).keys_match() {
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Some((chain_path, key_path)),
        Err(Error::InconsistentKeys(_)) => {
            let hint = "the file must begin with the edge's own certificate, the one that was made for this key";
            report.error(&key.span, "the private key does not belong to the first certificate", hint);
            None
        }
        Err(error) => {
            let message = format!("the first certificate cannot be used: {error}");
            report.error(&certificate.span, message, "make a new X.509 v3 certificate");
            None
        }
    }
}

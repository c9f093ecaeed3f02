//! Certificates made on the spot.

use std::path::{Path, PathBuf};

/// A self-signed certificate with its key.
pub struct Pair {
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: String,
    /// The certificate as it comes over the wire.
    pub der: Vec<u8>,
}

/// A new pair for this name or address.
pub fn pair(name: &str) -> Pair {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    Pair { certificate: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().to_vec() }
}

impl Pair {
    /// Writes `edge.pem` and `edge.key` there, each whole at once, and returns their paths.
    pub fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let put = |name: &str, text: &str| {
            let (path, fresh) = (folder.join(name), folder.join(format!(".{name}.new")));
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(&fresh, &path).unwrap();
            path
        };
        (put("edge.pem", &self.certificate), put("edge.key", &self.key))
    }
}

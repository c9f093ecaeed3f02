//! What rules name an API key by.

use sha2::{Digest, Sha256};

const BEARER: &[u8] = b"bearer ";

/// SHA-256 of a client's API key in lower-case hexadecimal digits, from what stands in `Authorization` or `x-api-key`.
pub fn key_sha256(credential: &[u8]) -> String {
    let key = match credential.split_at_checked(BEARER.len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(BEARER) => key.trim_ascii(),
        _ => credential,
    };
    Sha256::digest(key).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_hash_however_it_is_shown() {
        // printf %s sk-1 | sha256sum
        let hash = "0f2c10bf3d128c719c6bfa4ecbae94b7fceebaea6e4438fef38a90e5acc326f3";
        for shown in ["sk-1", "Bearer sk-1", "bearer  sk-1 "] {
            assert_eq!(key_sha256(shown.as_bytes()), hash, "{shown:?}");
        }
    }
}

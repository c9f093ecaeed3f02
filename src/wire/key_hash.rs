//! What rules name an API key by.

use sha2::{Digest, Sha256};

use crate::domain::hex::hex;

const BEARER: &[u8] = b"bearer";

/// SHA-256 of a client's API key in lower-case hexadecimal digits, from what stands in `Authorization` or `x-api-key`; `None`
/// when there is no key in it.
pub fn key_sha256(credential: &[u8]) -> Option<String> {
    let credential = credential.trim_ascii();
    let key = match credential.split_at_checked(BEARER.len()) {
        Some((scheme, [])) if scheme.eq_ignore_ascii_case(BEARER) => return None,
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(BEARER) && key[0].is_ascii_whitespace() => key.trim_ascii(),
        _ => credential,
    };
    (!key.is_empty()).then(|| hex(&Sha256::digest(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_hash_however_it_is_shown() {
        // printf %s sk-1 | sha256sum
        let hash = "0f2c10bf3d128c719c6bfa4ecbae94b7fceebaea6e4438fef38a90e5acc326f3";
        for shown in ["sk-1", " sk-1 ", "Bearer sk-1", "bearer  sk-1 ", "BEARER\tsk-1"] {
            assert_eq!(key_sha256(shown.as_bytes()).as_deref(), Some(hash), "{shown:?}");
        }
        for other in ["Bearersk-1", "Basic sk-1", "sk-2"] {
            assert_ne!(key_sha256(other.as_bytes()).as_deref(), Some(hash), "{other:?}");
        }
        for nothing in ["", " ", "Bearer", "Bearer \t "] {
            assert_eq!(key_sha256(nothing.as_bytes()), None, "{nothing:?}");
        }
    }
}

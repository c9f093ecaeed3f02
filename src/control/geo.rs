//! Where the GeoIP database comes from: the operator's file, or the one inside the binary.
//!
//! It is read into memory and swapped whole. A mapped file would change under its readers (RUSTSEC-2025-0132).

use std::path::Path;

use super::files::read_bounded;
use crate::wire::geoip::{DATABASE_BYTES_MAX, GeoDb};

/// The database that comes with the binary.
pub fn embedded() -> &'static [u8] {
    include_bytes!("../../geoip/nearpool.mmdb")
}

/// The licence and the attribution that go with it, and so with the binary.
pub fn notice() -> &'static str {
    include_str!("../../geoip/NOTICE")
}

/// Reads and checks a database; `None` is the embedded one, which is used where it lies. The error is a line for people.
pub fn read(path: Option<&Path>) -> Result<GeoDb, String> {
    let Some(path) = path else {
        return GeoDb::from_bytes(embedded()).map_err(|error| format!("{error} (the embedded one)"));
    };
    let named = |error: &dyn std::fmt::Display| format!("{error} ({})", path.display());
    let bytes = read_bounded(path, DATABASE_BYTES_MAX as u64)
        .map_err(|error| named(&format_args!("the GeoIP database cannot be read: {error}")))?;
    GeoDb::from_bytes(bytes).map_err(|error| named(&error))
}

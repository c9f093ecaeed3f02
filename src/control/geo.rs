//! Where the GeoIP database comes from: the operator's file, or the one inside the binary.
//!
//! It is read into memory and swapped whole. A mapped file would change under its readers (RUSTSEC-2025-0132).

use std::path::Path;

use super::files::read_bounded;
use crate::wire::geoip::GeoDb;

/// Largest database in bytes: the largest in the trade, with every schema's fields, have under 400 MiB.
const BYTES_MAX: u64 = 512 << 20;

/// The database that comes with the binary.
pub fn embedded() -> &'static [u8] {
    include_bytes!("../../geoip/nearpool.mmdb")
}

/// Reads and checks a database; `None` is the embedded one. The error is a line for people.
pub fn read(path: Option<&Path>) -> Result<GeoDb, String> {
    let database = match path {
        Some(path) => read_bounded(path, BYTES_MAX)
            .map_err(|error| error.to_string())
            .and_then(|bytes| GeoDb::from_bytes(bytes).map_err(|error| error.to_string())),
        None => GeoDb::from_bytes(embedded().to_vec()).map_err(|error| error.to_string()),
    };
    let name = path.map_or_else(|| "the embedded one".into(), Path::to_string_lossy);
    database.map_err(|error| format!("GeoIP database {name}: {error}"))
}

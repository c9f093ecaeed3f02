//! Placeholder until the wire branch lands.
/// db
#[derive(Debug)]
pub struct GeoDb;

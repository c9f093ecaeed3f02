//! Stub.
use std::net::IpAddr;
/// db
#[derive(Debug)]
pub struct GeoDb;
/// x
pub struct Located { /// p
 pub place: crate::domain::place::Place, /// c
 pub country: Option<String> }
impl GeoDb {
/// x
pub fn lookup(&self, _a: IpAddr) -> Result<Option<Located>, String> { Ok(None) }
}

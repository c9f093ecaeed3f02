//! Stub.
use crate::domain::{ask::Dialect, outcome::Outcome};
/// x
pub fn error_body(_d: Dialect, _o: Outcome, _m: &str, _p: Option<&str>) -> Vec<u8> { vec![] }
/// x
pub fn error_event(_d: Dialect, _o: Outcome, _m: &str) -> Vec<u8> { vec![] }
/// x
pub fn model_list<'a>(_names: impl Iterator<Item = &'a str>, _a: bool) -> Vec<u8> { vec![] }

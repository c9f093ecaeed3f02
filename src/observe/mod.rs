//! What the edge tells of itself: metrics and the access log.
//!
//! Bounded on purpose: label values come from the configuration or from closed enums, never from a client, and the log
//! has a queue of fixed length. Prompts and keys appear in neither.

pub mod access_log;
pub mod interaction;
pub mod metrics;
pub mod recent;
pub mod seldom;
#[cfg(test)]
pub(crate) mod testing;
pub mod timestamp;
pub mod trace;

//! A simulated world: engines, their HTTP servers, regions, faults and agents.
//!
//! Stands apart: it imports nothing of the edge's, so that a bug that both shared could not hide itself.
//!
//! | module | what |
//! |---|---|
//! | [`preset`] | speed and size of an engine, fitted to published figures |
//! | [`kv_cache`] | its cache: blocks reused by prefix, evicted least recently used first |
//! | [`engine`] | one replica as a pure step function in virtual time |

pub mod engine;
pub mod kv_cache;
pub mod preset;

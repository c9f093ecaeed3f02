//! Floor 0, words: what the edge talks about, in plain values.
//!
//! Std only: no I/O, no clock, no lock, no serialisation.

pub mod ask;
pub mod code;
pub mod engine_load;
pub mod health_check;
pub mod hex;
pub mod ids;
pub mod outcome;
pub mod place;
pub mod prompt;
pub mod topology;
pub mod trace;
pub mod whereabouts;

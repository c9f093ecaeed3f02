//! The control plane: what happens beside the requests. New configurations come in, replicas are checked, and the
//! operator asks how things stand.
//!
//! It knows nothing of the data plane; the two meet in the roster.

pub mod reload;
pub mod watch;

pub mod probe;
pub mod scrape;

pub mod export;
pub mod interactions;

pub mod admin;
pub mod explain;

mod files;
pub mod geo;
mod health_check;
mod line;
mod schedule;
mod status;
#[cfg(test)]
mod testing;

pub use line::Connections;

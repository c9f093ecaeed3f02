//! Floor 3, the data plane: one request's way from the client's connection to a replica's and back.
//!
//! `serve` walks the stations in order and is the file to read first; each station is a file of its own.

mod accept;
mod account;
mod attempt;
mod body;
mod corked;
mod dispatch;
mod events;
mod headers;
mod identify;
mod relay;
mod reply;
mod serve;
pub mod tls;
mod upstream;

pub use accept::Accept;
pub use serve::{Edge, Parts};

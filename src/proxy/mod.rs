//! Floor 3, the data plane: one request's way from the client's connection to a replica's and back.
//!
//! [`serve`] walks the stations in order and is the file to read first; each station is a file of its own.

mod serve;
mod accept;
mod identify;
mod body;
mod dispatch;
mod attempt;
mod upstream;
mod corked;
mod headers;
mod events;
mod relay;
mod reply;
mod account;
pub mod tls;

pub use accept::Accept;
pub use serve::{Edge, Parts};

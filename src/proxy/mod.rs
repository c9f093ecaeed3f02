//! Floor 3, the data plane: one request's way from the client's connection to a replica's and back.
//!
//! `serve` walks the stations in order and is the file to read first; each station is a file of its own.

mod serve;

mod accept;
mod ahead;
mod apart;
mod batched;
mod bell;
mod body;
mod client;
mod identify;
mod proxied;
mod route;
mod whereabouts;

mod admission;
mod dispatch;
mod due;
mod owner;
mod place;
mod race;
mod rewritten;
mod waiting;

mod attempt;
mod booking;
mod corked;
mod cost;
mod events;
mod head;
mod headers;
mod socket;
mod upstream;
mod wrapped;

mod chunks;
mod relay;
mod reply;
mod resume;

mod account;
mod trace;

mod edge;
mod ending;
pub mod tls;

pub use accept::Accept;
pub use edge::{Edge, Parts};

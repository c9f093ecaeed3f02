//! Floor 2, bytes: what comes over the wire and what is sent back. No sockets here: every parser is fed slices, in
//! whatever pieces they arrive, and gives the same answer at every split point.

mod anthropic;
pub mod body;
mod centroids;
pub mod geoip;
mod openai;
pub mod reply;
pub mod scan;
pub mod sse;
pub mod usage;

//! Floor 2, bytes: what comes over the wire and what is sent back. No sockets here: every parser is fed slices, in
//! whatever pieces they arrive, and gives the same answer at every split point.

pub mod body;
pub mod checks;
pub mod chunked;
pub mod engine;
pub mod include_usage;
mod members;
pub mod names;
pub mod prompt;
pub mod response_id;
pub mod response_model;
pub mod resume;
pub mod scan;
pub mod sse;
pub mod trace_context;
pub mod usage;
// The dialects.
mod anthropic;
pub mod late_error;
mod openai;
pub mod reply;
// Where a client stands.
pub mod access_line;
pub mod forwarded;
pub mod geoip;
pub mod key_hash;
pub mod place_headers;
pub mod proxy_protocol;
// What the admin listener is asked, and tells.
pub mod query;
pub mod status;

//! Server-sent events: where one ends, whatever the chunks, and what kind it is, without reading its JSON.
//!
//! A relay forwards whole events only. So a stream that breaks off ends between two events, and an error event can
//! follow; the price is that a half event waits for its other half, which its reader would have had to do anyway.
//! Events pass as the bytes they were, comments and line ends included.

mod event;
mod framer;

pub(in crate::wire) use event::is_error;
pub use event::{EventKind, Progress, data_of, name_of};
pub use framer::{EVENT_BYTES_MAX, Framed, Framer, SseError};

#[cfg(test)]
mod tests;

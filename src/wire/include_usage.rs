//! Usage of streams whose client did not ask for it: it is asked for on the way up, and what that causes is taken out again
//! on the way down, so that the client sees what it would have seen.
//!
//! | | |
//! |---|---|
//! | [`ask()`] | `stream_options.include_usage` put into the request's body |
//! | [`Unasked`] | the event that reports usage, and `"usage":null` in the others, taken out of the stream |
//!
//! What a client says of `stream_options` that is not understood here is left as it is, and so is its stream: the engine
//! has its own words for it.

mod ask;
mod unasked;

pub use ask::ask;
pub use unasked::Unasked;

//! What it takes to let another replica continue a stream that broke off, in bytes.
//!
//! | | |
//! |---|---|
//! | [`Told`] | what a client has been told so far: its text, its id, its tokens, and whether it can be continued |
//! | [`Asked`] | the request, read again: where the text so far is put in, and what forbids it |
//! | `seam` | the continuation's events as the client is to see them: the first stream's id, one role, one sum of tokens |
//! | `end` | the closing words of an answer that lacks nothing else |
//!
//! Text is kept as it stood in the events, JSON escapes and all, and is put into the request in the same form: nothing is
//! decoded, so nothing can change on the way, not even half a surrogate pair at the end of an event.
//!
//! Tokens: an engine tells how many it made only at the end, unless asked to tell each time. So each event with text counts as
//! one, which is what engines send; one that packs several into an event gets a budget that is too large by as many.

mod asked;
mod chunk;
mod end;
mod seam;
mod told;

pub use asked::Asked;
pub use seam::Unfit;
pub use told::{TEXT_BYTES_MAX, Told};

#[cfg(test)]
mod tests;

//! One engine replica as a pure step function: no clock, no I/O, no runtime. Time is an argument and starts anywhere.
//!
//! The model is continuous batching as in vLLM. Requests wait in order of arrival. The first one is admitted when a seat
//! (`max_num_seqs`) and enough KV-cache blocks for its prompt *and* its whole answer are free; so nothing is ever preempted.
//! Then the engine takes steps. A step computes up to `chunk_tokens` uncached prompt tokens, first come first served, and one
//! token for every request that is already decoding; it lasts as long as both together. A prompt's blocks can be reused by
//! others once it is computed, an answer's blocks once the request ends.
//!
//! It errs in that prefill costs the same at every context length, and that the answer's length must be known beforehand.

mod batch;
mod busy;
mod request;
mod steps;

pub use batch::Engine;
pub use request::{Event, Pace, Refused, RequestId, Stats, Submit};

#[cfg(test)]
mod tests;

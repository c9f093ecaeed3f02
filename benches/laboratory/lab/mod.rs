//! The routing laboratory: policies on simulated engines in virtual time, deterministic by seed.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line: what is run on what |
//! | [`trace`] | recorded calls as rows, read from a file or made by the generator |
//! | [`workload`] | rows → calls whose prompts are lists of block ids, and when each is made |
//! | [`prompts`], [`dialogue`] | rows → prompts in the trace's blocks, and as the messages of an agent |
//! | [`cache`], [`engine`] | one replica: FIFO prefill over an LRU cache |
//! | [`policies`] | where a call goes: one trait, and who implements it |
//! | [`world`] | the event queue that puts them together |
//! | [`report`], [`verdicts`] | the table, and what must hold of it |
//!
//! What is simplified: decoding runs beside prefill and does not slow it; an answer's own tokens enter a cache only with
//! the next prompt that repeats them; a call in flight does not keep its blocks from being evicted.

pub(crate) mod cache;
pub(crate) mod cli;
pub(crate) mod dialogue;
pub(crate) mod engine;
#[path = "../../shared/one_pool.rs"]
pub(crate) mod one_pool;
pub(crate) mod policies;
pub(crate) mod prompts;
pub(crate) mod report;
pub(crate) mod time;
pub(crate) mod trace;
pub(crate) mod verdicts;
pub(crate) mod workload;
pub(crate) mod world;

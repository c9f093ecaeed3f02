//! A simulated world: engines, their HTTP servers, regions, faults and agents.
//!
//! Stands apart: it imports nothing of the edge's, so that a bug that both shared could not hide itself.
//!
//! | module | what |
//! |---|---|
//! | [`preset`] | speed and size of an engine, fitted to published figures |
//! | [`kv_cache`] | its cache: blocks reused by prefix, evicted least recently used first |
//! | [`engine`] | one replica as a pure step function in virtual time |
//! | [`text`] | stand-ins for tokeniser and language model |
//! | [`prompt`] | conversations, the chat template, continued answers |
//! | [`server`] | the engine behind HTTP in real time, with faults |
//! | [`client`] | a plain HTTP/1.1 client |
//! | [`world`] | regions of such servers, and agents that call a base URL |

pub mod preset;

pub mod engine;
pub mod kv_cache;

pub mod prompt;
pub mod text;

pub mod server;

pub mod client;

pub mod world;

//! Nearpool: an edge routing proxy for AI-agent traffic.
//!
//! One edge runs in each region. It works out which model, session and step a call belongs to, picks the nearest usable
//! pool that serves the model and, in it, the replica that already holds the session's KV cache.
//!
//! # The way of one request
//!
//! Each station is one file; [`proxy`]'s `serve` walks them in this order and is the first file to read.
//!
//! | # | station | the question | decided in (pure) | done in (I/O) |
//! |---|---|---|---|---|
//! | 1 | accept | may we take this on? | [`policy::limits`] | `proxy/accept.rs`, `proxy/body.rs` |
//! | 2 | identify | which client, session, step, model, dialect, stream? | [`wire`] | `proxy/identify.rs` |
//! | 3 | resolve | which served models may answer to this name? | [`policy::resolve`] | |
//! | 4 | choose pool | which regions, nearest usable first? | [`policy::pool`] | |
//! | 5 | choose replica | warm, light, healthy? | [`policy::replica`] with `affinity`, `load`, `health`, `breaker` | [`roster`] |
//! | 6 | send | did this attempt reach its first event? | | `proxy/attempt.rs` |
//! | 7 | retry, fall back | again, elsewhere, or stop? | [`policy::retry`] | `proxy/dispatch.rs` |
//! | 8 | stream, observe | bytes down; times and usage noted; on elsewhere? | [`wire::sse`], [`wire::usage`], [`policy::resume`] | `proxy/relay.rs`, `proxy/resume.rs` |
//! | 9 | account | counted once, logged once, also when cancelled | [`domain::outcome`] | `proxy/account.rs` to [`observe`] |
//!
//! # The floors
//!
//! `use` points down a floor, never up; `tests/tidy.rs` checks it.
//!
//! | floor | modules | what may be in it |
//! |---|---|---|
//! | 0, words | [`domain`] | plain values |
//! | 1, decisions | [`policy`] | functions of a view, parameters, time and randomness: no clock, no I/O |
//! | 2, bytes, files, shared state | [`wire`], [`config`], [`roster`], [`observe`] | no sockets |
//! | 3, two planes | [`proxy`] (data), [`control`] (configuration, health, admin) | they meet in [`roster`] alone |
//! | apart | [`sim`] | simulated engines, regions and agents; imports nothing of the others |

pub mod domain;

pub mod policy;

pub mod config;
pub mod observe;
pub mod roster;
pub mod wire;

pub mod control;
pub mod proxy;

pub mod sim;

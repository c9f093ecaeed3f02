//! The routing laboratory's own rules: what it replays, what its engines do, and that equal seeds give equal tables.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

#[path = "../../benches/laboratory/lab/mod.rs"]
mod lab;

mod cache;
mod cli;
mod dialogue;
mod engine;
mod generator;
mod quantiles;
mod read;
mod report;
mod verdicts;
mod workload;
mod world;

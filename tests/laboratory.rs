//! The routing laboratory's own rules, and that it runs: the same every time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

#[path = "../benches/laboratory/lab/mod.rs"]
mod lab;

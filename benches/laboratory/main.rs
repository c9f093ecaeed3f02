//! The routing laboratory: the edge's own policy and others, on simulated engines in virtual time.
//!
//! `cargo bench --bench laboratory -- --trace FILE --sessions 300`; without a trace on generated sessions like the
//! recorded ones; `-- --help` tells the rest.

mod lab;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    lab::cli::main(&lab::cli::Args::parse())
}

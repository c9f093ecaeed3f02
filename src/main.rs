//! The command line: the only reader of arguments, environment and entropy.

mod cli;

use std::process::ExitCode;

use clap::Parser;

/// Agents allocate and free bodies of a megabyte on every core at once; the system's allocator spends a tenth of the
/// edge's time on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(cli::Args::parse()).unwrap_or_else(|error| cli::failed(&error))
}

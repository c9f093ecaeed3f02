//! The routing laboratory: Nearpool's own routing and other policies on simulated engines in virtual time.
//!
//! `cargo bench --bench laboratory -- --trace FILE --sessions 300`; without a trace on generated sessions like the
//! recorded ones; `-- --help` tells the rest.

mod lab;

use std::time::Instant;

use clap::Parser;

fn main() -> anyhow::Result<()> {
    let began = Instant::now();
    lab::cli::main(&lab::cli::Args::parse(), &mut std::io::stdout().lock())?;
    eprintln!("{:.1} s", began.elapsed().as_secs_f64());
    Ok(())
}

//! The edge end to end, beside a proxy on the same framework that decides nothing, and beside a direct connection.
//!
//! `cargo bench --features peer --bench edge` measures everything and exits with 1 if a budget is missed; parts by name:
//! `-- requests events delay memory syscalls observe`, shorter with `--quick`. Linux only: what processes use of CPU and memory
//! is asked of the system.
//!
//! Load, replicas, edge and peer are processes of their own on this machine's loopback. The edge is the real binary with
//! every feature on; the peer is the framework's own proxy as it comes, with the system's allocator.

mod cpu;
mod delay;
mod load;
mod memory;
mod mock;
mod observe;
mod peer;
mod processes;
mod report;
mod requests;
mod syscalls;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use processes::Replicas;
use report::Report;

const PARTS: [&str; 6] = ["requests", "events", "delay", "memory", "syscalls", "observe"];

/// Replicas in all: two near, one in the next region.
const REPLICAS: usize = 3;

fn main() -> Result<ExitCode> {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["mock", listeners] => runtime.block_on(mock::serve(listeners.parse()?)).map(|()| ExitCode::SUCCESS),
        ["peer", listen, upstream, threads] => peer::serve(listen, upstream.parse()?, threads.parse()?),
        ["load", ..] => {
            args.remove(0);
            let report = runtime.block_on(measure(&args))?;
            Ok(if report.conclude() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        // Once more, with the open files that the load needs.
        _ => Err(processes::many_files(&std::env::current_exe()?).arg("load").args(&args).exec())
            .context("cannot run sh"),
    }
}

async fn measure(args: &[String]) -> Result<Report> {
    let quick = args.iter().any(|arg| arg == "--quick");
    let parts: Vec<&str> = args.iter().map(String::as_str).filter(|arg| *arg != "--quick").collect();
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("there is no part '{unknown}'; parts: {}", PARTS.join(", "));
    }
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let replicas = Replicas::start(REPLICAS)?;
    let mut report = Report::default();
    if wanted("requests") {
        cpu::requests(&mut report, &replicas, threads, if quick { 1 } else { 5 }).await?;
    }
    if wanted("events") {
        cpu::events(&mut report, &replicas, threads, if quick { 2 } else { 8 }).await?;
    }
    if wanted("delay") {
        delay::requests(&mut report, &replicas, threads, if quick { 2 } else { 6 }).await?;
        delay::events(&mut report, &replicas, threads, if quick { 1 } else { 4 }).await?;
    }
    if wanted("memory") {
        memory::all(&mut report, &replicas, threads, if quick { 300 } else { 1000 }, if quick { 150 } else { 500 })
            .await?;
    }
    if wanted("syscalls") {
        syscalls::all(&mut report, &replicas, threads).await?;
    }
    if wanted("observe") {
        observe::all(&mut report, &replicas, threads, if quick { 1 } else { 12 }).await?;
    }
    Ok(report)
}

//! System calls per request, where strace is installed. They do not depend on the machine.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::cpu::CONNECTIONS;
use crate::load;
use crate::processes::{Process, Replicas};
use crate::report::Report;
use crate::requests::request;

/// Calls on each connection while they are counted.
const EACH: usize = 30;

/// Counts those of edge and peer at 1 KiB.
pub(crate) async fn all(report: &mut Report, replicas: &Replicas, threads: usize) -> Result<()> {
    let found = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        println!("system calls: not counted, strace is not installed");
        return Ok(());
    }
    for (name, process) in [("edge", Process::edge(replicas, threads)?), ("peer", Process::peer(replicas, threads)?)] {
        let counts = count(&process).await?;
        let all: f64 = counts.iter().map(|(count, _)| count).sum();
        report.note(format!("system calls per request of 1 KiB: {name}"), all, "calls");
        let most: Vec<_> = counts.iter().take(8).map(|(count, call)| format!("{call} {count:.2}")).collect();
        println!("    {}", most.join(", "));
    }
    Ok(())
}

/// Calls per request by name, the most frequent first.
async fn count(process: &Process) -> Result<Vec<(f64, String)>> {
    let clients = load::connect(process.at, CONNECTIONS, |n| request(n, 1 << 10, None)).await?;
    let (clients, _) = load::calls(clients, 3).await?;
    let table = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-strace.txt");
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-qq", "-p", &process.id().to_string(), "-o"])
        .arg(&table)
        .stderr(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while !is_traced(process) {
        ensure!(Instant::now() < deadline, "strace did not attach within 5 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await; // its other threads
    load::calls(clients, EACH).await?;
    Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
    strace.wait()?;
    let table = std::fs::read_to_string(&table).context("strace wrote no table")?;
    let requests = (CONNECTIONS * EACH) as f64;
    // `% time, seconds, usecs/call, calls, [errors,] syscall`
    let mut counts: Vec<_> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (calls, name) = (fields.get(3)?.parse::<f64>().ok()?, *fields.last()?);
            (name != "total").then(|| (calls / requests, name.to_owned()))
        })
        .collect();
    counts.sort_by(|a, b| b.0.total_cmp(&a.0));
    Ok(counts)
}

fn is_traced(process: &Process) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}

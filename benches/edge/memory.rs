//! Resident memory: of an idle edge, of a kept connection, of an open stream.

use std::time::Duration;

use anyhow::Result;

use crate::load;
use crate::processes::{Process, Replicas};
use crate::report::Report;
use crate::requests::request;

const IDLE_MIB: f64 = 20.0;
const CONNECTION_KIB: f64 = 60.0;
const STREAM_KIB: f64 = 60.0;

/// Time for what is under way to settle: health checks run, freed memory goes back.
const SETTLE: Duration = Duration::from_millis(1500);

/// Measures edge and peer, with so many connections and streams.
pub(crate) async fn all(
    report: &mut Report,
    replicas: &Replicas,
    threads: usize,
    connections: usize,
    streams: usize,
) -> Result<()> {
    let edge = one(|| Process::edge(replicas, threads), connections, streams).await?;
    let peer = one(|| Process::peer(replicas, threads), connections, streams).await?;
    report.judge("resident when idle: edge", edge.idle_mib, "MiB", IDLE_MIB);
    report.note("resident when idle: peer", peer.idle_mib, "MiB");
    report.judge(format!("per idle connection ({connections}): edge"), edge.connection_kib, "KiB", CONNECTION_KIB);
    report.note(format!("per idle connection ({connections}): peer"), peer.connection_kib, "KiB");
    report.judge(format!("per open stream ({streams}): edge"), edge.stream_kib, "KiB", STREAM_KIB);
    report.note(format!("per open stream ({streams}): peer"), peer.stream_kib, "KiB");
    Ok(())
}

struct Memory {
    idle_mib: f64,
    connection_kib: f64,
    stream_kib: f64,
}

async fn one(start: impl Fn() -> Result<Process>, connections: usize, streams: usize) -> Result<Memory> {
    let process = start()?;
    tokio::time::sleep(SETTLE).await;
    let idle = process.resident_kib()?;
    // One connection first, so that what is allocated once is not counted for the rest.
    let ask = |n| request(n, 1 << 10, None);
    let (first, _) = load::calls(load::connect(process.at, 1, ask).await?, 20).await?;
    tokio::time::sleep(SETTLE).await;
    let before = process.resident_kib()?;
    let mut kept = first;
    // In steps: a thousand requests at once would measure a thousand requests.
    for _ in 0..connections.div_ceil(50) {
        let (more, _) = load::calls(load::connect(process.at, 50, ask).await?, 1).await?;
        kept.extend(more);
    }
    tokio::time::sleep(SETTLE).await;
    let connection_kib = (process.resident_kib()? - before) / (kept.len() - 1) as f64;
    drop((kept, process));

    // Open streams, in a new process: freed memory of connections would hide theirs.
    let process = start()?;
    let ask = |n| request(n, 1 << 10, Some((60, Duration::from_secs(1))));
    let mut kept = load::connect(process.at, 1, ask).await?;
    (kept, _) = load::streams(kept, Duration::ZERO, 1).await?;
    tokio::time::sleep(SETTLE).await;
    let before = process.resident_kib()?;
    let clients = load::connect(process.at, streams, ask).await?;
    let (open, _) = load::streams(clients, Duration::from_millis(2), 1).await?;
    tokio::time::sleep(SETTLE).await;
    let stream_kib = (process.resident_kib()? - before) / streams as f64;
    drop((kept, open));
    Ok(Memory { idle_mib: idle / 1024.0, connection_kib, stream_kib })
}

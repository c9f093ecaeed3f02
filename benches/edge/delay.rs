//! What the edge adds to the time of a call and of an event, beside a direct connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::{self, Client};
use crate::processes::{Process, Replicas};
use crate::report::{Report, median, millis, quantile};
use crate::requests::request;

/// Connections of the load: few, since a queue would measure the machine and not the edge.
const CONNECTIONS: usize = 4;

/// A body's size with its name, and the calls on each connection in one turn.
const SIZES: [(&str, usize, usize); 3] = [("1 KiB", 1 << 10, 250), ("32 KiB", 32 << 10, 150), ("1 MiB", 1 << 20, 20)];

const EVENTS: u32 = 200;
const EVENT_INTERVAL: Duration = Duration::from_millis(10);

/// Most that the edge may add to an event at the median, in ms.
const EVENT_BUDGET_MS: f64 = 1.0;

/// A way to the replica.
struct Lane {
    name: &'static str,
    clients: Vec<Client>,
    times: Vec<f64>,
}

async fn lanes(
    ways: [(&'static str, SocketAddr); 3],
    connections: usize,
    ask: impl Fn(usize) -> Vec<u8>,
) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for (name, at) in ways {
        lanes.push(Lane { name, clients: load::connect(at, connections, &ask).await?, times: Vec::new() });
    }
    Ok(lanes)
}

/// Time of whole calls, the ways in turn.
pub(crate) async fn requests(report: &mut Report, replicas: &Replicas, threads: usize, turns: usize) -> Result<()> {
    let (edge, peer) = (Process::edge(replicas, threads)?, Process::peer(replicas, threads)?);
    for (size, bytes, each) in SIZES {
        let ways = [("direct", replicas.at[0]), ("edge", edge.at), ("peer", peer.at)];
        let mut lanes = lanes(ways, CONNECTIONS, |n| request(n, bytes, None)).await?;
        for turn in 0..=turns {
            for lane in &mut lanes {
                let (clients, times) = load::calls(std::mem::take(&mut lane.clients), each).await?;
                lane.clients = clients;
                if turn > 0 {
                    lane.times.extend(times.iter().map(millis));
                }
            }
        }
        for (quantile_name, share) in [("p50", 0.5), ("p99", 0.99)] {
            let of = |lane: &Lane| quantile(lane.times.iter().copied(), share);
            for lane in &lanes[1..] {
                let what = format!("added to a call of {size}, {quantile_name}: {}", lane.name);
                report.note(what, of(lane) - of(&lanes[0]), "ms");
            }
        }
    }
    Ok(())
}

/// Time of single events, one stream on each way at a time, a third of the interval apart.
pub(crate) async fn events(report: &mut Report, replicas: &Replicas, threads: usize, turns: usize) -> Result<()> {
    let (edge, peer) = (Process::edge(replicas, threads)?, Process::peer(replicas, threads)?);
    let ways = [("direct", replicas.at[0]), ("edge", edge.at), ("peer", peer.at)];
    let mut lanes = lanes(ways, 1, |n| request(n, 1 << 10, Some((EVENTS, EVENT_INTERVAL)))).await?;
    for _ in 0..turns {
        let clients: Vec<_> = lanes.iter_mut().flat_map(|lane| std::mem::take(&mut lane.clients)).collect();
        let (clients, streamed) = load::streams(clients, EVENT_INTERVAL / 3, usize::MAX).await?;
        for ((lane, client), streamed) in lanes.iter_mut().zip(clients).zip(streamed) {
            ensure!(streamed.delays.len() == EVENTS as usize, "{} events arrived", streamed.delays.len());
            lane.clients.push(client);
            lane.times.extend(streamed.delays.iter().map(millis));
        }
    }
    let direct = median(lanes[0].times.iter().copied());
    report.judge(
        "added to an event, p50: edge",
        median(lanes[1].times.iter().copied()) - direct,
        "ms",
        EVENT_BUDGET_MS,
    );
    report.note("added to an event, p50: peer", median(lanes[2].times.iter().copied()) - direct, "ms");
    let p99 = |lane: &Lane| quantile(lane.times.iter().copied(), 0.99);
    report.note("added to an event, p99: edge", p99(&lanes[1]) - p99(&lanes[0]), "ms");
    report.note("added to an event, p99: peer", p99(&lanes[2]) - p99(&lanes[0]), "ms");
    Ok(())
}

//! CPU time per request and per event, edge and peer in turn, and the ratio of the two.
//!
//! CPU time and not requests per second: it depends least on what else the machine does. The two are measured in pairs,
//! one right after the other and in changing order, of processes that are started several times, and the median of the
//! pairs' ratios is judged.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::load::{self, Client};
use crate::processes::{Process, Replicas};
use crate::report::{Report, median, micros};
use crate::requests::request;

/// A size of body, and how it is measured.
struct Size {
    name: &'static str,
    bytes: usize,
    /// Calls on each connection in one measurement: about half a second of CPU time.
    calls: usize,
    /// The most that the ratio of edge to peer may be.
    budget: Option<f64>,
}

/// Connections of the load, as in the published figures of the peers.
pub(crate) const CONNECTIONS: usize = 64;

const SIZES: [Size; 3] = [
    Size { name: "1 KiB", bytes: 1 << 10, calls: 200, budget: Some(1.1) },
    Size { name: "32 KiB", bytes: 32 << 10, calls: 60, budget: None },
    Size { name: "1 MiB", bytes: 1 << 20, calls: 8, budget: Some(1.3) },
];

/// Streams at a time, events of each, and the time between two: 50 tokens/s, a usual speed. The streams go in step, as
/// continuous batching makes them: a decode step of an engine gives every running request its next token at once.
const STREAMS: usize = 100;
const EVENTS: u32 = 100;
const EVENT_INTERVAL: Duration = Duration::from_millis(20);

/// Pairs of rounds with the same two processes. Where its memory happens to lie, a process costs up to 8 % more or less than
/// another one of the same program: so they are started anew again and again.
const PAIRS_OF_A_START: usize = 4;

/// One side of a comparison.
pub(crate) struct Lane<'a> {
    process: &'a Process,
    clients: Vec<Client>,
    /// CPU time for each call or event of each measurement, in µs.
    cpu: Vec<f64>,
    rate: Vec<f64>,
}

impl<'a> Lane<'a> {
    async fn new(process: &'a Process, connections: usize, request: impl Fn(usize) -> Vec<u8>) -> Result<Lane<'a>> {
        let clients = load::connect(process.at, connections, request).await?;
        Ok(Lane { process, clients, cpu: Vec::new(), rate: Vec::new() })
    }

    pub(crate) async fn requests(&mut self, each: usize) -> Result<()> {
        let count = (self.clients.len() * each) as f64;
        let (start, cpu) = (Instant::now(), self.process.cpu()?);
        (self.clients, _) = load::calls(std::mem::take(&mut self.clients), each).await?;
        self.cpu.push(micros(self.process.cpu()? - cpu) / count);
        self.rate.push(count / start.elapsed().as_secs_f64());
        Ok(())
    }

    async fn events(&mut self) -> Result<()> {
        let cpu = self.process.cpu()?;
        let (clients, streamed) = load::streams(std::mem::take(&mut self.clients), Duration::ZERO, usize::MAX).await?;
        self.clients = clients;
        let events: usize = streamed.iter().map(|streamed| streamed.events).sum();
        // The usage stays at the edge, since the clients did not ask for it.
        ensure!(events >= STREAMS * (EVENTS as usize + 1), "{events} events arrived");
        self.cpu.push(micros(self.process.cpu()? - cpu) / events as f64);
        Ok(())
    }
}

/// One round of each, in changing order.
async fn in_turn<'a>(
    pair: usize,
    one: &mut Lane<'a>,
    other: &mut Lane<'a>,
    round: impl AsyncFn(&mut Lane<'a>) -> Result<()>,
) -> Result<()> {
    let (first, second) = if pair.is_multiple_of(2) { (one, other) } else { (other, one) };
    round(first).await?;
    round(second).await
}

/// What pairs of measurements of CPU time said, in µs.
fn compare(report: &mut Report, what: &str, edge: &[f64], peer: &[f64], budget: Option<f64>) {
    report.note(format!("{what}: edge"), median(edge.iter().copied()), "µs");
    report.note(format!("{what}: peer"), median(peer.iter().copied()), "µs");
    let ratios: Vec<f64> = edge.iter().zip(peer).map(|(edge, peer)| edge / peer).collect();
    let name = format!("{what}: edge / peer, median of {} pairs", ratios.len());
    match budget {
        Some(budget) => report.judge(name, median(ratios), "×", budget),
        None => report.note(name, median(ratios), "×"),
    }
}

/// What one side of a comparison came to, over all starts.
#[derive(Default)]
pub(crate) struct Figures {
    /// See [`Lane::cpu`].
    pub(crate) cpu: Vec<f64>,
    /// Requests per second.
    rate: Vec<f64>,
}

/// Two processes in pairs of rounds, started so many times.
pub(crate) async fn started_anew(
    starts: usize,
    start: impl Fn() -> Result<[Process; 2]>,
    connections: usize,
    request: impl Fn(usize) -> Vec<u8>,
    round: impl AsyncFn(&mut Lane<'_>) -> Result<()>,
) -> Result<[Figures; 2]> {
    let mut figures = [Figures::default(), Figures::default()];
    for nth in 0..starts {
        let [one, other] = start()?;
        let mut one = Lane::new(&one, connections, &request).await?;
        let mut other = Lane::new(&other, connections, &request).await?;
        // The first pair only warms up.
        in_turn(nth, &mut one, &mut other, &round).await?;
        for lane in [&mut one, &mut other] {
            lane.cpu.clear();
            lane.rate.clear();
        }
        for pair in 1..=PAIRS_OF_A_START {
            in_turn(nth + pair, &mut one, &mut other, &round).await?;
        }
        for (lane, figures) in [one, other].into_iter().zip(&mut figures) {
            figures.cpu.extend(lane.cpu);
            figures.rate.extend(lane.rate);
        }
    }
    Ok(figures)
}

/// Edge and peer.
fn both(replicas: &Replicas, threads: usize) -> Result<[Process; 2]> {
    Ok([Process::edge(replicas, threads)?, Process::peer(replicas, threads)?])
}

/// CPU time per request, by size, of processes that are started so many times.
pub(crate) async fn requests(report: &mut Report, replicas: &Replicas, threads: usize, starts: usize) -> Result<()> {
    for Size { name, bytes, calls, budget } in SIZES {
        let ask = |n| request(n, bytes, None);
        let round = async |lane: &mut Lane<'_>| lane.requests(calls).await;
        let [edge, peer] = started_anew(starts, || both(replicas, threads), CONNECTIONS, ask, round).await?;
        compare(report, &format!("CPU per request of {name}"), &edge.cpu, &peer.cpu, budget);
        for (figures, of) in [(edge, "edge"), (peer, "peer")] {
            report.note(format!("rate at {name}: {of}"), median(figures.rate), "req/s");
        }
    }
    Ok(())
}

/// CPU time per event of streams, of processes that are started so many times.
pub(crate) async fn events(report: &mut Report, replicas: &Replicas, threads: usize, starts: usize) -> Result<()> {
    let ask = |n| request(n, 1 << 10, Some((EVENTS, EVENT_INTERVAL)));
    let round = async |lane: &mut Lane<'_>| lane.events().await;
    let [edge, peer] = started_anew(starts, || both(replicas, threads), STREAMS, ask, round).await?;
    compare(report, &format!("CPU per event ({STREAMS} streams)"), &edge.cpu, &peer.cpu, Some(0.8));
    Ok(())
}

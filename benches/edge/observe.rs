//! What it costs to be seen: the access log in a file and traces at 1 % beside the same edge without both, and all calls of
//! metrics, which cannot be turned off, by themselves.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use nearpool::domain::outcome::Outcome;
use nearpool::observe::metrics::{CacheState, GeoResult, Metrics, RequestEnd};
use nearpool::policy::select::Reason;
use prometheus::Registry;

use crate::cpu::{CONNECTIONS, Figures, Lane, started_anew};
use crate::processes::{Process, Replicas};
use crate::report::{Report, median, micros, quantile};
use crate::requests::{MODEL, request};

/// The most that a request with all of it may cost, of one without any.
const BUDGET: f64 = 1.10;

/// Calls on each connection in one measurement: about a second of CPU time, which is told in steps of 10 ms.
const CALLS: usize = 300;

const BODY_BYTES: usize = 1 << 10;

/// Rounds of all calls of metrics that are timed together.
const METRICS_ROUNDS: u32 = 200_000;

/// Measures processes that are started so many times.
pub(crate) async fn all(report: &mut Report, replicas: &Replicas, threads: usize, starts: usize) -> Result<()> {
    let log = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench-observe.log");
    // The replicas' process takes spans too: it answers 200 to whatever is posted.
    let more = format!(
        "\n[access_log]\nfile = {log:?}\nrotate_at = \"64MiB\"\nkeep = 1\n\n[tracing]\nendpoint = \"http://{}\"\nsample = 0.01\n",
        replicas.at[0]
    );
    let start = || {
        let seen = Process::edge_with(replicas, threads, "bench-seen", &more, &[])?;
        Ok([seen, Process::edge_with(replicas, threads, "bench-unseen", "", &["--no-access-log"])?])
    };
    let round = async |lane: &mut Lane<'_>| lane.requests(CALLS).await;
    let ask = |n| request(n, BODY_BYTES, None);
    let [Figures { cpu: with, .. }, Figures { cpu: without, .. }] =
        started_anew(starts, start, CONNECTIONS, ask, round).await?;
    check_seen(&log)?;
    let metrics = metrics()?;
    report.note("CPU per request, log and traces at 1 %", median(with.iter().copied()), "µs");
    report.note("CPU per request, neither", median(without.iter().copied()), "µs");
    report.note("all calls of metrics for one request", metrics, "µs");
    let ratios: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with / (without - metrics)).collect();
    report.note(
        "with metrics, log and traces / without: a quarter of the pairs below",
        quantile(ratios.iter().copied(), 0.25),
        "×",
    );
    report.note("the same: a quarter of the pairs above", quantile(ratios.iter().copied(), 0.75), "×");
    let name = format!("with metrics, log and traces / without, median of {} pairs", ratios.len());
    report.judge(name, median(ratios), "×", BUDGET);
    Ok(())
}

/// That what was paid for was there: lines, and among them some that are traced. Then the log goes.
fn check_seen(log: &Path) -> Result<()> {
    let lines = std::fs::read_to_string(log)?;
    ensure!(lines.contains("\"trace_id\":"), "no request was traced in {} bytes of the log", lines.len());
    std::fs::remove_file(log)?;
    // It is there only if the log was long enough.
    let _ = std::fs::remove_file(log.with_extension("log.1"));
    Ok(())
}

/// What all calls of metrics for one request take, in µs.
fn metrics() -> Result<f64> {
    let metrics = Metrics::new(&Registry::new())?;
    let end = RequestEnd {
        region: "us-west",
        pool: "us-west",
        model: MODEL,
        step: "planner",
        outcome: Outcome::Ok,
        reason: Some(Reason::Session),
        seconds: 0.01,
        cost_dollars: Some(0.000_1),
    };
    let round = || {
        let end = black_box(&end);
        metrics.geo_lookup(GeoResult::Found);
        metrics.overhead(black_box(0.000_04));
        metrics.attempt(end.pool, black_box("r-0123abcd"), end.outcome);
        // Not for a call that is not streamed, as those above are; but most are.
        metrics.ttft(end.pool, end.model, CacheState::Warm, black_box(0.02));
        let mut stream = metrics.stream_metrics(end.pool, end.model);
        stream.gap(black_box(0.01));
        metrics.tokens(end.pool, Some(1_000), Some(900), Some(100));
        metrics.request(end);
    };
    (0..METRICS_ROUNDS / 10).for_each(|_| round());
    let start = Instant::now();
    (0..METRICS_ROUNDS).for_each(|_| round());
    Ok(micros(start.elapsed()) / f64::from(METRICS_ROUNDS))
}

//! A real Prometheus with the shipped configuration and rules over the demo: nothing fires while all is well, and for each
//! trouble exactly what should.
//!
//! The demo's trouble lasts for seconds, and the rules look back for minutes. So every duration of the shipped files (scrape
//! and evaluation intervals, range windows, `for`) is divided by [`FASTER`], and nothing else is changed but the targets:
//! thresholds and guards are of seconds, shares and rates, which stay what they are.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

#[path = "prometheus/faster.rs"]
mod faster;
#[path = "prometheus/rehearsal.rs"]
mod rehearsal;
#[path = "prometheus/server.rs"]
mod server;
#[path = "monitoring/tools.rs"]
#[allow(dead_code, reason = "one kit for two tests")]
mod tools;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rehearsal::Rehearsal;
use server::Prometheus;

/// What durations are divided by. 15 s from scrape to scrape become 150 ms, which a debug build can take.
const FASTER: u32 = 100;
/// The longest that any alert needs: 15 minutes of GPU utilisation, and then 30 to be sustained; here 27 s.
const LONGEST: Duration = Duration::from_millis(45 * 60_000 / FASTER as u64);
/// How long what fires is watched for more: the `for` of most alerts.
const MORE: Duration = Duration::from_millis(5 * 60_000 / FASTER as u64);
/// The most that is waited for one state. Only a fault meets it.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

const REGIONS: [&str; 4] = ["ap-southeast", "eu-west", "us-east", "us-west"];
const MODELS: [&str; 2] = ["8b", "70b"];

const TROUBLES: [&str; 3] = ["slow-ttft", "errors", "idle-gpus"];

type Alerts = BTreeSet<String>;

/// What should fire for a trouble; the same names stand in what the demo says of it.
fn expected(trouble: &str) -> Alerts {
    let pools = || REGIONS.iter().flat_map(|region| MODELS.map(|model| (format!("{region}-{model}"), model)));
    match trouble {
        "slow-ttft" => pools()
            .flat_map(|(pool, model)| {
                ["P50", "P99"].map(|quantile| {
                    format!("NearpoolTtft{quantile}High model=llama-3.1-{model} pool={pool} severity={}", {
                        if quantile == "P50" { "critical" } else { "warning" }
                    })
                })
            })
            .collect(),
        // No breaker opens: what fails at every replica is taken for the request's own fault.
        "errors" => Alerts::from([
            "NearpoolStepErrorRateHigh model=llama-3.1-8b severity=critical".to_owned(),
            "NearpoolRetryBudgetDenied edge=demo severity=warning".to_owned(),
        ]),
        "idle-gpus" => pools().map(|(pool, _)| format!("NearpoolGpuUnderused pool={pool} severity=warning")).collect(),
        other => panic!("no trouble {other}"),
    }
}

/// Waits until what fires is as `wanted`; `before` may fire until then, and nothing else.
fn until(prometheus: &Prometheus, wanted: &Alerts, before: &Alerts, when: &str) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let allowed: Alerts = wanted.union(before).cloned().collect();
    loop {
        let firing = nothing_but(prometheus, &allowed, when)?;
        if firing == *wanted {
            return Ok(());
        }
        if Instant::now() > deadline {
            let missing: Vec<_> = wanted.difference(&firing).collect();
            let evidence = prometheus.evidence();
            return Err(format!("{when}: does not fire: {missing:#?}, fires: {firing:#?}\n{evidence}"));
        }
        std::thread::sleep(POLL);
    }
}

/// For so long nothing fires but what may. It need not fire all the time: 5 minutes are 3 seconds here, in which a pool may
/// for once have too few calls to be judged.
fn stays(prometheus: &Prometheus, allowed: &Alerts, long: Duration, when: &str) -> Result<(), String> {
    let end = Instant::now() + long;
    while Instant::now() < end {
        nothing_but(prometheus, allowed, when)?;
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// What fires, if all of it may.
fn nothing_but(prometheus: &Prometheus, allowed: &Alerts, when: &str) -> Result<Alerts, String> {
    let firing = prometheus.firing();
    let stray: Vec<_> = firing.difference(allowed).collect();
    if stray.is_empty() {
        return Ok(firing);
    }
    Err(format!("{when}: fires and should not: {stray:#?}\n{}", prometheus.evidence()))
}

fn rehearse() -> Result<(), String> {
    let mut demo = Rehearsal::start(&TROUBLES);
    let prometheus = Prometheus::start(demo.admin(), &demo.gpu_pages());
    let nothing = Alerts::new();
    demo.wait_for("healthy");
    prometheus.wait_for_scrapes();
    stays(&prometheus, &nothing, LONGEST, "healthy")?;
    for (nth, trouble) in TROUBLES.iter().enumerate() {
        let (begun, wanted) = (Instant::now(), expected(trouble));
        demo.enter();
        demo.wait_for(&format!("trouble {trouble}"));
        until(&prometheus, &wanted, &nothing, trouble)?;
        println!("{trouble}: {} alerts after {:.1?}", wanted.len(), begun.elapsed());
        if nth + 1 == TROUBLES.len() {
            break;
        }
        stays(&prometheus, &wanted, MORE, trouble)?;
        let healed = Instant::now();
        demo.enter();
        demo.wait_for("healthy");
        until(&prometheus, &nothing, &wanted, &format!("after {trouble}"))?;
        println!("{trouble}: none {:.1?} after its end", healed.elapsed());
    }
    Ok(())
}

/// Where others keep the machine from its work for a second, that is [`FASTER`] seconds of an edge that does not answer, and
/// alerts on it are right. So a rehearsal that was spoilt is tried once more; what is wrong is wrong twice.
#[test]
fn each_trouble_fires_its_alerts_and_health_none() {
    if !tools::have("prometheus", "the alerts over the demo") {
        return;
    }
    if let Err(spoilt) = rehearse() {
        println!("once more, since\n{spoilt}");
        rehearse().unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

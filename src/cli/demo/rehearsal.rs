//! `nearpool demo --trouble KIND`: a rehearsal, for operators who want to see their alerts fire.
//!
//! Healthy traffic first, then each trouble, healthy again after each. What should fire is told beside it; the names are
//! those of `conf/prometheus/rules`, and `tests/prometheus.rs` holds a real Prometheus to them.

use std::io::BufRead;
use std::time::Duration;

use clap::ValueEnum;
use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};
use nearpool::sim::world::World;
use tokio::sync::mpsc;

use super::super::numbers::count;
use super::script::{Phase, Until, steady};
use super::tally::Tally;

/// Trouble that befalls the demo.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trouble {
    /// Every prefill takes 1.2 s longer.
    SlowTtft,
    /// Every replica of the 8B model answers 500, so that agents' steps fail.
    Errors,
    /// Hardly any agent calls, so that the GPUs idle.
    IdleGpus,
}

/// How much longer a prefill takes: enough for both alerts on TTFT, and little enough that agents still end in time.
const SLOW_PREFILL_MS: u32 = 1_200;
/// The model whose replicas fail, by the end of their pools' names.
const FAILING: &str = "-8b";
const AGENTS_IDLE: usize = 4;
const THINK_IDLE: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(8));

impl Trouble {
    /// What it is, and what should fire.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Trouble::SlowTtft => {
                "trouble slow-ttft: every prefill takes 1.2 s longer\n          \
                 should fire: NearpoolTtftP50High, NearpoolTtftP99High"
            }
            Trouble::Errors => {
                "trouble errors: every replica of the 8B model answers 500\n          \
                 should fire: NearpoolStepErrorRateHigh, NearpoolRetryBudgetDenied"
            }
            Trouble::IdleGpus => {
                "trouble idle-gpus: hardly any agent calls\n          \
                 should fire: NearpoolGpuUnderused"
            }
        }
    }

    /// Lets it befall the world.
    pub(super) async fn begin(self, world: &World) -> std::io::Result<()> {
        match self {
            Trouble::SlowTtft => show(world, |_| true, Fault::SlowPrefill { ms: SLOW_PREFILL_MS }).await,
            Trouble::Errors => {
                let fails = |name: &str| name.rsplit_once('-').is_some_and(|(pool, _)| pool.ends_with(FAILING));
                show(world, fails, Fault::Status { status: 500, retry_after_s: None }).await
            }
            Trouble::IdleGpus => Ok(()),
        }
    }

    /// How agents behave in it.
    fn phase(self, until: Until) -> Phase {
        let phase = steady(until);
        match self {
            Trouble::SlowTtft | Trouble::Errors => phase,
            Trouble::IdleGpus => Phase { agents: AGENTS_IDLE, think: THINK_IDLE, ..phase },
        }
    }
}

async fn show(world: &World, befalls: impl Fn(&str) -> bool, fault: Fault) -> std::io::Result<()> {
    for replica in world.replicas().filter(|replica| befalls(replica.name())) {
        replica.set_fault(FaultPlan::from(fault)).await?;
    }
    Ok(())
}

/// What the agents saw of a part.
pub(super) fn seen(tally: &Tally) -> String {
    let line = format!("seen: {}, {}", count(tally.calls, "call"), count(tally.errors, "error"));
    match tally.ttft_ms_all() {
        Some((p50, p99)) => line + &format!(", TTFT {p50:.0} ms at p50, {p99:.0} ms at p99"),
        None => line,
    }
}

/// Ends whatever trouble there is.
pub(super) async fn end(world: &World) -> std::io::Result<()> {
    for replica in world.replicas() {
        ReplicaHandle::set_fault(replica, None).await?;
    }
    Ok(())
}

/// The parts in order: healthy, trouble, healthy, and so on. They share the whole equally, or each lasts until Enter.
pub(super) fn parts(troubles: &[Trouble], whole: Option<Duration>) -> Vec<(Option<Trouble>, Phase)> {
    let count = 2 * troubles.len() + 1;
    let until = |at: usize| match whole {
        Some(whole) => Until::At(whole.mul_f64((at + 1) as f64 / count as f64)),
        None => Until::Enter,
    };
    let trouble = |at: usize| if at % 2 == 1 { troubles.get(at / 2).copied() } else { None };
    let phase = |at| trouble(at).map_or_else(|| steady(until(at)), |trouble: Trouble| trouble.phase(until(at)));
    (0..count).map(|at| (trouble(at), phase(at))).collect()
}

/// Each Enter on standard input; the channel ends with it.
pub(super) fn enters() -> mpsc::Receiver<()> {
    let (pressed, enters) = mpsc::channel(1);
    // A thread of its own, which the end of the process ends: nothing else can interrupt a read of a terminal.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || pressed.blocking_send(()).is_err() {
                return;
            }
        }
    });
    enters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn troubles_stand_between_healthy_parts_of_the_same_length() {
        let parts = parts(&[Trouble::Errors, Trouble::IdleGpus], Some(Duration::from_secs(50)));
        let told: Vec<_> = parts.iter().map(|(trouble, phase)| (*trouble, phase.until)).collect();
        let at = |seconds| Until::At(Duration::from_secs(seconds));
        assert_eq!(
            told,
            [
                (None, at(10)),
                (Some(Trouble::Errors), at(20)),
                (None, at(30)),
                (Some(Trouble::IdleGpus), at(40)),
                (None, at(50)),
            ]
        );
        assert!(parts[3].1.agents < parts[2].1.agents);
    }

    #[test]
    fn the_alerts_that_it_names_are_those_that_ship() {
        let rules = [
            include_str!("../../../conf/prometheus/rules/agents.yml"),
            include_str!("../../../conf/prometheus/rules/edges.yml"),
        ]
        .concat();
        for trouble in Trouble::value_variants() {
            let (_, named) = trouble.title().split_once("should fire: ").unwrap();
            for alert in named.split([',', ' ', '\n']).filter(|word| !word.is_empty()) {
                assert!(rules.contains(&format!("- alert: {alert}\n")), "{alert}");
            }
        }
    }
}

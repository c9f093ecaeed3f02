//! The command line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use super::engine::Setup;
use super::policies::{AdmissionParams, Besides, Identities, Policy, Reading, Tuning};
use super::report::{self, Figures};
use super::time::seconds;
use super::trace::{Rows, generate, read};
use super::workload::{Gaps, Pacing, Workload, build};
use super::world::{Play, run};

/// Routing policies on simulated engines, in virtual time.
#[derive(Parser, Clone, Debug)]
#[command(name = "laboratory")]
pub(crate) struct Args {
    /// The recorded calls; without one they are generated.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Agents' sessions; more than the trace has are its first ones again, under second names. Default: all, or 300
    /// generated ones.
    #[arg(long)]
    sessions: Option<usize>,
    /// Session orders; the table shows the median over them.
    #[arg(long, default_value_t = 5)]
    orders: u64,
    /// Virtual hours.
    #[arg(long, default_value_t = 3.0)]
    hours: f64,
    /// What is compared. Default: all.
    #[arg(long, value_enum, value_delimiter = ',')]
    policies: Vec<Policy>,
    /// Engine replicas.
    #[arg(long, default_value_t = 8)]
    replicas: usize,
    /// Tokens that one replica's cache holds.
    #[arg(long, default_value_t = 1_500_000)]
    cache: u64,
    /// Tokens that one replica prefills in a second.
    #[arg(long, default_value_t = 12_000.0)]
    speed: f64,
    /// Milliseconds between two tokens of an answer.
    #[arg(long, default_value_t = 20.0)]
    itl: f64,
    /// Seconds over which the sessions begin.
    #[arg(long, default_value_t = 7_200.0)]
    ramp: f64,
    /// What a session's next call waits for, after the last answer.
    #[arg(long, value_enum, default_value = "think")]
    gaps: Gaps,
    /// What an uncached token costs the oracle, beside a queued one.
    #[arg(long, default_value_t = 4.0)]
    weight: f64,
    /// The oracle's admission: contexts of active sessions, at most so many times the caches.
    #[arg(long, default_value_t = 1.1)]
    admit: f64,
    /// The oracle's admission: seconds for which a session is active after its last answer.
    #[arg(long, default_value_t = 300.0)]
    active: f64,
    /// The oracle's admission: seconds after which a waiting session is refused. Default: never.
    #[arg(long)]
    wait: Option<f64>,
    /// How calls tell Nearpool their sessions.
    #[arg(long, value_enum, default_value = "named")]
    identity: Identities,
    /// Lines of `[sessions]` in Nearpool's configuration, as `admission = false`.
    #[arg(long, default_value = "")]
    edge: String,
    /// Seed of the first order, and of generated sessions.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Runs what is asked and writes the table.
pub(crate) fn main(args: &Args, out: &mut impl Write) -> Result<()> {
    check(args)?;
    let rows = match &args.trace {
        Some(path) => read(path)?,
        None => Rows::Sessions(generate(args.sessions.unwrap_or(GENERATED_SESSIONS), args.seed)),
    };
    let workload = build(&rows, args.sessions, args.gaps);
    writeln!(out, "{}", about(args, &workload))?;
    writeln!(out, "{}", report::HEAD)?;
    let reading = Reading::new(args.identity, &rows, &workload)?;
    let policies = if args.policies.is_empty() { Policy::value_variants() } else { &args.policies };
    for policy in policies {
        let name = policy.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        writeln!(out, "{}", report::line(&name, &compare(args, &workload, &reading, *policy)?))?;
    }
    Ok(())
}

const GENERATED_SESSIONS: usize = 300;

/// Bounds that keep a mistyped number from taking all memory or all day.
fn check(args: &Args) -> Result<()> {
    ensure!((1..=1_000).contains(&args.replicas), "--replicas is not between 1 and 1000");
    ensure!((1..=1_000).contains(&args.orders), "--orders is not between 1 and 1000");
    ensure!(args.sessions.is_none_or(|count| (1..=100_000).contains(&count)), "--sessions is not between 1 and 100000");
    ensure!((512..=1_000_000_000_000).contains(&args.cache), "--cache is not between 512 and 10^12");
    let positive = [("hours", args.hours), ("speed", args.speed)];
    let others = [
        ("itl", args.itl),
        ("ramp", args.ramp),
        ("weight", args.weight),
        ("admit", args.admit),
        ("active", args.active),
    ];
    for (name, value) in positive.into_iter().chain(others).chain(args.wait.map(|wait| ("wait", wait))) {
        ensure!((0.0..=1e9).contains(&value), "--{name} is not between 0 and 10^9");
    }
    for (name, value) in positive {
        ensure!(value > 0.0, "--{name} is 0");
    }
    Ok(())
}

fn compare(args: &Args, workload: &Workload, reading: &Reading, policy: Policy) -> Result<Figures> {
    let admission =
        AdmissionParams { factor: args.admit, active: seconds(args.active), wait_max: args.wait.map(seconds) };
    let tuning = Tuning {
        weight: args.weight,
        admission,
        besides: Besides { kv_cache_tokens: Some(args.cache), sessions: args.edge.clone() },
    };
    let figures = |order| {
        let play = Play {
            engines: Setup {
                replicas: args.replicas,
                cache_tokens: args.cache,
                speed: args.speed,
                pooled: policy.pooled(),
            },
            ends: seconds(args.hours * 3_600.0),
            ramp: seconds(args.ramp),
            itl: seconds(args.itl / 1_000.0),
            seed: args.seed.wrapping_add(order),
        };
        let mut router = policy.router(reading, args.replicas, &tuning, play.seed)?;
        Ok(run(workload, router.as_mut(), &play).figures())
    };
    Ok(Figures::median(&(0..args.orders).map(figures).collect::<Result<Vec<_>>>()?))
}

fn about(args: &Args, workload: &Workload) -> String {
    let pacing = match workload.pacing {
        Pacing::Closed { .. } => format!(
            "closed loop (a call follows its agent's last answer by `think_ms`, at most 300 s), sessions begin over {} s",
            args.ramp
        ),
        Pacing::Open(_) => "open loop (ticks of 3 s, jittered)".to_owned(),
    };
    format!(
        "{} calls of {} sessions, {pacing}; {} h; {} replicas × {} tokens, {} tokens/s, ITL {} ms; median of {} orders, seeds {} to {}\n",
        workload.calls.len(),
        workload.sessions,
        args.hours,
        args.replicas,
        args.cache,
        args.speed,
        args.itl,
        args.orders,
        args.seed,
        args.seed.wrapping_add(args.orders - 1),
    )
}

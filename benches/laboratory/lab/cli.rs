//! The command line.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use nearpool::config::Sessions;
use nearpool::policy::admission::FILL;
use nearpool::policy::cost::MISS_WEIGHT;

use super::engine::Setup;
use super::policies::{self, AdmissionParams, Besides, Identities, Policy, Reading, Tuning};
use super::report::{self, Figures};
use super::time::{in_seconds, seconds};
use super::trace::{Rows, generate, read};
use super::verdicts::{Kind, Table};
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
    /// What an uncached token costs the oracle, beside a queued one. Default: Nearpool's.
    #[arg(long, default_value_t = MISS_WEIGHT)]
    weight: f64,
    /// The oracle's admission: contexts of active sessions, at most so many times the caches. Default: Nearpool's.
    #[arg(long, default_value_t = FILL)]
    admit: f64,
    /// The oracle's admission: seconds for which a session is active after its last answer. Default: Nearpool's.
    #[arg(long)]
    active: Option<f64>,
    /// The oracle's admission: seconds after which a waiting session is refused. Default: Nearpool's.
    #[arg(long)]
    wait: Option<f64>,
    /// How calls tell Nearpool their sessions.
    #[arg(long, value_enum, default_value = "named")]
    identity: Identities,
    /// Lines of `[sessions]` in Nearpool's configuration, as `admission = false`.
    #[arg(long, default_value = "")]
    edge: String,
    /// Says what must hold of the table and whether it does; if something does not, that is an error.
    #[arg(long)]
    check: bool,
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
    let kind = if args.check { Some(kind(args, &workload)?) } else { None };
    writeln!(out, "{}", about(args, &workload)?)?;
    writeln!(out, "{}", report::HEAD)?;
    let reading = Reading::new(args.identity, &rows, &workload)?;
    let policies = if args.policies.is_empty() { Policy::value_variants() } else { &args.policies };
    let mut lines = Vec::new();
    for policy in policies {
        let name = policy.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let figures = compare(args, &workload, &reading, *policy)?;
        writeln!(out, "{}", report::line(&name, &figures))?;
        lines.push((*policy, figures));
    }
    let Some(kind) = kind else { return Ok(()) };
    let other = args.identity.other();
    let otherwise = compare(args, &workload, &Reading::new(other, &rows, &workload)?, Policy::Nearpool)?;
    writeln!(out, "{}", report::line(&format!("nearpool, {}", other.name()), &otherwise))?;
    judge(args, Table { kind, shares: shares(args, &lines, &otherwise), lines }, out)
}

/// Nearpool's cached shares, with named sessions and with messages.
fn shares(args: &Args, lines: &[(Policy, Figures)], otherwise: &Figures) -> [f64; 2] {
    let own = lines.iter().find(|(policy, _)| *policy == Policy::Nearpool).map_or(f64::NAN, |(_, own)| own.share);
    match args.identity {
        Identities::Named => [own, otherwise.share],
        Identities::Messages => [otherwise.share, own],
    }
}

fn judge(args: &Args, table: Table, out: &mut impl Write) -> Result<()> {
    let verdicts = table.verdicts();
    writeln!(out, "\nWhat must hold of the medians of {} orders:\n", args.orders)?;
    verdicts.iter().try_for_each(|verdict| writeln!(out, "{verdict}"))?;
    let failed = verdicts.iter().filter(|verdict| !verdict.holds).count();
    ensure!(failed == 0, "{failed} of {} do not hold", verdicts.len());
    Ok(())
}

/// What must hold of what is played. Something is stated for 300 recorded sessions, which fit the caches, for 600, which do
/// not, and for recorded arrivals.
fn kind(args: &Args, workload: &Workload) -> Result<Kind> {
    ensure!(args.trace.is_some(), "--check needs a trace: what must hold is stated of recorded ones");
    ensure!(args.policies.is_empty(), "--check needs all policies");
    ensure!(args.orders >= ORDERS_JUDGED, "--check needs {ORDERS_JUDGED} orders at least");
    match (&workload.pacing, workload.sessions) {
        (Pacing::Open(_), _) => Ok(Kind::Arrivals),
        (Pacing::Closed { .. }, 300) => Ok(Kind::Sessions),
        (Pacing::Closed { .. }, 600) => Ok(Kind::Overload { wait_max: edge(args)?.admission_wait.as_secs_f64() }),
        (Pacing::Closed { .. }, other) => {
            bail!("--check: what must hold is stated for 300 and 600 sessions, not {other}")
        }
    }
}

/// Fewer orders are no median to judge by.
const ORDERS_JUDGED: u64 = 5;

fn besides(args: &Args) -> Besides {
    Besides { kv_cache_tokens: Some(args.cache), sessions: args.edge.clone() }
}

/// What Nearpool's configuration says of sessions.
fn edge(args: &Args) -> Result<Sessions> {
    policies::sessions(&besides(args))
}

fn admission(args: &Args) -> Result<AdmissionParams> {
    let edge = edge(args)?;
    let active = args.active.unwrap_or(edge.active.as_secs_f64());
    let wait = args.wait.unwrap_or(edge.admission_wait.as_secs_f64());
    Ok(AdmissionParams { factor: args.admit, active: seconds(active), wait_max: Some(seconds(wait)) })
}

const GENERATED_SESSIONS: usize = 300;

/// Bounds that keep a mistyped number from taking all memory or all day.
fn check(args: &Args) -> Result<()> {
    ensure!((1..=1_000).contains(&args.replicas), "--replicas is not between 1 and 1000");
    ensure!((1..=1_000).contains(&args.orders), "--orders is not between 1 and 1000");
    ensure!(args.sessions.is_none_or(|count| (1..=100_000).contains(&count)), "--sessions is not between 1 and 100000");
    ensure!((512..=1_000_000_000_000).contains(&args.cache), "--cache is not between 512 and 10^12");
    let positive = [("hours", args.hours), ("speed", args.speed)];
    let others = [("itl", args.itl), ("ramp", args.ramp), ("weight", args.weight), ("admit", args.admit)];
    let times = [("active", args.active), ("wait", args.wait)];
    let times = times.into_iter().filter_map(|(name, value)| Some((name, value?)));
    for (name, value) in positive.into_iter().chain(others).chain(times) {
        ensure!((0.0..=1e9).contains(&value), "--{name} is not between 0 and 10^9");
    }
    for (name, value) in positive {
        ensure!(value > 0.0, "--{name} is 0");
    }
    Ok(())
}

fn compare(args: &Args, workload: &Workload, reading: &Reading, policy: Policy) -> Result<Figures> {
    let tuning = Tuning { weight: args.weight, admission: admission(args)?, besides: besides(args) };
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

fn about(args: &Args, workload: &Workload) -> Result<String> {
    let pacing = match workload.pacing {
        Pacing::Closed { .. } => format!(
            "closed loop (a call follows its agent's last answer by `think_ms`, at most 300 s), sessions begin over {} s",
            args.ramp
        ),
        Pacing::Open(_) => "open loop (ticks of 3 s, jittered)".to_owned(),
    };
    let (edge, admission) = (edge(args)?, admission(args)?);
    Ok(format!(
        "{} calls of {} sessions, {pacing}; {} h; {} replicas × {} tokens, {} tokens/s, ITL {} ms; median of {} orders, seeds {} to {}\n\n\
         nearpool: sessions told by {}; w = {MISS_WEIGHT}; {}\n\
         oracle: w = {}; with admission at {} × the caches, active for {} s, a wait ≤ {} s\n",
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
        args.identity.name(),
        match edge.admission {
            true => format!(
                "admission at {FILL} × the caches, active for {} s, a wait ≤ {} s",
                edge.active.as_secs_f64(),
                edge.admission_wait.as_secs_f64(),
            ),
            false => "no admission".to_owned(),
        },
        args.weight,
        admission.factor,
        in_seconds(admission.active),
        admission.wait_max.map_or(f64::INFINITY, in_seconds),
    ))
}

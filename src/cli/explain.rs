//! `nearpool explain`: where would this call go, and why? Decided as a fresh edge with this config would.

mod replay;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use nearpool::control::explain::{self, Asked, Explanation, Row, Stations};
use nearpool::control::reload;
use nearpool::domain::ask::Dialect;
use nearpool::domain::whereabouts::Whereabouts;
use nearpool::policy::pool::PoolCandidate;
use nearpool::policy::region::{NearestTo, Standing};
use nearpool::roster::Snapshot;

use self::replay::{Goes, Replay};
use super::page;

#[derive(clap::Args, Debug)]
pub(super) struct ExplainArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The client's address.
    #[arg(long, value_name = "ADDR", required_unless_present = "from_log")]
    ip: Option<IpAddr>,
    /// Instead of one address a file of them, one a line, or an access log: how many would go where?
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ip", "session"])]
    from_log: Option<PathBuf>,
    /// The model, alias or step as the client writes it.
    #[arg(long, value_name = "NAME")]
    model: String,
    /// The session's name, as in x-session-id.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// The client's key, since sessions are told apart by client; without it the address stands for the client.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The step, as in x-agent-step.
    #[arg(long, value_name = "STEP")]
    step: Option<String>,
    /// The API: chat, completions, responses, embeddings or messages.
    #[arg(long, value_name = "DIALECT", default_value = "chat", value_parser = dialect)]
    dialect: Dialect,
    /// The admin listener of a running edge: its measured round trips count in place of estimates.
    #[arg(long, value_name = "ADDR", value_parser = page::address)]
    admin: Option<SocketAddr>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn dialect(name: &str) -> Result<Dialect, String> {
    let known = || Dialect::ALL.map(Dialect::name).join(", ");
    Dialect::named(name).ok_or_else(|| format!("known are {}", known()))
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let loaded = reload::load(&args.config, &super::environment)?;
    let snapshot = Snapshot::new(Arc::clone(&loaded.config), Arc::clone(&loaded.geo), None);
    if let Some(admin) = args.admin {
        measure(&snapshot, admin)?;
    }
    match (args.ip, &args.from_log) {
        (_, Some(file)) => {
            let replay = Replay::of(file, |ip| goes(args, &snapshot, ip))?;
            if args.json { println!("{:#}", replay.json()) } else { replay.print() }
        }
        (Some(ip), None) => {
            let explanation = explain::explain(&asked(args, ip), &snapshot, None, Instant::now())?;
            if args.json { println!("{:#}", explanation.json()) } else { print(&explanation, args) }
        }
        (None, None) => bail!("give an address with --ip, or a file of them with --from-log"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes over what a running edge has measured of its regions, and says so where that changes nothing.
fn measure(snapshot: &Snapshot, admin: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let metrics = runtime.block_on(page::get(admin, "/metrics"));
    let metrics = metrics.with_context(|| format!("no edge tells its metrics at {admin}"))?;
    let mut known = 0;
    for (series, seconds) in page::series(&metrics) {
        if let Some(region) = page::label(series, "nearpool_region_rtt_seconds{region=\"") {
            known += usize::from(snapshot.measured(region, 1_000.0 * seconds));
        }
    }
    if let Some(note) = note(snapshot.config.geo.rules.nearest_to, known) {
        eprintln!("nearpool: what the edge at {admin} has measured changes nothing: {note}");
    }
    Ok(())
}

/// Why round trips to so many regions of the file change nothing.
fn note(nearest_to: NearestTo, regions: usize) -> Option<&'static str> {
    match (nearest_to, regions) {
        (NearestTo::Client, _) => {
            Some("distances are the client's here; round trips count with geo.nearest_to = \"edge\"")
        }
        (NearestTo::Edge, 0) => Some("it has measured no region of this file yet"),
        (NearestTo::Edge, _) => None,
    }
}

fn asked(args: &ExplainArgs, ip: IpAddr) -> Asked<'_> {
    let ExplainArgs { model, step, session, key, dialect, .. } = args;
    let (step, session, key) = (step.as_deref(), session.as_deref(), key.as_deref());
    Asked { ip, model, step, session, key, dialect: *dialect }
}

fn goes(args: &ExplainArgs, snapshot: &Snapshot, ip: IpAddr) -> anyhow::Result<(Goes, bool)> {
    let Stations { whereabouts, pools, .. } = explain::stations(&asked(args, ip), snapshot)?;
    let region = |first: &PoolCandidate| snapshot.config.topology.region(first.region).name.clone();
    let goes = pools.first().map_or(Goes::Refused, |first| Goes::To(region(first), first.distance_km));
    Ok((goes, whereabouts.place.is_some()))
}

fn print(explanation: &Explanation<'_>, args: &ExplainArgs) {
    let topology = explanation.topology;
    println!("client   {}: {}", explanation.ip, place(explanation));
    println!("model    {} → {} (step {})", args.model, explanation.model, explanation.step);
    println!("regions  in the order of choosing");
    explanation.regions.iter().for_each(print_region);
    println!("pools    nearest first");
    for (pool, candidates) in explanation.pools.iter().zip(&explanation.candidates) {
        let configured = topology.pool(pool.pool);
        println!(
            "  {:<16} {:<14} {:>7.0} km  {} replicas, {}{}",
            configured.name,
            topology.region(pool.region).name,
            pool.distance_km,
            candidates.len(),
            configured.engine.name(),
            if pool.fallback { ", fallback model" } else { "" },
        );
    }
    match &explanation.selection {
        Some(selection) => println!(
            "pick     {} in {} ({}){}",
            topology.replica(selection.replica).name,
            topology.pool(selection.pool.pool).name,
            selection.reason.name(),
            if args.session.is_none() { "; without a session any of the pool's lighter replicas" } else { "" },
        ),
        None => println!("pick     none: no replica of these pools could serve"),
    }
    println!(
        "note     as a fresh edge would choose with every replica healthy; a running edge also knows sessions, load and health"
    );
}

fn print_region(row: &Row<'_>) {
    let Standing { distance_km, way_ms, measured, .. } = row.standing;
    let (how, bias) = (if measured { "measured" } else { "estimated" }, row.bias);
    let bias = if bias == 0 { String::new() } else { format!(", bias {bias:+} %") };
    println!("  {:<16} {distance_km:>7.0} km  {way_ms:>6.1} ms {how:<9}  {}{bias}", row.name, row.verdict);
}

fn place(explanation: &Explanation<'_>) -> String {
    let Whereabouts { place, country, accuracy_radius_km, source, .. } = explanation.whereabouts;
    let country = country.map_or_else(|| "no country known".to_owned(), |code| code.to_string());
    let Some(place) = place else {
        let topology = explanation.topology;
        return format!("{country}; stands at the edge ({})", topology.region(topology.home).name);
    };
    let radius = accuracy_radius_km.map_or_else(String::new, |km| format!(" within {km} km"));
    format!("{country} at {:.2}, {:.2}{radius} (address: {})", place.latitude, place.longitude, source.name())
}

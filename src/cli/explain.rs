//! `nearpool explain`: where would this call go, and why? The same policy code as the data plane, on the same config.

mod regions;
mod replay;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use nearpool::control::reload::{self, Env};
use nearpool::domain::ask::{Dialect, Endpoint};
use nearpool::domain::topology::Topology;
use nearpool::domain::whereabouts::{Source, Whereabouts};
use nearpool::policy::affinity;
use nearpool::policy::client_rule::Asker;
use nearpool::policy::pool::{self, NoPool, PoolCandidate};
use nearpool::policy::region::Standings;
use nearpool::policy::replica::{Call, Candidate, SessionView};
use nearpool::policy::resolve::{self, Resolved};
use nearpool::policy::select::{Selection, select};
use nearpool::roster::Snapshot;
use nearpool::wire::key_hash::key_sha256;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use self::regions::Row;
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
    #[arg(long, value_name = "ADDR")]
    admin: Option<SocketAddr>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn dialect(name: &str) -> Result<Dialect, String> {
    let known = || Dialect::ALL.map(Dialect::name).join(", ");
    Dialect::ALL.into_iter().find(|dialect| dialect.name() == name).ok_or_else(|| format!("known are {}", known()))
}

/// What was found out, in the order of the stations.
struct Explanation<'a> {
    topology: &'a Topology,
    model: &'a str,
    step: &'a str,
    ip: IpAddr,
    whereabouts: Whereabouts,
    regions: Vec<Row<'a>>,
    pools: Vec<PoolCandidate>,
    candidates: Vec<Vec<Candidate>>,
    selection: Option<Selection>,
}

pub(super) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let env: Env = Box::new(super::environment);
    let loaded = match reload::load(&args.config, &env) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprint!("{error}");
            return Ok(ExitCode::from(2));
        }
    };
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
            let explanation = explain(args, &snapshot, ip)?;
            if args.json { println!("{:#}", explanation.json()) } else { explanation.print(args) }
        }
        (None, None) => bail!("give an address with --ip, or a file of them with --from-log"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes over what a running edge has measured of its regions.
fn measure(snapshot: &Snapshot, admin: SocketAddr) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let metrics = runtime.block_on(page::get(admin, "/metrics"));
    let metrics = metrics.with_context(|| format!("no edge tells its metrics at {admin}"))?;
    for (series, seconds) in page::series(&metrics) {
        if let Some(region) = page::label(series, "nearpool_region_rtt_seconds{region=\"") {
            snapshot.measured(region, 1_000.0 * seconds);
        }
    }
    Ok(())
}

/// Stations 3 and 4: the model, where the client is, how the regions stand to it, and the pools that may serve it.
fn stations<'a>(args: &ExplainArgs, snapshot: &'a Snapshot, ip: IpAddr) -> anyhow::Result<Stations<'a>> {
    let topology = &snapshot.config.topology;
    let resolved = resolve::resolve(topology, &args.model, args.step.as_deref())
        .map_err(|unknown| anyhow!("no model '{}' here; known names: {}", args.model, unknown.known.join(", ")))?;
    let unplaced = Whereabouts::unknown(Some(ip.to_canonical()), Source::Peer);
    let whereabouts = snapshot.geo.lookup(ip)?.map_or(unplaced, |located| located.whereabouts(unplaced));
    let keys: Vec<String> = args.key.iter().filter_map(|key| key_sha256(key.as_bytes())).collect();
    let standings = snapshot.standings(Asker { whereabouts: &whereabouts, keys: &keys });
    let pools = pool::order(topology, resolved.model, args.dialect, &standings);
    Ok(Stations { resolved, whereabouts, standings, pools })
}

struct Stations<'a> {
    resolved: Resolved<'a>,
    whereabouts: Whereabouts,
    standings: Standings,
    pools: Result<Vec<PoolCandidate>, NoPool>,
}

fn goes(args: &ExplainArgs, snapshot: &Snapshot, ip: IpAddr) -> anyhow::Result<(Goes, bool)> {
    let Stations { whereabouts, pools, .. } = stations(args, snapshot, ip)?;
    let goes = match pools {
        Ok(pools) => {
            let first = pools.first().context("no pool")?;
            Goes::To(snapshot.config.topology.region(first.region).name.clone(), first.distance_km)
        }
        Err(NoPool::Residency) => Goes::Refused,
        Err(_) => bail!("no pool of '{}' serves {}", args.model, args.dialect.name()),
    };
    Ok((goes, whereabouts.place.is_some()))
}

fn explain<'a>(args: &ExplainArgs, snapshot: &'a Snapshot, ip: IpAddr) -> anyhow::Result<Explanation<'a>> {
    let topology = &snapshot.config.topology;
    let Stations { resolved, whereabouts, standings, pools } = stations(args, snapshot, ip)?;
    let model = topology.model(resolved.model);
    let pools = match pools {
        Ok(pools) => pools,
        Err(NoPool::Residency) => Vec::new(),
        Err(_) => bail!("no pool of '{}' serves {}", model.name, args.dialect.name()),
    };
    let regions = regions::rows(topology, &standings, &pools);
    let generates = Endpoint::ALL.iter().any(|endpoint| endpoint.dialect() == args.dialect && endpoint.generates());
    let session = args.session.as_ref().filter(|_| generates).map(|name| {
        let scope = affinity::scope(
            args.key.as_ref().map(|key| format!("Bearer {key}")).as_deref().map(str::as_bytes),
            Some(ip),
        );
        let placement = affinity::for_model(affinity::session_key(&scope, name.as_bytes()), &model.name);
        SessionView { placement, home: None, begun: false }
    });
    let now = Instant::now();
    let view = |pool, into: &mut Vec<Candidate>| snapshot.candidates(pool, &[], |_| false, now, into);
    let candidates = pools
        .iter()
        .map(|pool| {
            let mut candidates = Vec::new();
            view(pool.pool, &mut candidates);
            candidates
        })
        .collect();
    // A fixed seed: without a session the pick is one of two at random, and the text says so.
    let selection = select(
        &pools,
        Call { session, ..Call::default() },
        None,
        view,
        |_| false,
        true,
        &mut SmallRng::seed_from_u64(0),
    )
    .ok();
    Ok(Explanation {
        topology,
        model: &model.name,
        step: resolved.step,
        ip,
        whereabouts,
        regions,
        pools,
        candidates,
        selection,
    })
}

impl Explanation<'_> {
    fn print(&self, args: &ExplainArgs) {
        println!("client   {}: {}", self.ip, self.place());
        println!("model    {} → {} (step {})", args.model, self.model, self.step);
        println!("regions  in the order of choosing");
        self.regions.iter().for_each(Row::print);
        println!("pools    nearest first");
        for (pool, candidates) in self.pools.iter().zip(&self.candidates) {
            let configured = self.topology.pool(pool.pool);
            println!(
                "  {:<16} {:<14} {:>7.0} km  {} replicas, {}{}",
                configured.name,
                self.topology.region(pool.region).name,
                pool.distance_km,
                candidates.len(),
                configured.engine.name(),
                if pool.fallback { ", fallback model" } else { "" },
            );
        }
        match &self.selection {
            Some(selection) => println!(
                "pick     {} in {} ({}){}",
                self.topology.replica(selection.replica).name,
                self.topology.pool(selection.pool.pool).name,
                selection.reason.name(),
                if args.session.is_none() { "; without a session any of the pool's lighter replicas" } else { "" },
            ),
            None => println!("pick     none: no replica of these pools could serve"),
        }
        println!(
            "note     as a fresh edge would choose with every replica healthy; a running edge also knows sessions, load and health"
        );
    }

    fn place(&self) -> String {
        let Whereabouts { place, country, accuracy_radius_km, source, .. } = self.whereabouts;
        let country = country.map_or_else(|| "no country known".to_owned(), |code| code.to_string());
        let Some(place) = place else {
            return format!("{country}; stands at the edge ({})", self.topology.region(self.topology.home).name);
        };
        let radius = accuracy_radius_km.map_or_else(String::new, |km| format!(" within {km} km"));
        format!("{country} at {:.2}, {:.2}{radius} (address: {})", place.latitude, place.longitude, source.name())
    }

    fn json(&self) -> Value {
        let pools: Vec<Value> = self
            .pools
            .iter()
            .zip(&self.candidates)
            .map(|(pool, candidates)| {
                let replicas: Vec<&str> =
                    candidates.iter().map(|candidate| self.topology.replica(candidate.replica).name.as_str()).collect();
                json!({
                    "pool": self.topology.pool(pool.pool).name,
                    "region": self.topology.region(pool.region).name,
                    "model": self.topology.model(pool.model).name,
                    "distance_km": pool.distance_km.round(),
                    "fallback": pool.fallback,
                    "replicas": replicas,
                })
            })
            .collect();
        let Whereabouts { place, country, accuracy_radius_km, source, .. } = self.whereabouts;
        json!({
            "country": country.map(|code| code.to_string()),
            "place": place.map(|place| [place.latitude, place.longitude]),
            "accuracy_radius_km": accuracy_radius_km,
            "source": source.name(),
            "regions": self.regions.iter().map(Row::json).collect::<Vec<_>>(),
            "model": self.model,
            "step": self.step,
            "pools": pools,
            "pick": self.selection.map(|selection| json!({
                "pool": self.topology.pool(selection.pool.pool).name,
                "replica": self.topology.replica(selection.replica).name,
                "reason": selection.reason.name(),
            })),
        })
    }
}

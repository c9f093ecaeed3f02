//! `nearpool explain`: where would this call go, and why? The same policy code as the data plane, on the same config.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;
use nearpool::control::reload::{self, Env};
use nearpool::domain::ask::{Dialect, Endpoint};
use nearpool::domain::topology::Topology;
use nearpool::policy::pool::PoolCandidate;
use nearpool::policy::replica::{Call, Candidate, SessionView};
use nearpool::policy::select::{Selection, select};
use nearpool::policy::{affinity, pool, resolve};
use nearpool::roster::Snapshot;
use nearpool::wire::geoip::Located;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

#[derive(clap::Args, Debug)]
pub(super) struct ExplainArgs {
    /// The config file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The client's address.
    #[arg(long, value_name = "ADDR")]
    ip: IpAddr,
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
    located: Option<Located>,
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
    let explanation = explain(args, &snapshot)?;
    if args.json {
        println!("{:#}", explanation.json());
    } else {
        explanation.print(args);
    }
    Ok(ExitCode::SUCCESS)
}

fn explain<'a>(args: &ExplainArgs, snapshot: &'a Snapshot) -> anyhow::Result<Explanation<'a>> {
    let topology = &snapshot.config.topology;
    let resolved = resolve::resolve(topology, &args.model, args.step.as_deref())
        .map_err(|unknown| anyhow!("no model '{}' here; known names: {}", args.model, unknown.known.join(", ")))?;
    let located = snapshot.geo.lookup(args.ip)?;
    let model = topology.model(resolved.model);
    let place = located.and_then(|located| located.place);
    let pools = pool::order(topology, resolved.model, args.dialect, place)
        .map_err(|_| anyhow!("no pool of '{}' serves {}", model.name, args.dialect.name()))?;
    let generates = Endpoint::ALL.iter().any(|endpoint| endpoint.dialect() == args.dialect && endpoint.generates());
    let session = args.session.as_ref().filter(|_| generates).map(|name| {
        let scope = affinity::scope(
            args.key.as_ref().map(|key| format!("Bearer {key}")).as_deref().map(str::as_bytes),
            Some(args.ip),
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
    Ok(Explanation { topology, model: &model.name, step: resolved.step, located, pools, candidates, selection })
}

impl Explanation<'_> {
    fn print(&self, args: &ExplainArgs) {
        println!("client   {}: {}", args.ip, self.place());
        println!("model    {} → {} (step {})", args.model, self.model, self.step);
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
        match &self.located {
            None => format!("no place known; stands at the edge ({})", self.topology.region(self.topology.home).name),
            Some(located) => {
                let country = located.country.map_or_else(|| "??".to_owned(), |code| code.as_str().to_owned());
                match located.place {
                    Some(place) => format!("{country} at {:.2}, {:.2}", place.latitude, place.longitude),
                    None => format!("{country}, no place known; stands at the edge"),
                }
            }
        }
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
        let located = self.located;
        json!({
            "country": located.and_then(|located| located.country).map(|code| code.as_str().to_owned()),
            "place": located.and_then(|located| located.place).map(|place| [place.latitude, place.longitude]),
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

//! Where would this call go, and why? The same policy code as the data plane, on a snapshot: a running edge's, with what
//! it has measured and knows of its replicas and sessions, or one that is made of a config file alone.

mod regions;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

pub use self::regions::Row;
use crate::domain::ask::{Dialect, Endpoint};
use crate::domain::topology::Topology;
use crate::domain::whereabouts::{Source, Whereabouts};
use crate::policy::affinity;
use crate::policy::client_rule::Asker;
use crate::policy::pool::{self, NoPool, PoolCandidate};
use crate::policy::region::Standings;
use crate::policy::replica::{Call, Candidate, SessionView};
use crate::policy::resolve::{self, Resolved};
use crate::policy::select::{Home, Selection, select};
use crate::roster::{Identity, SessionTable, Snapshot};
use crate::wire::geoip::GeoError;
use crate::wire::key_hash::key_sha256;

/// A call, as far as it is known.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The client's address.
    pub ip: IpAddr,
    /// The model, alias or step as the client writes it.
    pub model: &'a str,
    /// The step, as in `x-agent-step`.
    pub step: Option<&'a str>,
    /// The session's name, as in `x-session-id`.
    pub session: Option<&'a str>,
    /// The client's key; without it the address stands for the client.
    pub key: Option<&'a str>,
    /// The API.
    pub dialect: Dialect,
}

/// Why a call cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum Unexplained {
    /// No model, alias or step has this name, or it was `auto` without a step that tells the model.
    #[error("{0}")]
    UnknownModel(String),
    /// The model is served, but by no engine that speaks this dialect.
    #[error("no pool of '{model}' serves {dialect}")]
    NotServed {
        /// The model's own name.
        model: String,
        /// The dialect's name.
        dialect: &'static str,
    },
    /// The GeoIP database cannot be read there.
    #[error(transparent)]
    Geo(#[from] GeoError),
}

/// Stations 3 and 4: the model, where the client is, how the regions stand to it, and the pools that may serve it.
#[derive(Debug)]
pub struct Stations<'a> {
    /// The model and the step that are meant.
    pub resolved: Resolved<'a>,
    /// Where the client is.
    pub whereabouts: Whereabouts,
    /// How the regions stand to it.
    pub standings: Standings,
    /// Nearest first; none where residency leaves none.
    pub pools: Vec<PoolCandidate>,
}

/// What was found out, in the order of the stations.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// What exists.
    pub topology: &'a Topology,
    /// The model's own name.
    pub model: &'a str,
    /// The step, a configured one or `other`.
    pub step: &'a str,
    /// The client's address.
    pub ip: IpAddr,
    /// Where it is.
    pub whereabouts: Whereabouts,
    /// Every region with its verdict.
    pub regions: Vec<Row<'a>>,
    /// Nearest first.
    pub pools: Vec<PoolCandidate>,
    /// The replicas of each.
    pub candidates: Vec<Vec<Candidate>>,
    /// Where the session was last, if that is known.
    pub home: Option<Home>,
    /// The pick; `None` when no replica could serve.
    pub selection: Option<Selection>,
}

/// Walks stations 3 and 4.
pub fn stations<'a>(asked: &Asked<'_>, snapshot: &'a Snapshot) -> Result<Stations<'a>, Unexplained> {
    let topology = &snapshot.config.topology;
    let resolved = resolve::resolve(topology, asked.model, asked.step)
        .map_err(|unknown| Unexplained::UnknownModel(unknown.message(asked.model)))?;
    let unplaced = Whereabouts::unknown(Some(asked.ip.to_canonical()), Source::Peer);
    let whereabouts = snapshot.geo.lookup(asked.ip)?.map_or(unplaced, |located| located.whereabouts(unplaced));
    let keys: Vec<String> = asked.key.iter().filter_map(|key| key_sha256(key.as_bytes())).collect();
    let standings = snapshot.standings(Asker { whereabouts: &whereabouts, keys: &keys });
    let pools = match pool::order(topology, resolved.model, asked.dialect, &standings) {
        Ok(pools) => pools,
        Err(NoPool::Residency) => Vec::new(),
        Err(_) => {
            let model = topology.model(resolved.model).name.clone();
            return Err(Unexplained::NotServed { model, dialect: asked.dialect.name() });
        }
    };
    Ok(Stations { resolved, whereabouts, standings, pools })
}

/// Explains a call at `now`. `sessions` tells where sessions are at home; without it each is new.
pub fn explain<'a>(
    asked: &Asked<'_>,
    snapshot: &'a Snapshot,
    sessions: Option<&SessionTable>,
    now: Instant,
) -> Result<Explanation<'a>, Unexplained> {
    let topology = &snapshot.config.topology;
    let Stations { resolved, whereabouts, standings, pools } = stations(asked, snapshot)?;
    let model = topology.model(resolved.model);
    let idle = snapshot.config.sessions.idle;
    let session = session(asked, &model.name, sessions, idle, now);
    let home = session.and_then(|session| snapshot.home(session.home?, &[], |_| false, now));
    let view = |pool, into: &mut Vec<Candidate>| snapshot.candidates(pool, &[], |_| false, now, into);
    let candidates = pools.iter().map(|pool| {
        let mut candidates = Vec::new();
        view(pool.pool, &mut candidates);
        candidates
    });
    let candidates = candidates.collect();
    // A fixed seed: without a session the pick is one of two at random, and who tells it says so.
    let mut rng = SmallRng::seed_from_u64(0);
    let call = Call { session, ..Call::default() };
    let selection = select(&pools, call, home, view, |_| false, true, &mut rng).ok();
    Ok(Explanation {
        topology,
        model: &model.name,
        step: resolved.step,
        ip: asked.ip,
        whereabouts,
        regions: regions::rows(topology, &standings, &pools, resolved.model, asked.dialect),
        pools,
        candidates,
        home,
        selection,
    })
}

/// The session that is named, where its dialect has any, as it is remembered.
fn session(
    asked: &Asked<'_>,
    model: &str,
    sessions: Option<&SessionTable>,
    idle: Duration,
    now: Instant,
) -> Option<SessionView> {
    let generates = Endpoint::ALL.iter().any(|endpoint| endpoint.dialect() == asked.dialect && endpoint.generates());
    let name = asked.session.filter(|_| generates)?;
    let view = |credential: Option<&str>| {
        let scope = affinity::scope(credential.map(str::as_bytes), Some(asked.ip.to_canonical()));
        let session = affinity::for_model(affinity::session_key(&scope, name.as_bytes()), model);
        let found = sessions.and_then(|table| table.find(&Identity::Named { session, parent: None }, idle, now));
        found.map_or(SessionView { placement: session, home: None, begun: false }, |session| session.view)
    };
    let Some(key) = asked.key else { return Some(view(None)) };
    // A key is shown in `authorization`, or, by Anthropic's SDK, in `x-api-key`.
    let as_bearer = view(Some(&format!("Bearer {key}")));
    Some(Some(view(Some(key))).filter(|as_it_is| as_it_is.begun && !as_bearer.begun).unwrap_or(as_bearer))
}

impl Explanation<'_> {
    /// The same for programs. `home` is in it only where it is known.
    pub fn json(&self) -> Value {
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
        let mut told = json!({
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
        });
        if let Some(home) = self.home {
            told["home"] = json!({
                "pool": self.topology.pool(home.pool).name,
                "replica": self.topology.replica(home.candidate.replica).name,
            });
        }
        told
    }
}

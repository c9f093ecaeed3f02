//! What exists, as configured: regions, pools, replicas, models. Immutable; a reload makes a new one.

use std::collections::HashMap;
use std::time::Duration;

use super::ask::DialectSet;
use super::ids::{ModelIx, PoolIx, RegionIx, ReplicaIx, ReplicaKey};
use super::place::{Place, Point};

/// The whole of it. Cross references are indices into the vectors here, all in range.
#[derive(Clone, Debug)]
pub struct Topology {
    /// This edge's name.
    pub edge: String,
    /// The region that this edge stands in.
    pub home: RegionIx,
    /// Every region, in order of name.
    pub regions: Vec<Region>,
    /// Every model, in order of name.
    pub models: Vec<Model>,
    /// Every pool, in the order of the file.
    pub pools: Vec<Pool>,
    /// Every replica, pool by pool, in the order of the file.
    pub replicas: Vec<Replica>,
    /// Models by name and by alias.
    pub model_names: HashMap<String, ModelIx>,
    /// Models by the step that asks for them.
    pub steps: HashMap<String, ModelIx>,
}

/// A place with pools.
#[derive(Clone, PartialEq, Debug)]
pub struct Region {
    /// Its key in the config.
    pub name: String,
    place: Place,
    /// The same place, from which many distances are measured for each request.
    point: Point,
    /// By how many percent it counts as nearer (or, below 0, farther) than it is, −99 to 99.
    pub bias: i8,
    /// The name of the edge that stands there, where the config tells; of the own region, [`Topology::edge`] does.
    pub edge: Option<String>,
}

impl Region {
    /// A region at this place, without a bias or an edge.
    pub fn new(name: impl Into<String>, place: Place) -> Region {
        Region { name: name.into(), place, point: place.point(), bias: 0, edge: None }
    }

    /// Where it lies.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The same as a point.
    pub fn point(&self) -> Point {
        self.point
    }

    /// What its distance counts times: 1 without a bias, 0.5 at 50, 2 at −50.
    pub fn bias_factor(&self) -> f64 {
        let part = 1.0 - f64::from(self.bias.unsigned_abs().min(99)) / 100.0;
        if self.bias < 0 { 1.0 / part } else { part }
    }
}

/// A model as clients ask for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Model {
    /// The name that clients use.
    pub name: String,
    /// What the replicas call it.
    pub served_as: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The longest context that its pools take, in tokens, where stated.
    pub context_tokens: Option<u32>,
    /// The models to use, in order, when no pool of this one can serve.
    pub fallbacks: Vec<ModelIx>,
    /// The pools that serve it, in the order of the file.
    pub pools: Vec<PoolIx>,
}

/// The replicas of one model in one region.
#[derive(Clone, PartialEq, Debug)]
pub struct Pool {
    /// Its name, unique.
    pub name: String,
    /// Where it is.
    pub region: RegionIx,
    /// What it serves.
    pub model: ModelIx,
    /// What runs there.
    pub engine: Engine,
    /// Its GPUs' kind, for people.
    pub gpu: Option<String>,
    /// Price of one replica in USD per hour, where stated.
    pub cost_per_hour: Option<f64>,
    /// Price of an answer's tokens, where stated. Then calls cost this, and no share of `cost_per_hour`.
    pub price_per_million_tokens: Option<TokenPrice>,
    /// The most requests that one replica is given at a time.
    pub max_in_flight: u32,
    /// The most requests that all of its replicas together are given at a time, where stated.
    pub max_in_flight_total: Option<u32>,
    /// The most calls that wait for a place when all are taken.
    pub queue: u32,
    /// How long they wait at most.
    pub queue_timeout: Duration,
    /// Tokens that one replica's KV cache holds, where stated.
    pub kv_cache_tokens: Option<u32>,
    /// What the edge shows its replicas instead of the client's credential.
    pub credential: Credential,
    /// Whether its replicas are asked for the usage of streams whose client did not ask.
    pub include_usage: bool,
    /// What the engine speaks.
    pub dialects: DialectSet,
    /// Its replicas, in the order of the file.
    pub replicas: Vec<ReplicaIx>,
}

/// USD per million tokens, none of them negative.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TokenPrice {
    /// Of prompts, but for the cached ones.
    pub prompt: f64,
    /// Of prompts, found in a KV cache.
    pub cached: f64,
    /// Of answers.
    pub completion: f64,
}

/// One engine instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replica {
    /// Its name in its pool, stable and never an address.
    pub name: String,
    /// What it is known by across reloads and edges.
    pub key: ReplicaKey,
    /// Its pool.
    pub pool: PoolIx,
    /// Where it listens.
    pub address: ReplicaAddress,
    /// Who tells how busy its GPUs are, where that is stated.
    pub gpu_metrics: Option<GpuMetrics>,
}

/// An exporter that tells how busy GPUs are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GpuMetrics {
    /// Its page. The base path is the page's whole path.
    pub page: ReplicaAddress,
    /// The replica's GPUs, by their number on the host or their UUID; empty for all that the page tells of.
    pub gpus: Vec<String>,
}

/// Where a replica listens, taken from its URL.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ReplicaAddress {
    /// Whether the URL is `https`.
    pub tls: bool,
    /// The host as written, without brackets: a name or an address.
    pub host: String,
    /// The port, filled in from the scheme where the URL has none.
    pub port: u16,
    /// What comes before `/v1/…`, without a trailing slash; mostly empty.
    pub base_path: String,
    /// Whether HTTP/2 is spoken: by ALPN with `https`, with prior knowledge (h2c) otherwise.
    pub http2: bool,
}

impl ReplicaAddress {
    /// The value of `Host`: without the port where it is the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

/// The software of a pool's replicas: it fixes health paths, metric names and default dialects.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Engine {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp's server.
    LlamaCpp,
    /// Anything else that speaks OpenAI's API.
    OpenAi,
}

impl Engine {
    /// The name used in config, logs and labels.
    pub const fn name(self) -> &'static str {
        match self {
            Engine::Vllm => "vllm",
            Engine::Sglang => "sglang",
            Engine::LlamaCpp => "llama.cpp",
            Engine::OpenAi => "openai",
        }
    }
}

/// What a replica is shown in `Authorization` and `x-api-key`.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    None,
    /// The client's own, as it came.
    Pass,
    /// This key.
    Key(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Credential::None => "None",
            Credential::Pass => "Pass",
            Credential::Key(_) => "Key(MASKED)",
        })
    }
}

impl Topology {
    /// The region at this index.
    pub fn region(&self, ix: RegionIx) -> &Region {
        &self.regions[ix.0]
    }

    /// The model at this index.
    pub fn model(&self, ix: ModelIx) -> &Model {
        &self.models[ix.0]
    }

    /// The pool at this index.
    pub fn pool(&self, ix: PoolIx) -> &Pool {
        &self.pools[ix.0]
    }

    /// The replica at this index.
    pub fn replica(&self, ix: ReplicaIx) -> &Replica {
        &self.replicas[ix.0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_leaves_out_the_schemes_own_port() {
        for (tls, host, port, written) in [
            (false, "a.example", 80, "a.example"),
            (true, "a.example", 443, "a.example"),
            (true, "a.example", 80, "a.example:80"),
            (false, "2001:db8::1", 8000, "[2001:db8::1]:8000"),
        ] {
            let address = ReplicaAddress { tls, host: host.into(), port, base_path: String::new(), http2: false };
            assert_eq!(address.authority(), written);
        }
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", Credential::Key("sk-secret".into())), "Key(MASKED)");
    }
}

//! What the tests of this floor share: a small topology builder, candidates, and a source of randomness with a seed.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::client_rule::Asker;
use super::region::{Rules, Standings};
use super::replica::{Candidate, Standing};
use super::ttft::Typical;
use super::{affinity, breaker};
use crate::domain::ask::{Dialect, DialectSet};
use crate::domain::ids::{ModelIx, PoolIx, RegionIx, ReplicaIx, ReplicaKey};
use crate::domain::place::Place;
use crate::domain::topology::{Credential, Engine, Model, Pool, Region, Replica, ReplicaAddress, Topology};
use crate::domain::whereabouts::Whereabouts;

/// The breakers' defaults.
pub(crate) const BREAKER: breaker::Params = breaker::Params {
    failure_threshold: 5,
    success_rate: 0.5,
    window: Duration::from_secs(30),
    min_requests: 20,
    reset_timeout: Duration::from_secs(60),
    slow_start: Duration::from_secs(30),
};

/// How regions stand to a client at this place (`None`: at the edge), where distance is all that counts.
pub(crate) fn standings(topology: &Topology, from: Option<Place>) -> Standings {
    let whereabouts = Whereabouts { place: from, ..Whereabouts::NOWHERE };
    let asker = Asker { whereabouts: &whereabouts, keys: &[] };
    Rules::default().standings(topology, asker, |_| None)
}

/// A topology under construction; what is named must have been added before.
pub(super) struct Fleet(Topology);

impl Fleet {
    /// Nothing yet; the first region added is the edge's own.
    pub(super) fn new() -> Fleet {
        Fleet(Topology {
            edge: "edge".into(),
            home: RegionIx(0),
            regions: Vec::new(),
            models: Vec::new(),
            pools: Vec::new(),
            replicas: Vec::new(),
            model_names: Default::default(),
            steps: Default::default(),
        })
    }

    pub(super) fn region(mut self, name: &str, latitude: f64, longitude: f64) -> Fleet {
        self.0.regions.push(Region::new(name, Place { latitude, longitude }));
        self
    }

    /// A model with aliases.
    pub(super) fn model(mut self, name: &str, aliases: &[&str]) -> Fleet {
        let ix = ModelIx(self.0.models.len());
        for known in aliases.iter().chain([&name]) {
            self.0.model_names.insert((*known).into(), ix);
        }
        self.0.models.push(Model {
            name: name.into(),
            served_as: format!("served/{name}"),
            aliases: aliases.iter().map(|alias| (*alias).into()).collect(),
            context_tokens: None,
            fallbacks: Vec::new(),
            pools: Vec::new(),
        });
        self
    }

    /// Falls from one model back to another, after the fallbacks it already has.
    pub(super) fn fallback(mut self, model: &str, to: &str) -> Fleet {
        let (model, to) = (self.model_ix(model), self.model_ix(to));
        self.0.models[model.0].fallbacks.push(to);
        self
    }

    pub(super) fn step(mut self, name: &str, model: &str) -> Fleet {
        let model = self.model_ix(model);
        self.0.steps.insert(name.into(), model);
        self
    }

    /// A pool that speaks every dialect, with replicas `r0`, `r1`, … of a cap of 4 each.
    pub(super) fn pool(mut self, name: &str, region: &str, model: &str, replicas: usize) -> Fleet {
        let ix = PoolIx(self.0.pools.len());
        let region = RegionIx(self.0.regions.iter().position(|known| known.name == region).unwrap());
        let model = self.model_ix(model);
        let first = self.0.replicas.len();
        self.0.replicas.extend((0..replicas).map(|n| Replica {
            name: format!("r{n}"),
            key: affinity::replica_key(name, &format!("r{n}")),
            pool: ix,
            address: ReplicaAddress {
                tls: false,
                host: "127.0.0.1".into(),
                port: 8000,
                base_path: String::new(),
                http2: false,
            },
            gpu_metrics: None,
        }));
        self.0.models[model.0].pools.push(ix);
        self.0.pools.push(Pool {
            name: name.into(),
            region,
            model,
            engine: Engine::Vllm,
            gpu: None,
            cost_per_hour: None,
            price_per_million_tokens: None,
            max_in_flight: 4,
            max_in_flight_total: None,
            queue: 64,
            queue_timeout: Duration::from_secs(5),
            kv_cache_tokens: None,
            credential: Credential::None,
            include_usage: true,
            dialects: Dialect::ALL.into_iter().collect(),
            replicas: (first..first + replicas).map(ReplicaIx).collect(),
        });
        self
    }

    /// Lets the pool added last speak these dialects only.
    pub(super) fn speaking(mut self, dialects: &[Dialect]) -> Fleet {
        self.0.pools.last_mut().unwrap().dialects = dialects.iter().copied().collect::<DialectSet>();
        self
    }

    pub(super) fn build(self) -> Topology {
        self.0
    }

    fn model_ix(&self, name: &str) -> ModelIx {
        self.0.model_names[name]
    }
}

/// The usable, idle replica number `n`, with a cap of 4.
pub(crate) fn candidate(n: usize) -> Candidate {
    Candidate {
        replica: ReplicaIx(n),
        key: replica_key(n),
        standing: Standing::Usable,
        open_since: None,
        in_flight: 0,
        others: 0.0,
        weight: 1.0,
        ttft: Typical::default(),
        cap: 4,
        engine_full: 0.0,
        rests: false,
        refuses: false,
        tried: false,
        cached_tokens: 0,
        shared_tokens: 0,
        queued_tokens: 0,
        tokens_per_s: Some(super::cost::ASSUMED_TOKENS_PER_S),
    }
}

/// The key of [`candidate`] `n`.
pub(super) fn replica_key(n: usize) -> ReplicaKey {
    affinity::replica_key("pool", &format!("r{n}"))
}

/// A session by number.
pub(super) fn session_key(n: usize) -> crate::domain::ids::SessionKey {
    affinity::session_key(b"client", format!("session-{n}").as_bytes())
}

/// Randomness that repeats itself.
pub(super) fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

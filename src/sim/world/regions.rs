//! Regions, their pools and replicas, and what befalls them.

use std::io;

use super::places::{REGIONS, RegionSpec};
use crate::sim::preset::{Params, Preset};
use crate::sim::server::{ReplicaHandle, ServerParams, spawn};

/// What the world looks like.
#[derive(Debug, Clone)]
pub struct WorldParams {
    /// The regions.
    pub regions: Vec<RegionSpec>,
    /// The models; every region has one pool of each.
    pub models: Vec<ModelSpec>,
    /// Replicas of every pool.
    pub replicas_per_pool: usize,
    /// How many of the last requests every replica keeps.
    pub log_requests: usize,
    /// Seed of every replica's answer ids.
    pub seed: u64,
}

/// A model that the world serves.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// Short name, the end of a pool's name: `8b`.
    pub short: String,
    /// What the replicas call it.
    pub served_as: String,
    /// Speed and size of each replica.
    pub engine: Params,
    /// GPUs under each replica.
    pub gpus: u32,
}

/// Tokens that each replica's KV cache holds, in blocks of 16: what a cache does that spills to the host's memory, so that
/// sessions of 8–16K tokens by the dozen find room.
const CACHE_TOKENS: (u64, u32) = (1_500_000, 16);

/// Tokens that are told together: an event for each is what two cores would be busy with most.
const STREAM_INTERVAL: u32 = 4;

impl Default for WorldParams {
    /// Four regions, each with two replicas of Llama 3.1 8B on an H100 and 70B on two, as fast as published.
    fn default() -> Self {
        let model = |short: &str, served_as: &str, preset: Preset, gpus: u32| ModelSpec {
            short: short.to_owned(),
            served_as: served_as.to_owned(),
            engine: Params {
                stream_interval: STREAM_INTERVAL,
                ..preset.params().with_cache(CACHE_TOKENS.0, CACHE_TOKENS.1)
            },
            gpus,
        };
        Self {
            regions: REGIONS.to_vec(),
            models: vec![
                model("8b", "meta-llama/Llama-3.1-8B-Instruct", Preset::Guide8b, 1),
                model("70b", "meta-llama/Llama-3.1-70B-Instruct", Preset::Guide70b, 2),
            ],
            replicas_per_pool: 2,
            log_requests: 0,
            seed: 1,
        }
    }
}

/// A running world. Dropping it ends it.
#[derive(Debug)]
pub struct World {
    regions: Vec<Region>,
}

/// One region.
#[derive(Debug)]
pub struct Region {
    /// Name and place.
    pub spec: RegionSpec,
    /// One pool for each model, in the order of [`WorldParams::models`].
    pub pools: Vec<Pool>,
}

/// The replicas of one model in one region.
#[derive(Debug)]
pub struct Pool {
    /// `REGION-SHORT`, for example `us-west-8b`.
    pub name: String,
    /// The model.
    pub model: ModelSpec,
    /// Its replicas, named `REGION-SHORT-0` and so on.
    pub replicas: Vec<ReplicaHandle>,
}

impl World {
    /// Starts every replica on a free loopback port.
    pub async fn start(params: WorldParams) -> io::Result<Self> {
        let mut regions = Vec::with_capacity(params.regions.len());
        for spec in &params.regions {
            let mut pools = Vec::with_capacity(params.models.len());
            for model in &params.models {
                pools.push(start_pool(&params, spec, model).await?);
            }
            regions.push(Region { spec: *spec, pools });
        }
        Ok(Self { regions })
    }

    /// Every region, in the order of [`WorldParams::regions`].
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Every replica.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaHandle> {
        self.regions.iter().flat_map(|region| &region.pools).flat_map(|pool| &pool.replicas)
    }

    /// The replica of this name.
    pub fn replica(&self, name: &str) -> Option<&ReplicaHandle> {
        self.replicas().find(|replica| replica.name() == name)
    }

    /// Kills a replica: its connections are reset, its cache is gone. False when there is none of this name.
    pub async fn kill_replica(&self, name: &str) -> bool {
        match self.replica(name) {
            Some(replica) => {
                replica.stop().await;
                true
            }
            None => false,
        }
    }

    /// Starts a killed replica again, at the same address and cold. False when there is none of this name.
    pub async fn heal_replica(&self, name: &str) -> io::Result<bool> {
        match self.replica(name) {
            Some(replica) => replica.restart().await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Kills every replica of a region at once. Returns how many there are.
    pub async fn kill_region(&self, name: &str) -> usize {
        ReplicaHandle::stop_all(self.in_region(name)).await
    }

    /// Starts every replica of a region again. Returns how many there are.
    pub async fn heal_region(&self, name: &str) -> io::Result<usize> {
        let mut healed = 0;
        for replica in self.in_region(name) {
            replica.restart().await?;
            healed += 1;
        }
        Ok(healed)
    }

    fn in_region(&self, name: &str) -> impl Iterator<Item = &ReplicaHandle> {
        let region = self.regions.iter().find(|region| region.spec.name == name);
        region.into_iter().flat_map(|region| &region.pools).flat_map(|pool| &pool.replicas)
    }
}

async fn start_pool(params: &WorldParams, spec: &RegionSpec, model: &ModelSpec) -> io::Result<Pool> {
    let name = format!("{}-{}", spec.name, model.short);
    let mut replicas = Vec::with_capacity(params.replicas_per_pool);
    for index in 0..params.replicas_per_pool {
        let server = ServerParams {
            engine: model.engine.clone(),
            log_requests: params.log_requests,
            gpus: model.gpus,
            seed: params.seed,
            ..ServerParams::new(format!("{name}-{index}"), model.served_as.clone())
        };
        replicas.push(spawn(server).await?);
    }
    Ok(Pool { name, model: model.clone(), replicas })
}

//! A small world for tests: one region, one pool, as many replicas as wanted.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{Config, Geo, Health, References, Sessions, Timeouts};
use crate::domain::ask::DialectSet;
use crate::domain::ids::{ModelIx, PoolIx, RegionIx, ReplicaIx, ReplicaKey};
use crate::domain::place::Place;
use crate::domain::topology::{Credential, Engine, Model, Pool, Region, Replica, ReplicaAddress, Topology};
use crate::policy::{breaker, health, limits, retry};
use crate::roster::{Roster, Snapshot};
use crate::wire::geoip::GeoDb;

/// A configuration whose replicas listen at these ports of 127.0.0.1 and are named `r0`, `r1`, …
pub(crate) fn config(ports: &[u16]) -> Config {
    let replica = |(n, port): (usize, &u16)| Replica {
        name: format!("r{n}"),
        key: ReplicaKey(n as u64),
        pool: PoolIx(0),
        address: ReplicaAddress {
            tls: false,
            host: "127.0.0.1".into(),
            port: *port,
            base_path: String::new(),
            http2: false,
        },
    };
    let topology = Topology {
        edge: "edge-1".into(),
        home: RegionIx(0),
        regions: vec![Region { name: "here".into(), place: Place { latitude: 0.0, longitude: 0.0 } }],
        models: vec![Model {
            name: "small".into(),
            served_as: "org/small".into(),
            aliases: Vec::new(),
            context_tokens: None,
            fallbacks: Vec::new(),
            pools: vec![PoolIx(0)],
        }],
        pools: vec![Pool {
            name: "pool".into(),
            region: RegionIx(0),
            model: ModelIx(0),
            engine: Engine::Vllm,
            gpu: None,
            cost_per_hour: None,
            max_in_flight: 8,
            credential: Credential::None,
            dialects: DialectSet::default(),
            replicas: (0..ports.len()).map(ReplicaIx).collect(),
        }],
        replicas: ports.iter().enumerate().map(replica).collect(),
        model_names: HashMap::from([("small".to_owned(), ModelIx(0))]),
        steps: HashMap::new(),
    };
    plain(topology)
}

fn plain(topology: Topology) -> Config {
    let second = Duration::from_secs(1);
    Config {
        hash: "0".repeat(64),
        topology,
        listen: Vec::new(),
        tls: None,
        trusted_proxies: Vec::new(),
        admin: None,
        admin_token: None,
        geo: Geo { database: None },
        sessions: Sessions { headers: Vec::new(), idle: 3600 * second, capacity: 1000 },
        health: Health {
            path: None,
            interval: Duration::from_millis(20),
            timeout: second,
            thresholds: health::Params { unhealthy_after: 2, healthy_after: 2 },
        },
        circuit_breaker: breaker::Params { failure_threshold: 2, reset_timeout: 60 * second },
        retry: retry::Params { attempts: 4, attempts_per_pool: 2, backoff: second, backoff_max: second },
        timeouts: Timeouts {
            connect: second,
            first_byte: second,
            answer: second,
            idle: second,
            total: second,
            drain_delay: second,
            drain: second,
        },
        limits: limits::Params {
            body_bytes_max: 1 << 20,
            header_bytes_max: 1 << 15,
            header_count_max: 100,
            connections_max: 100,
            buffered_bytes_max: 1 << 24,
            header_timeout: second,
            body_idle_timeout: second,
            body_timeout: second,
            keepalive_timeout: second,
        },
        references: References::default(),
    }
}

/// A roster that starts with this configuration.
pub(crate) fn roster(config: Config) -> Arc<Roster> {
    let snapshot = Snapshot::new(Arc::new(config), Arc::new(geo()), None);
    Arc::new(Roster::new(snapshot, Instant::now()))
}

/// A GeoIP database.
pub(crate) fn geo() -> GeoDb {
    GeoDb
}

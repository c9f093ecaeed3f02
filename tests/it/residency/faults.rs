//! Random faults of every replica under streams that are retried, hedged and resumed: where their bodies came to.

use std::net::Ipv4Addr;

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};
use nearpool::wire::key_hash::key_sha256;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::EUROPE;
use crate::support::{
    Edge, EdgeConfig, Http1, IRELAND, NOWHERE, Pool, SINGAPORE, calls, chat, post_with, sim_with, unheard, with,
};

const REGIONS: [(&str, f64, f64); 3] =
    [("here", 37.34, -121.89), ("ireland", 53.35, -6.26), ("singapore", 1.35, 103.82)];
const REPLICAS_PER_POOL: usize = 2;
const CALLS_PER_CLIENT: usize = 100;
/// Of a stream; some faults cut it after fewer.
const EVENTS: u64 = 12;

/// A client by name, with the regions that its calls may reach.
struct Client {
    name: &'static str,
    from: Ipv4Addr,
    key: &'static str,
    allowed: &'static [&'static str],
}

const CLIENTS: [Client; 5] = [
    Client { name: "union", from: IRELAND, key: "sk-1", allowed: &["ireland"] },
    Client { name: "unknown", from: NOWHERE, key: "sk-1", allowed: &["ireland"] },
    Client { name: "free", from: SINGAPORE, key: "sk-1", allowed: &["here", "ireland", "singapore"] },
    Client { name: "keyed", from: SINGAPORE, key: "sk-2", allowed: &["here", "singapore"] },
    Client { name: "nowhere", from: IRELAND, key: "sk-2", allowed: &[] },
];

struct World {
    edge: Edge,
    replicas: Vec<(&'static str, ReplicaHandle)>,
}

impl World {
    async fn start() -> World {
        let (mut replicas, mut config) = (Vec::new(), EdgeConfig::new());
        for (region, latitude, longitude) in REGIONS {
            let mut pool = Pool::new(&format!("p-{region}"), region, "m");
            for n in 0..REPLICAS_PER_POOL {
                let replica = sim_with(&format!("{region}-{n}"), |params| params.log_requests = 10_000).await;
                pool = pool.sims(&[&replica]);
                replicas.push((region, replica));
            }
            config = config.region(region, latitude, longitude).pool(pool);
        }
        let (_, union) = EUROPE;
        let rules =
            union.replace('}', &format!(", \"key:{}\" = [\"singapore\", \"here\"] }}", key_sha256(b"sk-2").unwrap()));
        let config = config
            .set("geo", "residency", &rules)
            .set("hedging", "enabled", "true")
            .set("hedging", "budget", "0.5")
            .set("timeouts", "first_byte", "\"300ms\"")
            .set("timeouts", "idle", "\"300ms\"")
            // Nobody is left in peace.
            .set("circuit_breaker", "failure_threshold", "1000")
            .set("circuit_breaker", "success_rate", "0.0");
        World { edge: Edge::start(config).await, replicas }
    }

    /// Streams of one client, one after the other, while replicas are given faults. How many were answered.
    async fn stream(&self, client: &Client, seed: u64) -> usize {
        let (mut rng, mut answered) = (SmallRng::seed_from_u64(seed), 0);
        for _ in 0..CALLS_PER_CLIENT {
            let (_, replica) = &self.replicas[rng.random_range(0..self.replicas.len())];
            replica.set_fault(random_plan(&mut rng)).await.unwrap();
            let body = with(chat(&unheard(), EVENTS), json!({ "stream": true, "user": client.name }));
            let credential = format!("Bearer {}", client.key);
            let mut http = Http1::connect_from(client.from, self.edge.agents()).await;
            http.send(&post_with("/v1/chat/completions", &[("authorization", &credential)], &body)).await;
            let head = http.head().await;
            let (_, ended) = http.body(&head).await;
            answered += usize::from(head.status == 200 && ended.is_ok());
        }
        answered
    }
}

fn random_plan(rng: &mut SmallRng) -> FaultPlan {
    let after_events = rng.random_range(0..EVENTS as u32);
    let faults = [
        Fault::Refuse,
        Fault::Status { status: 500, retry_after_s: None },
        Fault::Status { status: 503, retry_after_s: Some(1) },
        Fault::Stall,
        Fault::CloseBeforeHeaders,
        Fault::ResetBeforeHeaders,
        Fault::CutMidStream { after_events },
        Fault::StallMidStream { after_events },
        Fault::TruncatedBody,
    ];
    FaultPlan::from(faults[rng.random_range(0..faults.len())]).times(rng.random_range(1..4))
}

#[tokio::test]
async fn whatever_fails_no_body_comes_to_a_region_that_is_not_allowed() {
    let world = World::start().await;
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(|n| world.stream(&CLIENTS[n], n as u64));
    let answered = tokio::join!(a, b, c, d, e);
    let answered = [answered.0, answered.1, answered.2, answered.3, answered.4];
    for (client, answered) in CLIENTS.iter().zip(answered) {
        let most = if client.allowed.is_empty() { 0 } else { CALLS_PER_CLIENT };
        assert!(answered <= most && answered >= most / 2, "{}: {answered} answered", client.name);
    }
    let mut seen = 0;
    for (region, replica) in &world.replicas {
        for call in calls(replica) {
            let body: Value = serde_json::from_slice(&call.body).unwrap();
            let client = CLIENTS.iter().find(|client| body["user"] == client.name).unwrap();
            assert!(client.allowed.contains(region), "a call of {} came to {}", client.name, replica.name());
            seen += 1;
        }
    }
    assert!(seen > 4 * CALLS_PER_CLIENT, "{seen} attempts");
    // It would hold of an edge that tries nothing twice, too.
    let (hedges, resumes) = ("nearpool_hedges_total{result=\"won\"}", "nearpool_resumes_total{result=\"ok\"}");
    assert!(world.edge.metric(hedges).await > 0.0 && world.edge.metric(resumes).await > 10.0);
}

//! Simulated replicas in this process.

use std::net::SocketAddr;

use nearpool::sim::preset::Params;
use nearpool::sim::server::{LoggedRequest, ReplicaHandle, ServerParams, spawn};

use super::own_address;

/// The model's name at the replicas.
pub const SERVED: &str = "meta-llama/Llama-3.1-8B-Instruct";

/// A replica that takes no time.
pub async fn sim(name: &str) -> ReplicaHandle {
    sim_with(name, |_| ()).await
}

/// A replica that takes no time, at this address.
pub async fn sim_at(name: &str, at: SocketAddr) -> ReplicaHandle {
    start(name, at, |_| ()).await
}

/// A replica that takes no time, changed.
pub async fn sim_with(name: &str, change: impl FnOnce(&mut ServerParams)) -> ReplicaHandle {
    start(name, (own_address(), 8000).into(), change).await
}

async fn start(name: &str, at: SocketAddr, change: impl FnOnce(&mut ServerParams)) -> ReplicaHandle {
    let mut params = ServerParams::new(name, SERVED);
    params.engine = Params::instant();
    params.listen = at;
    change(&mut params);
    spawn(params).await.unwrap()
}

/// The calls that a replica got, without health checks.
pub fn calls(sim: &ReplicaHandle) -> Vec<LoggedRequest> {
    sim.requests().into_iter().filter(|request| request.method == "POST").collect()
}

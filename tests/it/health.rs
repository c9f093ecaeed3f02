//! Health checks: a replica is used while its model is loaded, and after it was away only once it is warm.

use std::net::SocketAddr;

use nearpool::sim::server::{Fault, FaultPlan, LoggedRequest, ReplicaHandle};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::{
    Answer, Edge, EdgeConfig, Http1, PATIENCE, Pool, SERVED, calls, chat, json_body, own_address, pair, post, sim,
    sim_with, tls_replica,
};

const CHAT: &str = "/v1/chat/completions";

/// Two failed checks put a replica out, one passed check puts it in.
fn checked(config: EdgeConfig) -> EdgeConfig {
    config
        .set("health", "interval", "\"200ms\"")
        .set("health", "timeout", "\"200ms\"")
        .set("health", "unhealthy_after", "2")
        .set("health", "healthy_after", "1")
}

/// The replica as `/status` tells of it.
async fn status(edge: &Edge, replica: &str) -> Value {
    let status = json_body(&edge.admin_get("/status").await);
    let regions = status["regions"].as_array().unwrap().iter();
    let pools = regions.flat_map(|region| region["pools"].as_array().unwrap());
    let mut replicas = pools.flat_map(|pool| pool["replicas"].as_array().unwrap());
    replicas.find(|found| found["name"] == replica).cloned().unwrap_or(Value::Null)
}

/// Waits until `/status` tells of the replica what is wanted.
async fn wait_for_status(edge: &Edge, replica: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let status = status(edge, replica).await;
        if wanted(&status) {
            return status;
        }
        assert!(std::time::Instant::now() < deadline, "{replica}: {status}\n{}", edge.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Waits until the replica is out for this cause, and returns what `/status` says for people.
async fn out_for(edge: &Edge, replica: &str, cause: &str) -> String {
    let is_out = |status: &Value| status["healthy"] == false && status["failing"]["cause"] == cause;
    let status = wait_for_status(edge, replica, is_out).await;
    assert_eq!(status["standing"], "unhealthy");
    status["failing"]["why"].as_str().unwrap().to_owned()
}

async fn back_in(edge: &Edge, replica: &str) {
    let status = wait_for_status(edge, replica, |status| status["healthy"] == true).await;
    assert_eq!(status["failing"], Value::Null);
}

async fn call(edge: &Edge) -> Answer {
    Http1::connect(edge.agents()).await.call(&post(CHAT, &chat("x", 1))).await
}

/// The warm-up calls that a replica got.
fn warm_ups(replica: &ReplicaHandle) -> Vec<LoggedRequest> {
    let by_the_edge = |request: &LoggedRequest| {
        let agent = request.headers.get("user-agent").and_then(|agent| agent.to_str().ok());
        agent.is_some_and(|agent| agent.ends_with("(health check)"))
    };
    calls(replica).into_iter().filter(by_the_edge).collect()
}

#[tokio::test]
async fn a_replica_that_loads_its_model_is_not_used_and_then_warmed_up_at_nobodys_expense() {
    let (a, b) = (sim("a").await, sim("b").await);
    let pool = Pool::new("near", "here", "m").sims(&[&a, &b]).line("api_key = { env = \"NEARPOOL_IT_KEY\" }");
    let edge = Edge::start(checked(EdgeConfig::new().pool(pool))).await;
    a.set_fault(FaultPlan::from(Fault::Loading)).await.unwrap();
    assert_eq!(out_for(&edge, "a", "not_loaded").await, "its model is not loaded");
    edge.wait_for_stderr("replica is unhealthy pool=near replica=a cause=not_loaded").await;
    for _ in 0..8 {
        assert_eq!(call(&edge).await.header("x-sim-replica"), Some("b"));
    }
    a.set_fault(None).await.unwrap();
    back_in(&edge, "a").await;
    edge.wait_for_stderr("replica is healthy pool=near replica=a").await;
    let calls = warm_ups(&a);
    assert_eq!((calls.len(), warm_ups(&b).len()), (1, 0));
    assert_eq!(
        (calls[0].path.as_str(), &calls[0].headers["authorization"]),
        (CHAT, &"Bearer pools-own-key".parse().unwrap())
    );
    let body: Value = serde_json::from_slice(&calls[0].body).unwrap();
    assert_eq!((&body["model"], &body["max_tokens"]), (&json!(SERVED), &json!(1)));
    // Agents' metrics and the log know only of the agents' calls.
    let series = "nearpool_requests_total{model=\"m\",outcome=\"ok\",pool=\"near\",region=\"here\"}";
    assert_eq!(edge.wait_for_metric(series, |calls| calls == 8.0).await, 8.0);
    assert_eq!(edge.metric("agent_llm_calls_total{model=\"m\",step_type=\"none\"}").await, 8.0);
    assert_eq!(edge.metric("nearpool_attempts_total{outcome=\"ok\",pool=\"near\",replica=\"a\"}").await, 0.0);
    assert_eq!(edge.log().len(), 8);
}

#[tokio::test]
async fn a_replica_with_another_model_is_not_used_and_everybody_is_told_why() {
    let right = sim("right").await;
    let wrong = sim_with("wrong", |params| params.model = "foo".into()).await;
    let address = wrong.addr();
    let edge = Edge::start(checked(EdgeConfig::of(&[&right, &wrong]))).await;
    let why = format!("serves 'foo', not '{SERVED}'; set served_as or mend the replica");
    assert_eq!(out_for(&edge, "wrong", "wrong_model").await, why);
    edge.wait_for_stderr(&format!("pool=near replica=wrong cause=wrong_model why=\"{why}\"")).await;
    for _ in 0..8 {
        assert_eq!(call(&edge).await.header("x-sim-replica"), Some("right"));
    }
    wrong.stop().await;
    out_for(&edge, "wrong", "refused").await;
    let mended = sim_with("wrong", |params| params.listen = address).await;
    back_in(&edge, "wrong").await;
    assert_eq!(warm_ups(&mended).len(), 1);
}

#[tokio::test]
async fn llama_cpp_is_used_whatever_it_calls_its_model() {
    let replica = sim_with("a", |params| params.model = "/models/x-Q4_K_M.gguf".into()).await;
    let pool = Pool::new("near", "here", "m").sims(&[&replica]).line("engine = \"llama.cpp\"");
    let edge = Edge::start(checked(EdgeConfig::new().pool(pool))).await;
    replica.set_fault(FaultPlan::from(Fault::Loading)).await.unwrap();
    out_for(&edge, "a", "not_loaded").await;
    replica.set_fault(None).await.unwrap();
    back_in(&edge, "a").await;
}

/// Waits until `/readyz` answers so.
async fn readyz(edge: &Edge, status: u16) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while edge.admin_get("/readyz").await.status != status {
        assert!(std::time::Instant::now() < deadline, "not {status}\n{}", edge.stderr());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_edge_whose_replicas_are_all_dead_at_its_start_says_so_with_the_first_check() {
    let replica = sim("a").await;
    replica.stop().await;
    let edge = Edge::start(checked(EdgeConfig::of(&[&replica])).set("health", "unhealthy_after", "100")).await;
    readyz(&edge, 503).await;
    // Calls may try it all the same.
    assert_eq!(status(&edge, "a").await["healthy"], true);
    replica.restart().await.unwrap();
    readyz(&edge, 200).await;
    // One that passed is not given up for one check.
    replica.stop().await;
    let fails = |status: &Value| status["failing"]["cause"] == "refused";
    wait_for_status(&edge, "a", fails).await;
    assert_eq!(edge.admin_get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_warm_up_that_fails_keeps_the_replica_out() {
    let replica = sim("a").await;
    let edge = Edge::start(checked(EdgeConfig::of(&[&replica]))).await;
    replica.stop().await;
    assert_eq!(out_for(&edge, "a", "refused").await, "connection refused");
    replica.restart().await.unwrap();
    // It may have been faster.
    replica.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None }).everywhere()).await.unwrap();
    out_for(&edge, "a", "status").await;
    replica.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
    assert_eq!(out_for(&edge, "a", "warm_up_failed").await, "its warm-up call failed: status 500");
    edge.wait_for_stderr("replica stays unhealthy pool=near replica=a cause=warm_up_failed").await;
    assert_eq!(edge.admin_get("/readyz").await.status, 503);
    replica.set_fault(None).await.unwrap();
    back_in(&edge, "a").await;
    assert_eq!(edge.admin_get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_replica_that_answers_checks_and_generates_nothing_is_found_out_where_that_is_asked_for() {
    let replica = sim("a").await;
    let config = checked(EdgeConfig::of(&[&replica])).set("health", "generation_interval", "\"1s\"").set(
        "health",
        "generation_timeout",
        "\"300ms\"",
    );
    let edge = Edge::start(config).await;
    replica.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    assert_eq!(out_for(&edge, "a", "generation_failed").await, "its one-token call failed: no answer in time");
    replica.set_fault(None).await.unwrap();
    back_in(&edge, "a").await;
}

#[tokio::test]
async fn a_replica_that_a_reload_adds_is_used_once_it_is_warm() {
    let (old, new) = (sim("old").await, sim("new").await);
    let edge = Edge::start(EdgeConfig::of(&[&old])).await;
    new.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    assert_eq!(edge.reload_with(&EdgeConfig::of(&[&old, &new]).toml(edge.address())).await.status, 200);
    // Its warm-up is under way: it is asked at once, though checks are minutes apart here.
    crate::support::soon(new.wait_for(|stats| stats.faults_total == 1)).await;
    assert_eq!(status(&edge, "new").await["healthy"], false);
    for _ in 0..8 {
        assert_eq!(call(&edge).await.header("x-sim-replica"), Some("old"));
    }
    let other = sim("other").await;
    assert_eq!(edge.reload_with(&EdgeConfig::of(&[&old, &other]).toml(edge.address())).await.status, 200);
    back_in(&edge, "other").await;
    assert_eq!((warm_ups(&other).len(), warm_ups(&old).len()), (1, 0));
    // Nobody else serves: it is used at once.
    let alone = sim("alone").await;
    assert_eq!(edge.reload_with(&EdgeConfig::of(&[&alone]).toml(edge.address())).await.status, 200);
    assert_eq!(call(&edge).await.header("x-sim-replica"), Some("alone"));
}

#[tokio::test]
async fn without_warm_up_a_replica_is_used_from_its_passed_checks_on() {
    let replica = sim("a").await;
    let edge = Edge::start(checked(EdgeConfig::of(&[&replica])).set("health", "warm_up", "false")).await;
    replica.set_fault(FaultPlan::from(Fault::Loading)).await.unwrap();
    out_for(&edge, "a", "not_loaded").await;
    replica.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    back_in(&edge, "a").await;
    assert_eq!(calls(&replica).len(), 0);
}

/// An edge with this replica over TLS that trusts these roots alone.
async fn start_tls(replica: SocketAddr, roots: &str) -> Edge {
    let address = own_address();
    let folder = Edge::folder_of(address);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("roots.pem"), roots).unwrap();
    let pool = Pool::new("near", "here", "m").replica("a", &format!("https://{replica}"));
    Edge::start_with(address, &checked(EdgeConfig::new().pool(pool)).toml(address), |command| {
        command.env("SSL_CERT_FILE", folder.join("roots.pem")).env_remove("SSL_CERT_DIR");
    })
    .await
}

#[tokio::test]
async fn a_replica_over_tls_is_checked_over_tls_and_its_certificate_must_be_trusted_and_its_own() {
    let at = own_address();
    let listener = || TcpListener::bind((at, 8443));
    let (own, stranger) = (pair(&at.to_string()), pair("127.0.0.1"));
    let replica = tls_replica(&own, listener().await.unwrap());
    let misnamed = tls_replica(&stranger, TcpListener::bind((own_address(), 8443)).await.unwrap());
    for (replica, roots) in [(&replica, &stranger), (&misnamed, &stranger)] {
        let edge = start_tls(replica.address, &roots.certificate).await;
        assert!(out_for(&edge, "a", "tls").await.contains("certificate"));
    }
    let edge = start_tls(replica.address, &own.certificate).await;
    assert_eq!(call(&edge).await.status, 200);
    // It goes away and comes back: its warm-up, too, is spoken over TLS.
    replica.stop().await;
    out_for(&edge, "a", "refused").await;
    let _back = tls_replica(&own, listener().await.unwrap());
    back_in(&edge, "a").await;
    assert_eq!(call(&edge).await.status, 200);
}

#[tokio::test]
async fn a_replica_at_an_ipv6_address_is_checked_and_used() {
    let at: SocketAddr = "[::1]:0".parse().unwrap();
    if std::net::TcpListener::bind(at).is_err() {
        eprintln!("skipped: there is no ::1 here");
        return;
    }
    let replica = sim_with("a", |params| params.listen = at).await;
    assert!(replica.url().starts_with("http://[::1]:"));
    let edge = Edge::start(checked(EdgeConfig::of(&[&replica]))).await;
    assert_eq!(call(&edge).await.header("x-sim-replica"), Some("a"));
    replica.stop().await;
    out_for(&edge, "a", "refused").await;
    replica.restart().await.unwrap();
    back_in(&edge, "a").await;
    assert_eq!(call(&edge).await.status, 200);
    let host = &warm_ups(&replica)[0].headers["host"];
    assert_eq!(host, &replica.addr().to_string());
}

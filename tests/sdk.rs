//! The official SDKs, unmodified, through a real edge to simulated replicas: answers, streams, tools and errors.
//!
//! The cases are Python (`tests/sdk/*.py`); here the edge is set up in front of replicas, and the Python environment with
//! the SDKs at pinned versions. Where there is no Python, or the packages cannot be had, the tests say so and are
//! skipped; under `CI=true` they fail instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

#[path = "it/support/mod.rs"]
mod support;

use std::process::{Command, Stdio};

use nearpool::sim::server::ReplicaHandle;
use support::{Edge, EdgeConfig, Pool, Python, SERVED, sim};

static SDKS: Python = Python::new("sdk", "the tests with the official SDKs");

/// An edge with the model `m` of two good replicas, one each whose only replica misbehaves, is soon full, is not there, and
/// `mended`, whose nearest replica misbehaves and whose next one goes on.
async fn edge(
    fragile: &ReplicaHandle,
    good: [&ReplicaHandle; 2],
    busy: &ReplicaHandle,
    gone: &str,
    mended: [&ReplicaHandle; 2],
) -> Edge {
    let served = format!("served_as = \"{SERVED}\"");
    let mut config = EdgeConfig::of(&good);
    for model in ["fragile", "busy", "gone", "mended"] {
        config = config.model(model, &[&served]);
    }
    config = config
        .step("planner", "m")
        .pool(Pool::new("fragile", "here", "fragile").sims(&[fragile]))
        .pool(Pool::new("busy", "here", "busy").sims(&[busy]).line("max_in_flight = 1").line("queue = 0"))
        .region("far", 50.11, 8.68)
        .pool(Pool::new("mended", "here", "mended").sims(&mended[..1]))
        .pool(Pool::new("spare", "far", "mended").sims(&mended[1..]))
        .pool(Pool::new("gone", "here", "gone").replica("gone", gone))
        // The same replica fails many times here, and is to be asked again each time.
        .set("circuit_breaker", "failure_threshold", "1000")
        .set("retry", "backoff", "\"1ms\"")
        .set("limits", "body", "\"2MiB\"");
    Edge::start(config).await
}

/// Runs a script; its lines are the test's output.
async fn run(script: &str) {
    let Some(python) = SDKS.interpreter() else { return };
    let [a, b, fragile, busy] = [sim("a").await, sim("b").await, sim("fragile").await, sim("busy").await];
    let [gone, dying, spare] = [sim("gone").await, sim("dying").await, sim("spare").await];
    gone.stop().await;
    let edge = edge(&fragile, [&a, &b], &busy, &gone.url(), [&dying, &spare]).await;
    let base = format!("http://{}", edge.agents());
    let mut command = Command::new(python);
    command
        .arg(SDKS.folder().join(script))
        .env("OPENAI_BASE_URL", format!("{base}/v1"))
        .env("OPENAI_API_KEY", "client-key")
        .env("ANTHROPIC_BASE_URL", &base)
        .env("ANTHROPIC_API_KEY", "client-key")
        .env("NEARPOOL_SDK_FRAGILE_REPLICA", fragile.url())
        .env("NEARPOOL_SDK_DYING_REPLICA", dying.url())
        // Nothing between the script and the loopback network, and no traces left beside the scripts.
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null());
    // The script ends by itself, also when a case hangs: see `cases.run`.
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{script} failed\n{out}\n{err}\nthe edge says:\n{}", edge.stderr());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_sdk_works_unmodified() {
    run("openai_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_anthropic_sdk_works_unmodified() {
    run("anthropic_sdk.py").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn langchains_openai_client_works_unmodified() {
    run("langchain_client.py").await;
}

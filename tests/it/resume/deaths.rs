//! Processes and whole regions that die under many streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nearpool::sim::server::ReplicaHandle;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::seen::{Alone, CHAT, Seen, streamed};
use crate::support::{Edge, EdgeConfig, Http1, Pool, SimProcess, post, sim_with, soon, with};

/// Tokens of an answer, and the pause between them at the replicas that die: no answer of theirs ends before the kill.
const TOKENS: u64 = 20;
const ITL_MS: u64 = 1_500;
/// A kill falls when every stream has so many events.
const EVENTS_BEFORE: usize = 3;
/// The longest pause that a client may see at the cut, at p99. Far above what it takes, for a machine that is very busy.
const GAP_MAX: Duration = Duration::from_secs(10);

fn body(n: usize) -> Value {
    let pace = json!({"tokens": TOKENS, "itl_ms": ITL_MS, "prefill_ms": 5});
    with(streamed(&format!("prompt {n}"), TOKENS), json!({"sim": pace, "stream_options": {"include_usage": true}}))
}

/// Reads one stream; tells when it is under way. Gives the times at which its pieces came, too.
async fn stream(edge: SocketAddr, n: usize, under_way: Arc<Semaphore>) -> (Seen, Vec<Instant>) {
    let mut client = Http1::connect(edge).await;
    client.send(&post(CHAT, &body(n))).await;
    let head = client.head().await;
    assert_eq!(head.status, 200, "{head:?}");
    let (mut raw, mut times) = (Vec::new(), Vec::new());
    loop {
        match client.chunk().await {
            Ok(Some(piece)) => {
                times.push(piece.at);
                raw.extend_from_slice(&piece.bytes);
                if times.len() == EVENTS_BEFORE {
                    under_way.add_permits(1);
                }
            }
            ended => return (Seen::of(&raw, ended.is_ok()), times),
        }
    }
}

/// Opens so many streams, kills when all are under way, and checks that every client got one whole answer.
async fn check(edge: &Edge, streams: usize, mut dying: Vec<SimProcess>) {
    let under_way = Arc::new(Semaphore::new(0));
    let open = |n| tokio::spawn(stream(edge.agents(), n, Arc::clone(&under_way)));
    let clients: Vec<_> = (0..streams).map(open).collect();
    let all = soon(under_way.acquire_many(streams as u32)).await.unwrap();
    let killed = Instant::now();
    dying.iter_mut().for_each(SimProcess::kill);
    drop(all);
    let (alone, mut gaps) = (Alone::start().await, Vec::new());
    for (n, client) in clients.into_iter().enumerate() {
        let (seen, times) = soon(client).await.unwrap();
        seen.check_one_whole_answer(&format!("stream {n}"));
        let after = times.windows(2).filter(|two| two[1] > killed).map(|two| two[1] - two[0].max(killed));
        gaps.push(after.max().unwrap_or_default());
        let whole = alone.says(CHAT, &with(body(n), json!({"sim": {"tokens": TOKENS}}))).await;
        assert_eq!(seen.text, whole.text, "stream {n}");
        for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
            assert_eq!(seen.usage()[0][key], whole.usage()[0][key], "stream {n}: {key}");
        }
    }
    gaps.sort();
    let p99 = gaps[gaps.len() * 99 / 100];
    println!("{streams} streams: longest pause p50 {:?}, p99 {p99:?}", gaps[gaps.len() / 2]);
    assert!(p99 <= GAP_MAX, "longest pause at p99: {p99:?}");
    let lines = edge.wait_for_logs(streams, |line| line["outcome"] == "ok").await;
    assert!(lines.iter().all(|line| line["region"] == "far" && line["resumes"].as_u64() >= Some(1)));
}

/// The replicas that die keep the pace that requests force; those that go on do not.
async fn edge(near: &[SimProcess], far: &[&ReplicaHandle]) -> Edge {
    let pool = |name: &str, region: &str| Pool::new(name, region, "m").line("max_in_flight = 1000");
    let near = near.iter().fold(pool("near", "here"), |pool, replica| pool.replica(replica.name(), &replica.url()));
    Edge::start(EdgeConfig::new().region("far", 50.0, 8.0).pool(near).pool(pool("far", "far").sims(far))).await
}

async fn far(name: &str) -> ReplicaHandle {
    sim_with(name, |params| params.keeps_pace = false).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_streams_of_a_replica_that_is_killed_go_on_whole() {
    let (near, far) = ([SimProcess::start("a").await], far("b").await);
    let edge = edge(&near, &[&far]).await;
    check(&edge, 200, near.into()).await;
    assert_eq!(edge.metric("nearpool_resumes_total{result=\"ok\"}").await, 200.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_nearest_region_dies_under_five_hundred_streams_all_go_on_in_the_next() {
    let near = [SimProcess::start("a").await, SimProcess::start("b").await, SimProcess::start("c").await];
    let far = [far("x").await, far("y").await];
    let edge = edge(&near, &[&far[0], &far[1]]).await;
    check(&edge, 500, near.into()).await;
}

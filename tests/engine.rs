//! A real engine behind a real edge: llama.cpp's own server (`tests/engine/serve.py`) with a small model of random weights.
//!
//! What the simulator cannot show is shown here: that an engine's own cache finds what the edge sends back to it, and that
//! its ways with connections and streams are met. Where there is no Python, or the package cannot be had, the tests say so
//! and are skipped; under `CI=true` they fail instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

#[path = "engine/agent.rs"]
mod agent;
#[path = "engine/process.rs"]
mod process;
#[path = "it/support/mod.rs"]
mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use agent::{Agent, CHAT, call_watched};
use process::Engine;
use support::{Answer, Edge, EdgeConfig, Http1, Pool, post, request, soon};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::unbounded_channel;

const SESSIONS: usize = 8;
const STEPS: usize = 10;
/// Calls at a time; the other agents are with their tools. Were all calling all the time, an agent's next call would find
/// its last replica the least loaded, and any router would send it there.
const CALLS_AT_A_TIME: usize = 3;

/// The share of what could have come from a cache that must. Where every session stays, all of it does; what may lack is a
/// call that had to go elsewhere.
const REUSE_MIN: f64 = 0.97;

/// What a load of growing conversations came to.
#[derive(Debug)]
struct Work {
    /// Cached tokens, of those that the session's call before had in its prompt.
    reuse: f64,
    /// Prompt tokens that the engines computed.
    prefilled: u64,
}

async fn edge(engines: &[Engine; 2]) -> Edge {
    let pool = Pool::new("llama", "here", "m").line("engine = \"llama.cpp\"");
    let [a, b] = engines;
    Edge::start(EdgeConfig::new().pool(pool.replica("a", &a.url()).replica("b", &b.url()))).await
}

/// All agents, each step by step; `to` says where the nth agent's kth call goes.
async fn work(engines: &[Engine; 2], to: impl Fn(usize, usize) -> SocketAddr) -> Work {
    // A fair one: who waits longest is next.
    let turn = Arc::new(Semaphore::new(CALLS_AT_A_TIME));
    let agents: Vec<_> = (0..SESSIONS)
        .map(|n| {
            let ways: Vec<_> = (0..STEPS).map(|k| to(n, k)).collect();
            let turn = Arc::clone(&turn);
            tokio::spawn(async move {
                let (mut agent, mut replies) = (Agent::new(n), Vec::new());
                for to in ways {
                    let _turn = turn.acquire().await.unwrap();
                    replies.push(agent.step(to).await);
                }
                replies
            })
        })
        .collect();
    let (mut reused, mut known) = (0, 0);
    for agent in agents {
        for two in agent.await.unwrap().windows(2) {
            reused += two[1].cached.min(two[0].prompt);
            known += two[0].prompt;
        }
    }
    let [a, b] = engines;
    Work { reuse: reused as f64 / known as f64, prefilled: a.prefilled().await + b.prefilled().await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_without_a_name_go_on_where_their_cache_is() {
    let Some(engines) = Engine::two().await else { return };
    let edge = edge(&engines).await;
    let ours = work(&engines, |_, _| edge.agents()).await;
    drop(engines);
    let Some(engines) = Engine::two().await else { return };
    let alternating = [engines[0].address(), engines[1].address()];
    // Each session's calls alternate, as round robin has it with an odd number of sessions in step.
    let round_robin = work(&engines, |n, k| alternating[(n + k) % 2]).await;
    println!("through the edge {ours:?}\nround robin      {round_robin:?}");
    assert!(ours.reuse >= REUSE_MIN, "{ours:?}");
    assert!(ours.prefilled < round_robin.prefilled, "{ours:?}, round robin {round_robin:?}");
}

/// llama.cpp ends a connection with its 100th answer, and one that was idle for five seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_the_engine_ends_cost_no_call_and_no_second_attempt() {
    // However they are spread over the two, one of them has its hundredth.
    const CALLS: usize = 250;
    let Some(engines) = Engine::two().await else { return };
    let edge = edge(&engines).await;
    let mut client = Http1::connect(edge.agents()).await;
    let body = post(CHAT, &Agent::new(0).body(1));
    for n in 0..CALLS {
        let answer = client.call(&body).await;
        assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (200, Some("1")), "call {n}: {answer:?}");
    }
    // Idle connections that are younger than the edge's own: when they are ended, those are too.
    let mut idle = [Http1::connect(engines[0].address()).await, Http1::connect(engines[1].address()).await];
    for connection in &mut idle {
        connection.call(&request("GET", "/health", &[], b"")).await;
    }
    for connection in &mut idle {
        connection.until_closed().await;
    }
    let answer = client.call(&body).await;
    assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (200, Some("1")), "{answer:?}");
    let ok = |line: &serde_json::Value| line["outcome"] == "ok" && line["attempts"] == 1;
    edge.wait_for_logs(CALLS + 1, ok).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_whose_engine_is_killed_goes_on_at_the_other_to_its_last_token() {
    // The answer is still far from its end when its engine dies.
    const TOKENS: u64 = 3000;
    const EVENTS_BEFORE: usize = 20;
    let Some(mut engines) = Engine::two().await else { return };
    let edge = edge(&engines).await;
    let (to, body) = (edge.agents(), Agent::new(1).body(TOKENS));
    let (under_way, mut replica) = unbounded_channel();
    let reply = tokio::spawn(async move {
        let watch = |head: &Answer, events| {
            if events == EVENTS_BEFORE {
                under_way.send(head.header("x-nearpool-replica").unwrap().to_owned()).unwrap();
            }
        };
        call_watched(to, &body, watch).await
    });
    let replica = soon(replica.recv()).await.expect("a stream under way");
    engines[usize::from(replica == "b")].kill();
    let reply = reply.await.unwrap();
    assert_eq!(reply.finish.as_deref(), Some("length"));
    // Every token of the model's is a word of four letters, also where the one engine's end and the other's begin.
    let words: Vec<&str> = reply.text.split_whitespace().collect();
    assert_eq!(words.len() as u64, TOKENS);
    assert!(words.iter().all(|word| word.len() == 4), "{words:?}");
    assert_eq!(edge.metric("nearpool_resumes_total{result=\"ok\"}").await, 1.0);
}

//! Sub-agents: sessions of their own that start where their agent's session is, while load allows.

use nearpool::sim::server::ReplicaHandle;
use serde_json::Value;

use super::call::{CHAT, begun_at, call, hold, prompt, told};
use crate::support::{Answer, Edge, EdgeConfig, Http1, post_with, sim};

/// How one agent names its session, and that of a sub-agent.
struct Naming {
    agent: &'static [(&'static str, &'static str)],
    sub_agent: &'static [(&'static str, &'static str)],
}

const NAMINGS: [Naming; 4] = [
    Naming {
        agent: &[("x-claude-code-session-id", "c")],
        sub_agent: &[("x-claude-code-session-id", "c"), ("x-claude-code-agent-id", "sub")],
    },
    Naming {
        agent: &[("x-session-affinity", "o")],
        sub_agent: &[("x-session-affinity", "o-sub"), ("x-parent-session-id", "o")],
    },
    Naming {
        agent: &[("session-id", "x"), ("thread-id", "x")],
        sub_agent: &[("session-id", "x"), ("thread-id", "x-sub"), ("x-codex-parent-thread-id", "x")],
    },
    Naming {
        agent: &[("x-dynamo-session-id", "d")],
        sub_agent: &[("x-dynamo-session-id", "d-sub"), ("x-dynamo-parent-session-id", "d")],
    },
];

async fn ask(edge: &Edge, headers: &[(&str, &str)], body: &Value) -> Answer {
    let answer = Http1::connect(edge.agents()).await.call(&post_with(CHAT, headers, body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

fn named<'a>(sims: &'a [ReplicaHandle], name: &str) -> &'a ReplicaHandle {
    sims.iter().find(|sim| sim.name() == name).unwrap()
}

async fn three() -> ([ReplicaHandle; 3], Edge) {
    let sims = [sim("a").await, sim("b").await, sim("c").await];
    let config = EdgeConfig::of(&sims.each_ref()).set("circuit_breaker", "reset_timeout", "\"50ms\"");
    let edge = Edge::start(config).await;
    (sims, edge)
}

#[tokio::test]
async fn a_sub_agent_starts_where_its_agent_is_now_and_is_a_session_of_its_own() {
    let (sims, edge) = three().await;
    for Naming { agent, sub_agent } in NAMINGS {
        let first = ask(&edge, agent, &prompt(100)).await;
        assert_eq!(told(&first).1, "new", "{agent:?}");
        // The agent has to leave the replica where hashing puts it and its sub-agents.
        let hashed = named(&sims, told(&first).0);
        hashed.stop().await;
        let moved = ask(&edge, agent, &prompt(100)).await;
        let (home, reason) = told(&moved);
        assert_eq!(reason, "moved");
        hashed.restart().await.unwrap();
        let breaker = format!("nearpool_breaker_state{{pool=\"near\",replica=\"{}\"}}", hashed.name());
        edge.wait_for_metric(&breaker, |state| state < 2.0).await;
        assert_eq!(told(&ask(&edge, sub_agent, &prompt(100)).await), (home, "new"), "{sub_agent:?}");
        for headers in [sub_agent, agent, sub_agent] {
            assert_eq!(told(&ask(&edge, headers, &prompt(100)).await), (home, "session"), "{headers:?}");
        }
    }
}

#[tokio::test]
async fn a_sub_agent_starts_elsewhere_while_its_agents_replica_has_much_to_read() {
    let (sims, edge) = three().await;
    let agent = "agent";
    let home = call(&edge, agent, &prompt(100)).await;
    let home = named(&sims, told(&home).0);
    let busy = begun_at(&edge, home, "busy").await;
    let start = async |n: usize| {
        let name = format!("sub-{n}");
        ask(&edge, &[("x-session-id", &name), ("x-parent-session-id", agent)], &prompt(100)).await
    };
    // 100 tokens are read in no time; 400,000 take many seconds.
    let short = hold(&edge, home, &busy, 100).await;
    assert_eq!(told(&start(0).await), (home.name(), "new"));
    drop(short);
    edge.wait_until_idle("near", home.name()).await;
    let long = hold(&edge, home, &busy, 400_000).await;
    let elsewhere = start(1).await;
    assert_eq!(told(&elsewhere).1, "new");
    assert_ne!(told(&elsewhere).0, home.name());
    drop(long);
    edge.wait_until_idle("near", home.name()).await;
    let stayed = start(1).await;
    assert_eq!(told(&stayed), (told(&elsewhere).0, "session"), "it has a home of its own");
    assert_eq!(told(&start(2).await), (home.name(), "new"));
}

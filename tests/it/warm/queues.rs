//! A session leaves its cache for what waits there: exactly when that costs more than to read its context anew.

use serde_json::json;
use tokio::task::JoinSet;

use super::call::{CHAT, begun_at, call, hold, prompt, told};
use crate::support::{Edge, EdgeConfig, Http1, Pool, post, sim, with};

/// Tokens of the session that is warm: to read them anew weighs as much as 60,000 that wait.
const CONTEXT: usize = 10_000;

/// Tokens that wait at its replica: fewer than it bears, and more. The edge takes 10,000 to be read in a second while it
/// does not know better, so both last for far longer than what is looked at meanwhile.
const SHORT: usize = 5 * CONTEXT;
const LONG: usize = 40 * CONTEXT;

/// Prompts that tell a pool's pace: as many as the edge wants to see, and each as long.
const PACED: (usize, usize) = (40, 1_100);

#[tokio::test]
async fn a_hot_session_leaves_a_long_queue_and_bears_a_short_one() {
    let sims = [sim("a").await, sim("b").await];
    let edge = Edge::start(EdgeConfig::of(&sims.each_ref())).await;
    let hot = prompt(CONTEXT);
    let begun = call(&edge, "hot", &hot).await;
    let home = sims.iter().find(|sim| sim.name() == told(&begun).0).unwrap();
    assert_eq!(told(&call(&edge, "hot", &hot).await), (home.name(), "session"));
    let neighbour = begun_at(&edge, home, "neighbour").await;
    let short = hold(&edge, home, &neighbour, SHORT).await;
    assert_eq!(told(&call(&edge, "hot", &hot).await), (home.name(), "session"), "to move costs more than to wait");
    drop(short);
    edge.wait_until_idle("near", home.name()).await;
    let long = hold(&edge, home, &neighbour, LONG).await;
    let left = call(&edge, "hot", &hot).await;
    let (new_home, reason) = told(&left);
    assert_eq!(reason, "moved");
    assert_ne!(new_home, home.name());
    drop(long);
    edge.wait_until_idle("near", home.name()).await;
    assert_eq!(told(&call(&edge, "hot", &hot).await), (new_home, "session"), "its cache is here now");
    assert_eq!(edge.metric("nearpool_affinity_total{reason=\"moved\"}").await, 1.0);
}

#[tokio::test]
async fn a_session_without_a_context_leaves_also_the_queue_that_a_hot_one_bears() {
    let sims = [sim("a").await, sim("b").await];
    let edge = Edge::start(EdgeConfig::of(&sims.each_ref())).await;
    let light = begun_at(&edge, &sims[0], "light").await;
    let neighbour = begun_at(&edge, &sims[0], "neighbour").await;
    let queue = hold(&edge, &sims[0], &neighbour, SHORT).await;
    assert_eq!(told(&call(&edge, &light, &prompt(10)).await), ("b", "moved"));
    drop(queue);
}

/// Shows the edge how fast the pool is: prompts that the replica reads in 50 ms, all at a time.
async fn show_pace(edge: &Edge) {
    let (count, tokens) = PACED;
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let agents = edge.agents();
        let paced = json!({"stream": true, "sim": {"tokens": 2, "prefill_ms": 50}});
        let bytes = post(CHAT, &with(prompt(tokens), paced));
        calls.spawn(async move {
            let answer = Http1::connect(agents).await.call(&bytes).await;
            assert_eq!((answer.status, answer.header("x-nearpool-pool")), (200, Some("near")));
        });
    }
    calls.join_all().await;
    let computed = "nearpool_prompt_tokens_total{kind=\"computed\",pool=\"near\"}";
    edge.wait_for_metric(computed, |seen| seen > (count * tokens) as f64).await;
}

#[tokio::test]
async fn pools_are_compared_once_the_pace_of_the_nearest_is_known() {
    let (near, far) = (sim("n").await, sim("f").await);
    let config =
        EdgeConfig::of(&[&near]).region("ireland", 53.35, -6.26).pool(Pool::new("far", "ireland", "m").sims(&[&far]));
    let edge = Edge::start(config).await;
    let hot = prompt(1_000);
    for reason in ["new", "session"] {
        assert_eq!(told(&call(&edge, "hot", &hot).await), ("n", reason));
    }
    call(&edge, "neighbour", &prompt(10)).await;
    let queue = hold(&edge, &near, "neighbour", LONG).await;
    assert_eq!(told(&call(&edge, "hot", &hot).await), ("n", "session"), "nobody knows how long that takes");
    assert_eq!(told(&call(&edge, "fresh", &prompt(10)).await), ("n", "new"));
    drop(queue);
    edge.wait_until_idle("near", "n").await;
    show_pace(&edge).await;
    // Now it takes seconds, and the way to Ireland a sixth of one.
    let queue = hold(&edge, &near, "neighbour", LONG).await;
    assert_eq!(told(&call(&edge, "hot", &hot).await), ("f", "spill"));
    assert_eq!(told(&call(&edge, "new", &prompt(10)).await), ("f", "spill"));
    drop(queue);
    edge.wait_until_idle("near", "n").await;
    assert_eq!(told(&call(&edge, "hot", &hot).await), ("f", "session"), "its cache is there now");
    assert_eq!(told(&call(&edge, "newest", &prompt(10)).await), ("n", "new"));
}

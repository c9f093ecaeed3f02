//! Where a call goes: places, regions, models, steps.

use std::net::Ipv4Addr;

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle, ServerParams, ServerStats};
use serde_json::{Value, json};

use crate::support::{
    Answer, Edge, EdgeConfig, Http1, IRELAND, NOWHERE, Pool, SERVED, chat, json_body, post, post_with, sim, sim_with,
    soon, unheard, with,
};

/// A peer whose `X-Forwarded-For` is believed.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 200, 0, 1);

/// Three regions with one replica each, named as its region. The edge stands in `here`, in California.
struct World {
    edge: Edge,
    here: ReplicaHandle,
    ireland: ReplicaHandle,
    singapore: ReplicaHandle,
}

impl World {
    async fn start(pool_line: &str) -> World {
        let (here, ireland, singapore) = (sim("here").await, sim("ireland").await, sim("singapore").await);
        let config = EdgeConfig::in_three_regions(&here, &ireland, &singapore, pool_line).set(
            "edge",
            "trusted_proxies",
            "[\"127.200.0.0/24\"]",
        );
        World { edge: Edge::start(config).await, here, ireland, singapore }
    }

    /// A call from this address; with an address in `X-Forwarded-For` if there is one.
    async fn call(&self, from: Ipv4Addr, forwarded: Option<&str>) -> Answer {
        let mut client = Http1::connect_from(from, self.edge.agents()).await;
        let headers: Vec<_> = forwarded.iter().map(|address| ("x-forwarded-for", *address)).collect();
        client.call(&post_with("/v1/chat/completions", &headers, &chat(&unheard(), 1))).await
    }

    async fn check(&self, from: Ipv4Addr, forwarded: Option<&str>, region: &str, reason: &str) {
        let answer = self.call(from, forwarded).await;
        let told = ["region", "replica", "reason"].map(|name| answer.header(&format!("x-nearpool-{name}")).unwrap());
        assert_eq!((answer.status, told), (200, [region, region, reason]), "{from} {forwarded:?}");
    }

    /// Occupies a place of a replica with a call from `from`; it is given back when the client is dropped.
    async fn occupy(&self, replica: &ReplicaHandle, from: Ipv4Addr) -> Http1 {
        let before = taken(&replica.stats());
        let mut client = Http1::connect_from(from, self.edge.agents()).await;
        let body = with(chat(&unheard(), 1), json!({"sim": {"tokens": 2, "prefill_ms": 600_000}}));
        client.send(&post("/v1/chat/completions", &body)).await;
        soon(replica.wait_for(|stats| taken(stats) == before + 1)).await;
        client
    }
}

/// Calls that a replica has, be they in its batch or in its queue.
fn taken(stats: &ServerStats) -> usize {
    stats.engine.running + stats.engine.waiting
}

#[tokio::test]
async fn a_client_is_served_in_the_region_nearest_to_its_place() {
    let world = World::start("").await;
    world.check(IRELAND, None, "ireland", "new").await;
    world.check(NOWHERE, None, "here", "new").await; // nearest to the edge
    world.check(PROXY, Some("127.3.9.9"), "ireland", "new").await;
    world.check(PROXY, Some("2001:db8:4::1"), "singapore", "new").await;
    world.check(PROXY, Some("127.3.9.9, 2001:db8:4::1, 127.200.0.9"), "singapore", "new").await;
    world.check(PROXY, None, "here", "new").await;
    // A peer that is not trusted cannot claim a place.
    world.check(IRELAND, Some("2001:db8:4::1"), "ireland", "new").await;
    let line = world.edge.wait_for_log(|line| line["region"] == "ireland").await;
    assert_eq!((&line["client"], &line["country"]), (&json!("127.3.0.1"), &json!("IE")));
}

#[tokio::test]
async fn a_region_that_is_down_fails_over_to_the_next_nearest() {
    let world = World::start("").await;
    world.ireland.stop().await;
    for _ in 0..8 {
        world.check(IRELAND, None, "here", "failover").await; // California is nearer than Singapore
    }
    world.here.stop().await;
    world.check(IRELAND, None, "singapore", "failover").await;
    world.ireland.restart().await.unwrap();
    world.here.restart().await.unwrap();
    world.singapore.set_fault(FaultPlan::from(Fault::Refuse)).await.unwrap();
    assert_eq!(world.edge.metric("nearpool_affinity_total{reason=\"failover\"}").await, 9.0);
}

#[tokio::test]
async fn a_region_that_is_full_spills_and_when_all_are_full_clients_are_told_to_wait() {
    let world = World::start("max_in_flight = 1\nqueue = 0").await;
    let first = world.occupy(&world.ireland, IRELAND).await;
    world.check(IRELAND, None, "here", "spill").await;
    let second = world.occupy(&world.here, NOWHERE).await;
    world.check(IRELAND, None, "singapore", "spill").await;
    let third = world.occupy(&world.singapore, IRELAND).await;
    let answer = world.call(IRELAND, None).await;
    assert_eq!((answer.status, code(&answer)), (429, json!("at_capacity")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    drop((first, second, third));
    for replica in ["here", "ireland", "singapore"] {
        world.edge.wait_until_idle(&format!("p-{replica}"), replica).await;
    }
    world.check(IRELAND, None, "ireland", "new").await;
}

#[tokio::test]
async fn a_region_that_was_full_takes_new_sessions_again_when_it_is_well_below_its_capacity() {
    let world = World::start("max_in_flight = 8\nqueue = 0").await;
    let headers = [("x-session-id", "under-way")];
    let mut under_way = Http1::connect_from(IRELAND, world.edge.agents()).await;
    let mut goes_on = async || {
        let answer = under_way.call(&post_with("/v1/chat/completions", &headers, &chat("go on", 1))).await;
        let told = ["region", "reason"].map(|name| answer.header(&format!("x-nearpool-{name}")).unwrap().to_owned());
        (answer.status, told)
    };
    assert_eq!(goes_on().await, (200, ["ireland".into(), "new".into()]));
    let mut places = Vec::new();
    for _ in 0..8 {
        world.check(IRELAND, None, "ireland", "new").await;
        places.push(world.occupy(&world.ireland, IRELAND).await);
    }
    world.check(IRELAND, None, "here", "spill").await;
    let in_flight = "nearpool_replica_in_flight{pool=\"p-ireland\",replica=\"ireland\"}";
    // There is a place, but not for who is new.
    places.pop();
    world.edge.wait_for_metric(in_flight, |calls| calls == 7.0).await;
    for _ in 0..4 {
        world.check(IRELAND, None, "here", "spill").await;
        assert_eq!(goes_on().await, (200, ["ireland".into(), "session".into()]));
    }
    places.pop();
    world.edge.wait_for_metric(in_flight, |calls| calls == 6.0).await;
    world.check(IRELAND, None, "ireland", "new").await;
    // Full once more, and so are all the others: a place there is better than none.
    for _ in 0..2 {
        places.push(world.occupy(&world.ireland, IRELAND).await);
    }
    for replica in [&world.here, &world.singapore] {
        for _ in 0..8 {
            places.push(world.occupy(replica, IRELAND).await);
        }
    }
    places.remove(0);
    world.edge.wait_for_metric(in_flight, |calls| calls == 7.0).await;
    world.check(IRELAND, None, "ireland", "new").await;
}

fn code(answer: &Answer) -> Value {
    json_body(answer)["error"]["code"].clone()
}

#[tokio::test]
async fn a_replica_that_should_not_be_used_is_the_last_resort_and_a_dead_one_is_told_of() {
    let replica = sim("a").await;
    let config = EdgeConfig::of(&[&replica])
        .set("health", "interval", "\"200ms\"")
        .set("health", "timeout", "\"200ms\"")
        .set("health", "unhealthy_after", "1")
        .set("health", "healthy_after", "1");
    let edge = Edge::start(config).await;
    let up = "nearpool_replica_up{pool=\"near\",replica=\"a\"}";
    let mut client = Http1::connect(edge.agents()).await;
    replica.set_fault(FaultPlan::from(Fault::Loading)).await.unwrap();
    edge.wait_for_metric(up, |up| up == 0.0).await;
    assert_eq!(edge.admin_get("/readyz").await.status, 503);
    // It was asked all the same, and its own words pass.
    let answer = client.call(&post("/v1/chat/completions", &chat("x", 1))).await;
    assert_eq!((answer.status, &json_body(&answer)["error"]["message"]), (503, &json!("Loading model")));
    replica.stop().await;
    let answer = client.call(&post("/v1/chat/completions", &chat("x", 1))).await;
    assert_eq!((answer.status, code(&answer)), (502, json!("connect_failed")));
    assert_eq!(answer.header("retry-after"), Some("1"));
    replica.restart().await.unwrap();
    edge.wait_for_metric(up, |up| up == 1.0).await;
    assert_eq!(client.call(&post("/v1/chat/completions", &chat("x", 1))).await.status, 200);
    assert_eq!(edge.admin_get("/readyz").await.status, 200);
}

#[tokio::test]
async fn steps_choose_models_and_fallbacks_answer_when_the_model_cannot() {
    let named = |model: &'static str| move |params: &mut ServerParams| params.model = model.into();
    let (big, small) = (sim_with("big", named("served/70b")).await, sim("small").await);
    let config = EdgeConfig::new()
        .without_m()
        .model("llama-70b", &["served_as = \"served/70b\"", "aliases = [\"large\"]", "fallbacks = [\"llama-8b\"]"])
        .model("llama-8b", &[&format!("served_as = \"{SERVED}\"")])
        .step("planner", "large")
        .step("tool_caller", "llama-8b")
        .pool(Pool::new("big", "here", "llama-70b").sims(&[&big]))
        .pool(Pool::new("small", "here", "llama-8b").sims(&[&small]));
    let edge = Edge::start(config).await;
    let mut client = Http1::connect(edge.agents()).await;
    for (model, step, expected) in [
        ("llama-70b", None, "llama-70b"),
        ("large", None, "llama-70b"),
        ("planner", None, "llama-70b"),
        ("tool_caller", None, "llama-8b"),
        ("auto", Some("planner"), "llama-70b"),
        ("auto", Some("tool_caller"), "llama-8b"),
        // A model that is named wins over the step.
        ("llama-8b", Some("planner"), "llama-8b"),
    ] {
        let headers: Vec<_> = step.iter().map(|step| ("x-agent-step", *step)).collect();
        let body = with(chat("x", 1), json!({"model": model}));
        let answer = client.call(&post_with("/v1/chat/completions", &headers, &body)).await;
        assert_eq!(answer.status, 200, "{model} {step:?}");
        assert_eq!(answer.header("x-nearpool-model"), Some(expected), "{model} {step:?}");
        let served = if expected == "llama-8b" { SERVED } else { "served/70b" };
        assert_eq!(json_body(&answer)["model"], served);
    }
    let lines = edge.wait_for_logs(7, |line| line["status"] == 200).await;
    let steps: Vec<_> = lines.iter().map(|line| line["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["none", "none", "planner", "tool_caller", "planner", "tool_caller", "planner"]);
    let auto = client.call(&post("/v1/chat/completions", &with(chat("x", 1), json!({"model": "auto"})))).await;
    assert_eq!((auto.status, code(&auto)), (404, json!("model_not_found")));

    big.stop().await;
    let answer = client.call(&post("/v1/chat/completions", &with(chat("x", 1), json!({"model": "planner"})))).await;
    assert_eq!((answer.status, answer.header("x-nearpool-reason")), (200, Some("fallback")));
    assert_eq!(answer.header("x-nearpool-model"), Some("llama-8b"));
    assert_eq!(json_body(&answer)["model"], SERVED);
}

#[tokio::test]
async fn a_model_that_fails_everywhere_leaves_an_attempt_for_its_fallback() {
    let (mut near, mut far) = (Vec::new(), Vec::new());
    for n in 0..3 {
        near.push(sim(&format!("near-{n}")).await);
        far.push(sim(&format!("far-{n}")).await);
    }
    for sick in near.iter().chain(&far) {
        sick.set_fault(FaultPlan::from(Fault::Status { status: 503, retry_after_s: None })).await.unwrap();
    }
    let small = sim("small").await;
    let config = EdgeConfig::new()
        .region("ireland", 53.35, -6.26)
        .model("m", &[&format!("served_as = \"{SERVED}\""), "fallbacks = [\"s\"]"])
        .model("s", &[&format!("served_as = \"{SERVED}\"")])
        .pool(Pool::new("near", "here", "m").sims(&near.iter().collect::<Vec<_>>()))
        .pool(Pool::new("far", "ireland", "m").sims(&far.iter().collect::<Vec<_>>()))
        .pool(Pool::new("fallback", "ireland", "s").sims(&[&small]));
    let edge = Edge::start(config).await;
    let answer = Http1::connect(edge.agents()).await.call(&post("/v1/chat/completions", &chat("x", 1))).await;
    let told = ["reason", "model", "attempts"].map(|name| answer.header(&format!("x-nearpool-{name}")).unwrap());
    assert_eq!((answer.status, told), (200, ["fallback", "s", "4"]));
    // Without one that can answer, the model's own replicas get every attempt.
    small.stop().await;
    let answer = Http1::connect(edge.agents()).await.call(&post("/v1/chat/completions", &chat("x", 1))).await;
    assert_eq!((answer.status, answer.header("x-nearpool-model")), (503, Some("m")));
}

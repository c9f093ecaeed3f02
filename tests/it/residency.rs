//! Some clients' calls may go to some regions only, whatever fails.

mod faults;

use std::net::Ipv4Addr;

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};
use nearpool::wire::key_hash::key_sha256;
use serde_json::json;

use crate::support::{
    Answer, Edge, EdgeConfig, Http1, IRELAND, NOWHERE, SINGAPORE, chat, json_body, post_with, sim, unheard, with,
};

/// The edge stands in `here`, in California; the calls of clients in the union stay in Ireland.
struct World {
    edge: Edge,
    ireland: ReplicaHandle,
    others: [ReplicaHandle; 2],
}

impl World {
    async fn start(geo: &[(&str, &str)]) -> World {
        World::with(geo, "10m").await
    }

    async fn with(geo: &[(&str, &str)], checks_every: &str) -> World {
        let (here, ireland, singapore) = (sim("here").await, sim("ireland").await, sim("singapore").await);
        let config = EdgeConfig::in_three_regions(&here, &ireland, &singapore, "");
        let config = geo.iter().fold(config, |config, (key, value)| config.set("geo", key, value));
        // What fails here fails for a reason that is no replica's, and is to be asked again.
        let config = config.set("circuit_breaker", "failure_threshold", "1000");
        let config = config.set("health", "interval", &format!("\"{checks_every}\""));
        World { edge: Edge::start(config).await, ireland, others: [here, singapore] }
    }

    async fn call(&self, from: Ipv4Addr, key: &str) -> Answer {
        let mut client = Http1::connect_from(from, self.edge.agents()).await;
        let credential = format!("Bearer {key}");
        let headers = [("authorization", credential.as_str())];
        client.call(&post_with("/v1/chat/completions", &headers, &chat(&unheard(), 1))).await
    }

    async fn check(&self, from: Ipv4Addr, region: &str) {
        let answer = self.call(from, "sk-1").await;
        assert_eq!((answer.status, answer.header("x-nearpool-region")), (200, Some(region)), "{from}");
    }

    async fn check_refused(&self, from: Ipv4Addr) {
        let answer = self.call(from, "sk-1").await;
        assert_eq!((answer.status, &json_body(&answer)["error"]["code"]), (503, &json!("residency_unavailable")));
    }

    /// Replicas outside of Ireland have answered so many calls.
    fn answered_elsewhere(&self) -> u64 {
        self.others.iter().map(|replica| replica.stats().finished_total).sum()
    }
}

const EUROPE: (&str, &str) = ("residency", r#"{ "union:EU" = ["ireland"] }"#);

#[tokio::test]
async fn calls_stay_where_they_may_go_and_fail_with_a_word_of_their_own_when_nobody_there_can_serve() {
    let world = World::start(&[EUROPE]).await;
    world.check(IRELAND, "ireland").await;
    world.check(SINGAPORE, "singapore").await;
    world.check(NOWHERE, "ireland").await; // nobody knows that it is elsewhere
    let before = world.answered_elsewhere();
    for fault in [Fault::ResetBeforeHeaders, Fault::Refuse] {
        world.ireland.set_fault(FaultPlan::from(fault)).await.unwrap();
        for _ in 0..10 {
            world.check_refused(IRELAND).await;
            world.check_refused(NOWHERE).await;
        }
    }
    assert_eq!(world.answered_elsewhere(), before, "not one call reached another region");
    world.check(SINGAPORE, "singapore").await;
    assert_eq!(world.edge.metric("nearpool_residency_total{result=\"refused\"}").await, 40.0);
    assert_eq!(world.edge.metric("nearpool_residency_total{result=\"kept\"}").await, 42.0);
}

#[tokio::test]
async fn a_stream_that_breaks_off_is_not_gone_on_with_elsewhere() {
    let world = World::start(&[EUROPE]).await;
    world.ireland.set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 3 })).await.unwrap();
    let mut client = Http1::connect_from(IRELAND, world.edge.agents()).await;
    let body = with(chat(&unheard(), 50), json!({ "stream": true }));
    client.send(&post_with("/v1/chat/completions", &[], &body)).await;
    let head = client.head().await;
    let (body, ended) = client.body(&head).await;
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(ended.is_err(), "no client takes it for whole: {text}");
    assert!(text.contains("broke off") && !text.contains("[DONE]"), "{text}");
    assert_eq!(world.answered_elsewhere(), 0);
}

#[tokio::test]
async fn what_holds_for_unknown_places_is_configured() {
    let any = World::start(&[EUROPE, ("residency_unknown", "\"any\"")]).await;
    any.check(NOWHERE, "here").await;
    any.check(IRELAND, "ireland").await;
    let listed = World::start(&[EUROPE, ("residency_unknown", "[\"singapore\"]")]).await;
    listed.check(NOWHERE, "singapore").await;
}

#[tokio::test]
async fn a_key_and_a_network_are_rules_too_and_overrides_come_first() {
    let key = format!(
        "{{ \"key:{}\" = [\"singapore\"], \"network:127.4.0.0/16\" = [\"ireland\"] }}",
        key_sha256(b"sk-asia").unwrap()
    );
    let world = World::start(&[("residency", &key), ("overrides", r#"{ IE = ["singapore", "here"] }"#)]).await;
    let region = |answer: &Answer| answer.header("x-nearpool-region").map(str::to_owned);
    assert_eq!(region(&world.call(IRELAND, "sk-asia").await).as_deref(), Some("singapore"));
    world.check(IRELAND, "singapore").await;
    world.others[1].stop().await;
    world.check(IRELAND, "here").await;
    world.check(SINGAPORE, "ireland").await;
    // Both rules mean it, and no region is in both.
    let refused = world.call(SINGAPORE, "sk-asia").await;
    assert_eq!((refused.status, &json_body(&refused)["error"]["code"]), (503, &json!("residency_unavailable")));
}

#[tokio::test]
async fn the_round_trip_to_each_region_is_measured() {
    let world = World::with(&[("nearest_to", "\"edge\"")], "5s").await;
    for region in ["here", "ireland", "singapore"] {
        let series = format!("nearpool_region_rtt_seconds{{region=\"{region}\"}}");
        world.edge.wait_for_metric(&series, |seconds| seconds > 0.0 && seconds < 1.0).await;
    }
    world.check(SINGAPORE, "here").await;
}

#[tokio::test]
async fn a_key_is_known_however_and_beside_whatever_else_it_is_shown() {
    let rule = format!("{{ \"key:{}\" = [\"ireland\"] }}", key_sha256(b"sk-bound").unwrap());
    let world = World::start(&[("residency", &rule)]).await;
    let (auth, api) = ("authorization", "x-api-key");
    let shown: [&[(&str, &str)]; 7] = [
        &[(auth, "Bearer sk-bound")],
        &[(auth, "bearer\tsk-bound")],
        &[(api, "sk-bound")],
        &[(api, "sk-bound"), (auth, "Bearer other")],
        &[(api, "sk-bound"), (auth, "")],
        &[(auth, "Bearer other"), (auth, "Bearer sk-bound")],
        &[(api, "other"), (api, "sk-bound")],
    ];
    for headers in shown {
        let mut client = Http1::connect(world.edge.agents()).await;
        let answer = client.call(&post_with("/v1/chat/completions", headers, &chat(&unheard(), 1))).await;
        assert_eq!((answer.status, answer.header("x-nearpool-region")), (200, Some("ireland")), "{headers:?}");
    }
    world.check(NOWHERE, "here").await;
}

//! What the admin listener tells of the last calls: how they went, where they came from, and what failed over.

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use crate::support::{
    Edge, EdgeConfig, Http1, IRELAND, NOWHERE, Pool, chat, json_body, post, post_with, sim, unheard, with,
};

const CHAT: &str = "/v1/chat/completions";

async fn status(edge: &Edge) -> Value {
    json_body(&edge.admin_get("/status").await)
}

/// The pool of this name, in whatever region.
fn pool<'a>(status: &'a Value, name: &str) -> &'a Value {
    let regions = status["regions"].as_array().unwrap();
    let mut pools = regions.iter().flat_map(|region| region["pools"].as_array().unwrap());
    pools.find(|pool| pool["name"] == name).unwrap_or_else(|| panic!("no {name} in {status:#}"))
}

/// The only pools of an edge, each of one replica of its name, in the order in which they are tried.
async fn in_line(edge: impl FnOnce(EdgeConfig) -> EdgeConfig) -> (Vec<nearpool::sim::server::ReplicaHandle>, Edge) {
    let sims = [sim("a").await, sim("b").await];
    let config = EdgeConfig::new()
        .region("far", 1.35, 103.82)
        .pool(Pool::new("first", "here", "m").sims(&[&sims[0]]))
        .pool(Pool::new("second", "far", "m").sims(&[&sims[1]]));
    (sims.into(), Edge::start(edge(config)).await)
}

#[tokio::test]
async fn calls_are_told_by_pool_and_by_country_and_agree_with_the_metrics() {
    let (here, ireland, singapore) = (sim("a").await, sim("b").await, sim("c").await);
    let config = EdgeConfig::in_three_regions(&here, &ireland, &singapore, "cost_per_hour = 2.5");
    let edge = Edge::start(config).await;
    for n in 0..5 {
        let mut client = Http1::connect_from(IRELAND, edge.agents()).await;
        let body = with(chat("the same each time", 3), json!({"stream": n % 2 == 0, "user": "u"}));
        assert_eq!(client.call(&post(CHAT, &body)).await.status, 200);
    }
    let mut client = Http1::connect_from(NOWHERE, edge.agents()).await;
    assert_eq!(client.call(&post(CHAT, &chat(&unheard(), 3))).await.status, 200);
    // What is no call of a configured model is no agent's call.
    let unknown = with(chat("x", 1), json!({"model": "nobody"}));
    assert_eq!(client.call(&post(CHAT, &unknown)).await.status, 404);
    edge.wait_for_logs(7, |_| true).await;

    let status = status(&edge).await;
    assert_eq!(status["totals"], json!({ "calls": 6, "errors": 0, "in_flight": 0 }));
    let (irish, local) = (pool(&status, "p-ireland"), pool(&status, "p-here"));
    for window in ["last_minute", "last_quarter"] {
        let (irish, local) = (&irish[window], &local[window]);
        assert_eq!(
            (&irish["calls"], &irish["errors"], &local["calls"]),
            (&json!(5), &json!(0), &json!(1)),
            "{status:#}"
        );
        assert_eq!(irish["completion_tokens"], 15);
        let times = &irish["ttft_ms"];
        let timed = ["warm", "cold", "unknown"].map(|cache| times[cache]["count"].as_u64().unwrap());
        assert_eq!(timed.iter().sum::<u64>(), 3, "streams have a first event");
        for kind in ["cached", "computed"] {
            let series = format!("nearpool_prompt_tokens_total{{kind=\"{kind}\",pool=\"p-ireland\"}}");
            assert_eq!(irish["prompt_tokens"][kind].as_f64(), Some(edge.metric(&series).await), "{kind}");
        }
        for cache in ["warm", "cold", "unknown"] {
            let series = format!("nearpool_ttft_seconds_count{{cache=\"{cache}\",model=\"m\",pool=\"p-ireland\"}}");
            assert_eq!(times[cache]["count"].as_f64(), Some(edge.metric(&series).await), "{cache}");
        }
    }
    assert_eq!((&irish["cost_per_hour"], &irish["sessions_waiting"]), (&json!(2.5), &json!(0)));
    assert_eq!(
        irish["sessions_active"].as_f64(),
        Some(edge.metric("nearpool_sessions_active{pool=\"p-ireland\"}").await)
    );
    let flows = status["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 2, "{flows:?}");
    let (from, calls, to) = (&flows[0]["country"], &flows[0]["calls"], (&flows[0]["pool"], &flows[0]["region"]));
    assert_eq!((from, calls, to), (&json!("IE"), &json!(5), (&json!("p-ireland"), &json!("ireland"))));
    assert!((flows[0]["latitude"].as_f64().unwrap() - 53.35).abs() < 1.0, "{flows:?}");
    assert_eq!(
        (&flows[1]["country"], &flows[1]["latitude"], &flows[1]["pool"]),
        (&Value::Null, &Value::Null, &json!("p-here"))
    );

    let history = json_body(&edge.admin_get("/history").await);
    let of = |name: &str| history["pools"].as_array().unwrap().iter().find(|pool| pool["name"] == name).unwrap();
    let sum =
        |name: &str| of(name)["points"].as_array().unwrap().iter().map(|at| at["calls"].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("p-ireland"), sum("p-here"), sum("p-singapore")), (5, 1, 0));
}

#[tokio::test]
async fn a_retry_is_told_with_both_ends_and_its_cause() {
    let (sims, edge) = in_line(|config| config).await;
    sims[0].set_fault(FaultPlan::from(Fault::Status { status: 503, retry_after_s: None }).times(1)).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(&post_with(CHAT, &[("x-request-id", "mine")], &chat("Hello", 3))).await;
    assert_eq!((answer.status, answer.header("x-nearpool-replica")), (200, Some("b")));
    let line = edge.wait_for_log(|line| line["request_id"] == "mine").await;
    assert_eq!(line["attempts"], 2);
    let failovers = status(&edge).await["failovers"].clone();
    assert_eq!(failovers.as_array().unwrap().len(), 1, "{failovers:#}");
    let failover = &failovers[0];
    assert!(failover["ts"].as_str().unwrap().ends_with('Z'), "{failover}");
    assert_eq!(
        (&failover["request_id"], &failover["model"], &failover["kind"]),
        (&json!("mine"), &json!("m"), &json!("retry"))
    );
    assert_eq!(failover["from"], json!({ "region": "here", "pool": "first", "replica": "a" }));
    assert_eq!(failover["to"], json!({ "region": "far", "pool": "second", "replica": "b" }));
    let cause = failover["cause"].as_str().unwrap();
    assert_eq!(edge.metric(&format!("nearpool_retries_total{{reason=\"{cause}\"}}")).await, 1.0, "{failover}");
}

#[tokio::test]
async fn a_call_that_has_nowhere_left_to_go_says_so() {
    let (sims, edge) = in_line(|config| config).await;
    for sim in &sims {
        sim.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
    }
    let mut client = Http1::connect(edge.agents()).await;
    assert_eq!(client.call(&post(CHAT, &chat("Hello", 3))).await.status, 500);
    edge.wait_for_logs(1, |_| true).await;
    let status = status(&edge).await;
    let ends =
        |n: usize| (status["failovers"][n]["from"]["replica"].clone(), status["failovers"][n]["to"]["replica"].clone());
    assert_eq!((ends(0), ends(1)), ((json!("b"), Value::Null), (json!("a"), json!("b"))), "{status:#}");
    assert_eq!(status["totals"], json!({ "calls": 1, "errors": 1, "in_flight": 0 }));
    assert_eq!(pool(&status, "second")["last_minute"]["errors"], 1, "it counts where it ended");
}

#[tokio::test]
async fn a_stream_that_goes_on_elsewhere_is_told_as_a_resume() {
    let (sims, edge) = in_line(|config| config).await;
    sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 4 }).times(1)).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    let answer = client.call(&post(CHAT, &with(chat("Hello", 12), json!({"stream": true})))).await;
    assert!(answer.body.ends_with(b"data: [DONE]\n\n"), "{answer:?}");
    edge.wait_for_log(|line| line["resumes"] == 1).await;
    let failovers = status(&edge).await["failovers"].clone();
    assert_eq!(failovers.as_array().unwrap().len(), 1, "{failovers:#}");
    assert_eq!((&failovers[0]["kind"], &failovers[0]["cause"]), (&json!("resume"), &json!("cut")));
    assert_eq!((&failovers[0]["from"]["replica"], &failovers[0]["to"]["replica"]), (&json!("a"), &json!("b")));
}

#[tokio::test]
async fn calls_under_way_are_in_flight() {
    let (sims, edge) = in_line(|config| config).await;
    let mut client = Http1::connect(edge.agents()).await;
    let slow = with(chat("Hello", 2), json!({"stream": true, "sim": {"tokens": 2, "prefill_ms": 600_000}}));
    client.send(&post(CHAT, &slow)).await;
    crate::support::soon(sims[0].wait_for(|stats| stats.engine.running >= 1)).await;
    assert_eq!(status(&edge).await["totals"], json!({ "calls": 0, "errors": 0, "in_flight": 1 }));
    drop(client);
    edge.wait_for_logs(1, |_| true).await;
    let totals = json!({ "calls": 1, "errors": 0, "in_flight": 0 });
    assert_eq!(status(&edge).await["totals"], totals, "that a client goes away is its own affair");
}

//! `GET /explain` of a running edge, beside `nearpool explain` of its file and beside what calls really do.

use std::process::{Command, Output};

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use crate::support::{Edge, EdgeConfig, Http1, IRELAND, chat, json_body, post_with, sim};

const CHAT: &str = "/v1/chat/completions";

async fn explain(edge: &Edge, query: &str) -> Value {
    let answer = edge.admin_get(&format!("/explain?{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    json_body(&answer)
}

fn run(edge: &Edge, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nearpool"));
    command.args(["explain", "--json", "--config"]).arg(edge.config_file()).args(args);
    command.env("NEARPOOL_IT_TOKEN", "x").env("NEARPOOL_IT_KEY", "x").output().unwrap()
}

/// What the command says of the same config file.
fn command(edge: &Edge, args: &[&str]) -> Value {
    let output = run(edge, args);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn a_fresh_edge_says_what_the_command_says_of_its_file() {
    let (here, ireland, singapore) = (sim("a").await, sim("b").await, sim("c").await);
    // No health check has been answered yet that would measure the way.
    let config = EdgeConfig::in_three_regions(&here, &ireland, &singapore, "").step("planner", "m");
    let edge = Edge::start(config).await;
    let from = IRELAND.to_string();
    for (query, args) in [
        (format!("ip={from}&model=m"), vec!["--ip", &from, "--model", "m"]),
        (
            format!("ip={from}&model=auto&step=planner&session=my+run&key=sk-1"),
            vec!["--ip", &from, "--model", "auto", "--step", "planner", "--session", "my run", "--key", "sk-1"],
        ),
        (
            format!("ip=::ffff:{from}&model=m&dialect=messages"),
            vec!["--ip", &from, "--model", "m", "--dialect", "messages"],
        ),
    ] {
        let mut told = explain(&edge, &query).await;
        let mut of_file = command(&edge, &args);
        for told in [&mut told, &mut of_file] {
            // What a running edge has measured may be there by now.
            for region in told["regions"].as_array_mut().unwrap() {
                let region = region.as_object_mut().unwrap();
                region.retain(|key, _| !["way_ms", "measured", "verdict"].contains(&key.as_str()));
            }
        }
        assert_eq!(told, of_file, "{query}");
        assert_eq!((&told["country"], &told["pick"]["replica"]), (&json!("IE"), &json!("b")), "{query}");
    }
}

#[tokio::test]
async fn the_command_says_so_where_a_running_edges_round_trips_change_nothing() {
    let replica = sim("a").await;
    for (nearest_to, changes) in [("client", false), ("edge", true)] {
        let config = EdgeConfig::of(&[&replica])
            .set("geo", "nearest_to", &format!("{nearest_to:?}"))
            .set("health", "interval", "\"5s\"");
        let edge = Edge::start(config).await;
        edge.wait_for_metric("nearpool_region_rtt_seconds{region=\"here\"}", |seconds| seconds > 0.0).await;
        let admin = edge.admin().to_string();
        let output = run(&edge, &["--ip", "127.0.0.1", "--model", "m", "--admin", &admin]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["regions"][0]["measured"], changes, "{told}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.is_empty(), changes, "{said}");
        assert!(changes || said.contains("changes nothing") && said.contains("geo.nearest_to"), "{said}");
    }
}

#[tokio::test]
async fn a_session_is_found_where_it_really_is() {
    let (a, b) = (sim("a").await, sim("b").await);
    let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
    let ip = edge.address().to_string();
    for (n, header, key) in [(0, "authorization", "Bearer sk-0"), (1, "x-api-key", "sk-1")] {
        let query = format!("ip={ip}&model=m&session=run&key=sk-{n}");
        let before = explain(&edge, &query).await;
        assert_eq!((&before["pick"]["reason"], &before["home"]), (&json!("new"), &Value::Null), "{before:#}");
        // The replica at which it would start fails its first call, so that it is at home at the other one.
        let first = if before["pick"]["replica"] == "a" { &a } else { &b };
        first.set_fault(FaultPlan::from(Fault::ResetBeforeHeaders).times(1)).await.unwrap();
        let mut client = Http1::connect(edge.agents()).await;
        let headers = [("x-session-id", "run"), (header, key)];
        let answer = client.call(&post_with(CHAT, &headers, &chat("Hello", 2))).await;
        let at = answer.header("x-nearpool-replica").unwrap().to_owned();
        assert_eq!(answer.status, 200);
        // Where the fault met no call, since this pick was another one, the rest holds all the same.
        let after = explain(&edge, &query).await;
        assert_eq!(after["home"], json!({ "pool": "near", "replica": at }), "{after:#}");
        assert_eq!(after["pick"], json!({ "pool": "near", "replica": at, "reason": "session" }), "{after:#}");
        first.set_fault(None).await.unwrap();
    }
    // Of another client nothing is known.
    assert!(explain(&edge, &format!("ip={ip}&model=m&session=run&key=sk-2")).await["home"].is_null());
}

//! Engines' own numbers: shown, learned of by every edge, and never at the expense of traffic or health.

use nearpool::sim::server::{MetricsPage, ReplicaHandle};
use serde_json::{Value, json};

use crate::support::{
    Edge, EdgeConfig, Http1, Pool, SERVED, calls, chat, json_body, own_address, post, sim, sim_with, soon, with,
};

const CHAT: &str = "/v1/chat/completions";

/// Engines are asked every second, and have one to answer: three misses in a row would have to come of something else
/// than a busy machine.
fn asked(config: EdgeConfig) -> EdgeConfig {
    config.set("engine_metrics", "interval", "\"1s\"").set("engine_metrics", "timeout", "\"1s\"")
}

fn series(name: &str, replica: &str) -> String {
    format!("nearpool_replica_{name}{{pool=\"near\",replica=\"{replica}\"}}")
}

/// The series of engines that the edge shows.
async fn shown(edge: &Edge) -> Vec<String> {
    let page = String::from_utf8(edge.admin_get("/metrics").await.body.to_vec()).unwrap();
    let of_engines = ["running", "waiting", "kv_usage_ratio"].map(|name| format!("nearpool_replica_{name}{{"));
    page.lines().filter(|line| of_engines.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect()
}

/// What `/status` tells of each replica's engine, by the replica's name.
async fn status(edge: &Edge) -> Vec<(String, Value)> {
    let status = json_body(&edge.admin_get("/status").await);
    let replicas = status["regions"][0]["pools"][0]["replicas"].as_array().unwrap().clone();
    replicas.iter().map(|one| (one["name"].as_str().unwrap().to_owned(), one["engine_load"].clone())).collect()
}

/// The questions for metrics that a replica got: what each showed as its key.
fn questions(replica: &ReplicaHandle) -> Vec<Option<String>> {
    let requests = replica.requests().into_iter().filter(|request| request.path.ends_with("/metrics"));
    requests.map(|request| Some(request.headers.get("authorization")?.to_str().unwrap().to_owned())).collect()
}

/// One call that takes minutes, or until its client goes.
async fn endless(to: std::net::SocketAddr, model: &str) -> Http1 {
    let mut client = Http1::connect(to).await;
    let body = with(chat("x", 10_000), json!({ "model": model, "stream": true }));
    client.send(&post(CHAT, &body)).await;
    client
}

#[tokio::test]
async fn what_engines_say_is_shown_whoever_sent_the_load_and_goes_with_the_replica() {
    let slow = |name: &'static str| {
        sim_with(name, |params| {
            params.engine.max_num_seqs = 1;
            params.engine.decode_step = std::time::Duration::from_millis(10);
        })
    };
    let (a, b) = (slow("a").await, slow("b").await);
    let edge = Edge::start(asked(EdgeConfig::of(&[&a, &b]))).await;
    // Three callers who know nothing of the edge.
    let strangers = [endless(a.addr(), SERVED).await, endless(a.addr(), SERVED).await, endless(a.addr(), SERVED).await];
    edge.wait_for_metric(&series("running", "a"), |n| n == 1.0).await;
    edge.wait_for_metric(&series("waiting", "a"), |n| n == 2.0).await;
    edge.wait_for_metric(&series("kv_usage_ratio", "a"), |usage| usage > 0.0 && usage < 1.0).await;
    assert_eq!(edge.metric(&series("in_flight", "a")).await, 0.0);
    soon(async {
        while shown(&edge).await.len() < 6 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let status = status(&edge).await;
    let told = &status[0].1;
    assert_eq!((&status[0].0[..], &told["running"], &told["waiting"]), ("a", &json!(1), &json!(2)));
    assert_eq!(told["kv_capacity_tokens"], json!(64_000_000));
    assert!(told["age_ms"].as_u64().unwrap() < 10_000 && told["prefix_query_tokens"].is_u64(), "{told}");
    drop(strangers);
    edge.wait_for_metric(&series("running", "a"), |n| n == 0.0).await;
    let one_left = asked(EdgeConfig::of(&[&b])).toml(edge.address());
    assert_eq!(edge.reload_with(&one_left).await.status, 200);
    assert!(shown(&edge).await.iter().all(|line| line.contains("replica=\"b\"")));
}

#[tokio::test]
async fn a_replica_whose_page_hangs_or_is_rubbish_or_too_long_serves_on() {
    let of = |name: &'static str, page: MetricsPage| sim_with(name, |params| params.metrics = page);
    let rubbish: Vec<u8> = (0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let long = b"vllm:num_requests_running 1\n".repeat((5 << 20) / 28);
    let replicas = [
        of("hangs", MetricsPage::Silence).await,
        of("none", MetricsPage::None).await,
        of("rubbish", MetricsPage::Bytes(rubbish.into())).await,
        of("long", MetricsPage::Bytes(long.into())).await,
        of("well", MetricsPage::Load).await,
    ];
    let all: Vec<&ReplicaHandle> = replicas.iter().collect();
    let config = asked(EdgeConfig::of(&all))
        .set("health", "interval", "\"200ms\"")
        .set("health", "timeout", "\"200ms\"")
        .set("health", "unhealthy_after", "1");
    let edge = Edge::start(config).await;
    for (replica, why) in [
        ("hangs", " why=\"no answer in time\""),
        ("none", " why=\"status 404\""),
        ("rubbish", " why=\"its page has no numbers of the pool's engine and model\""),
        // It is too long, or takes too long.
        ("long", ""),
    ] {
        edge.wait_for_stderr(&format!("engine does not tell its load pool=near replica={replica}{why}")).await;
    }
    edge.wait_for_metric(&series("kv_usage_ratio", "well"), |usage| usage == 0.0).await;
    for n in 0..20 {
        let answer = Http1::connect(edge.agents()).await.call(&post(CHAT, &chat(&format!("call {n}"), 1))).await;
        assert_eq!(answer.status, 200);
    }
    for replica in &replicas {
        assert_eq!(edge.metric(&series("up", replica.name())).await, 1.0, "{}", replica.name());
    }
    assert!(!edge.stderr().contains("replica is unhealthy"), "{}", edge.stderr());
    let told = status(&edge).await;
    assert!(told.iter().all(|(name, load)| load.is_object() == (name == "well")), "{told:?}");
    assert!(shown(&edge).await.iter().all(|line| line.contains("replica=\"well\"")));
}

#[tokio::test]
async fn engines_are_shown_the_pools_key_and_never_a_clients() {
    let (keyed, passing, foreign) = (sim("keyed").await, sim("passing").await, sim("foreign").await);
    let pool =
        |name: &str, replica: &ReplicaHandle, line: &str| Pool::new(name, "here", "m").sims(&[replica]).line(line);
    let config = EdgeConfig::new()
        .pool(pool("keyed", &keyed, "api_key = { env = \"NEARPOOL_IT_KEY\" }"))
        .pool(pool("passing", &passing, "api_key = \"pass\""))
        .pool(pool("foreign", &foreign, "engine = \"openai\""));
    let edge = Edge::start(asked(config)).await;
    let mut client = Http1::connect(edge.agents()).await;
    let authorization = [("authorization", "Bearer the-clients-own")];
    let body = serde_json::to_vec(&chat("x", 1)).unwrap();
    assert_eq!(client.call(&crate::support::request("POST", CHAT, &authorization, &body)).await.status, 200);
    for replica in [&keyed, &passing] {
        let before = replica.stats().requests_total;
        soon(replica.wait_for(|stats| stats.requests_total >= before + 3)).await;
    }
    assert!(questions(&keyed).len() >= 2);
    assert!(questions(&keyed).iter().all(|key| key.as_deref() == Some("Bearer pools-own-key")));
    assert!(questions(&passing).len() >= 2 && questions(&passing).iter().all(Option::is_none));
    assert_eq!((questions(&foreign).len(), calls(&keyed).len()), (0, 1), "nobody knows what its numbers are called");
}

#[tokio::test]
async fn how_busy_a_replicas_gpus_are_is_shown_while_their_exporter_tells() {
    let page = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\"GPU-x\"} 80\nDCGM_FI_DEV_GPU_UTIL{gpu=\"1\",UUID=\"GPU-y\"} 20\n";
    let exporter = sim_with("exporter", |params| params.metrics = MetricsPage::Bytes(page.into())).await;
    let (a, b, c) = (sim("a").await, sim("b").await, sim("c").await);
    let beside = |text: String, replica: &ReplicaHandle, gpus: &str| {
        let url = format!("url = \"{}\"", replica.url());
        text.replace(&url, &format!("{url}, gpu_metrics = \"{}/metrics\"{gpus}", exporter.url()))
    };
    let at = own_address();
    let plain = asked(EdgeConfig::of(&[&a, &b, &c])).toml(at);
    let edge = Edge::start_with_text(at, &beside(beside(plain.clone(), &a, ""), &b, ", gpus = [\"GPU-x\"]")).await;
    let of = |replica: &str| format!("nearpool_gpu_utilization_ratio{{pool=\"near\",replica=\"{replica}\"}}");
    edge.wait_for_metric(&of("a"), |ratio| ratio == 0.5).await;
    edge.wait_for_metric(&of("b"), |ratio| ratio == 0.8).await;
    let status = json_body(&edge.admin_get("/status").await);
    let told = status["regions"][0]["pools"][0]["replicas"].as_array().unwrap();
    assert_eq!(told[0]["gpu_utilization_ratio"], json!(0.5));
    assert_eq!(told[2]["gpu_utilization_ratio"], Value::Null);
    let series = |page: Vec<u8>| String::from_utf8(page).unwrap().matches("\nnearpool_gpu_utilization_ratio{").count();
    assert_eq!(series(edge.admin_get("/metrics").await.body.to_vec()), 2, "nobody tells of c's");
    exporter.stop().await;
    edge.wait_for_metric(&of("a"), |ratio| ratio == 0.0).await;
    edge.wait_for_metric(&of("b"), |ratio| ratio == 0.0).await;
    assert_eq!(series(edge.admin_get("/metrics").await.body.to_vec()), 0, "without a word there is no series");
    edge.wait_for_stderr("GPU exporter does not tell of its GPUs pool=near replica=a why=\"").await;
    assert_eq!(edge.metric("nearpool_replica_up{pool=\"near\",replica=\"a\"}").await, 1.0);
}

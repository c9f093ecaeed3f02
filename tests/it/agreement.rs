//! What clients count and what `/metrics` says agree: calls, errors, tokens and times to the first token.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Edge, EdgeConfig, Http1, PATIENCE, Pool, SERVED, json_body, post_with, sim_with};

const CHAT: &str = "/v1/chat/completions";

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 48;

/// How long a stream's prompt takes, in ms: mostly the first, sometimes the second. Each in the middle of a bucket, and one
/// bucket up is far: a client on a busy machine reads late.
const PREFILL_MS: [u64; 2] = [70, 700];

/// Models as clients ask for them, with the configured one that is meant and whether its calls fail.
const MODELS: [(&str, &str, bool); 4] =
    [("m", "m", false), ("two", "two", false), ("planner", "two", false), ("broken", "broken", true)];

/// The header's step, and what it counts as.
const STEPS: [(Option<&str>, &str); 4] =
    [(None, "none"), (Some("planner"), "planner"), (Some("tool_caller"), "tool_caller"), (Some("unheard_of"), "other")];

/// What a client counts.
#[derive(Clone, Default, Debug)]
struct Tally {
    /// By model and step: calls, and those of them without a whole answer.
    calls: BTreeMap<(String, String), (u64, u64)>,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    /// Of streams, in seconds.
    ttft: Vec<f64>,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        for (of, (calls, errors)) in other.calls {
            let sum = self.calls.entry(of).or_default();
            *sum = (sum.0 + calls, sum.1 + errors);
        }
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.completion_tokens += other.completion_tokens;
        self.ttft.extend(other.ttft);
    }

    fn used(&mut self, usage: &Value) {
        let tokens = |pointer| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        self.prompt_tokens += tokens("/prompt_tokens");
        self.cached_tokens += tokens("/prompt_tokens_details/cached_tokens");
        self.completion_tokens += tokens("/completion_tokens");
    }
}

/// One call: a new session's first, or one that repeats what was said.
async fn call(client: &mut Http1, n: usize, rng: &mut SmallRng, tally: &mut Tally) {
    let (asked, model, _) = MODELS[if rng.random_ratio(1, 20) { 3 } else { rng.random_range(0..3) }];
    let (header, step) = STEPS[rng.random_range(0..STEPS.len())];
    // A step that stands in the model's place is the step, unless the header names one.
    let step = if asked != model && header.is_none() { asked } else { step };
    let stream = rng.random_ratio(1, 2);
    let prefill_ms = PREFILL_MS[usize::from(rng.random_ratio(1, 40))];
    let text = format!("{} {}", "as before ".repeat(40), if rng.random_ratio(1, 2) { n } else { 0 });
    let tokens = rng.random_range(2..6);
    let mut body = json!({"model": asked, "messages": [{"role": "user", "content": text}], "sim": {"tokens": tokens}});
    if stream {
        body["sim"]["prefill_ms"] = json!(prefill_ms);
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
    }
    let session = format!("session-{}", n % 500);
    let mut headers = vec![("x-session-id", session.as_str())];
    headers.extend(header.map(|step| ("x-agent-step", step)));
    let sent = Instant::now();
    client.send(&post_with(CHAT, &headers, &body)).await;
    let head = client.head().await;
    let whole = match head.header("transfer-encoding") {
        Some("chunked") => streamed(client, sent, tally).await,
        _ => {
            let usage = serde_json::from_slice::<Value>(&client.body(&head).await.0).unwrap()["usage"].take();
            tally.used(&usage);
            true
        }
    };
    let count = tally.calls.entry((model.to_owned(), step.to_owned())).or_default();
    *count = (count.0 + 1, count.1 + u64::from(!whole || head.status != 200));
    if head.header("connection") == Some("close") || !whole {
        panic!("status {}: every stream here can be resumed", head.status);
    }
}

/// Reads a stream to its end; whether it was whole.
async fn streamed(client: &mut Http1, sent: Instant, tally: &mut Tally) -> bool {
    let (mut text, mut first) = (String::new(), None);
    while let Some(piece) = client.chunk().await.unwrap() {
        first.get_or_insert((piece.at - sent).as_secs_f64());
        text.push_str(std::str::from_utf8(&piece.bytes).unwrap());
    }
    tally.ttft.extend(first);
    let events =
        text.split("\n\n").filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok());
    let told: Vec<_> = events.map(|event| event["usage"].clone()).filter(Value::is_object).collect();
    assert_eq!(told.len(), 1, "{text}");
    tally.used(&told[0]);
    text.ends_with("data: [DONE]\n\n")
}

/// The series of one metric: labels, and value.
fn series(page: &str, name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let lines = page.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} "));
    lines
        .map(|(labels, value)| {
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let labels = labels.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()));
            (labels.collect(), value.parse().unwrap())
        })
        .collect()
}

fn sum(page: &str, name: &str, wanted: &[(&str, &str)]) -> f64 {
    let is_wanted = |labels: &BTreeMap<String, String>| wanted.iter().all(|(name, value)| labels[*name] == *value);
    series(page, name).iter().filter(|(labels, _)| is_wanted(labels)).map(|(_, value)| value).sum()
}

/// A histogram over all of its labels: upper bounds, and how many lie at or below each.
fn histogram(page: &str, name: &str) -> Vec<(f64, f64)> {
    let mut buckets: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
    for (labels, value) in series(page, &format!("{name}_bucket")) {
        let bound: f64 = labels["le"].parse().unwrap();
        buckets.entry(bound.to_bits()).or_insert((bound, 0.0)).1 += value;
    }
    buckets.into_values().collect()
}

/// The bucket of a quantile, as `/metrics` has it and as a client's own times do.
fn buckets_of(quantile: f64, buckets: &[(f64, f64)], times: &mut [f64]) -> (usize, usize) {
    times.sort_by(f64::total_cmp);
    let all = buckets.last().unwrap().1;
    let told = buckets.iter().position(|(_, below)| *below >= quantile * all).unwrap();
    let seen = times[((quantile * times.len() as f64) as usize).min(times.len() - 1)];
    (told, buckets.iter().position(|(bound, _)| seen <= *bound).unwrap())
}

/// A replica whose cache has blocks as small as the prompts here.
async fn small(name: &str) -> ReplicaHandle {
    sim_with(name, |params| params.engine = params.engine.clone().with_cache(1_000_000, 16)).await
}

/// Faults that cost attempts and, while another replica serves, no call.
async fn trouble(replica: &ReplicaHandle, served: usize) {
    let faults = [
        Fault::Status { status: 503, retry_after_s: None },
        Fault::ResetBeforeHeaders,
        Fault::CutMidStream { after_events: 2 },
        Fault::Status { status: 500, retry_after_s: None },
    ];
    let plan = FaultPlan::from(faults[served % faults.len()]).times(8);
    replica.set_fault(plan).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_calls_count_the_same_at_their_client_and_on_the_page() {
    let (a, b, two, broken) = (small("a").await, small("b").await, small("two").await, small("broken").await);
    broken.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
    let served_as = format!("served_as = \"{SERVED}\"");
    let config = EdgeConfig::new()
        .model("two", &[&served_as])
        .model("broken", &[&served_as])
        .pool(Pool::new("near", "here", "m").sims(&[&a, &b]).line("max_in_flight = 1024"))
        .pool(Pool::new("two", "here", "two").sims(&[&two]).line("max_in_flight = 1024"))
        .pool(Pool::new("broken", "here", "broken").sims(&[&broken]))
        .step("planner", "two")
        .step("tool_caller", "m")
        .set("sessions", "admission", "false")
        .set("sessions", "interaction_idle", "\"1s\"")
        // Nothing here is to be spared: each fault that comes is met.
        .set("circuit_breaker", "failure_threshold", "1_000")
        .set("circuit_breaker", "success_rate", "0.0")
        .set("retry", "budget", "1.0")
        .set("retry", "budget_floor_per_s", "1_000");
    let edge = Edge::start_unlogged(config).await;

    let (next, b) = (Arc::new(AtomicUsize::new(0)), Arc::new(b));
    let clients = (0..CLIENTS).map(|seed| {
        let (next, b, agents) = (Arc::clone(&next), Arc::clone(&b), edge.agents());
        tokio::spawn(async move {
            let (mut rng, mut tally) = (SmallRng::seed_from_u64(seed as u64), Tally::default());
            let mut client = Http1::connect(agents).await;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= REQUESTS {
                    return tally;
                }
                if n % 100 == 0 {
                    trouble(&b, n / 100).await;
                }
                call(&mut client, n, &mut rng, &mut tally).await;
            }
        })
    });
    let mut tally = Tally::default();
    for client in clients.collect::<Vec<_>>() {
        tally.add(client.await.unwrap());
    }
    // An interaction is told when it idles, and a call is counted a moment after its client has the answer.
    let deadline = Instant::now() + PATIENCE;
    while edge.metric("agent_interaction_calls_sum").await < REQUESTS as f64 {
        assert!(
            Instant::now() < deadline,
            "interactions had {} calls",
            edge.metric("agent_interaction_calls_sum").await
        );
        tokio::task::yield_now().await;
    }
    let page = String::from_utf8(edge.admin_get("/metrics").await.body.to_vec()).unwrap();
    agree(&page, &mut tally);
    let totals = json_body(&edge.admin_get("/status").await)["totals"].clone();
    let errors: u64 = tally.calls.values().map(|(_, errors)| errors).sum();
    assert_eq!((&totals["calls"], &totals["errors"]), (&json!(REQUESTS), &json!(errors)));
}

#[track_caller]
fn agree(page: &str, tally: &mut Tally) {
    let mut told = BTreeMap::new();
    for (labels, calls) in series(page, "agent_llm_calls_total") {
        let (model, step) = (&labels["model"], &labels["step_type"]);
        let errors = sum(page, "agent_step_errors_total", &[("model", model), ("step_type", step)]);
        told.insert((model.clone(), step.clone()), (calls as u64, errors as u64));
    }
    assert_eq!(told, tally.calls);
    let (calls, errors) = tally.calls.values().fold((0, 0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
    assert_eq!(
        (calls, sum(page, "nearpool_requests_total", &[("outcome", "ok")])),
        (REQUESTS as u64, (calls - errors) as f64)
    );
    assert!(errors > 100, "{errors} errors");
    // The faults were met, and passed over.
    let retries = sum(page, "nearpool_retries_total", &[]);
    let resumed = sum(page, "nearpool_resumes_total", &[("result", "ok")]);
    assert!(retries > 50.0 && resumed > 10.0, "{retries} retries, {resumed} resumed");
    let tokens = [
        sum(page, "nearpool_prompt_tokens_total", &[]),
        sum(page, "nearpool_prompt_tokens_total", &[("kind", "cached")]),
        sum(page, "nearpool_completion_tokens_total", &[]),
    ];
    let counted = [tally.prompt_tokens, tally.cached_tokens, tally.completion_tokens];
    assert!(counted.iter().all(|tokens| *tokens > REQUESTS as u64), "{counted:?}");
    assert_eq!(tokens, counted.map(|tokens| tokens as f64));
    let buckets = histogram(page, "nearpool_ttft_seconds");
    assert_eq!(buckets.last().unwrap().1, tally.ttft.len() as f64, "one time for each stream");
    for quantile in [0.5, 0.99] {
        let (told, seen) = buckets_of(quantile, &buckets, &mut tally.ttft);
        assert!(
            told.abs_diff(seen) <= 1,
            "p{} is in bucket {told} of {buckets:?}, and seen in {seen}",
            quantile * 100.0
        );
    }
}

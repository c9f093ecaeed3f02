//! One span for each attempt: retries, hedges, resumes, and those that nobody waited for.

use nearpool::sim::server::{Fault, FaultPlan};
use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::{Value, json};

use super::{CHAT, TRACE, call, caller, hex, traced, trusting};
use crate::support::{
    Collector, Edge, EdgeConfig, Http1, Pool, Scripted, attribute, calls, chat, post_with, sim, unheard, with,
};

/// Status codes of the protocol.
const UNSET: i32 = 0;
const ERROR: i32 = 2;

fn streamed(text: &str, tokens: u64) -> Value {
    with(chat(text, tokens), json!({"stream": true}))
}

fn told(span: &Span, key: &str) -> String {
    attribute(&span.attributes, key).unwrap_or_default()
}

fn status(span: &Span) -> i32 {
    span.status.as_ref().unwrap().code
}

/// A request's span and those of its attempts, by their number; all of them belong together.
async fn family(collector: &Collector, attempts: usize) -> (Span, Vec<Span>) {
    let spans = collector.spans(attempts + 1).await;
    let (mut requests, mut attempts): (Vec<_>, Vec<_>) =
        spans.into_iter().partition(|span| attribute(&span.attributes, "nearpool.attempt").is_none());
    assert_eq!(requests.len(), 1, "{requests:#?}");
    let request = requests.remove(0);
    attempts.sort_by_key(|span| told(span, "nearpool.attempt"));
    for attempt in &attempts {
        assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&request.trace_id, &request.span_id));
    }
    (request, attempts)
}

/// What the replicas were told is what the collector was told.
fn check_told(attempt: &Span, traceparent: &str) {
    assert_eq!(traceparent, format!("00-{TRACE}-{}-01", hex(&attempt.span_id)));
}

#[tokio::test]
async fn a_retry_is_a_second_child_of_the_request() {
    let (mut bad, good, collector) = (Scripted::start().await, sim("good").await, Collector::start().await);
    let near = Pool::new("near", "here", "m").replica("bad", &bad.url());
    let far = Pool::new("far", "far", "m").sims(&[&good]);
    let config = EdgeConfig::new().region("far", 50.0, 8.0).pool(near).pool(far);
    let edge = Edge::start(traced(trusting(config), &collector, "0")).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(CHAT, &[("traceparent", &caller("01"))], &chat("x", 2))).await;
    let mut exchange = bad.next().await;
    let first = exchange.request.header("traceparent").unwrap().to_owned();
    exchange.answer(500, "", "{\"error\":{}}").await;
    assert_eq!(client.answer().await.status, 200);

    let (request, attempts) = family(&collector, 2).await;
    check_told(&attempts[0], &first);
    check_told(&attempts[1], calls(&good)[0].headers["traceparent"].to_str().unwrap());
    let of = |key| attempts.iter().map(|span| told(span, key)).collect::<Vec<_>>();
    assert_eq!(of("nearpool.replica"), ["bad", "good"]);
    assert_eq!(of("nearpool.region"), ["here", "far"]);
    assert_eq!(of("nearpool.attempt.kind"), ["first", "retry"]);
    assert_eq!(of("nearpool.outcome"), ["server_error", "ok"]);
    assert_eq!(of("nearpool.blame"), ["upstream", "none"]);
    assert_eq!(of("http.response.status_code"), ["500", "200"]);
    assert_eq!(of("error.type"), ["server_error", ""]);
    assert_eq!((status(&attempts[0]), status(&attempts[1]), status(&request)), (ERROR, UNSET, UNSET));
    assert_eq!(
        (told(&request, "nearpool.attempts"), told(&request, "nearpool.reason")),
        ("2".into(), "failover".into())
    );
}

#[tokio::test]
async fn a_request_that_fails_everywhere_is_an_error_with_its_kind() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    replica.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
    let edge = Edge::start(traced(EdgeConfig::of(&[&replica]), &collector, "1")).await;
    call(&edge, &[], &chat("x", 1), 500).await;
    let (request, attempts) = family(&collector, 1).await;
    assert_eq!((status(&request), status(&attempts[0])), (ERROR, ERROR));
    assert_eq!(told(&request, "error.type"), "server_error");
}

#[tokio::test]
async fn a_resumed_stream_has_an_attempt_for_each_of_its_parts() {
    let (a, b, collector) = (sim("a").await, sim("b").await, Collector::start().await);
    let cut = FaultPlan::from(Fault::CutMidStream { after_events: 5 }).times(1);
    a.set_fault(cut).await.unwrap();
    let near = Pool::new("near", "here", "m").sims(&[&a]);
    let far = Pool::new("far", "far", "m").sims(&[&b]);
    let config = EdgeConfig::new().region("far", 50.0, 8.0).pool(near).pool(far);
    let edge = Edge::start(traced(trusting(config), &collector, "0")).await;
    call(&edge, &[("traceparent", &caller("01"))], &streamed("x", 12), 200).await;

    let (request, attempts) = family(&collector, 2).await;
    for (attempt, replica) in attempts.iter().zip([&a, &b]) {
        check_told(attempt, calls(replica)[0].headers["traceparent"].to_str().unwrap());
    }
    let of = |key| attempts.iter().map(|span| told(span, key)).collect::<Vec<_>>();
    assert_eq!(of("nearpool.attempt.kind"), ["first", "resume"]);
    assert_eq!(of("nearpool.outcome"), ["cut", "ok"]);
    assert_eq!((status(&attempts[0]), status(&attempts[1]), status(&request)), (ERROR, UNSET, UNSET));
    assert_eq!((told(&request, "nearpool.resumes"), told(&request, "nearpool.outcome")), ("1".into(), "ok".into()));
    for span in attempts.iter().chain([&request]) {
        let first_chunk: f64 = told(span, "gen_ai.response.time_to_first_chunk").parse().unwrap();
        assert!(first_chunk > 0.0);
        assert_eq!(told(span, "gen_ai.request.stream"), "true");
    }
}

#[tokio::test]
async fn a_hedge_and_the_attempt_that_it_overtook_are_two_children() {
    /// Streams before a pool knows what is late.
    const ENOUGH: usize = 64;
    let (a, b, collector) = (sim("a").await, sim("b").await, Collector::start().await);
    let config = EdgeConfig::of(&[&a, &b]).set("hedging", "enabled", "true").set("hedging", "budget", "0.5");
    let edge = Edge::start(traced(trusting(config), &collector, "0")).await;
    for _ in 0..ENOUGH {
        call(&edge, &[], &streamed(&unheard(), 2), 200).await;
    }
    a.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
    // Some of these go to the silent one first.
    let traced_calls = 16;
    for _ in 0..traced_calls {
        call(&edge, &[("traceparent", &caller("01"))], &streamed(&unheard(), 2), 200).await;
    }
    edge.wait_for_logs(traced_calls, |line| line.get("trace_id").is_some()).await;
    let hedges = edge.metric("nearpool_hedges_total{result=\"won\"}").await;
    assert!(hedges >= 1.0, "{hedges}");
    let received = collector
        .wait_for("hedge", |received| {
            received.spans.iter().any(|span| told(span, "nearpool.attempt.kind") == "hedge")
                && received.spans.iter().any(|span| told(span, "nearpool.outcome") == "cancelled")
        })
        .await;
    let hedge = received.spans.iter().find(|span| told(span, "nearpool.attempt.kind") == "hedge").unwrap();
    assert_eq!((told(hedge, "nearpool.replica"), told(hedge, "nearpool.outcome")), ("b".into(), "ok".into()));
    let overtaken =
        received.spans.iter().find(|span| span.parent_span_id == hedge.parent_span_id && span.span_id != hedge.span_id);
    let overtaken = overtaken.unwrap();
    assert_eq!(
        (told(overtaken, "nearpool.replica"), told(overtaken, "nearpool.outcome")),
        ("a".into(), "cancelled".into())
    );
    assert_eq!((told(overtaken, "nearpool.attempt"), told(hedge, "nearpool.attempt")), ("1".into(), "2".into()));
    assert_eq!(status(overtaken), UNSET, "to be overtaken is no failure");
    let at_b: Vec<_> = calls(&b).iter().map(|call| call.headers["traceparent"].to_str().unwrap().to_owned()).collect();
    assert!(at_b.contains(&format!("00-{TRACE}-{}-01", hex(&hedge.span_id))));
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_attempt_without_blame() {
    let (mut replica, collector) = (Scripted::start().await, Collector::start().await);
    let pool = Pool::new("near", "here", "m").replica("a", &replica.url());
    let edge = Edge::start(traced(EdgeConfig::new().pool(pool), &collector, "1")).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(CHAT, &[], &chat("x", 1))).await;
    let _silent = replica.next().await;
    client.reset();
    let (request, attempts) = family(&collector, 1).await;
    assert_eq!(told(&request, "nearpool.outcome"), "client_gone");
    assert_eq!(told(&attempts[0], "nearpool.outcome"), "cancelled");
    assert_eq!((status(&request), status(&attempts[0])), (UNSET, UNSET));
}

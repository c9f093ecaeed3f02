//! Collectors that are slow, away, or refuse; spans at the end of the process and at a reload.

use std::time::Instant;

use super::{call, traced};
use crate::support::{Collector, Edge, EdgeConfig, PATIENCE, chat, own_address, sim};

fn spans(result: &str) -> String {
    format!("nearpool_trace_spans_total{{result=\"{result}\"}}")
}

#[tokio::test]
async fn a_collector_that_is_away_costs_nobody_anything_and_is_found_when_it_comes() {
    let replica = sim("a").await;
    let at = (own_address(), 4318).into();
    let config = EdgeConfig::of(&[&replica])
        .set("tracing", "endpoint", &format!("\"http://{at}\""))
        .set("tracing", "sample", "1");
    let edge = Edge::start(config).await;
    call(&edge, &[], &chat("x", 1), 200).await;
    edge.wait_for_stderr("spans cannot be exported error=connection refused").await;
    for _ in 0..20 {
        call(&edge, &[], &chat("x", 1), 200).await;
    }
    let collector = Collector::start_at(at).await;
    // All of it: the first batch is tried again.
    collector.spans(42).await;
    edge.wait_for_stderr("spans are exported again").await;
    // A batch is counted once its answer is here, and the word comes with the first one.
    edge.wait_for_metric(&spans("exported"), |exported| exported == 42.0).await;
    assert_eq!(edge.stderr().matches("spans cannot be exported").count(), 1, "one warning a minute");
}

#[tokio::test]
async fn a_batch_is_given_up_after_some_tries_and_counted() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    let edge = Edge::start(traced(EdgeConfig::of(&[&replica]), &collector, "1")).await;
    // Not to be tried again at all.
    collector.refuse(1, 401);
    call(&edge, &[], &chat("x", 1), 200).await;
    edge.wait_for_metric(&spans("failed"), |failed| failed == 2.0).await;
    edge.wait_for_stderr("status 401").await;
    // Busy three times, and then it takes the batch.
    collector.refuse(2, 503);
    call(&edge, &[], &chat("x", 1), 200).await;
    collector.spans(2).await;
    assert_eq!(collector.now().requests, 4);
    edge.wait_for_metric(&spans("exported"), |exported| exported == 2.0).await;
    // Busy for good.
    collector.refuse(usize::MAX, 429);
    call(&edge, &[], &chat("x", 1), 200).await;
    edge.wait_for_metric(&spans("failed"), |failed| failed == 4.0).await;
    assert_eq!(collector.now().requests, 8, "four tries");
}

#[tokio::test]
async fn a_collector_that_stands_still_costs_spans_and_no_call_waits_for_it() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    let config = traced(EdgeConfig::of(&[&replica]), &collector, "1").set("tracing", "queue", "16");
    let mut edge = Edge::start(config).await;
    collector.stand_still();
    let began = Instant::now();
    let mut made = 0;
    while edge.metric(&spans("dropped")).await == 0.0 {
        for _ in 0..20 {
            call(&edge, &[], &chat("x", 1), 200).await;
            made += 1;
        }
        assert!(began.elapsed() < PATIENCE, "{made} calls and nothing dropped");
    }
    // It does not keep the process alive either.
    edge.signal("TERM");
    assert!(edge.wait_for_end().await.success());
}

#[tokio::test]
async fn what_waits_at_the_end_of_the_process_is_sent() {
    for signal in ["TERM", "INT"] {
        let (replica, collector) = (sim("a").await, Collector::start().await);
        let mut edge = Edge::start(traced(EdgeConfig::of(&[&replica]), &collector, "1")).await;
        for _ in 0..5 {
            call(&edge, &[], &chat("x", 1), 200).await;
        }
        edge.signal(signal);
        assert!(edge.wait_for_end().await.success());
        assert_eq!(collector.now().spans.len(), 10, "after {signal}");
    }
}

#[tokio::test]
async fn a_reload_turns_traces_on_and_off_and_moves_them() {
    let (replica, first, second) = (sim("a").await, Collector::start().await, Collector::start().await);
    let config = EdgeConfig::of(&[&replica]);
    let edge = Edge::start(config.clone()).await;
    call(&edge, &[], &chat("x", 1), 200).await;
    let at = edge.address();
    for (text, expected) in [
        (traced(config.clone(), &first, "1").toml(at), (2, 0)),
        (traced(config.clone(), &second, "1").toml(at), (2, 2)),
        (traced(config.clone(), &second, "0").toml(at), (2, 2)),
        (config.toml(at), (2, 2)),
        (traced(config.clone(), &first, "1").toml(at), (4, 2)),
    ] {
        assert_eq!(edge.reload_with(&text).await.status, 200);
        call(&edge, &[], &chat("x", 1), 200).await;
        first.wait_for("spans", |received| received.spans.len() == expected.0).await;
        second.wait_for("spans", |received| received.spans.len() == expected.1).await;
    }
    assert_eq!(edge.metric(&spans("dropped")).await, 0.0);
}

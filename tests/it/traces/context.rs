//! Whose trace a request belongs to, and what replicas are told of it.

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::json;

use super::{PARENT, TRACE, call, caller, hex, traced, trusting};
use crate::support::{Collector, Edge, EdgeConfig, attribute, calls, chat, sim, with};

#[tokio::test]
async fn a_sampled_callers_trace_goes_on_here_and_at_the_replica() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    let config = traced(trusting(EdgeConfig::of(&[&replica])), &collector, "0").set(
        "tracing",
        "headers",
        "{ x-key = { env = \"NEARPOOL_IT_KEY\" } }",
    );
    let edge = Edge::start(config).await;
    let headers = [
        ("traceparent", &*caller("01")),
        ("tracestate", "congo=t61rcWkgMzE"),
        ("authorization", "Bearer the-clients-key"),
        ("x-session-id", "a-name-of-mine"),
        ("x-request-id", "mine-1"),
    ];
    call(&edge, &headers, &chat("a secret prompt", 3), 200).await;

    let spans = collector.spans(2).await;
    let (request, attempt) = (&spans[0], &spans[1]);
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!((&attempt.trace_id, &attempt.parent_span_id), (&request.trace_id, &request.span_id));
    assert!(request.span_id.len() == 8 && attempt.span_id.len() == 8 && attempt.span_id != request.span_id);
    assert_eq!((request.kind(), attempt.kind()), (SpanKind::Server, SpanKind::Client));
    assert!(spans.iter().all(|span| span.name == "chat m" && span.trace_state == "congo=t61rcWkgMzE"));
    assert!(spans.iter().all(|span| span.flags & 1 == 1), "they are sampled");
    // The caller's span is another program's, the request's is not.
    assert_eq!((request.flags >> 8, attempt.flags >> 8), (3, 1));
    assert!(request.start_time_unix_nano <= attempt.start_time_unix_nano);
    assert!(attempt.start_time_unix_nano < attempt.end_time_unix_nano);
    assert!(attempt.end_time_unix_nano <= request.end_time_unix_nano);

    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "vllm"),
        ("gen_ai.request.model", "m"),
        ("gen_ai.response.model", "meta-llama/Llama-3.1-8B-Instruct"),
        ("gen_ai.request.stream", "false"),
        ("gen_ai.usage.output_tokens", "3"),
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.path", "/v1/chat/completions"),
        ("nearpool.request_id", "mine-1"),
        ("nearpool.region", "here"),
        ("nearpool.pool", "near"),
        ("nearpool.replica", "a"),
        ("nearpool.reason", "new"),
        ("nearpool.attempts", "1"),
        ("nearpool.outcome", "ok"),
        ("nearpool.blame", "none"),
    ] {
        assert_eq!(attribute(&request.attributes, key).as_deref(), Some(value), "{key}");
    }
    for (key, value) in [
        ("gen_ai.request.model", "meta-llama/Llama-3.1-8B-Instruct"),
        ("gen_ai.response.model", "meta-llama/Llama-3.1-8B-Instruct"),
        ("gen_ai.usage.output_tokens", "3"),
        ("server.port", "8000"),
        ("nearpool.attempt", "1"),
        ("nearpool.attempt.kind", "first"),
        ("nearpool.outcome", "ok"),
    ] {
        assert_eq!(attribute(&attempt.attributes, key).as_deref(), Some(value), "{key}");
    }
    assert!(spans.iter().all(|span| attribute(&span.attributes, "error.type").is_none()));
    assert!(spans.iter().all(|span| span.status.as_ref().unwrap().code == 0));

    // The log tells the trace, and the same session as the span does.
    let line = edge.wait_for_log(|line| line["status"] == 200).await;
    assert_eq!(line["trace_id"], TRACE);
    let conversation = attribute(&request.attributes, "gen_ai.conversation.id").unwrap();
    assert!(conversation.len() == 16 && conversation.starts_with(line["session"].as_str().unwrap()));

    let told = &calls(&replica)[0].headers;
    assert_eq!(told["traceparent"].to_str().unwrap(), format!("00-{TRACE}-{}-01", hex(&attempt.span_id)));
    assert_eq!(told["tracestate"], "congo=t61rcWkgMzE");

    // Who tells, and with which key; what must never be told.
    let received = collector.now();
    assert_eq!(received.key.as_deref(), Some("pools-own-key"));
    assert_eq!(attribute(&received.resource, "service.name").as_deref(), Some("nearpool"));
    assert_eq!(attribute(&received.resource, "service.instance.id").as_deref(), Some("it"));
    let all = format!("{:?}", received.spans);
    for secret in ["secret prompt", "clients-key", "name-of-mine", "pools-own-key", "127.0.0.1"] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
    edge.wait_for_metric("nearpool_trace_spans_total{result=\"exported\"}", |spans| spans == 2.0).await;
}

#[tokio::test]
async fn who_is_not_sampled_is_passed_on_and_leaves_no_span() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    let edge = Edge::start(traced(trusting(EdgeConfig::of(&[&replica])), &collector, "1")).await;
    let (left_out, sampled) = (caller("00"), caller("01"));
    call(&edge, &[("traceparent", &left_out), ("tracestate", "a=1")], &chat("x", 1), 200).await;
    // Had the first one left spans, they would be here before these.
    call(&edge, &[("traceparent", &sampled)], &chat("y", 1), 200).await;
    let spans = collector.spans(2).await;
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    let told = &calls(&replica)[0].headers;
    assert_eq!((told["traceparent"].to_str().unwrap(), told["tracestate"].to_str().unwrap()), (&*left_out, "a=1"));
    assert!(edge.log().iter().any(|line| line.get("trace_id").is_none()));
}

#[tokio::test]
async fn who_is_not_trusted_keeps_its_trace_and_decides_nothing() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    let config = EdgeConfig::of(&[&replica]).set("edge", "trusted_proxies", "[\"127.200.0.0/24\"]");
    let edge = Edge::start(traced(config.clone(), &collector, "0")).await;
    for flags in ["01", "00"] {
        // Nor does it become trusted by its own word.
        let headers = [("traceparent", &*caller(flags)), ("tracestate", "a=1"), ("x-forwarded-for", "127.200.0.1")];
        call(&edge, &headers, &chat(flags, 1), 200).await;
        let told = &calls(&replica).pop().unwrap().headers;
        assert_eq!(
            (&told["traceparent"], &told["tracestate"]),
            (&caller("00").parse().unwrap(), &"a=1".parse().unwrap())
        );
    }
    assert!(edge.wait_for_logs(2, |line| line["status"] == 200).await.iter().all(|line| line["trace_id"].is_null()));

    // Had these calls left spans, they would be at the collector before those of the next.
    assert_eq!(edge.reload_with(&traced(config, &collector, "1").toml(edge.address())).await.status, 200);
    for (n, flags) in ["01", "00"].iter().enumerate() {
        call(&edge, &[("traceparent", &*caller(flags)), ("tracestate", "a=1")], &chat(flags, 1), 200).await;
        let spans = collector.spans(2 * (n + 1)).await;
        let told = calls(&replica).pop().unwrap().headers;
        let (trace, parent) = (hex(&spans[2 * n].trace_id), hex(&spans[2 * n].parent_span_id));
        assert_eq!((&*trace, &*parent, &*spans[2 * n].trace_state), (TRACE, PARENT, "a=1"));
        assert_eq!(told["traceparent"].to_str().unwrap(), format!("00-{TRACE}-{}-01", hex(&spans[2 * n + 1].span_id)));
    }
}

#[tokio::test]
async fn without_a_caller_a_trace_begins_here_for_the_share_that_is_sampled() {
    for (sample, flags, spans) in [("1", "01", 2), ("0", "00", 0)] {
        let (replica, collector) = (sim("a").await, Collector::start().await);
        let edge = Edge::start(traced(trusting(EdgeConfig::of(&[&replica])), &collector, sample)).await;
        call(&edge, &[("tracestate", "orphan=1")], &chat("x", 1), 200).await;
        let told = calls(&replica)[0].headers.clone();
        let parent = told["traceparent"].to_str().unwrap().to_owned();
        assert!(parent.len() == 55 && parent.starts_with("00-") && parent.ends_with(flags), "{parent}");
        assert!(!told.contains_key("tracestate"), "it belongs to no trace");
        if spans > 0 {
            let spans = collector.spans(spans).await;
            assert!(spans[0].parent_span_id.is_empty(), "a root");
            assert_eq!(parent, format!("00-{}-{}-01", hex(&spans[0].trace_id), hex(&spans[1].span_id)));
        } else {
            call(&edge, &[("traceparent", &caller("01"))], &chat("y", 1), 200).await;
            collector.spans(2).await;
        }
    }
}

#[tokio::test]
async fn a_context_that_is_not_valid_ends_here_and_a_new_trace_begins() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    let edge = Edge::start(traced(EdgeConfig::of(&[&replica]), &collector, "1")).await;
    let (good, upper) = (caller("01"), caller("01").to_uppercase());
    let wrong: [&[(&str, &str)]; 4] = [
        &[("traceparent", "00-0-0-01"), ("tracestate", "a=1")],
        &[("traceparent", &upper), ("tracestate", "a=1")],
        &[("traceparent", &good), ("traceparent", &good)],
        &[("traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
    ];
    for (n, headers) in wrong.iter().enumerate() {
        call(&edge, headers, &chat(&format!("{n}"), 1), 200).await;
        let spans = collector.spans(2 * (n + 1)).await;
        assert!(spans.iter().all(|span| hex(&span.trace_id) != TRACE && span.trace_state.is_empty()));
        let told = calls(&replica)[n].headers.clone();
        assert_eq!(told.get_all("traceparent").iter().count(), 1);
        let parent = told["traceparent"].to_str().unwrap();
        assert!(spans.iter().any(|span| parent == format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))));
        assert!(!told.contains_key("tracestate"));
    }
    // A state that is not valid ends here alone.
    call(&edge, &[("traceparent", &good), ("tracestate", "UPPER=1")], &chat("z", 1), 200).await;
    assert!(!calls(&replica)[wrong.len()].headers.contains_key("tracestate"));
    let spans = collector.spans(2 * (wrong.len() + 1)).await;
    assert_eq!(spans.iter().filter(|span| hex(&span.trace_id) == TRACE).count(), 2);
}

#[tokio::test]
async fn while_nothing_is_traced_headers_pass_as_they_came() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    call(&edge, &[("traceparent", "not valid"), ("tracestate", "NEITHER")], &chat("x", 1), 200).await;
    call(&edge, &[], &chat("y", 1), 200).await;
    let told: Vec<_> = calls(&replica).into_iter().map(|call| call.headers).collect();
    assert_eq!(
        (&told[0]["traceparent"], &told[0]["tracestate"]),
        (&"not valid".parse().unwrap(), &"NEITHER".parse().unwrap())
    );
    assert!(!told[1].contains_key("traceparent"));
    assert!(edge.wait_for_log(|line| line["status"] == 200).await.get("trace_id").is_none());
}

#[tokio::test]
async fn what_never_became_a_call_has_a_span_without_attempts_and_health_has_none() {
    let (replica, collector) = (sim("a").await, Collector::start().await);
    let edge = Edge::start(traced(EdgeConfig::of(&[&replica]), &collector, "1")).await;
    call(&edge, &[], &with(chat("x", 1), json!({"model": "my own words"})), 404).await;
    let spans = collector.spans(1).await;
    assert_eq!(spans[0].name, "chat");
    assert_eq!(spans[0].status.as_ref().unwrap().code, 0, "the client's fault");
    assert_eq!(attribute(&spans[0].attributes, "nearpool.outcome").as_deref(), Some("model_not_found"));
    assert!(!format!("{spans:?}").contains("my own words"));

    let mut client = crate::support::Http1::connect(edge.agents()).await;
    client.send(&crate::support::request("GET", "/health", &[], b"")).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(&crate::support::request("GET", "/v1/models", &[], b"")).await;
    assert_eq!(client.answer().await.status, 200);
    client.send(&crate::support::request("BREW", "/my/own/words", &[], b"")).await;
    assert_eq!(client.answer().await.status, 404);
    let names: Vec<_> = collector.spans(3).await.into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["chat", "GET", "HTTP"]);
    assert!(!format!("{:?}", collector.now()).contains("own/words"));
}

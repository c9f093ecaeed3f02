use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry::Value;
use opentelemetry::trace::Status;

use super::*;
use crate::domain::ask::Endpoint;
use crate::domain::ids::SessionKey;
use crate::domain::outcome::Outcome;
use crate::domain::trace::{SpanId, TraceContext, TraceId};
use crate::observe::access_log::Tokens;
use crate::policy::sampling::Begun;

const CONTEXT: TraceContext =
    TraceContext { trace_id: TraceId(1), span_id: SpanId(2), sampled: true, random_id: false };

fn facts(state: &State) -> RequestFacts<'_> {
    RequestFacts {
        begun: Begun { context: CONTEXT, parent: None },
        state,
        times: Times { start: UNIX_EPOCH, took: Duration::from_millis(1500) },
        method: "POST",
        http: "HTTP/2",
        endpoint: Some(Endpoint::Chat),
        request_id: "r-1",
        model: Some("small"),
        answered_by: Some("small"),
        response_model: None,
        step: None,
        stream: true,
        session: Some(SessionKey(0x0123_4567_89ab_cdef << 64)),
        route: None,
        engine: None,
        reason: None,
        attempts: 0,
        resumes: 0,
        status: 200,
        outcome: Outcome::Ok,
        ttft: None,
        overhead: None,
        queued: Duration::ZERO,
        tokens: Tokens::default(),
    }
}

fn told(span: &SpanData, key: &str) -> Option<Value> {
    let mut found = span.attributes.iter().filter(|attribute| attribute.key.as_str() == key);
    let value = found.next().map(|attribute| attribute.value.clone());
    assert!(found.next().is_none(), "{key} stands there twice");
    value
}

#[test]
fn a_span_is_named_by_what_is_done_and_with_what_and_never_by_the_clients_words() {
    let state = State::default();
    for (endpoint, model, method, name) in [
        (Some(Endpoint::Chat), Some("small"), "POST", "chat small"),
        (Some(Endpoint::Messages), Some("small"), "POST", "chat small"),
        (Some(Endpoint::Responses), Some("small"), "POST", "chat small"),
        (Some(Endpoint::Completions), Some("small"), "POST", "text_completion small"),
        (Some(Endpoint::Embeddings), Some("small"), "POST", "embeddings small"),
        (Some(Endpoint::Chat), None, "POST", "chat"),
        (None, None, "GET", "GET"),
        (None, None, "MY-OWN-WORD", "HTTP"),
    ] {
        let span = request(&RequestFacts { endpoint, model, method, ..facts(&state) });
        assert_eq!(span.name, name);
    }
}

#[test]
fn a_request_failed_where_the_edge_or_a_replica_did_and_no_status_says_otherwise() {
    let state = State::default();
    for (outcome, status, fails) in [
        (Outcome::Ok, 200, false),
        (Outcome::ModelNotFound, 404, false),
        (Outcome::ClientGone, 499, false),
        (Outcome::ClientError, 422, false),
        (Outcome::AtCapacity, 429, false),
        (Outcome::Busy, 429, false),
        (Outcome::NoReplica, 503, true),
        (Outcome::ServerError, 500, true),
        (Outcome::Crashed, 502, true),
        (Outcome::Cut, 200, true),
        (Outcome::Drained, 200, true),
    ] {
        let span = request(&RequestFacts { outcome, status, ..facts(&state) });
        assert_eq!(matches!(span.status, Status::Error { .. }), fails, "{outcome:?}");
        let kind = fails.then(|| Value::from(outcome.label()));
        assert_eq!(told(&span, "error.type"), kind, "{outcome:?}");
        assert_eq!(told(&span, "nearpool.outcome"), Some(outcome.label().into()));
    }
}

#[test]
fn what_is_not_known_is_left_out() {
    let state = State::default();
    let span = request(&facts(&state));
    assert_eq!(told(&span, "gen_ai.conversation.id"), Some("0123456789abcdef".into()));
    assert_eq!(told(&span, "network.protocol.version"), Some("2".into()));
    for key in ["gen_ai.usage.input_tokens", "nearpool.region", "nearpool.queued", "nearpool.resumes", "error.type"] {
        assert_eq!(told(&span, key), None, "{key}");
    }
    assert_eq!(span.end_time.duration_since(span.start_time).unwrap(), Duration::from_millis(1500));
    let tokens = Tokens { prompt: Some(100), cached: Some(90), completion: Some(7) };
    let span = request(&RequestFacts { tokens, status: 0, ..facts(&state) });
    for (key, count) in [("input_tokens", 100), ("cache_read.input_tokens", 90), ("output_tokens", 7)] {
        assert_eq!(told(&span, &format!("gen_ai.usage.{key}")), Some(Value::I64(count)));
    }
    assert_eq!(told(&span, "http.response.status_code"), None, "none was sent");
}

#[test]
fn an_attempt_failed_where_its_replica_did_also_by_refusing() {
    let state = State::default();
    for (outcome, fails) in [
        (Some(Outcome::Ok), false),
        (Some(Outcome::ClientError), true),
        (Some(Outcome::ConnectFailed), true),
        (Some(Outcome::Busy), true),
        (Some(Outcome::ClientGone), false),
        (Some(Outcome::ClientDeadline), false),
        (Some(Outcome::Drained), false),
        (None, false),
    ] {
        let mut span = request(&facts(&state));
        span.attributes.clear();
        AttemptEnd { outcome, ..AttemptEnd::default() }.close(&mut span, Duration::from_secs(2));
        let label = outcome.map_or("cancelled", Outcome::label);
        assert_eq!(told(&span, "nearpool.outcome"), Some(label.into()));
        assert_eq!(matches!(span.status, Status::Error { .. }), fails, "{outcome:?}");
        assert_eq!(told(&span, "error.type").is_some(), fails, "{outcome:?}");
        assert_eq!(span.end_time, SystemTime::UNIX_EPOCH + Duration::from_secs(2));
    }
}

#[tokio::test]
async fn the_queue_has_a_bound_and_what_finds_it_full_is_counted() {
    let dropped = IntCounter::new("dropped", "Spans.").unwrap();
    let (spans, mut queued) = queue(dropped.clone());
    let state = State::default();
    for _ in 0..20 {
        spans.record(request(&facts(&state)), 16);
    }
    assert_eq!(dropped.get(), 4);
    assert!(queued.spans.recv().await.is_some());
    spans.record(request(&facts(&state)), 16);
    assert_eq!((dropped.get(), queued.spans.len()), (4, 16));
    // Nobody exports: the end of the process does not wait for ever.
    drop(queued);
    spans.flush().await;
    spans.record(request(&facts(&state)), 16);
    assert_eq!(dropped.get(), 5);
}

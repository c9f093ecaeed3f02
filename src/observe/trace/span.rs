//! What all spans have in common.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::domain::ask::Endpoint;
use crate::domain::trace::{self, TraceContext};

/// What a caller's own tracing wants to be known in every span (`tracestate`).
#[derive(Clone, Default, Debug)]
pub struct State(TraceState);

impl State {
    /// The state in this value; none if it is not one.
    pub fn read(value: &str) -> State {
        State(TraceState::from_str(value).unwrap_or_default())
    }
}

/// When a span began and how long it took.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// By the wall clock.
    pub start: SystemTime,
    /// By a clock that only goes forward.
    pub took: Duration,
}

/// A span without its end.
pub(super) struct Draft<'a> {
    pub(super) context: TraceContext,
    pub(super) parent: Option<trace::SpanId>,
    /// Whether the parent belongs to another program.
    pub(super) remote_parent: bool,
    pub(super) state: &'a State,
    pub(super) kind: SpanKind,
    pub(super) name: Cow<'static, str>,
    pub(super) start: SystemTime,
    pub(super) attributes: Attributes,
}

impl Draft<'_> {
    pub(super) fn span(self) -> SpanData {
        let flags = TraceFlags::default().with_sampled(self.context.sampled);
        let (trace_id, span_id) = (TraceId::from(self.context.trace_id.0), SpanId::from(self.context.span_id.0));
        SpanData {
            span_context: SpanContext::new(trace_id, span_id, flags, false, self.state.0.clone()),
            parent_span_id: self.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.0)),
            parent_span_is_remote: self.parent.is_some() && self.remote_parent,
            span_kind: self.kind,
            name: self.name,
            start_time: self.start,
            end_time: self.start,
            attributes: self.attributes.0,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: scope(),
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("nearpool").with_version(env!("CARGO_PKG_VERSION")).build()
}

/// A failed span's status. The kind of failure stands in `error.type`, and needs no prose beside it.
pub(super) fn failed() -> Status {
    Status::Error { description: Cow::Borrowed("") }
}

/// Attributes in the order in which they were put; what is not known is left out.
#[derive(Default)]
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

impl Attributes {
    pub(super) fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(key, value));
    }

    pub(super) fn text(&mut self, key: &'static str, value: &str) {
        self.put(key, value.to_owned());
    }

    pub(super) fn text_if(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    pub(super) fn count(&mut self, key: &'static str, value: u64) {
        self.put(key, i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub(super) fn count_if(&mut self, key: &'static str, value: Option<u64>) {
        if let Some(value) = value {
            self.count(key, value);
        }
    }

    pub(super) fn seconds_if(&mut self, key: &'static str, value: Option<Duration>) {
        if let Some(value) = value {
            self.put(key, value.as_secs_f64());
        }
    }
}

/// `gen_ai.operation.name`. Anthropic's messages and OpenAI's Responses are chat; to count tokens has no name there.
pub(super) fn operation(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat | Endpoint::Responses | Endpoint::Messages => "chat",
        Endpoint::Completions => "text_completion",
        Endpoint::Embeddings => "embeddings",
        Endpoint::CountTokens => "count_tokens",
    }
}

//! An attempt as a span of kind CLIENT, child of its request's.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;

use super::request::usage;
use super::span::{Attributes, Draft, State, failed, operation};
use crate::domain::ask::Endpoint;
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::topology::{ReplicaAddress, Topology};
use crate::domain::trace::{SpanId, TraceContext};
use crate::observe::access_log::Tokens;
use crate::policy::select::Selection;

/// Which kind of attempt it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttemptKind {
    /// The first one.
    First,
    /// Another one, since one failed.
    Retry,
    /// A second one beside one that is late.
    Hedge,
    /// One that is to go on with an answer that broke off.
    Resume,
}

impl AttemptKind {
    /// The name in the span.
    pub const fn name(self) -> &'static str {
        match self {
            AttemptKind::First => "first",
            AttemptKind::Retry => "retry",
            AttemptKind::Hedge => "hedge",
            AttemptKind::Resume => "resume",
        }
    }
}

/// What is known of an attempt before it is sent.
#[derive(Clone, Debug)]
pub struct AttemptStart<'a> {
    /// Its own span.
    pub context: TraceContext,
    /// Its request's.
    pub parent: SpanId,
    /// What the request's caller's tracing added.
    pub state: &'a State,
    /// When.
    pub start: std::time::SystemTime,
    /// Where it is sent.
    pub endpoint: Endpoint,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// 1 for the first one of the request.
    pub number: u32,
    /// Which kind it is.
    pub kind: AttemptKind,
    /// The replica.
    pub selection: &'a Selection,
    /// The topology that it was selected from.
    pub topology: &'a Topology,
}

/// The span of an attempt that is about to be sent.
pub fn attempt(start: &AttemptStart<'_>) -> SpanData {
    let selection = start.selection;
    let (pool, model) = (start.topology.pool(selection.pool.pool), start.topology.model(selection.pool.model));
    let replica = start.topology.replica(selection.replica);
    let operation = operation(start.endpoint);
    let mut attributes = Attributes(Vec::with_capacity(24));
    let to = &mut attributes;
    to.put("gen_ai.operation.name", operation);
    to.put("gen_ai.provider.name", pool.engine.name());
    // What the replica is asked for; the name of the span has the configured name.
    to.text("gen_ai.request.model", &model.served_as);
    to.put("gen_ai.request.stream", start.stream);
    to.put("http.request.method", "POST");
    to.put("url.path", start.endpoint.path());
    let ReplicaAddress { host, port, .. } = &replica.address;
    to.text("server.address", host);
    to.count("server.port", (*port).into());
    to.text("nearpool.region", &start.topology.region(selection.pool.region).name);
    to.text("nearpool.pool", &pool.name);
    to.text("nearpool.replica", &replica.name);
    to.put("nearpool.reason", selection.reason.name());
    to.count("nearpool.attempt", start.number.into());
    to.put("nearpool.attempt.kind", start.kind.name());
    Draft {
        context: start.context,
        parent: Some(start.parent),
        remote_parent: false,
        state: start.state,
        kind: SpanKind::Client,
        name: format!("{operation} {}", model.name).into(),
        start: start.start,
        attributes,
    }
    .span()
}

/// What is known of an attempt at its end.
#[derive(Clone, Default, Debug)]
pub struct AttemptEnd {
    /// How it ended; `None` when it was not waited for: another one won, or the client left.
    pub outcome: Option<Outcome>,
    /// The replica's status, if there was one.
    pub status: Option<u16>,
    /// From the whole request sent to the first event, if it was a stream.
    pub ttft: Option<Duration>,
    /// What the engine says that it answered with.
    pub response_model: Option<String>,
    /// Tokens, as the replica reported them.
    pub tokens: Tokens,
}

impl AttemptEnd {
    /// Ends the span, which took so long.
    pub fn close(self, span: &mut SpanData, took: Duration) {
        span.end_time = span.start_time + took;
        let mut attributes = Attributes(std::mem::take(&mut span.attributes));
        let to = &mut attributes;
        to.count_if("http.response.status_code", self.status.map(u64::from));
        to.seconds_if("gen_ai.response.time_to_first_chunk", self.ttft);
        if let Some(model) = self.response_model {
            to.put("gen_ai.response.model", model);
        }
        usage(to, &self.tokens);
        let label = self.outcome.map_or("cancelled", Outcome::label);
        to.put("nearpool.outcome", label);
        if let Some(outcome) = self.outcome {
            to.put("nearpool.blame", outcome.facts().blame.name());
        }
        // By the convention for clients a 4xx is a failure too; that one's own client left is none of the replica's.
        if self.outcome.is_some_and(is_failure) {
            span.status = failed();
            to.0.push(KeyValue::new("error.type", label));
        }
        span.attributes = attributes.0;
    }
}

fn is_failure(outcome: Outcome) -> bool {
    outcome.facts().blame == Blame::Upstream || outcome == Outcome::ClientError
}

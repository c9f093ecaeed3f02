//! A request as a span of kind SERVER.

use std::borrow::Cow;
use std::time::Duration;

use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;

use super::span::{Attributes, Draft, State, Times, failed, operation};
use crate::domain::ask::Endpoint;
use crate::domain::ids::SessionKey;
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::topology::Engine;
use crate::observe::access_log::Tokens;
use crate::policy::sampling::Begun;
use crate::policy::select::Reason;

/// What is known of a request at its end. `None` where it is not known or does not apply.
#[derive(Clone, Debug)]
pub struct RequestFacts<'a> {
    /// Its trace.
    pub begun: Begun,
    /// What its caller's tracing added.
    pub state: &'a State,
    /// When.
    pub times: Times,
    /// The method as it came.
    pub method: &'a str,
    /// `HTTP/1.1` or `HTTP/2`.
    pub http: &'a str,
    /// The endpoint, if it is one of the agents'.
    pub endpoint: Option<Endpoint>,
    /// The value of `x-request-id`.
    pub request_id: &'a str,
    /// The configured model that was asked for.
    pub model: Option<&'a str>,
    /// The configured model that answered.
    pub answered_by: Option<&'a str>,
    /// What the engine says that it answered with.
    pub response_model: Option<&'a str>,
    /// The step, a configured one or `other`.
    pub step: Option<&'a str>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The session.
    pub session: Option<SessionKey>,
    /// Where it went: region, pool, replica.
    pub route: Option<[&'a str; 3]>,
    /// What runs there.
    pub engine: Option<Engine>,
    /// Why there.
    pub reason: Option<Reason>,
    /// Attempts made.
    pub attempts: u32,
    /// How often another replica went on with the answer.
    pub resumes: u32,
    /// The status sent downstream; 0 if none was.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// Whole request received to first content event.
    pub ttft: Option<Duration>,
    /// What the edge itself added before the upstream request left.
    pub overhead: Option<Duration>,
    /// In line for a place at a replica.
    pub queued: Duration,
    /// Tokens, as the replica reported them.
    pub tokens: Tokens,
}

/// The span of a request that has ended.
pub fn request(facts: &RequestFacts<'_>) -> SpanData {
    let method = method(facts.method);
    let name = match (facts.endpoint.map(operation), facts.model) {
        (Some(operation), Some(model)) => Cow::Owned(format!("{operation} {model}")),
        (Some(operation), None) => Cow::Borrowed(operation),
        // By the conventions for HTTP: a path that nobody serves is the client's own words.
        (None, _) if method == "_OTHER" => Cow::Borrowed("HTTP"),
        (None, _) => Cow::Borrowed(method),
    };
    let draft = Draft {
        context: facts.begun.context,
        parent: facts.begun.parent,
        remote_parent: true,
        state: facts.state,
        kind: SpanKind::Server,
        name,
        start: facts.times.start,
        attributes: attributes(facts, method),
    };
    let mut span = draft.span();
    span.end_time = facts.times.start + facts.times.took;
    if is_failure(facts.outcome, facts.status) {
        span.status = failed();
    }
    span
}

fn attributes(facts: &RequestFacts<'_>, method: &'static str) -> Attributes {
    let mut attributes = Attributes(Vec::with_capacity(32));
    let to = &mut attributes;
    to.put("http.request.method", method);
    if let Some(endpoint) = facts.endpoint {
        to.put("url.path", endpoint.path());
        to.put("http.route", endpoint.path());
        to.put("gen_ai.operation.name", operation(endpoint));
        to.put("gen_ai.provider.name", facts.engine.map_or("nearpool", Engine::name));
        to.put("gen_ai.request.stream", facts.stream);
    }
    to.text_if("network.protocol.version", facts.http.strip_prefix("HTTP/"));
    if facts.status > 0 {
        to.count("http.response.status_code", facts.status.into());
    }
    if is_failure(facts.outcome, facts.status) {
        to.put("error.type", facts.outcome.label());
    }
    to.text_if("gen_ai.request.model", facts.model);
    to.text_if("gen_ai.response.model", facts.response_model);
    to.seconds_if("gen_ai.response.time_to_first_chunk", facts.ttft);
    usage(to, &facts.tokens);
    if let Some(session) = facts.session {
        // Begins as `session` in the access log does.
        to.put("gen_ai.conversation.id", format!("{:016x}", session.0 >> 64));
    }
    to.text("nearpool.request_id", facts.request_id);
    to.text_if("nearpool.step", facts.step);
    to.text_if("nearpool.model", facts.answered_by);
    if let Some(route) = facts.route {
        for (key, name) in ["nearpool.region", "nearpool.pool", "nearpool.replica"].into_iter().zip(route) {
            to.text(key, name);
        }
    }
    if let Some(reason) = facts.reason {
        to.put("nearpool.reason", reason.name());
    }
    to.count("nearpool.attempts", facts.attempts.into());
    if facts.resumes > 0 {
        to.count("nearpool.resumes", facts.resumes.into());
    }
    to.put("nearpool.outcome", facts.outcome.label());
    to.put("nearpool.blame", facts.outcome.facts().blame.name());
    to.seconds_if("nearpool.overhead", facts.overhead);
    to.seconds_if("nearpool.queued", Some(facts.queued).filter(|queued| !queued.is_zero()));
    attributes
}

/// Tokens by the conventions' names.
pub(super) fn usage(to: &mut Attributes, tokens: &Tokens) {
    to.count_if("gen_ai.usage.input_tokens", tokens.prompt);
    to.count_if("gen_ai.usage.output_tokens", tokens.completion);
    to.count_if("gen_ai.usage.cache_read.input_tokens", tokens.cached);
}

/// Whether the span counts as failed. By the convention for servers what the client did wrong does not, nor any status
/// below 500; but a stream that broke off has said 200 before.
fn is_failure(outcome: Outcome, status: u16) -> bool {
    matches!(outcome.facts().blame, Blame::Edge | Blame::Upstream) && !(400..500).contains(&status)
}

/// The methods that the conventions know; any other could be anything.
fn method(method: &str) -> &'static str {
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"]
        .into_iter()
        .find(|known| *known == method)
        .unwrap_or("_OTHER")
}

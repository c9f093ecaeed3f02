//! A request's trace: taken up from its caller, begun where there is none, and passed on to replicas.
//!
//! While nothing is traced by configuration a client's own headers pass as they came, and this costs a look at an `Option`.
//! Else a context that is not valid ends here, and replicas are told of a trace in any case: of one that is not sampled
//! too, so that they do not begin their own.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora::ErrorType::InvalidHTTPHeader;
use pingora::OrErr;
use pingora::protocols::http::ServerSession;

use super::whereabouts;
use crate::domain::trace::TraceContext;
use crate::observe::trace::{Spans, State};
use crate::policy::sampling::{self, Begun, Caller};
use crate::roster::Snapshot;
use crate::wire::trace_context;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// What becomes of a request in traces.
pub(super) enum Trace {
    /// Nothing is traced: headers pass as they came.
    Off,
    /// It is not sampled; whoever is called next is told so.
    Left(Passed),
    /// Its spans are recorded.
    Sampled(Box<Recording>),
}

/// What a replica is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Passed {
    context: TraceContext,
    /// Whether the caller's own words say that already.
    as_it_came: bool,
    /// Whether the caller's `tracestate` may go with it.
    with_state: bool,
}

/// A request that is sampled.
pub(super) struct Recording {
    pub(super) spans: Arc<Spans>,
    /// Spans that may wait.
    pub(super) queue: usize,
    pub(super) begun: Begun,
    pub(super) state: State,
    /// As it stands in the log.
    pub(super) trace_id: String,
    pub(super) method: String,
    /// What the engine says that it answered with.
    pub(super) response_model: Option<String>,
    passed: Passed,
}

impl Trace {
    /// The trace of this request.
    pub(super) fn begin(spans: &Arc<Spans>, snapshot: &Snapshot, session: &ServerSession) -> Trace {
        let Some(tracing) = &snapshot.config.tracing else { return Trace::Off };
        let head = session.req_header();
        let headers = &head.headers;
        let caller = caller(headers);
        let is_trusted = caller.is_some() && whereabouts::is_peer_trusted(session, &snapshot.config);
        let told = caller.map(|context| Caller { context, is_trusted });
        let begun = sampling::begin(told, tracing.sample, &mut rand::rng());
        let with_state = caller.is_some() && trace_context::is_state(states(headers));
        let passed = Passed { context: begun.context, as_it_came: caller == Some(begun.context), with_state };
        if !begun.context.sampled {
            return Trace::Left(passed);
        }
        let state = if with_state { State::read(&trace_context::state(states(headers))) } else { State::default() };
        Trace::Sampled(Box::new(Recording {
            spans: Arc::clone(spans),
            queue: tracing.queue,
            begun,
            state,
            trace_id: begun.context.trace_id.to_string(),
            method: head.method.as_str().to_owned(),
            response_model: None,
            passed,
        }))
    }

    /// What is recorded, if anything is.
    pub(super) fn recording(&self) -> Option<&Recording> {
        match self {
            Trace::Sampled(recording) => Some(recording),
            Trace::Off | Trace::Left(_) => None,
        }
    }

    /// The same, to be added to.
    pub(super) fn recording_mut(&mut self) -> Option<&mut Recording> {
        match self {
            Trace::Sampled(recording) => Some(recording),
            Trace::Off | Trace::Left(_) => None,
        }
    }

    /// Writes into a head that began as the client's what every replica is told. An attempt that has a span of its own
    /// [names that one](name_parent) instead.
    pub(super) fn pass_on(&self, headers: &mut HeaderMap) -> pingora::Result<()> {
        let passed = match self {
            Trace::Off => return Ok(()),
            Trace::Left(passed) => passed,
            Trace::Sampled(recording) => &recording.passed,
        };
        if !passed.with_state {
            headers.remove(TRACESTATE);
        }
        if passed.as_it_came { Ok(()) } else { name_parent(headers, &passed.context) }
    }
}

/// Names the span whose child the next one is.
pub(super) fn name_parent(headers: &mut HeaderMap, context: &TraceContext) -> pingora::Result<()> {
    let value = HeaderValue::try_from(trace_context::write(context)).or_err(InvalidHTTPHeader, "a traceparent")?;
    // It replaces whatever there was: also several of them, which are not valid.
    headers.insert(TRACEPARENT, value);
    Ok(())
}

/// The caller's context. Several of them are as good as none.
fn caller(headers: &HeaderMap) -> Option<TraceContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (first, second) = (values.next()?, values.next());
    if second.is_some() { None } else { trace_context::parse(first.as_bytes().trim_ascii()) }
}

fn states(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(TRACESTATE).iter().map(HeaderValue::as_bytes)
}

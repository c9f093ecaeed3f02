//! OTLP over HTTP: a batch as bytes, and what a collector says to it.
//! <https://opentelemetry.io/docs/specs/otlp/#otlphttp>

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prost::Message;

use crate::config::{Config, Tracing};
use crate::control::line::{Connections, Kept, Line, Purpose, Question};
use crate::domain::health_check::Failure;
use crate::domain::topology::ReplicaAddress;

/// Below the endpoint.
const PATH: &str = "/v1/traces";

/// The answer is a few bytes, or a sentence on what was wrong.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How long a host name's address is used, unless it fails.
const RESOLVED_FOR: Duration = Duration::from_secs(60);

/// Characters of a collector's own words that are told.
const WORDS_CHARS_MAX: usize = 200;

/// Spans as they are sent.
#[derive(Debug)]
pub(super) struct Batch {
    body: Bytes,
    pub(super) spans: u64,
}

impl Batch {
    pub(super) fn of(spans: Vec<SpanData>, config: &Config) -> Batch {
        let count = spans.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(spans, &resource(config));
        Batch { body: ExportTraceServiceRequest { resource_spans }.encode_to_vec().into(), spans: count }
    }
}

/// Who tells: this edge.
fn resource(config: &Config) -> ResourceAttributesWithSchema {
    let topology = &config.topology;
    let attributes = [
        KeyValue::new("service.name", "nearpool"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", topology.edge.clone()),
        KeyValue::new("nearpool.edge.region", topology.region(topology.home).name.clone()),
    ];
    (&Resource::builder_empty().with_attributes(attributes).build()).into()
}

/// What became of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The collector has it, but for so many spans; and what it says to that.
    Taken { rejected: u64, words: String },
    /// It may take it later.
    Later(Failure),
    /// It never will.
    Refused(Failure),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Taken { rejected, words } => write!(f, "{rejected} spans rejected: {words}"),
            Verdict::Later(failure) => write!(f, "{}", told(failure)),
            Verdict::Refused(failure) => write!(f, "{}; not tried again", told(failure)),
        }
    }
}

/// A failure's own words speak of replicas and of their keys.
fn told(failure: &Failure) -> String {
    match failure {
        Failure::Status(status) => format!("status {status}"),
        failure => failure.to_string(),
    }
}

/// A collector, as far as it is connected to.
#[derive(Debug)]
pub(super) struct Collector {
    connections: Connections,
    kept: Option<Kept>,
    /// Who was resolved, to what, when.
    resolved: Option<(ReplicaAddress, SocketAddr, Instant)>,
}

impl Collector {
    pub(super) fn new(connections: Connections) -> Collector {
        Collector { connections, kept: None, resolved: None }
    }

    /// Sends a batch, within the configured time.
    pub(super) async fn send(&mut self, tracing: &Tracing, batch: &Batch) -> Verdict {
        let at = match tokio::time::timeout(tracing.timeout, self.resolve(&tracing.endpoint)).await {
            Ok(Some(at)) => at,
            Ok(None) | Err(_) => return Verdict::Later(Failure::Unresolved),
        };
        let line = Line::new(&self.connections, &tracing.endpoint, at, Purpose::Traces);
        let mut line = line.with_headers(&tracing.headers).over(self.kept.take());
        let body = Some(batch.body.clone());
        let question = Question { path: PATH, body, key: None, answer_bytes_max: ANSWER_BYTES_MAX };
        let asked = line.ask(question, tracing.timeout).await;
        self.kept = line.into_kept();
        match asked {
            Ok(reply) => verdict(reply.status, reply.whole().unwrap_or_default()),
            Err(failure) => {
                // It may have moved.
                self.resolved = None;
                Verdict::Later(failure)
            }
        }
    }

    async fn resolve(&mut self, endpoint: &ReplicaAddress) -> Option<SocketAddr> {
        match &self.resolved {
            Some((who, at, when)) if who == endpoint && when.elapsed() < RESOLVED_FOR => return Some(*at),
            Some((who, ..)) if who == endpoint => {}
            // A connection to another one is of no use.
            _ => self.kept = None,
        }
        let at = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await.ok()?.next()?;
        if self.resolved.as_ref().is_some_and(|(_, before, _)| *before != at) {
            self.kept = None;
        }
        self.resolved = Some((endpoint.clone(), at, Instant::now()));
        Some(at)
    }
}

/// What an answer means.
fn verdict(status: u16, body: &[u8]) -> Verdict {
    match status {
        200..=299 => {
            // What is no message of the protocol says nothing of spans that were rejected.
            let partial = ExportTraceServiceResponse::decode(body).ok().and_then(|answer| answer.partial_success);
            let partial = partial.unwrap_or_default();
            let rejected = u64::try_from(partial.rejected_spans).unwrap_or(0);
            let words = partial.error_message.chars().take(WORDS_CHARS_MAX);
            Verdict::Taken { rejected, words: words.map(|c| if c.is_control() { ' ' } else { c }).collect() }
        }
        429 | 502 | 503 | 504 => Verdict::Later(Failure::Status(status)),
        _ => Verdict::Refused(Failure::Status(status)),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    #[test]
    fn answers_mean_what_the_protocol_says() {
        let taken = |rejected, words: &str| Verdict::Taken { rejected, words: words.to_owned() };
        let partial = |rejected_spans, message: &str| {
            let partial = ExportTracePartialSuccess { rejected_spans, error_message: message.to_owned() };
            ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        };
        for (status, body, expected) in [
            (200, Vec::new(), taken(0, "")),
            (202, b"{}".to_vec(), taken(0, "")),
            (200, partial(3, "too\r\nold"), taken(3, "too  old")),
            (200, partial(-3, ""), taken(0, "")),
            (429, Vec::new(), Verdict::Later(Failure::Status(429))),
            (503, Vec::new(), Verdict::Later(Failure::Status(503))),
            (500, Vec::new(), Verdict::Refused(Failure::Status(500))),
            (400, Vec::new(), Verdict::Refused(Failure::Status(400))),
            (401, Vec::new(), Verdict::Refused(Failure::Status(401))),
            (307, Vec::new(), Verdict::Refused(Failure::Status(307))),
        ] {
            assert_eq!(verdict(status, &body), expected);
        }
        assert_eq!(verdict(401, b"").to_string(), "status 401; not tried again");
    }
}

//! What the edge says itself: errors in the dialect's envelope, and the routing receipt on every answer.

use std::fmt::Write;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use pingora::protocols::http::ServerSession;

use super::head::{self, AnswerHead};
use super::identify::REQUEST_ID;
use crate::domain::ask::Dialect;
use crate::domain::outcome::Outcome;
use crate::domain::topology::Topology;
use crate::policy::select::{Reason, Selection};
use crate::wire::reply::{Failure, error_body};

const EDGE: HeaderName = HeaderName::from_static("x-nearpool-edge");
const NEAREST_EDGE: HeaderName = HeaderName::from_static("x-nearpool-nearest-edge");
const REGION: HeaderName = HeaderName::from_static("x-nearpool-region");
const POOL: HeaderName = HeaderName::from_static("x-nearpool-pool");
const REPLICA: HeaderName = HeaderName::from_static("x-nearpool-replica");
const MODEL: HeaderName = HeaderName::from_static("x-nearpool-model");
const REASON: HeaderName = HeaderName::from_static("x-nearpool-reason");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-nearpool-attempts");

/// Whether the official SDKs try again, whatever the status says.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Every header of the receipt begins so; a client's or a replica's own never pass.
pub(super) const RECEIPT_PREFIX: &str = "x-nearpool-";

/// A request that the edge answers itself.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) outcome: Outcome,
    pub(super) message: String,
    /// `error.param` of OpenAI's envelope.
    pub(super) param: Option<&'static str>,
    /// Header `Retry-After` in seconds; the SDKs honour up to 120.
    pub(super) retry_after_s: Option<u32>,
    /// Header `Allow`, for 405.
    pub(super) allow: Option<&'static str>,
}

impl Refusal {
    pub(super) fn new(outcome: Outcome, message: impl Into<String>) -> Refusal {
        Refusal { outcome, message: message.into(), param: None, retry_after_s: None, allow: None }
    }

    /// Nobody is there any more to be answered.
    pub(super) fn gone() -> Refusal {
        Refusal::new(Outcome::ClientGone, String::new())
    }

    pub(super) fn param(mut self, param: &'static str) -> Refusal {
        self.param = Some(param);
        self
    }

    pub(super) fn retry_after_s(mut self, seconds: u32) -> Refusal {
        self.retry_after_s = Some(seconds);
        self
    }

    pub(super) fn allow(mut self, methods: &'static str) -> Refusal {
        self.allow = Some(methods);
        self
    }
}

/// Where a request went, by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Route<'a> {
    pub(super) region: &'a str,
    pub(super) pool: &'a str,
    pub(super) replica: &'a str,
    pub(super) model: &'a str,
    pub(super) reason: Reason,
}

impl<'a> Route<'a> {
    pub(super) fn of(topology: &'a Topology, selection: &Selection) -> Route<'a> {
        Route {
            region: &topology.region(selection.pool.region).name,
            pool: &topology.pool(selection.pool.pool).name,
            replica: &topology.replica(selection.replica).name,
            model: &topology.model(selection.pool.model).name,
            reason: selection.reason,
        }
    }
}

/// What every answer says of how it came about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Receipt<'a> {
    pub(super) request_id: &'a str,
    pub(super) edge: &'a str,
    /// An edge that is nearer to the client.
    pub(super) nearest_edge: Option<&'a str>,
    pub(super) route: Option<Route<'a>>,
    /// How many attempts there were; `None` while that is not known.
    pub(super) attempts: Option<u32>,
}

/// The most that a receipt adds to a head.
pub(super) const RECEIPT_LINES: usize = 9;

impl Receipt<'_> {
    /// Writes the receipt into an answer's head. Names are checked to be visible ASCII when config is read; a value
    /// that could not be a header would be left out.
    pub(super) fn write(&self, head: &mut AnswerHead) {
        let mut put = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                head.headers.insert(name, value);
            }
        };
        put(REQUEST_ID, self.request_id);
        put(EDGE, self.edge);
        if let Some(nearest) = self.nearest_edge {
            put(NEAREST_EDGE, nearest);
        }
        if let Some(route) = &self.route {
            put(REGION, route.region);
            put(POOL, route.pool);
            put(REPLICA, route.replica);
            put(MODEL, route.model);
            put(REASON, route.reason.name());
        }
        if let Some(attempts) = self.attempts {
            head.headers.insert(ATTEMPTS, attempts.into());
        }
    }

    /// The receipt as the last comment of a stream whose head went down before there was one.
    pub(super) fn comment(&self) -> Bytes {
        let mut comment = String::from(":");
        if let Some(Route { region, pool, replica, model, reason }) = self.route {
            let reason = reason.name();
            let _ = write!(comment, " region={region} pool={pool} replica={replica} model={model} reason={reason}");
        }
        if let Some(attempts) = self.attempts {
            let _ = write!(comment, " attempts={attempts}");
        }
        comment.push_str("\n\n");
        comment.into()
    }
}

/// Sends a refusal in the dialect's envelope. The connection is kept only if the request was read whole, and there is no
/// doubt of where it ended: after an ambiguous one, what follows may be part of it (RFC 9112, 6.3).
pub(super) async fn refuse(
    session: &mut ServerSession,
    dialect: Dialect,
    refusal: &Refusal,
    receipt: &Receipt<'_>,
) -> pingora::Result<usize> {
    let (head, body) = refusal_answer(dialect, refusal, receipt);
    if refusal.outcome == Outcome::AmbiguousFraming || session.req_header().method == http::Method::CONNECT {
        session.set_keepalive(None);
    }
    send(session, head, body).await
}

/// The head and the body of a refusal.
pub(super) fn refusal_answer(dialect: Dialect, refusal: &Refusal, receipt: &Receipt<'_>) -> (AnswerHead, Bytes) {
    let failure = Failure {
        param: refusal.param,
        request_id: Some(receipt.request_id),
        ..Failure::new(refusal.outcome, &refusal.message)
    };
    let body = error_body(dialect, &failure);
    let status = StatusCode::from_u16(refusal.outcome.facts().status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut head = whole_head(status, "application/json", body.len(), receipt);
    if let Some(seconds) = refusal.retry_after_s {
        head.headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if refusal.outcome == Outcome::Crashed {
        // The official SDKs obey it: sent again, the request could take down the next two.
        head.headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    if let Some(methods) = refusal.allow {
        head.headers.insert(header::ALLOW, HeaderValue::from_static(methods));
    }
    (head, body)
}

/// The head of a whole answer of the edge's own.
pub(super) fn whole_head(
    status: StatusCode,
    content_type: &'static str,
    body_bytes: usize,
    receipt: &Receipt<'_>,
) -> AnswerHead {
    let mut head = head::answer(status, 16);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    head.headers.insert(header::CONTENT_LENGTH, body_bytes.into());
    receipt.write(&mut head);
    head
}

/// Sends a whole answer of the edge's own, and returns the length of its body.
pub(super) async fn send(session: &mut ServerSession, head: AnswerHead, body: Bytes) -> pingora::Result<usize> {
    if !session.is_body_done() {
        session.set_keepalive(None);
    }
    let length = body.len();
    session.write_response_header(head::outgoing(head)).await?;
    if session.req_header().method == http::Method::HEAD {
        session.finish_body().await?;
    } else {
        session.write_response_body(body, true).await?;
    }
    Ok(length)
}

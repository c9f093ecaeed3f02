//! An OpenTelemetry collector: OTLP over HTTP, read with the protocol's own generated types.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::{own_address, soon};

/// What has been received so far.
#[derive(Clone, Default, Debug)]
pub struct Received {
    pub spans: Vec<Span>,
    /// Who sent the last batch.
    pub resource: Vec<KeyValue>,
    /// The last batch's `x-key`.
    pub key: Option<String>,
    /// Requests, also those that were not taken.
    pub requests: usize,
}

/// A listener that takes what comes. It ends with the test's runtime.
pub struct Collector {
    address: SocketAddr,
    received: watch::Receiver<Received>,
    state: Arc<State>,
}

struct State {
    tell: watch::Sender<Received>,
    /// The status of the next answers, and how many of them.
    refuse: AtomicUsize,
    status: AtomicUsize,
    /// Answers that may leave.
    gate: Semaphore,
}

impl Collector {
    /// Listens.
    pub async fn start() -> Collector {
        Collector::start_at((own_address(), 4318).into()).await
    }

    pub async fn start_at(address: SocketAddr) -> Collector {
        let listener = TcpListener::bind(address).await.unwrap();
        let (tell, received) = watch::channel(Received::default());
        let gate = Semaphore::new(Semaphore::MAX_PERMITS / 2);
        let state = Arc::new(State { tell, refuse: AtomicUsize::new(0), status: AtomicUsize::new(200), gate });
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&serving);
                tokio::spawn(async move {
                    let answer = service_fn(|request| answer(Arc::clone(&state), request));
                    // The edge may be killed in mid-request.
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        Collector { address, received, state }
    }

    /// As it stands in `endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers the next requests with this status, and takes nothing of them.
    pub fn refuse(&self, requests: usize, status: u16) {
        self.state.status.store(status.into(), Ordering::SeqCst);
        self.state.refuse.store(requests, Ordering::SeqCst);
    }

    /// Answers nobody from now on.
    pub fn stand_still(&self) {
        self.state.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// What has been received so far.
    pub fn now(&self) -> Received {
        self.received.borrow().clone()
    }

    /// Waits until what has been received is as wanted.
    pub async fn wait_for(&self, what: &str, wanted: impl Fn(&Received) -> bool) -> Received {
        let mut received = self.received.clone();
        let waited = async { received.wait_for(|received| wanted(received)).await.unwrap().clone() };
        match tokio::time::timeout(super::PATIENCE, waited).await {
            Ok(received) => received,
            Err(_) => panic!("no {what} in {:#?}", self.now()),
        }
    }

    /// Waits for so many spans, and gives them in the order of their start, requests before their attempts.
    pub async fn spans(&self, count: usize) -> Vec<Span> {
        let received = self.wait_for(&format!("{count} spans"), |received| received.spans.len() >= count).await;
        let mut spans = received.spans;
        spans.sort_by_key(|span| (span.start_time_unix_nano, std::cmp::Reverse(span.end_time_unix_nano)));
        assert_eq!(spans.len(), count, "{spans:#?}");
        spans
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let key = request.headers().get("x-key").map(|value| value.to_str().unwrap().to_owned());
    let well_formed = request.method() == "POST"
        && request.uri().path() == "/v1/traces"
        && request.headers()["content-type"] == "application/x-protobuf";
    let body = soon(request.into_body().collect()).await.unwrap().to_bytes();
    let decoded = ExportTraceServiceRequest::decode(body);
    let refused = state.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
    let _leaves = state.gate.acquire().await.unwrap();
    let status = match decoded {
        Ok(request) if well_formed && !refused => {
            state.tell.send_modify(|received| {
                received.requests += 1;
                received.key = key;
                for of_resource in request.resource_spans {
                    received.resource = of_resource.resource.unwrap().attributes;
                    received.spans.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
                }
            });
            200
        }
        Ok(_) if well_formed => {
            state.tell.send_modify(|received| received.requests += 1);
            state.status.load(Ordering::SeqCst) as u16
        }
        _ => 400,
    };
    Ok(Response::builder().status(status).body(Full::default()).unwrap())
}

/// An attribute as text; numbers too.
pub fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let value: &AnyValue = attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?;
    Some(match value.value.as_ref()? {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        Value::DoubleValue(number) => number.to_string(),
        Value::BoolValue(flag) => flag.to_string(),
        other => panic!("{other:?}"),
    })
}

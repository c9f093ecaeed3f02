//! The HTTP surface: which path, which fault, which dialect.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::body::SimBody;
use super::call::Refusal;
use super::fault::{Fault, FaultOrder};
use super::infer::{self, Spoilt};
use super::listen::Cut;
use super::metrics;
use super::replica::{MetricsPage, Replica};
use super::request_log::LoggedRequest;

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 64 << 20;

/// What a path asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
    Responses,
    Messages,
    CountTokens,
    Embeddings,
    Models,
    Health,
    Metrics,
    GpuMetrics,
    Fault,
}

impl Endpoint {
    fn find(method: &Method, path: &str) -> Result<Self, StatusCode> {
        let (wanted, endpoint) = match path {
            "/v1/chat/completions" => (Method::POST, Self::Chat),
            "/v1/completions" => (Method::POST, Self::Completions),
            "/v1/responses" => (Method::POST, Self::Responses),
            "/v1/messages" => (Method::POST, Self::Messages),
            "/v1/messages/count_tokens" => (Method::POST, Self::CountTokens),
            "/v1/embeddings" => (Method::POST, Self::Embeddings),
            "/v1/models" => (Method::GET, Self::Models),
            "/health" => (Method::GET, Self::Health),
            "/metrics" => (Method::GET, Self::Metrics),
            "/gpu/metrics" => (Method::GET, Self::GpuMetrics),
            "/sim/fault" => (Method::POST, Self::Fault),
            _ => return Err(StatusCode::NOT_FOUND),
        };
        if *method == wanted { Ok(endpoint) } else { Err(StatusCode::METHOD_NOT_ALLOWED) }
    }

    fn inference(self) -> bool {
        !matches!(self, Self::Models | Self::Health | Self::Metrics | Self::GpuMetrics | Self::Fault)
    }

    fn anthropic(self) -> bool {
        matches!(self, Self::Messages | Self::CountTokens)
    }
}

/// Answers one request.
pub(super) async fn handle(
    replica: Arc<Replica>,
    cut: Arc<Cut>,
    request: Request<Incoming>,
) -> Result<Response<SimBody>, Infallible> {
    let mut response = answer(&replica, &cut, request).await;
    if let Ok(name) = HeaderValue::from_str(&replica.params.name) {
        response.headers_mut().insert("x-sim-replica", name);
    }
    Ok(response)
}

async fn answer(replica: &Arc<Replica>, cut: &Arc<Cut>, request: Request<Incoming>) -> Response<SimBody> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => {
            return refuse(None, &Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broken off"));
        }
    };
    replica.stats.send_modify(|stats| stats.requests_total += 1);
    let path = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    replica.log.push(LoggedRequest {
        method: head.method.clone(),
        path,
        version: head.version,
        headers: head.headers,
        body: body.clone(),
    });
    if !replica.params.network_delay.is_zero() {
        tokio::time::sleep(replica.params.network_delay).await;
    }
    let endpoint = match Endpoint::find(&head.method, head.uri.path()) {
        Ok(endpoint) => endpoint,
        Err(status) => return refuse(None, &Refusal::new(status, "Not Found")),
    };
    let spoilt = match strike(replica, endpoint, cut).await {
        Ok(spoilt) => spoilt,
        Err(response) => return *response,
    };
    let answered = match endpoint {
        Endpoint::Models => Ok(json_body(StatusCode::OK, &models(replica))),
        Endpoint::Health => Ok(health(replica)),
        Endpoint::Metrics => metrics_page(replica).await,
        Endpoint::GpuMetrics => Ok(gpu_page(replica).await),
        Endpoint::Fault => order_fault(replica, &body),
        endpoint => infer::answer(replica, endpoint, &body, spoilt, cut).await,
    };
    answered.unwrap_or_else(|refusal| refuse(Some(endpoint), &refusal))
}

/// Shows the fault in force, if it befalls this request before its answer begins; else says how the answer is to be spoilt.
async fn strike(
    replica: &Arc<Replica>,
    endpoint: Endpoint,
    cut: &Arc<Cut>,
) -> Result<Option<Spoilt>, Box<Response<SimBody>>> {
    if matches!(endpoint, Endpoint::Metrics | Endpoint::GpuMetrics | Endpoint::Fault) {
        return Ok(None);
    }
    let Some(fault) = replica.faults.strike(endpoint.inference()) else {
        return Ok(None);
    };
    replica.stats.send_modify(|stats| stats.faults_total += 1);
    let refusal = match fault {
        // The listener closes with it; this request was already under way.
        Fault::Refuse => return Ok(None),
        Fault::Status { status, retry_after_s } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            Refusal { retry_after_s, ..Refusal::new(status, "told to fail") }
        }
        Fault::Loading => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "Loading model"),
        Fault::Stall => return std::future::pending().await,
        Fault::CloseBeforeHeaders => {
            cut.close();
            return std::future::pending().await;
        }
        Fault::ResetBeforeHeaders => {
            cut.reset();
            return std::future::pending().await;
        }
        Fault::StallAfterHeaders => return Ok(Some(Spoilt::StallAfterHeaders)),
        Fault::CutMidStream { after_events } => return Ok(Some(Spoilt::Cut(after_events))),
        Fault::StallMidStream { after_events } => return Ok(Some(Spoilt::Stall(after_events))),
        Fault::TruncatedBody => return Ok(Some(Spoilt::Truncate)),
        Fault::SlowPrefill { ms } => return Ok(Some(Spoilt::SlowPrefill(Duration::from_millis(ms.into())))),
    };
    Err(Box::new(refuse(Some(endpoint), &refusal)))
}

fn order_fault(replica: &Arc<Replica>, body: &[u8]) -> Result<Response<SimBody>, Refusal> {
    let (plan, heal_after) = FaultOrder::read(body).map_err(Refusal::bad)?;
    let replica = Arc::clone(replica);
    // In a task of its own: `refuse` closes the connection on which this very answer leaves.
    tokio::spawn(async move {
        if plan.is_some_and(|plan| plan.fault == Fault::Refuse) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // The listener's address can be taken meanwhile; then the replica stays away, which is what was asked for.
        let _ = replica.set_fault(plan).await;
        if let Some(delay) = heal_after {
            tokio::time::sleep(delay).await;
            let _ = replica.set_fault(None).await;
        }
    });
    Ok(json_body(StatusCode::OK, &json!({"fault": plan})))
}

fn health(replica: &Replica) -> Response<SimBody> {
    let status = if replica.driver().is_some() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    respond(status, "text/plain", Bytes::new())
}

async fn metrics_page(replica: &Replica) -> Result<Response<SimBody>, Refusal> {
    let page = match &replica.params.metrics {
        MetricsPage::Load => Bytes::from(metrics::text(&replica.params.model, &replica.stats.borrow())),
        MetricsPage::None => return Err(Refusal::new(StatusCode::NOT_FOUND, "Not Found")),
        MetricsPage::Silence => std::future::pending().await,
        MetricsPage::Bytes(bytes) => bytes.clone(),
    };
    Ok(exposition(page))
}

/// What an exporter beside the engine would show. It tells of GPUs, so it needs no living engine.
async fn gpu_page(replica: &Replica) -> Response<SimBody> {
    let utilization = match replica.driver() {
        Some(driver) => driver.utilization().await,
        None => 0.0,
    };
    exposition(Bytes::from(metrics::gpu_text(&replica.params.name, replica.params.gpus, utilization)))
}

fn exposition(page: Bytes) -> Response<SimBody> {
    respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
}

fn models(replica: &Replica) -> Value {
    let model = json!({
        "id": replica.params.model, "object": "model", "created": now_s(), "owned_by": "vllm",
        "root": replica.params.model, "parent": null, "max_model_len": replica.params.context_tokens,
    });
    json!({"object": "list", "data": [model]})
}

/// The dialect's error envelope.
fn refuse(endpoint: Option<Endpoint>, refusal: &Refusal) -> Response<SimBody> {
    let status = refusal.status;
    let body = if endpoint.is_some_and(Endpoint::anthropic) {
        let kind = match status.as_u16() {
            400 => "invalid_request_error",
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 | 529 => "overloaded_error",
            _ => "api_error",
        };
        json!({"type": "error", "error": {"type": kind, "message": refusal.message}})
    } else {
        let kind = match status.as_u16() {
            400 => "BadRequestError",
            404 => "NotFoundError",
            429 => "RateLimitError",
            503 => "ServiceUnavailableError",
            _ if status.is_client_error() => "BadRequestError",
            _ => "InternalServerError",
        };
        json!({"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": status.as_u16()}})
    };
    let mut response = json_body(status, &body);
    if let Some(seconds) = refusal.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A whole JSON answer.
pub(super) fn json_body(status: StatusCode, body: &Value) -> Response<SimBody> {
    respond(status, "application/json", Bytes::from(body.to_string()))
}

/// A JSON answer that breaks off in the middle.
pub(super) fn torn(body: &Value, cut: &Arc<Cut>) -> Response<SimBody> {
    let whole = Bytes::from(body.to_string());
    let half = whole.slice(..whole.len() / 2);
    let mut response = respond(StatusCode::OK, "application/json", Bytes::new());
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
    *response.body_mut() = SimBody::Torn(Some(half), Arc::clone(cut));
    response
}

/// An answer with this content type.
pub(super) fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<SimBody> {
    let mut response = Response::new(SimBody::Whole(Some(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Unix time, seconds.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

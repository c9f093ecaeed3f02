//! From a dialect's request through the engine to the dialect's answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Response, StatusCode};
use serde_json::json;

use super::answer::{Answer, Meta, Usage};
use super::body::{Live, Mid, MidFault, SimBody};
use super::call::{Call, Refusal};
use super::driver::{Job, SubmitError};
use super::embeddings::Embed;
use super::http::{Endpoint, json_body, now_s, respond, torn};
use super::listen::Cut;
use super::replica::Replica;
use super::{chat, completions, messages, responses};
use crate::sim::engine::{Event, Submit};

/// How an answer is to be spoilt.
#[derive(Debug, Clone, Copy)]
pub(super) enum Spoilt {
    StallAfterHeaders,
    Cut(u32),
    Stall(u32),
    Truncate,
    SlowPrefill(Duration),
}

/// Answers an inference request.
pub(super) async fn answer(
    replica: &Arc<Replica>,
    endpoint: Endpoint,
    body: &Bytes,
    spoilt: Option<Spoilt>,
    cut: &Arc<Cut>,
) -> Result<Response<SimBody>, Refusal> {
    let call = match endpoint {
        Endpoint::Completions => completions::read_call(body),
        Endpoint::Responses => responses::read_call(body, &replica.responses),
        Endpoint::Messages => messages::read_call(body, false),
        Endpoint::CountTokens => return count(replica, messages::read_call(body, true)?),
        Endpoint::Embeddings => return embed(replica, Embed::read(body)?, spoilt, cut).await,
        _ => chat::read_call(body, replica.params.prefill_trailing_assistant),
    }?;
    check_model(replica, call.model.as_deref())?;
    check_context(replica, call.prompt.tokens.len(), call.max_tokens)?;
    generate(replica, call, spoilt, cut).await
}

async fn generate(
    replica: &Arc<Replica>,
    mut call: Call,
    spoilt: Option<Spoilt>,
    cut: &Arc<Cut>,
) -> Result<Response<SimBody>, Refusal> {
    let number = replica.next_id();
    let meta = Meta { id: replica.answer_id(number), created_s: now_s(), model: replica.params.model.clone() };
    let answer = Answer::plan(&call, replica.params.answer_tokens, &meta.id);
    let usage = Usage { prompt: call.prompt.tokens.len(), cached: 0, completion: 0 };
    let submit = Submit {
        id: number,
        chain: answer.after(&call.prompt.tokens).chain(replica.params.engine.block_tokens),
        prompt_tokens: usage.prompt,
        output_tokens: answer.tokens,
        prefill_extra: prefill_extra(spoilt),
        pace: call.hints.pace().filter(|_| replica.params.keeps_pace),
    };
    let job = submit_to(replica, submit).await?;
    if let Some(Spoilt::StallAfterHeaders) = spoilt {
        return Ok(silent(call.stream));
    }
    if !call.stream {
        let usage = finish(job, usage).await?;
        let whole = call.voice.whole(&meta, &answer, &usage);
        return Ok(spoil_whole(&whole, spoilt, cut));
    }
    let mid = spoilt.and_then(|spoilt| mid_stream(spoilt, &answer));
    let live = Live {
        job,
        voice: call.voice,
        meta,
        answer,
        usage,
        mid,
        cut: Arc::clone(cut),
        out: VecDeque::new(),
        joins: replica.params.engine.stream_interval > 1,
        sent_events: 0,
        ended: false,
    };
    let mut response = respond(StatusCode::OK, "text/event-stream; charset=utf-8", Bytes::new());
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    *response.body_mut() = SimBody::Live(Box::new(live));
    Ok(response)
}

async fn embed(
    replica: &Arc<Replica>,
    embed: Embed,
    spoilt: Option<Spoilt>,
    cut: &Arc<Cut>,
) -> Result<Response<SimBody>, Refusal> {
    check_model(replica, embed.model.as_deref())?;
    let number = replica.next_id();
    let meta = Meta { id: replica.answer_id(number), created_s: now_s(), model: replica.params.model.clone() };
    let usage = Usage { prompt: embed.tokens(), cached: 0, completion: 0 };
    let submit = Submit {
        id: number,
        prompt_tokens: usage.prompt,
        output_tokens: 1,
        prefill_extra: prefill_extra(spoilt),
        ..Submit::default()
    };
    let job = submit_to(replica, submit).await?;
    if let Some(Spoilt::StallAfterHeaders) = spoilt {
        return Ok(silent(false));
    }
    let usage = finish(job, usage).await?;
    Ok(spoil_whole(&embed.answer(&meta, &usage), spoilt, cut))
}

fn count(replica: &Replica, call: Call) -> Result<Response<SimBody>, Refusal> {
    check_model(replica, call.model.as_deref())?;
    Ok(json_body(StatusCode::OK, &json!({"input_tokens": call.prompt.tokens.len()})))
}

fn check_model(replica: &Replica, model: Option<&str>) -> Result<(), Refusal> {
    match model {
        Some(model) if model != replica.params.model => {
            let message = format!("The model `{model}` does not exist.");
            Err(Refusal::new(StatusCode::NOT_FOUND, message).about("model"))
        }
        _ => Ok(()),
    }
}

fn check_context(replica: &Replica, prompt: u64, max_tokens: Option<u64>) -> Result<(), Refusal> {
    let Some(limit) = replica.params.context_tokens else {
        return Ok(());
    };
    // At least one token must be generated.
    let wanted = prompt.saturating_add(max_tokens.unwrap_or(1).max(1).min(limit));
    if wanted <= limit {
        return Ok(());
    }
    let message = format!(
        "This model's maximum context length is {limit} tokens. However, your request has {prompt} input tokens and asks for {} more.",
        wanted - prompt
    );
    Err(Refusal::bad(message).about("messages"))
}

async fn submit_to(replica: &Replica, submit: Submit) -> Result<Job, Refusal> {
    let dead = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the engine is dead");
    let driver = replica.driver().ok_or_else(dead)?;
    driver.submit(submit).await.map_err(|error| match error {
        SubmitError::Refused(crate::sim::engine::Refused::TooLarge { .. }) => Refusal::bad(error.to_string()),
        error => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    })
}

/// Waits for the whole answer.
async fn finish(mut job: Job, mut usage: Usage) -> Result<Usage, Refusal> {
    while let Some(event) = job.next().await {
        match event {
            Event::FirstToken { cached_tokens, .. } => {
                usage.cached = cached_tokens;
                usage.completion = 1;
            }
            Event::Tokens { index, count, .. } => usage.completion = index + count,
            Event::Finished { .. } => return Ok(usage),
        }
    }
    Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the engine died"))
}

fn prefill_extra(spoilt: Option<Spoilt>) -> Duration {
    match spoilt {
        Some(Spoilt::SlowPrefill(extra)) => extra,
        _ => Duration::ZERO,
    }
}

fn mid_stream(spoilt: Spoilt, answer: &Answer) -> Option<Mid> {
    let (after_events, what) = match spoilt {
        Spoilt::Cut(after_events) => (after_events, MidFault::Cut),
        Spoilt::Stall(after_events) => (after_events, MidFault::Stall),
        Spoilt::Truncate => (u32::try_from(answer.tokens / 2).unwrap_or(u32::MAX).max(1), MidFault::End),
        Spoilt::StallAfterHeaders | Spoilt::SlowPrefill(_) => return None,
    };
    Some(Mid { after_events, what })
}

fn spoil_whole(whole: &serde_json::Value, spoilt: Option<Spoilt>, cut: &Arc<Cut>) -> Response<SimBody> {
    match spoilt {
        None | Some(Spoilt::SlowPrefill(_)) => json_body(StatusCode::OK, whole),
        Some(Spoilt::Truncate | Spoilt::Cut(_)) => torn(whole, cut),
        Some(Spoilt::Stall(_) | Spoilt::StallAfterHeaders) => silent(false),
    }
}

/// Status and headers, and then nothing.
fn silent(stream: bool) -> Response<SimBody> {
    let content_type = if stream { "text/event-stream; charset=utf-8" } else { "application/json" };
    let mut response = respond(StatusCode::OK, content_type, Bytes::new());
    *response.body_mut() = SimBody::Never;
    response
}

//! The server over real sockets on loopback.

use super::*;
use crate::sim::client::Client;
use crate::sim::engine::Event;
use crate::sim::preset::Params;
use ::http::{Method, Request, Response};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";

async fn replica() -> ReplicaHandle {
    let mut params = ServerParams::new("a", MODEL);
    params.engine = params.engine.faster(50.0);
    spawn(params).await.unwrap()
}

fn request(path: &str, body: &Value) -> Request<Bytes> {
    let method = if body.is_null() { Method::GET } else { Method::POST };
    Request::builder().method(method).uri(path).body(Bytes::from(body.to_string())).unwrap()
}

async fn send(replica: &ReplicaHandle, path: &str, body: Value) -> Response<Incoming> {
    Client::new(&replica.url()).unwrap().send(request(path, &body)).await.unwrap()
}

async fn post(replica: &ReplicaHandle, path: &str, body: Value) -> (u16, Value) {
    let response = send(replica, path, body).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// The data of every SSE event, and whether the body ended as it should.
async fn stream(replica: &ReplicaHandle, path: &str, body: Value) -> (Vec<String>, bool) {
    let mut body = send(replica, path, body).await.into_body();
    let mut text = String::new();
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap()),
            Err(_) => whole = false,
        }
    }
    let data = text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect();
    (data, whole)
}

fn chat(text: &str, tokens: u64) -> Value {
    json!({"model": MODEL, "messages": [{"role": "user", "content": text}], "sim": {"tokens": tokens}})
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn chat_text(events: &[String]) -> String {
    events
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

async fn soon<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap()
}

#[tokio::test]
async fn a_streamed_chat_says_the_same_as_a_whole_one() {
    let replica = replica().await;
    let (status, whole) = post(&replica, "/v1/chat/completions", chat("Hello", 20)).await;
    assert_eq!(status, 200);
    assert_eq!(whole["usage"]["completion_tokens"], 20);
    let wish = with(chat("Hello", 20), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let (events, ended) = stream(&replica, "/v1/chat/completions", wish).await;
    assert!(ended);
    assert_eq!(chat_text(&events), whole["choices"][0]["message"]["content"].as_str().unwrap());
    assert_eq!(events.len(), 20 + 4);
    assert_eq!(events.last().unwrap(), "[DONE]");
    let first: Value = serde_json::from_str(&events[0]).unwrap();
    assert_eq!(first["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(20)));
}

#[tokio::test]
async fn a_longer_conversation_finds_its_prefix_in_the_cache() {
    let replica = replica().await;
    let text = "word ".repeat(2_000);
    let (_, first) = post(&replica, "/v1/chat/completions", chat(&text, 40)).await;
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    let messages = json!([
        {"role": "user", "content": text},
        {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
        {"role": "user", "content": "And now?"},
    ]);
    let (_, second) = post(&replica, "/v1/chat/completions", with(chat("", 5), json!({"messages": messages}))).await;
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached, (prompt + 40 - 1) / 16 * 16);
}

#[tokio::test]
async fn a_resumed_stream_continues_the_text_in_every_dialect() {
    let replica = replica().await;
    let (_, whole) = post(&replica, "/v1/chat/completions", chat("Hello", 20)).await;
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let messages = json!([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": &text[..28]}]);
    let resume = json!({"messages": messages, "continue_final_message": true, "add_generation_prompt": false});
    let (_, rest) = post(&replica, "/v1/chat/completions", with(chat("", 20), resume)).await;
    assert_eq!(rest["choices"][0]["message"]["content"], text[28..]);
    let wrong = json!({"messages": messages, "continue_final_message": true});
    assert_eq!(post(&replica, "/v1/chat/completions", with(chat("", 20), wrong)).await.0, 400);

    let ask = |messages: Value| json!({"model": MODEL, "max_tokens": 99, "messages": messages, "sim": {"tokens": 20}});
    let (_, whole) = post(&replica, "/v1/messages", ask(json!([{"role": "user", "content": "Hello"}]))).await;
    assert_eq!(whole["content"][0]["text"], text);
    let (_, rest) = post(&replica, "/v1/messages", ask(messages)).await;
    assert_eq!(rest["content"][0]["text"], text[28..]);

    let ask = |prompt: &str| json!({"model": MODEL, "prompt": prompt, "sim": {"tokens": 20}});
    let (_, whole) = post(&replica, "/v1/completions", ask("Once")).await;
    let text = whole["choices"][0]["text"].as_str().unwrap().to_owned();
    let (_, rest) = post(&replica, "/v1/completions", ask(&format!("Once{}", &text[..12]))).await;
    assert_eq!(rest["choices"][0]["text"], text[12..]);
    assert_eq!(rest["usage"]["completion_tokens"], 17);
}

#[tokio::test]
async fn token_ids_replay_a_chat_as_a_completion() {
    let replica = replica().await;
    let wish = with(chat("Hello", 12), json!({"stream": true, "return_token_ids": true}));
    let (events, _) = stream(&replica, "/v1/chat/completions", wish).await;
    let chunks: Vec<Value> = events.iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
    let mut ids = chunks[0]["prompt_token_ids"].as_array().unwrap().clone();
    for chunk in &chunks[1..6] {
        ids.extend(chunk["choices"][0]["token_ids"].as_array().unwrap().clone());
    }
    let (_, rest) =
        post(&replica, "/v1/completions", json!({"model": MODEL, "prompt": ids, "sim": {"tokens": 12}})).await;
    assert_eq!(rest["choices"][0]["text"], chat_text(&events)[20..]);
}

#[tokio::test]
async fn another_model_is_not_found_in_the_dialects_envelope() {
    let replica = replica().await;
    let (status, error) = post(&replica, "/v1/chat/completions", with(chat("x", 1), json!({"model": "small"}))).await;
    assert_eq!((status, error["error"]["message"].as_str()), (404, Some("The model `small` does not exist.")));
    let ask = json!({"model": "small", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]});
    let (status, error) = post(&replica, "/v1/messages", ask).await;
    assert_eq!((status, error["error"]["type"].as_str()), (404, Some("not_found_error")));
    assert_eq!(post(&replica, "/v1/chat/completions", json!({"model": MODEL})).await.0, 400);
    assert_eq!(post(&replica, "/v1/nothing", json!({})).await.0, 404);
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_request() {
    let replica = replica().await;
    let paced = json!({"stream": true, "sim": {"tokens": 10_000, "itl_ms": 20}});
    let mut client = Client::new(&replica.url()).unwrap();
    let mut response = client.send(request("/v1/chat/completions", &with(chat("x", 1), paced))).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(replica.stats().engine.running, 1);
    drop(response);
    client.close();
    let stats = soon(replica.wait_for(|stats| stats.cancelled_total == 1)).await;
    assert_eq!(stats.engine.running, 0);

    let unstreamed = with(chat("x", 1), json!({"sim": {"tokens": 10_000, "itl_ms": 20}}));
    let mut client = Client::new(&replica.url()).unwrap();
    let call = tokio::spawn(async move { client.send(request("/v1/chat/completions", &unstreamed)).await.is_ok() });
    soon(replica.wait_for(|stats| stats.engine.running == 1)).await;
    call.abort();
    soon(replica.wait_for(|stats| stats.cancelled_total == 2 && stats.engine.running == 0)).await;
}

#[tokio::test]
async fn a_forced_pace_is_kept() {
    let replica = replica().await;
    let started = Instant::now();
    let paced = with(chat("x", 1), json!({"stream": true, "sim": {"tokens": 40, "itl_ms": 10, "prefill_ms": 50}}));
    let (events, _) = stream(&replica, "/v1/chat/completions", paced).await;
    assert_eq!(events.len(), 40 + 3);
    assert!(started.elapsed() >= Duration::from_millis(50 + 390));
}

#[tokio::test]
async fn faults_show_as_they_are_told() {
    let replica = replica().await;
    let ask = || chat("x", 30);
    let streamed = || with(chat("x", 30), json!({"stream": true}));
    let fault = Fault::Status { status: 429, retry_after_s: Some(7) };
    replica.set_fault(FaultPlan::from(fault).times(1)).await.unwrap();
    let response = send(&replica, "/v1/chat/completions", ask()).await;
    assert_eq!((response.status().as_u16(), &response.headers()["retry-after"]), (429, &"7".parse().unwrap()));
    assert_eq!(post(&replica, "/v1/chat/completions", ask()).await.0, 200);

    replica.set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 5 }).times(1)).await.unwrap();
    let (events, whole) = stream(&replica, "/v1/chat/completions", streamed()).await;
    assert_eq!((events.len(), whole), (5, false));

    replica.set_fault(FaultPlan::from(Fault::TruncatedBody).times(2)).await.unwrap();
    let (events, whole) = stream(&replica, "/v1/chat/completions", streamed()).await;
    assert!(whole && !events.iter().any(|data| data == "[DONE]"));
    let torn = send(&replica, "/v1/chat/completions", ask()).await;
    assert!(torn.into_body().collect().await.is_err());

    for fault in [Fault::CloseBeforeHeaders, Fault::ResetBeforeHeaders] {
        replica.set_fault(FaultPlan::from(fault).times(1)).await.unwrap();
        let mut client = Client::new(&replica.url()).unwrap();
        assert!(soon(client.send(request("/v1/chat/completions", &ask()))).await.is_err());
    }
    replica.set_fault(FaultPlan::from(Fault::StallMidStream { after_events: 3 }).times(1)).await.unwrap();
    let mut stalled = send(&replica, "/v1/chat/completions", streamed()).await.into_body();
    for _ in 0..3 {
        soon(stalled.frame()).await.unwrap().unwrap();
    }
    let silence = tokio::time::timeout(Duration::from_millis(200), stalled.frame()).await;
    assert!(silence.is_err());

    replica.set_fault(FaultPlan::from(Fault::Loading)).await.unwrap();
    assert_eq!(send(&replica, "/health", Value::Null).await.status(), 503);
    assert_eq!(post(&replica, "/v1/chat/completions", ask()).await.1["error"]["message"], "Loading model");
    replica.set_fault(None).await.unwrap();
    assert_eq!(send(&replica, "/health", Value::Null).await.status(), 200);
}

#[tokio::test]
async fn a_fault_that_there_is_none_of_is_refused_with_those_that_there_are() {
    let replica = replica().await;
    for (order, says) in [
        (json!({"fault": "hang"}), "`cut_mid_stream`"),
        (json!({"fault": "status"}), "missing field `status`"),
        (json!({}), "missing field `fault`"),
    ] {
        let (status, body) = post(&replica, "/sim/fault", order).await;
        let message = body["error"]["message"].as_str().unwrap().to_owned();
        assert!(status == 400 && message.contains(says) && message.contains(r#"{"fault":"none"}"#), "{message}");
    }
}

#[tokio::test]
async fn silent_faults_answer_nothing() {
    let replica = replica().await;
    replica.set_fault(FaultPlan::from(Fault::Stall).times(1)).await.unwrap();
    let mut client = Client::new(&replica.url()).unwrap();
    let unanswered = request("/v1/chat/completions", &chat("x", 1));
    let waited = tokio::time::timeout(Duration::from_millis(200), client.send(unanswered)).await;
    assert!(waited.is_err());
    assert_eq!(replica.stats().faults_total, 1);
    replica.set_fault(FaultPlan::from(Fault::StallAfterHeaders).times(1)).await.unwrap();
    let mut response = send(&replica, "/v1/chat/completions", with(chat("x", 1), json!({"stream": true}))).await;
    assert_eq!(response.status(), 200);
    let waited = tokio::time::timeout(Duration::from_millis(200), response.body_mut().frame()).await;
    assert!(waited.is_err());
}

#[tokio::test]
async fn a_killed_replica_refuses_and_comes_back_cold_on_its_address() {
    let replica = replica().await;
    let addr = replica.addr();
    let long = with(chat("x", 1), json!({"stream": true, "sim": {"tokens": 10_000, "itl_ms": 20}}));
    let mut open = send(&replica, "/v1/chat/completions", long).await.into_body();
    soon(open.frame()).await.unwrap().unwrap();
    replica.stop().await;
    let cut = soon(async {
        while let Some(frame) = open.frame().await {
            if frame.is_err() {
                return true;
            }
        }
        false
    });
    assert!(cut.await);
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
    assert_eq!((replica.stats().connections, replica.stats().engine.running), (0, 0));
    replica.restart().await.unwrap();
    assert_eq!(replica.addr(), addr);
    let (status, answer) = post(&replica, "/v1/chat/completions", chat("x", 1)).await;
    assert_eq!((status, &answer["usage"]["prompt_tokens_details"]["cached_tokens"]), (200, &json!(0)));
}

#[tokio::test]
async fn refusing_is_told_and_healed_over_http() {
    let replica = replica().await;
    let (status, _) = post(&replica, "/sim/fault", json!({"fault": "refuse", "for_ms": 300})).await;
    assert_eq!(status, 200);
    soon(async {
        while tokio::net::TcpStream::connect(replica.addr()).await.is_ok() {
            tokio::task::yield_now().await
        }
    })
    .await;
    soon(async {
        while tokio::net::TcpStream::connect(replica.addr()).await.is_err() {
            tokio::task::yield_now().await
        }
    })
    .await;
    assert_eq!(post(&replica, "/v1/chat/completions", chat("x", 1)).await.0, 200);
}

#[tokio::test]
async fn tool_calls_are_streamed_and_remembered() {
    let replica = replica().await;
    let tools = json!([{"type": "function", "function": {"name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}]);
    let wish = with(chat("What is the weather?", 1), json!({"tools": tools, "stream": true}));
    let (events, _) = stream(&replica, "/v1/chat/completions", wish).await;
    let chunks: Vec<Value> = events.iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
    let calls: Vec<&Value> = chunks
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
        .filter(|call| !call.is_null())
        .collect();
    assert_eq!(calls[0]["function"]["name"], "get_weather");
    let arguments: String = calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
    let arguments: Value = serde_json::from_str(&arguments).unwrap();
    assert_eq!(arguments["days"], 1);
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn responses_are_remembered_here_and_nowhere_else() {
    let replica = replica().await;
    let (_, first) =
        post(&replica, "/v1/responses", json!({"model": MODEL, "input": "Hello", "sim": {"tokens": 8}})).await;
    let next = json!({"model": MODEL, "input": "And?", "previous_response_id": first["id"], "sim": {"tokens": 8}});
    let (status, second) = post(&replica, "/v1/responses", next.clone()).await;
    assert_eq!((status, second["status"].as_str()), (200, Some("completed")));
    assert!(second["usage"]["input_tokens"].as_u64() > first["usage"]["input_tokens"].as_u64());
    replica.stop().await;
    replica.restart().await.unwrap();
    assert_eq!(post(&replica, "/v1/responses", next).await.0, 404);
}

#[tokio::test]
async fn metrics_and_log_show_what_happened() {
    let replica = replica().await;
    post(&replica, "/v1/chat/completions", chat(&"word ".repeat(100), 3)).await;
    let page = send(&replica, "/metrics", Value::Null).await.into_body().collect().await.unwrap().to_bytes();
    let page = String::from_utf8(page.to_vec()).unwrap();
    let running = format!("vllm:num_requests_running{{engine=\"0\",model_name=\"{MODEL}\"}} 0\n");
    assert!(page.contains(&running), "{page}");
    assert!(page.contains("vllm:cache_config_info{block_size=\"16\",num_gpu_blocks=\"93750\","), "{page}");
    assert!(page.contains("vllm:prefix_cache_queries_total{"));
    let logged = replica.requests();
    assert_eq!(logged[0].path, "/v1/chat/completions");
    assert_eq!(serde_json::from_slice::<Value>(&logged[0].body).unwrap()["model"], MODEL);
    let embedded = post(&replica, "/v1/embeddings", json!({"model": MODEL, "input": ["a", "b"]})).await.1;
    assert_eq!(embedded["data"][1]["embedding"].as_array().unwrap().len(), 64);
}

#[tokio::test]
async fn a_slow_prefill_keeps_the_gpus_busy_until_it_is_healed() {
    let page = async |replica: &ReplicaHandle| {
        let page = send(replica, "/gpu/metrics", Value::Null).await.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(page.to_vec()).unwrap()
    };
    let replica =
        spawn(ServerParams { engine: Params::instant(), gpus: 2, ..ServerParams::new("a", MODEL) }).await.unwrap();
    let idle = page(&replica).await;
    assert_eq!(idle.lines().filter(|line| line.ends_with("} 0")).count(), 2, "{idle}");
    replica.set_fault(FaultPlan::from(Fault::SlowPrefill { ms: 400 })).await.unwrap();
    let begun = Instant::now();
    assert_eq!(post(&replica, "/v1/chat/completions", chat("Hello", 3)).await.0, 200);
    assert!(begun.elapsed() >= Duration::from_millis(400));
    let busy = page(&replica).await;
    assert!(!busy.contains("} 0\n"), "{busy}");
    replica.set_fault(None).await.unwrap();
    assert_eq!(post(&replica, "/v1/chat/completions", chat("Hello again", 3)).await.0, 200);
    assert_eq!(replica.stats().faults_total, 1);
}

#[tokio::test]
async fn a_body_of_thirty_two_mebibytes_is_taken() {
    let params = ServerParams { engine: crate::sim::preset::Params::instant(), ..ServerParams::new("a", MODEL) };
    let replica = spawn(params).await.unwrap();
    let (status, answer) = post(&replica, "/v1/chat/completions", chat(&"x".repeat(32 << 20), 2)).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 8 << 20);
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_spoken() {
    let replica = replica().await;
    let stream = tokio::net::TcpStream::connect(replica.addr()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::new(Bytes::from(with(chat("x", 9), json!({"stream": true})).to_string()));
    let request = Request::post(format!("{}/v1/chat/completions", replica.url())).body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["x-sim-replica"], "a");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_dropped_job_is_cancelled_even_before_its_first_token() {
    let stats = std::sync::Arc::new(tokio::sync::watch::Sender::new(ServerStats::default()));
    let mut seen = stats.subscribe();
    let (driver, _task) = driver::Driver::start(crate::sim::preset::Preset::Measured.params(), stats);
    let submit = crate::sim::engine::Submit { id: 1, prompt_tokens: 900_000, output_tokens: 2, ..Default::default() };
    let job = driver.submit(submit).await.unwrap();
    drop(job);
    soon(seen.wait_for(|stats| stats.cancelled_total == 1)).await.unwrap();
    let submit = crate::sim::engine::Submit { id: 2, prompt_tokens: 1, output_tokens: 1, ..Default::default() };
    let mut job = driver.submit(submit).await.unwrap();
    assert!(matches!(soon(job.next()).await, Some(Event::FirstToken { id: 2, .. })));
}

#[tokio::test]
async fn it_is_started_again_at_its_address_also_while_processes_are_started_around_it() {
    let mut params = ServerParams::new("a", MODEL);
    // No connection begins there, which could have the port meanwhile.
    params.listen = "127.9.9.9:0".parse().unwrap();
    let replica = spawn(params).await.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let starting: Vec<_> = (0..2)
        .map(|_| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            })
        })
        .collect();
    for _ in 0..100 {
        replica.stop().await;
        TcpStream::connect(replica.addr()).await.unwrap_err();
        replica.restart().await.unwrap();
        TcpStream::connect(replica.addr()).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    starting.into_iter().for_each(|thread| thread.join().unwrap());
}

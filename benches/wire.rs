//! Throughput of what every request's bytes go through. `cargo bench --bench wire`.

#![allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nearpool::domain::ask::{Dialect, Endpoint};
use nearpool::wire::body::Body;
use nearpool::wire::geoip::GeoDb;
use nearpool::wire::prompt;
use nearpool::wire::resume::Told;
use nearpool::wire::scan::{Scan, ScanError, Scanner};
use nearpool::wire::sse::{Framer, Progress};
use nearpool::wire::usage::{Meter, Usage};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

const KIB: usize = 1024;

/// A chat body as agents send it, `model` last (as Go and some Node clients write it): prose and code, so an escape every
/// 60–80 bytes, one tool's schema, several messages.
fn chat_body(bytes: usize) -> Vec<u8> {
    let prose = "The function below keeps one counter for each replica and gives the least loaded back to the caller.\n\
                 It says \"none\" when every one of them is at its bound, so that the request is shed early and not queued.\n";
    let code = "\tfor (index, replica) in self.replicas.iter().enumerate() {\n\t\tif replica.in_flight < bound {\n\
                \t\t\tdebug!(\"candidate {}\", replica.name);\n\t\t\tbest = best.min((replica.in_flight, index));\n\t\t}\n\t}\n";
    let schema = r#"{"type":"function","function":{"name":"read_file","description":"Reads a file.","parameters":{"type":"object","properties":{"path":{"type":"string"},"limit":{"type":"integer","minimum":1}},"required":["path"]}}}"#;
    let mut messages = Vec::new();
    let mut total = schema.len() + 120;
    while total < bytes {
        let text = [prose, code].concat().repeat(8);
        let take = text.len().min(bytes.saturating_sub(total + 40).max(1));
        let role = if messages.len() % 2 == 0 { "user" } else { "assistant" };
        let message = serde_json::json!({ "role": role, "content": &text[..take] }).to_string();
        total += message.len() + 1;
        messages.push(message);
    }
    let messages = messages.join(",");
    format!(
        r#"{{"messages":[{messages}],"tools":[{schema}],"stream":true,"temperature":0.2,"max_tokens":1024,"model":"llama-3.1-8b"}}"#
    )
    .into_bytes()
}

fn scan(chunks: &[Bytes]) -> Result<Scan, ScanError> {
    let mut scanner = Scanner::new();
    chunks.iter().try_for_each(|chunk| scanner.push(chunk))?;
    scanner.finish()
}

fn rewrite(chunks: &[Bytes]) -> Vec<Bytes> {
    let mut body = Body::new();
    let mut scanner = Scanner::new();
    for chunk in chunks {
        scanner.push(chunk).expect("valid");
        body.push(chunk.clone());
    }
    let model = scanner.finish().expect("whole").model.expect("named");
    body.edited(vec![(model.range, Bytes::from_static(b"\"meta-llama/Llama-3.1-8B-Instruct\""))])
}

/// What a conversation as agents send it costs to hash, once it has been scanned: as it is, with each message in a block
/// and the last one marked (as Anthropic's clients send it), in one message, as one image, and as one text.
fn prompts(c: &mut Criterion) {
    let chat = chat_body(1024 * KIB);
    let value: serde_json::Value = serde_json::from_slice(&chat).expect("valid");
    let mut blocks = value.clone();
    let mut text = String::new();
    for message in blocks["messages"].as_array_mut().expect("a list") {
        let content = message["content"].take();
        text.push_str(content.as_str().expect("text"));
        message["content"] = serde_json::json!([{ "type": "text", "text": content }]);
    }
    let last = blocks["messages"].as_array().map_or(0, |messages| messages.len() - 1);
    blocks["messages"][last]["content"][0]["cache_control"] = serde_json::json!({ "type": "ephemeral" });
    let one = serde_json::json!({ "messages": [{ "role": "user", "content": text }] });
    let completion = serde_json::json!({ "prompt": text });
    let screenshot = format!("data:image/png;base64,{}", "iVBORw0KGgoAAAANSUhEUgAA+/".repeat(1024 * KIB / 26));
    let image = serde_json::json!({ "type": "image_url", "image_url": { "url": screenshot } });
    let image =
        serde_json::json!({ "messages": [{ "role": "user", "content": [{ "type": "text", "text": "See?" }, image] }] });
    let mut group = c.benchmark_group("prompt_1MiB");
    group.throughput(Throughput::Bytes(chat.len() as u64)).sample_size(50);
    for (name, endpoint, body) in [
        ("chat", Endpoint::Chat, chat),
        ("marked_blocks", Endpoint::Messages, blocks.to_string().into_bytes()),
        ("one_message", Endpoint::Chat, one.to_string().into_bytes()),
        ("image", Endpoint::Chat, image.to_string().into_bytes()),
        ("completion", Endpoint::Completions, completion.to_string().into_bytes()),
    ] {
        let chunks: Vec<Bytes> = body.chunks(16 * KIB).map(Bytes::copy_from_slice).collect();
        let scan = scan(&chunks).expect("valid");
        let mut body = Body::new();
        chunks.into_iter().for_each(|chunk| body.push(chunk));
        assert!(prompt::read(&scan, &body, endpoint).conversation.is_some());
        group.bench_function(name, |b| b.iter(|| prompt::read(black_box(&scan), black_box(&body), endpoint)));
    }
    group.finish();
}

#[derive(Deserialize)]
struct Skipped<'a> {
    #[serde(borrow)]
    model: &'a RawValue,
    #[serde(default)]
    stream: bool,
}

fn bodies(c: &mut Criterion) {
    for size in [KIB, 32 * KIB, 256 * KIB, 1024 * KIB, 16 * 1024 * KIB] {
        let flat = chat_body(size);
        let chunks: Vec<Bytes> = flat.chunks(16 * KIB).map(Bytes::copy_from_slice).collect();
        let mut group = c.benchmark_group("body");
        group.throughput(Throughput::Bytes(flat.len() as u64)).sample_size(20);
        let name = format!("{}KiB", size / KIB);
        group.bench_function(BenchmarkId::new("scan", &name), |b| b.iter(|| scan(black_box(&chunks)).expect("valid")));
        group.bench_function(BenchmarkId::new("scan_splice", &name), |b| b.iter(|| rewrite(black_box(&chunks))));
        group.bench_function(BenchmarkId::new("serde_ignored", &name), |b| {
            b.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(&flat)).expect("valid"));
        });
        group.bench_function(BenchmarkId::new("serde_skip", &name), |b| {
            b.iter(|| {
                let skipped: Skipped<'_> = serde_json::from_slice(black_box(&flat)).expect("valid");
                (skipped.model.get().len(), skipped.stream)
            });
        });
        if size <= 1024 * KIB {
            group.bench_function(BenchmarkId::new("serde_value", &name), |b| {
                b.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&flat)).expect("valid"));
            });
        }
        group.bench_function(BenchmarkId::new("memcpy", &name), |b| b.iter(|| black_box(&flat).clone()));
        group.finish();
    }
}

/// A chat stream of 1,000 events as vLLM sends it.
fn events() -> Vec<Vec<u8>> {
    (0..1000)
        .map(|index| {
            format!(
                "data: {{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1795347307,\"model\":\
                 \"meta-llama/Llama-3.1-8B-Instruct\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word{index}\"}},\
                 \"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n"
            )
            .into_bytes()
        })
        .collect()
}

fn relay(chunks: &[Bytes]) -> (Progress, Option<Usage>, usize) {
    let (mut framer, mut progress, mut meter) = (Framer::new(), Progress::new(Dialect::Chat), Meter::new());
    let mut forwarded = 0;
    for chunk in chunks {
        let framed = framer.push(chunk.clone(), |event| {
            progress.note(event);
            meter.event(event);
        });
        forwarded += framed.expect("short").into_parts().map(|part| part.len()).sum::<usize>();
    }
    (progress, meter.usage(), forwarded)
}

/// What it costs to know at any time what the client was told.
fn follow(events: &[Bytes]) -> bool {
    let mut told = Told::new(Dialect::Chat).expect("a dialect that is followed");
    for event in events {
        told.note(event);
    }
    told.obstacle().is_none()
}

fn streams(c: &mut Criterion) {
    let events = events();
    let flat = events.concat();
    let one_each: Vec<Bytes> = events.iter().map(|event| Bytes::copy_from_slice(event)).collect();
    let cut = |size| flat.chunks(size).map(Bytes::copy_from_slice).collect::<Vec<_>>();
    let mut group = c.benchmark_group("sse_1000_events");
    group.throughput(Throughput::Elements(1000)).sample_size(20);
    group.bench_function("followed", |b| b.iter(|| assert!(follow(black_box(&one_each)))));
    for (name, chunks) in [("one_a_chunk", one_each), ("by_16KiB", cut(16 * KIB)), ("by_100_bytes", cut(100))] {
        group.bench_function(name, |b| b.iter(|| relay(black_box(&chunks))));
    }
    group.finish();
}

fn places(c: &mut Criterion) {
    let db = GeoDb::from_bytes(include_bytes!("../tests/data/mini-city.mmdb").as_slice()).expect("valid");
    let address = "127.3.0.1".parse().expect("an address");
    c.bench_function("geoip_lookup", |b| b.iter(|| db.lookup(black_box(address))));
}

criterion_group!(benches, bodies, prompts, streams, places);
criterion_main!(benches);

//! Tokens are counted of every answer, and no client sees more of it than it asked for.

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use crate::support::{
    Edge, EdgeConfig, H2, Http1, Pool, SERVED, Scripted, calls, chat, json_body, post, sim, sim_with, with,
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn streams() -> [(&'static str, Value); 2] {
    let sim = json!({"tokens": 20});
    [
        (CHAT, with(chat("Hello", 20), json!({"stream": true}))),
        (COMPLETIONS, json!({"model": "m", "stream": true, "sim": sim, "prompt": "Hello"})),
    ]
}

/// Events of a stream without what differs from call to call.
fn events(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).unwrap();
    let data = text.split_terminator("\n\n").map(|event| event.strip_prefix("data: ").unwrap());
    data.map(|data| match serde_json::from_str(data) {
        Ok(Value::Object(mut chunk)) => {
            chunk.retain(|key, _| key != "id" && key != "created");
            Value::Object(chunk)
        }
        _ => json!(data),
    })
    .collect()
}

#[tokio::test]
async fn a_client_that_did_not_ask_for_usage_sees_none_and_its_tokens_are_counted() {
    for (path, body) in streams() {
        let alone = sim("alone").await;
        let direct = with(body.clone(), json!({"model": SERVED}));
        let direct = events(&Http1::connect(alone.addr()).await.call(&post(path, &direct)).await.body);
        let replica = sim("alone").await;
        let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
        for options in [json!({}), json!({"stream_options": null}), json!({"stream_options": {"include_usage": false}})]
        {
            let body = with(body.clone(), options);
            let over_http1 = Http1::connect(edge.agents()).await.call(&post(path, &body)).await;
            let over_h2 = H2::connect(edge.agents()).await.call(path, &[], &body).await;
            for answer in [over_http1, over_h2] {
                assert_eq!(events(&answer.body), direct, "{path} {body}");
            }
        }
        for call in calls(&replica) {
            let body: Value = serde_json::from_slice(&call.body).unwrap();
            assert_eq!(body["stream_options"], json!({"include_usage": true}));
        }
        let lines = edge.wait_for_logs(6, |line| line["endpoint"] == path).await;
        assert!(lines.iter().all(|line| line["tokens"]["completion"] == 20), "{lines:?}");
        assert_eq!(edge.metric("nearpool_completion_tokens_total{pool=\"near\"}").await, 120.0);
    }
}

#[tokio::test]
async fn a_client_that_asked_itself_gets_everything_as_it_came() {
    let replica = sim("a").await;
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    for (path, body) in streams() {
        let body = with(body, json!({"stream_options": {"include_usage": true}}));
        let answer = Http1::connect(edge.agents()).await.call(&post(path, &body)).await;
        let events = events(&answer.body);
        assert_eq!(events[events.len() - 2]["usage"]["completion_tokens"], 20);
        let got: Value = serde_json::from_slice(&calls(&replica).last().unwrap().body).unwrap();
        assert_eq!(got, with(body, json!({"model": SERVED})));
    }
}

/// An engine of OpenAI's kind that says `usage` in every event, its bytes in pieces of this size.
async fn nulls(piece: usize, options: Value) -> (Value, String) {
    let mut replica = Scripted::start().await;
    let pool = Pool::new("near", "here", "m").replica("scripted", &replica.url()).line("engine = \"openai\"");
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &with(chat("x", 1), with(json!({"stream": true}), options)))).await;
    let mut upstream = replica.next().await;
    upstream.begin_stream().await;
    for bytes in SAID.as_bytes().chunks(piece) {
        upstream.chunk(bytes).await;
    }
    upstream.send("0\r\n\r\n").await;
    let answer = client.answer().await;
    let line = edge.wait_for_log(|line| line["status"] == 200).await;
    assert_eq!(line["tokens"], json!({"prompt": 9, "cached": 8, "completion": 3}));
    let cold = "nearpool_ttft_seconds_count{cache=\"warm\",model=\"m\",pool=\"near\"}";
    assert_eq!(edge.metric(cold).await, 1.0);
    assert_eq!(edge.metric("nearpool_prompt_tokens_total{kind=\"cached\",pool=\"near\"}").await, 8.0);
    assert_eq!(edge.metric("nearpool_prompt_tokens_total{kind=\"computed\",pool=\"near\"}").await, 1.0);
    (json_body(&upstream.request), String::from_utf8(answer.body.to_vec()).unwrap())
}

const SAID: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a \\\"usage\\\":null\"}}],\"usage\":null,\"obfuscation\":\"}{\"}\n\n",
    ": still here \"usage\":null}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\n",
    "data: [DONE]\n\n",
);

#[tokio::test]
async fn nulls_that_asking_caused_are_taken_out_however_the_stream_comes() {
    let bare = SAID.replace(",\"usage\":null", "");
    let report = bare.find("data: {\"choices\":[],").unwrap();
    let expected = format!("{}data: [DONE]\n\n", &bare[..report]);
    for piece in [1, 7, 64, 1_000] {
        let (request, seen) = nulls(piece, json!({})).await;
        assert_eq!(request["stream_options"], json!({"include_usage": true}));
        assert_eq!(seen, expected, "{piece}");
    }
    assert_eq!(nulls(7, json!({"stream_options": {"include_usage": true}})).await.1, SAID);
}

#[tokio::test]
async fn a_pool_that_says_so_is_not_asked_also_when_it_is_tried_second() {
    for (first, second) in [(true, false), (false, true)] {
        let (a, b) = (sim("a").await, sim("b").await);
        let pool = |name: &str, region: &str, asked: bool| {
            Pool::new(name, region, "m").line(&format!("include_usage = {asked}"))
        };
        let config = EdgeConfig::new()
            .region("far", 50.11, 8.68)
            .pool(pool("near", "here", first).sims(&[&a]))
            .pool(pool("far", "far", second).sims(&[&b]));
        let edge = Edge::start(config).await;
        a.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
        let body = with(chat("x", 5), json!({"stream": true}));
        let answer = Http1::connect(edge.agents()).await.call(&post(CHAT, &body)).await;
        assert_eq!((answer.status, answer.header("x-nearpool-replica")), (200, Some("b")));
        assert!(events(&answer.body).iter().all(|event| event["usage"].is_null()));
        for (replica, asked) in [(&a, first), (&b, second)] {
            let got: Value = serde_json::from_slice(&calls(replica)[0].body).unwrap();
            assert_eq!(got["stream_options"]["include_usage"], if asked { json!(true) } else { Value::Null });
        }
        let line = edge.wait_for_log(|line| line["status"] == 200).await;
        assert_eq!(line["tokens"]["completion"].is_null(), !second);
    }
}

#[tokio::test]
async fn llama_cpp_is_not_asked_and_options_that_are_none_reach_the_engine() {
    let replica = sim("a").await;
    let llama = Pool::new("near", "here", "m").line("engine = \"llama.cpp\"").sims(&[&replica]);
    let edge = Edge::start(EdgeConfig::new().pool(llama)).await;
    let body = with(chat("x", 5), json!({"stream": true}));
    assert_eq!(Http1::connect(edge.agents()).await.call(&post(CHAT, &body)).await.status, 200);
    let got: Value = serde_json::from_slice(&calls(&replica)[0].body).unwrap();
    assert!(got.get("stream_options").is_none());
    let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
    let body = with(body, json!({"stream_options": ["include_usage"]}));
    let answer = Http1::connect(edge.agents()).await.call(&post(CHAT, &body)).await;
    let got: Value = serde_json::from_slice(&calls(&replica)[1].body).unwrap();
    assert_eq!((got["stream_options"].clone(), answer.status), (json!(["include_usage"]), 400), "its own words");
}

#[tokio::test]
async fn an_answer_that_another_replica_ends_tells_no_usage_either_and_all_tokens_are_counted() {
    for (path, body) in streams() {
        let (a, b) = (sim("a").await, sim("b").await);
        let config = EdgeConfig::new()
            .region("far", 50.11, 8.68)
            .pool(Pool::new("near", "here", "m").sims(&[&a]))
            .pool(Pool::new("far", "far", "m").sims(&[&b]));
        let edge = Edge::start(config).await;
        let whole = Http1::connect(edge.agents()).await.call(&post(path, &body)).await;
        let text = |body: &[u8]| -> String {
            let choice = |event: Value| event["choices"][0].clone();
            let text =
                |choice: Value| choice["delta"]["content"].as_str().or(choice["text"].as_str()).map(str::to_owned);
            events(body).into_iter().filter(Value::is_object).map(choice).filter_map(text).collect()
        };
        a.set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 7 }).times(1)).await.unwrap();
        let body = with(body, json!({"max_tokens": 100, "min_tokens": 0}));
        let answer = Http1::connect(edge.agents()).await.call(&post(path, &body)).await;
        let seen = events(&answer.body);
        assert!(seen.iter().all(|event| event.get("usage").is_none()), "{seen:?}");
        assert_eq!(seen.last(), Some(&json!("[DONE]")));
        assert_eq!(text(&answer.body), text(&whole.body));
        let got: Value = serde_json::from_slice(&calls(&b)[0].body).unwrap();
        assert_eq!(got["stream_options"], json!({"include_usage": true}));
        let line = edge.wait_for_log(|line| line["resumes"] == 1).await;
        assert_eq!(line["tokens"]["completion"], 20, "{line}");
    }
}

#[tokio::test]
async fn cached_and_computed_tokens_are_told_apart_in_every_dialect_streamed_or_not() {
    let text = "The same long beginning of a prompt. ".repeat(200);
    let messages = json!([{"role": "user", "content": text}]);
    let sizes = json!({"tokens": 3});
    for (path, body) in [
        (CHAT, json!({"messages": messages})),
        (COMPLETIONS, json!({"prompt": text})),
        ("/v1/responses", json!({"input": text})),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 100})),
    ] {
        for stream in [false, true] {
            let what = format!("{path}, stream {stream}");
            let replica = sim_with("a", |params| params.engine = params.engine.clone().with_cache(1_000_000, 16)).await;
            let edge = Edge::start(EdgeConfig::of(&[&replica])).await;
            let body = with(body.clone(), json!({"model": "m", "stream": stream, "sim": sizes}));
            for _ in 0..2 {
                assert_eq!(Http1::connect(edge.agents()).await.call(&post(path, &body)).await.status, 200, "{what}");
            }
            let lines = edge.wait_for_logs(2, |line| line["endpoint"] == path).await;
            let tokens = |key: &str| lines.iter().map(|line| line["tokens"][key].as_u64().unwrap()).collect::<Vec<_>>();
            let (mut prompt, mut cached) = (tokens("prompt"), tokens("cached"));
            prompt.dedup();
            cached.sort_unstable();
            assert!(prompt.len() == 1 && prompt[0] > 1_000, "{what}: {prompt:?}");
            assert!(cached[0] == 0 && cached[1] > prompt[0] / 2 && cached[1] < prompt[0], "{what}: {cached:?}");
            let of = |kind: &str| format!("nearpool_prompt_tokens_total{{kind=\"{kind}\",pool=\"near\"}}");
            assert_eq!(edge.metric(&of("cached")).await, cached[1] as f64, "{what}");
            assert_eq!(edge.metric(&of("computed")).await, (2 * prompt[0] - cached[1]) as f64, "{what}");
            for state in ["cold", "warm"] {
                let count = format!("nearpool_ttft_seconds_count{{cache=\"{state}\",model=\"m\",pool=\"near\"}}");
                if stream {
                    assert_eq!(edge.metric(&count).await, 1.0, "{what}: {state}");
                }
            }
        }
    }
}

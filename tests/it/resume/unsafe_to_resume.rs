//! What no other replica could go on with ends so that no SDK takes it for whole.

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use super::seen::{CHAT, COMPLETIONS, InLine, Seen, completion, see, streamed};
use crate::support::{Edge, EdgeConfig, Exchange, Http1, Pool, Scripted, calls, post, sim, with};

#[track_caller]
fn tool() -> Value {
    json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}}})
}

#[tokio::test]
async fn requests_that_a_continuation_would_distort_are_not_resumed() {
    let world = InLine::start(2, "engine = \"vllm\"").await;
    let prefill = json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "So"}]);
    let cases = [
        (CHAT, json!({"logprobs": true}), "logprobs"),
        (CHAT, json!({"response_format": {"type": "json_object"}}), "guided"),
        (CHAT, json!({"guided_choice": ["a", "b"]}), "guided"),
        (CHAT, json!({"tools": [tool()], "tool_choice": "required"}), "tool_call"),
        (CHAT, json!({"messages": prefill}), "prefill"),
        (CHAT, json!({"messages": prefill, "continue_final_message": true, "add_generation_prompt": false}), "prefill"),
        (CHAT, json!({"echo": true}), "option"),
        (COMPLETIONS, json!({"logprobs": 1}), "logprobs"),
        (COMPLETIONS, json!({"best_of": 3}), "option"),
        (COMPLETIONS, json!({"suffix": "end"}), "option"),
        (COMPLETIONS, json!({"prompt": ["Once"]}), "prompt"),
        (COMPLETIONS, json!({"prompt": [1, 2, 3]}), "prompt"),
    ];
    world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 4 })).await.unwrap();
    for (path, more, obstacle) in &cases {
        let body = if *path == CHAT { streamed("x", 30) } else { completion("x", 30) };
        let what = format!("{path} {more}");
        see(&world.edge, path, &with(body, more.clone())).await.check_honest_end("cut", &what);
        let lines = world.edge.wait_for_logs(1, |line| line["not_resumed"] == *obstacle).await;
        assert!(lines.iter().all(|line| line["outcome"] == "cut" && line["attempts"] == 1), "{what}");
    }
    assert_eq!(world.resumes("unsafe").await, cases.len() as f64);
    assert_eq!(calls(&world.sims[1]).len(), 0);
}

#[tokio::test]
async fn a_tool_call_is_not_continued() {
    let world = InLine::start(2, "engine = \"vllm\"").await;
    world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 4 })).await.unwrap();
    let body = with(streamed("What is the weather in Kyoto?", 30), json!({"tools": [tool()], "tool_choice": "auto"}));
    let body = with(body, json!({"messages": [{"role": "user", "content": "Call f, use the tool f"}]}));
    let seen = see(&world.edge, CHAT, &body).await;
    seen.check_honest_end("cut", "tool call");
    assert!(seen.raw.contains("\"tool_calls\""), "{}", seen.raw);
    world.edge.wait_for_log(|line| line["not_resumed"] == "tool_call").await;
}

#[tokio::test]
async fn dialects_without_a_way_to_continue_are_not_resumed() {
    let world = InLine::start(2, "engine = \"vllm\"").await;
    world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 4 })).await.unwrap();
    let messages = json!([{"role": "user", "content": "x"}]);
    for (path, body) in [
        ("/v1/responses", json!({"model": "m", "stream": true, "input": "x"})),
        ("/v1/messages", json!({"model": "m", "stream": true, "messages": messages, "max_tokens": 30})),
    ] {
        let mut client = Http1::connect(world.edge.agents()).await;
        client.send(&post(path, &body)).await;
        let head = client.head().await;
        let (raw, ended) = client.body(&head).await;
        assert!(ended.is_err() && String::from_utf8_lossy(&raw).contains("event: error\n"), "{path}");
    }
    world.edge.wait_for_logs(2, |line| line["not_resumed"] == "dialect").await;
    assert_eq!(calls(&world.sims[1]).len(), 0);
}

#[tokio::test]
async fn an_unknown_engine_is_not_asked_to_continue() {
    let world = InLine::start(2, "engine = \"openai\"").await;
    world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 4 })).await.unwrap();
    see(&world.edge, CHAT, &streamed("x", 30)).await.check_honest_end("cut", "openai");
    world.edge.wait_for_log(|line| line["not_resumed"] == "engine").await;
    assert_eq!(calls(&world.sims[1]).len(), 0);
}

/// A near replica that says what a test writes, and a far one that would go on.
async fn scripted(events: &[&str]) -> (Seen, Edge, usize) {
    let (mut near, far) = (Scripted::start().await, sim("far").await);
    let config = EdgeConfig::new()
        .region("far", 50.0, 8.0)
        .pool(Pool::new("near", "here", "m").replica("near", &near.url()))
        .pool(Pool::new("far", "far", "m").sims(&[&far]));
    let edge = Edge::start(config).await;
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &streamed("x", 30))).await;
    let mut upstream: Exchange = near.next().await;
    upstream.begin_stream().await;
    upstream.chunk(events.concat()).await;
    upstream.connection.close().await;
    let head = client.head().await;
    let (raw, ended) = client.body(&head).await;
    (Seen::of(&raw, ended.is_ok()), edge, calls(&far).len())
}

fn delta(delta: &str) -> String {
    format!("data: {{\"id\":\"c\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":null}}]}}\n\n")
}

#[tokio::test]
async fn reasoning_and_several_choices_are_not_continued() {
    let text = delta("{\"content\":\"a\"}");
    for (event, obstacle) in [
        (delta("{\"reasoning_content\":\"hm\"}"), "reasoning"),
        (text.replace("\"index\":0", "\"index\":1"), "choices"),
        (text.replace("\"finish_reason\"", "\"logprobs\":{\"content\":[]},\"finish_reason\""), "logprobs"),
    ] {
        let (seen, edge, asked) = scripted(&[&text, &event]).await;
        seen.check_honest_end("cut", obstacle);
        assert!(seen.raw.starts_with(&format!("{text}{event}")), "{}", seen.raw);
        assert_eq!(asked, 0, "{obstacle}");
        edge.wait_for_log(|line| line["not_resumed"] == obstacle).await;
    }
}

#[tokio::test]
async fn the_end_of_one_choice_is_not_taken_for_that_of_all() {
    let other = delta("{\"content\":\"b\"}").replace("\"index\":0", "\"index\":1");
    let end = delta("{}").replace("null", "\"stop\"");
    let (seen, edge, asked) = scripted(&[&delta("{\"reasoning_content\":\"hm\"}"), &other, &end]).await;
    seen.check_honest_end("cut", "a choice is still open");
    assert_eq!(asked, 0);
    edge.wait_for_log(|line| line["not_resumed"] == "choices").await;
}

#[tokio::test]
async fn an_engines_own_error_is_its_word_and_no_death() {
    let error = "data: {\"error\":{\"message\":\"own\"}}\n\n";
    let (seen, edge, asked) = scripted(&[&delta("{\"content\":\"a\"}"), error]).await;
    assert!(seen.raw.ends_with(error) && !seen.done, "{}", seen.raw);
    assert_eq!(asked, 0);
    edge.wait_for_log(|line| line["outcome"] == "server_error").await;
}

//! Every dialect that is resumed, at every engine, cut at any place in every way.

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::{Value, json};

use super::seen::{Alone, CHAT, COMPLETIONS, InLine, Seen, completion, see, see_h2, see_with, streamed};
use crate::support::{calls, with};

const TOKENS: u64 = 24;

/// Cuts after some events, an end without the last event, and a silence.
fn faults() -> Vec<Fault> {
    let cuts = [1, 2, 3, 7, 20, 23].map(|after_events| Fault::CutMidStream { after_events });
    [&cuts[..], &[Fault::TruncatedBody, Fault::StallMidStream { after_events: 9 }]].concat()
}

fn llama(engine: &str) -> bool {
    engine == "llama.cpp"
}

/// One answer, however it was cut: the text, the tokens and the reason of its end are those of one replica alone.
async fn check(engine: &str, path: &str, body: Value) {
    let line = format!("engine = \"{engine}\"");
    let world = InLine::start_with(2, &line, |config| config.set("timeouts", "idle", "\"300ms\"")).await;
    let body = with(body, json!({"stream_options": {"include_usage": true}}));
    let whole = Alone::start().await.says(path, &body).await;
    for (n, fault) in faults().into_iter().enumerate() {
        let what = format!("{engine} {path} {fault:?}");
        // A user each, so that none goes on with another's conversation, where that went on.
        let body = with(body.clone(), json!({"user": what}));
        world.sims[0].set_fault(FaultPlan::from(fault).times(1)).await.unwrap();
        let seen =
            if n % 2 == 0 { see(&world.edge, path, &body).await } else { see_h2(&world.edge, path, &body).await };
        seen.check_one_whole_answer(&what);
        assert_eq!(seen.text, whole.text, "{what}");
        assert_eq!(seen.finish(), whole.finish(), "{what}");
        check_usage(&seen, &whole, &what);
        check_request(&calls(&world.sims[1]).last().unwrap().body, engine, path, &what);
    }
    let resumed = faults().len();
    let lines = world.edge.wait_for_logs(resumed, |line| line["outcome"] == "ok" && line["resumes"] == 1).await;
    assert!(lines.iter().all(|line| line["replica"] == "b" && line["attempts"] == 2), "{lines:#?}");
    assert_eq!(world.resumes("ok").await, resumed as f64);
    for (name, pool) in [("a", "a"), ("b", "b")] {
        world.edge.wait_until_idle(pool, name).await;
    }
}

/// Tokens add up to those of one replica alone.
fn check_usage(seen: &Seen, whole: &Seen, what: &str) {
    let ([seen], [whole]) = (&seen.usage()[..], &whole.usage()[..]) else { panic!("{what}: {}", seen.raw) };
    for key in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(seen[key], whole[key], "{what}: {key}");
    }
}

/// The engine was told to go on in its own way.
fn check_request(body: &[u8], engine: &str, path: &str, what: &str) {
    let body: Value = serde_json::from_slice(body).unwrap();
    if path == COMPLETIONS {
        assert!(body["prompt"].as_str().unwrap().starts_with("Once"), "{what}");
        return;
    }
    let last = body["messages"].as_array().unwrap().last().unwrap();
    let told = last["role"] == "assistant";
    let asked = body["continue_final_message"] == true && body["add_generation_prompt"] == false;
    assert_eq!(asked, told && !llama(engine), "{what}: {body}");
}

fn chat() -> Value {
    with(streamed("Où est la \"gare\"?\n", TOKENS), json!({"max_tokens": 1000, "temperature": 0.5}))
}

#[tokio::test]
async fn a_cut_chat_goes_on_at_vllm() {
    check("vllm", CHAT, chat()).await;
}

#[tokio::test]
async fn a_cut_chat_goes_on_at_sglang() {
    check("sglang", CHAT, chat()).await;
}

#[tokio::test]
async fn a_cut_chat_goes_on_at_llama_cpp() {
    check("llama.cpp", CHAT, chat()).await;
}

#[tokio::test]
async fn a_cut_completion_goes_on_at_every_engine() {
    for engine in ["vllm", "sglang", "llama.cpp"] {
        check(engine, COMPLETIONS, with(completion("Once \"upon\"\n", TOKENS), json!({"max_tokens": 1000}))).await;
    }
}

#[tokio::test]
async fn an_answer_that_is_bound_to_its_tokens_ends_where_it_would_have() {
    let (alone, world) = (Alone::start().await, InLine::start(2, "engine = \"vllm\"").await);
    for (path, body) in [
        (CHAT, with(streamed("x", 500), json!({"max_tokens": 10}))),
        (CHAT, with(streamed("x", 500), json!({"max_completion_tokens": 10}))),
        (COMPLETIONS, with(completion("Once", 500), json!({"max_tokens": 10}))),
    ] {
        let whole = alone.says(path, &body).await;
        for after_events in [2, 5, 10] {
            world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events }).times(1)).await.unwrap();
            let what = format!("{body} {after_events}");
            let seen = see(&world.edge, path, &with(body.clone(), json!({"user": what}))).await;
            seen.check_one_whole_answer(&what);
            assert_eq!((&seen.text, seen.finish()), (&whole.text, vec![json!("length")]), "{what}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_had_all_its_tokens_is_ended_without_a_replica() {
    let (alone, world) = (Alone::start().await, InLine::start(2, "engine = \"vllm\"").await);
    let body = with(streamed("x", 500), json!({"max_tokens": 10}));
    let whole = alone.says(CHAT, &body).await;
    // The role, ten tokens, and then neither reason nor end; or the reason without an end.
    for after_events in [11, 12] {
        world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events }).times(1)).await.unwrap();
        let seen = see(&world.edge, CHAT, &body).await;
        seen.check_one_whole_answer("made up");
        assert_eq!((&seen.text, seen.finish()), (&whole.text, vec![json!("length")]));
    }
    assert_eq!(calls(&world.sims[1]).len(), 0);
    assert_eq!(world.resumes("ended").await, 2.0);
    let lines = world.edge.wait_for_logs(2, |line| line["outcome"] == "ok").await;
    assert!(lines.iter().all(|line| line["attempts"] == 1 && line["replica"] == "a"), "{lines:#?}");
    assert_eq!(world.edge.metric("nearpool_attempts_total{outcome=\"cut\",pool=\"a\",replica=\"a\"}").await, 2.0);
}

#[tokio::test]
async fn a_resume_may_find_that_nothing_is_left_to_say() {
    let (alone, world) = (Alone::start().await, InLine::start(2, "engine = \"vllm\"").await);
    let body = streamed("x", 10);
    let whole = alone.says(CHAT, &body).await;
    world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 11 }).times(1)).await.unwrap();
    let seen = see(&world.edge, CHAT, &body).await;
    seen.check_one_whole_answer("nothing left");
    assert_eq!((&seen.text, seen.finish()), (&whole.text, vec![json!("stop")]));
}

#[tokio::test]
async fn offered_tools_are_no_obstacle_while_text_is_said() {
    let (alone, world) = (Alone::start().await, InLine::start(2, "engine = \"vllm\"").await);
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
    let body = with(streamed("hello", 20), json!({"tools": [tool], "tool_choice": "auto"}));
    let whole = alone.says(CHAT, &body).await;
    assert!(!whole.text.is_empty());
    world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 5 }).times(1)).await.unwrap();
    let seen = see(&world.edge, CHAT, &body).await;
    seen.check_one_whole_answer("tools");
    assert_eq!(seen.text, whole.text);
}

#[tokio::test]
async fn a_session_moves_to_where_its_answer_went_on() {
    let world = InLine::start(2, "engine = \"vllm\"").await;
    world.sims[0].set_fault(FaultPlan::from(Fault::CutMidStream { after_events: 5 }).times(1)).await.unwrap();
    let session = [("x-session-id", "s")];
    see_with(&world.edge, CHAT, &session, &streamed("x", 20)).await.check_one_whole_answer("first");
    see_with(&world.edge, CHAT, &session, &streamed("y", 5)).await.check_one_whole_answer("second");
    world.edge.wait_for_log(|line| line["reason"] == "session" && line["replica"] == "b").await;
}

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::ask::Dialect;
use crate::domain::topology::Engine;
use crate::policy::resume::Obstacle;
use crate::wire::body::Body;
use crate::wire::sse::{EventKind, Progress, data_of};

const HEAD: &str = r#""id":"c-1","object":"chat.completion.chunk","created":17,"model":"llama""#;

fn event(rest: &str) -> String {
    format!("data: {{{HEAD},{rest}}}\n\n")
}

fn delta(delta: &str) -> String {
    event(&format!(r#""choices":[{{"index":0,"delta":{delta},"logprobs":null,"finish_reason":null}}]"#))
}

/// A chat event with this text, a JSON string.
fn says(text: &str) -> String {
    delta(&format!(r#"{{"content":{text}}}"#))
}

fn role() -> String {
    delta(r#"{"role":"assistant","content":""}"#)
}

fn finish(reason: &str) -> String {
    event(&format!(r#""choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"{reason}"}}]"#))
}

fn usage(prompt: u64, completion: u64, cached: Option<u64>) -> String {
    let total = prompt + completion;
    event(&format!(
        r#""choices":[],"usage":{}"#,
        json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total,
               "prompt_tokens_details": cached.map(|cached| json!({"cached_tokens": cached}))})
    ))
}

fn told_in(dialect: Dialect, events: &[String]) -> Box<Told> {
    let mut told = Told::new(dialect).unwrap();
    let mut progress = Progress::new(dialect);
    for event in events {
        if progress.note(event.as_bytes()) == EventKind::Data {
            told.note(event.as_bytes());
        }
    }
    told
}

fn told(events: &[String]) -> Box<Told> {
    told_in(Dialect::Chat, events)
}

/// What the client sees of these events of the replica that goes on.
fn continued(told: &mut Told, events: &[String]) -> Result<String, Unfit> {
    let mut progress = Progress::new(told.dialect);
    let mut out = Vec::new();
    for event in events {
        let kind = progress.note(event.as_bytes());
        told.continued(event.as_bytes(), kind, &mut out)?;
    }
    Ok(String::from_utf8(out).unwrap())
}

fn chunks(stream: &str) -> Vec<Value> {
    let events = stream.split_inclusive("\n\n").filter(|event| !event.contains("[DONE]"));
    events.map(|event| serde_json::from_slice(&data_of(event.as_bytes())).unwrap()).collect()
}

// ---- what was told

#[track_caller]
fn check_text(events: &[String], text: &str, tokens: u64) {
    let told = told(events);
    assert_eq!(std::str::from_utf8(&told.text).unwrap(), text);
    assert_eq!((told.tokens.told(), told.obstacle()), (tokens, None));
}

#[test]
fn text_is_kept_as_it_stood() {
    check_text(&[], "", 0);
    check_text(&[role()], "", 0);
    check_text(
        &[role(), says("\"Hel\""), says("\"lo\\n\\\"\""), says("\" \\ud83d\""), says("\"\\ude00é\"")],
        "Hello\\n\\\" \\ud83d\\ude00é",
        4,
    );
    check_text(&[delta(r#"{"role":"assistant","content":null}"#), says("\"a\""), says("\"\""), says("\"b\"")], "ab", 2);
    check_text(
        &[delta(r#"{"role":"assistant","content":"a","tool_calls":[],"refusal":null,"reasoning_content":null}"#)],
        "a",
        1,
    );
    check_text(&[": ping\n\n".into(), event("\"choices\":[]"), says("\"a\""), finish("stop")], "a", 1);
}

#[test]
fn an_event_of_another_shape_is_read_and_not_guessed() {
    let spaced =
        "data: {\"choices\": [ {\"delta\": {\"content\": \"x\"}, \"index\": 0} ], \"id\": \"c-1\"}\r\n\r\n".to_owned();
    let trailing = says("\"a\"").replace(",\"logprobs\":null", ",\"logprobs\":null,\"x\":\"y\"");
    let later = says("\"b\"").replace("\"created\":17", "\"created\":18");
    check_text(&[says("\"1\""), spaced.clone(), spaced, trailing, later.clone(), later, says("\"2\"")], "1xxabb2", 7);
    let two_lines = says("\"c\"").replace(",\"object\"", "\ndata: ,\"object\"");
    check_text(&[says("\"1\""), two_lines.clone(), two_lines, says("\"2\"")], "1cc2", 4);
}

#[test]
fn completions_text_is_kept_too() {
    let says = |text: &str| {
        format!(
            "data: {{\"id\":\"cmpl-1\",\"choices\":[{{\"index\":0,\"text\":{text},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
        )
    };
    let told = told_in(Dialect::Completions, &[says("\"a\""), says("\"b\\\\\""), says("\"\""), says("\"c\"")]);
    assert_eq!((&told.text[..], told.tokens.told(), told.obstacle()), (&b"ab\\\\c"[..], 3, None));
}

#[test]
fn only_dialects_that_continue_text_are_followed() {
    for dialect in Dialect::ALL {
        assert_eq!(Told::new(dialect).is_some(), matches!(dialect, Dialect::Chat | Dialect::Completions));
    }
}

#[test]
fn what_cannot_be_continued_is_seen_and_nothing_is_kept() {
    let choices = event(r#""choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"b"}}]"#);
    for (event, obstacle) in [
        (delta(r#"{"tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}]}"#), Obstacle::ToolCall),
        (delta(r#"{"function_call":{"name":"f"}}"#), Obstacle::ToolCall),
        (delta(r#"{"reasoning_content":"hm"}"#), Obstacle::Reasoning),
        (delta(r#"{"content":"","reasoning":"hm"}"#), Obstacle::Reasoning),
        (choices, Obstacle::Choices),
        (says("\"a\"").replace("\"index\":0", "\"index\":1"), Obstacle::Choices),
        (says("\"a\"").replace("\"logprobs\":null", "\"logprobs\":{\"content\":[]}"), Obstacle::Logprobs),
        (delta(r#"{"content":[{"type":"text","text":"a"}]}"#), Obstacle::Unread),
        (delta(r#"{"audio":{"id":"x"}}"#), Obstacle::Unread),
        ("data: {\"choices\":\n\n".into(), Obstacle::Unread),
        ("data: 7\n\n".into(), Obstacle::Unread),
    ] {
        let told = told(&[role(), says("\"a\""), event.clone(), says("\"b\"")]);
        assert_eq!(told.obstacle(), Some(obstacle), "{event}");
        assert!(told.text.is_empty() && !told.finished());
    }
}

#[test]
fn text_beyond_its_bound_is_given_up() {
    let piece = format!("\"{}\"", "x".repeat(TEXT_BYTES_MAX / 4));
    let mut events = vec![says(&piece); 4];
    assert_eq!(told(&events).obstacle(), None);
    events.push(says("\"x\""));
    assert_eq!(told(&events).obstacle(), Some(Obstacle::TooLong));
}

#[test]
fn the_end_is_seen_also_behind_what_cannot_be_continued() {
    let call = delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"\"finish_reason\":1"}}]}"#);
    let mut told = told(&[role(), call.clone(), call]);
    assert!(!told.finished());
    told.note(finish("tool_calls").as_bytes());
    assert!(told.finished());
    assert_eq!(String::from_utf8(told.end(false)).unwrap(), "data: [DONE]\n\n");
}

#[test]
fn several_choices_are_seen_behind_any_other_obstacle() {
    let other = says("\"b\"").replace("\"index\":0", "\"index\":1");
    let reasoning = delta(r#"{"reasoning_content":"hm"}"#);
    assert_eq!(told(&[reasoning, other.clone(), finish("stop")]).obstacle(), Some(Obstacle::Choices));
    let mut followed_from_its_beginning = told(&[]);
    followed_from_its_beginning.obstruct(Obstacle::Engine);
    followed_from_its_beginning.note(other.as_bytes());
    assert_eq!(followed_from_its_beginning.obstacle(), Some(Obstacle::Choices));
    let second_call = delta(r#"{"tool_calls":[{"index":1,"function":{"arguments":"{"}}]}"#);
    assert_eq!(told(&[second_call.clone(), second_call]).obstacle(), Some(Obstacle::ToolCall), "no choice, but a call");
}

#[test]
fn an_empty_reason_is_no_end() {
    let open = says("\"a\"").replace("\"finish_reason\":null", "\"finish_reason\":\"\"");
    let mut told = told(&[role(), open.clone(), open.clone()]);
    assert_eq!((&told.text[..], told.finished(), told.obstacle()), (&b"aa"[..], false, None));
    told.obstruct(Obstacle::Engine);
    told.note(open.as_bytes());
    assert!(!told.finished());
}

proptest! {
    #[test]
    fn the_text_is_that_of_a_plain_reading(
        texts in prop::collection::vec(prop_oneof![".{0,8}", Just(" \"\\\n".to_owned())], 0..30),
        kinds in prop::collection::vec(0u8..6, 30),
    ) {
        let events: Vec<_> = texts.iter().zip(&kinds).map(|(text, kind)| {
            let text = serde_json::to_string(text).unwrap();
            match kind {
                0 => says(&text).replace("\"created\":17", "\"created\":18"),
                1 => says(&text).replace(':', ": ").replacen("data:  ", "data: ", 1),
                2 => delta(&format!("{{\"role\":\"assistant\",\"content\":{text}}}")),
                _ => says(&text),
            }
        }).collect();
        let told = told(&events);
        let plain: String = events.iter().map(|event| chunks(event)[0]["choices"][0]["delta"]["content"].as_str().unwrap().to_owned()).collect();
        let kept: String = serde_json::from_slice(&[b"\"", &told.text[..], b"\""].concat()).unwrap();
        prop_assert_eq!(kept, plain);
        prop_assert_eq!(told.obstacle(), None);
    }

    #[test]
    fn no_event_panics(bytes in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..200) {
        let whole = usage(3, 4, Some(1)) + &says("\"a\"");
        let event = [&whole.as_bytes()[cut.min(whole.len())..], &bytes].concat();
        let mut told = told(&[says("\"a\"")]);
        told.note(&event);
        told.hand_over();
        for kind in [EventKind::Data, EventKind::Comment] {
            let _ = told.continued(&event, kind, &mut Vec::new());
        }
        told.end(true);
    }
}

// ---- the request for the rest

fn said(text: &str, tokens: u64) -> Box<Told> {
    let mut told = told(&[role(), says(&serde_json::to_string(text).unwrap())]);
    told.tokens.before = tokens.saturating_sub(1);
    told
}

/// The continuation's body.
fn body(dialect: Dialect, body: &str, told: &Told, engine: Engine) -> Result<Option<String>, Obstacle> {
    let edits = Asked::read(dialect, body.as_bytes()).continuation(told, engine)?;
    let whole = Body::from(Bytes::copy_from_slice(body.as_bytes()));
    Ok(edits.map(|edits| String::from_utf8(whole.edited(edits).concat()).unwrap()))
}

fn chat(request: &str, told: &Told, engine: Engine) -> Result<Option<String>, Obstacle> {
    body(Dialect::Chat, request, told, engine)
}

#[test]
fn a_chat_is_continued_by_one_more_message_and_every_other_byte_stays() {
    let request = "{ \"model\":\"m\",\n\"messages\" : [ {\"role\":\"user\",\"content\":\"é\\u00e9\"} ],\"temperature\":0.70, \"stream\":true }\n";
    let message = r#",{"role":"assistant","content":"a \"b\"\n"}"#;
    let added = r#","continue_final_message":true,"add_generation_prompt":false"#;
    let told = said("a \"b\"\n", 3);
    for engine in [Engine::Vllm, Engine::Sglang, Engine::LlamaCpp] {
        let added = if engine == Engine::LlamaCpp { "" } else { added };
        let expected =
            request.replace("} ],", &format!("}} {message}],")).replace("true }", &format!("true {added}}}"));
        assert_eq!(chat(request, &told, engine), Ok(Some(expected)), "{engine:?}");
    }
}

#[test]
fn what_said_nothing_yet_is_asked_again_as_it_was() {
    let request = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":9}"#;
    assert_eq!(chat(request, &told(&[role()]), Engine::Vllm), Ok(Some(request.into())));
}

#[test]
fn white_space_alone_is_no_place_to_continue_a_chat_from_where_templates_trim() {
    let request = r#"{"messages":[{"role":"user","content":"x"}]}"#;
    for text in [" ", "\n\n", " \t\r\n"] {
        assert_eq!(chat(request, &said(text, 1), Engine::Vllm), Err(Obstacle::Blank));
        assert!(chat(request, &said(text, 1), Engine::LlamaCpp).is_ok_and(|body| body.is_some()));
    }
    assert!(chat(request, &said(" a", 1), Engine::Vllm).is_ok_and(|body| body.is_some()));
}

#[test]
fn tokens_told_are_taken_from_those_allowed() {
    let request = |more: &str| format!(r#"{{"messages":[{{"role":"user","content":"x"}}]{more},"y":1}}"#);
    #[track_caller]
    fn check(request: String, tokens: u64, expected: Option<&str>) {
        let body = chat(&request, &said("a", tokens), Engine::LlamaCpp).unwrap();
        let found = body.map(|body| body.split_once("\"a\"}]").unwrap().1.to_owned());
        assert_eq!(found.as_deref(), expected, "{request}");
    }
    check(request(""), 7, Some(r#","y":1}"#));
    check(request(r#","max_tokens" : 100"#), 7, Some(r#","max_tokens" : 93,"y":1}"#));
    check(
        request(r#","max_completion_tokens":8,"max_tokens":9"#),
        7,
        Some(r#","max_completion_tokens":1,"max_tokens":2,"y":1}"#),
    );
    check(request(r#","max_tokens":null,"n_predict":-1"#), 7, Some(r#","max_tokens":null,"n_predict":-1,"y":1}"#));
    check(request(r#","max_tokens":7"#), 7, None);
    check(request(r#","max_tokens":100,"max_completion_tokens":7"#), 9, None);
    check(request(r#","max_tokens":100,"min_tokens":10"#), 7, Some(r#","max_tokens":93,"min_tokens":3,"y":1}"#));
    check(request(r#","min_tokens":5"#), 7, Some(r#","min_tokens":0,"y":1}"#));
}

#[test]
fn a_completion_is_continued_by_a_longer_prompt() {
    let told = said("a\n", 3);
    let check = |request: &str, engine, expected: Result<Option<&str>, Obstacle>| {
        let found = body(Dialect::Completions, request, &told, engine);
        assert_eq!(found, expected.map(|body| body.map(str::to_owned)), "{request}");
    };
    let request = r#"{"prompt": "Once \"","max_tokens":10}"#;
    let expected = r#"{"prompt": "Once \"a\n","max_tokens":7}"#;
    for engine in [Engine::Vllm, Engine::Sglang, Engine::LlamaCpp] {
        check(request, engine, Ok(Some(expected)));
    }
    // Where nothing is said, 16 tokens are meant, but at llama.cpp.
    check(r#"{"prompt":"x"}"#, Engine::Vllm, Ok(Some(r#"{"prompt":"xa\n","max_tokens":13}"#)));
    check(r#"{"prompt":"x"}"#, Engine::LlamaCpp, Ok(Some(r#"{"prompt":"xa\n"}"#)));
    for (tokens, expected) in
        [(15, Some(r#"{"prompt":"xa","max_tokens":1}"#)), (16, None), (17, Some(r#"{"prompt":"xa"}"#))]
    {
        let found = body(Dialect::Completions, r#"{"prompt":"x"}"#, &said("a", tokens), Engine::Vllm);
        assert_eq!(found, Ok(expected.map(str::to_owned)), "{tokens}");
    }
    check(r#"{"prompt":["x"]}"#, Engine::Vllm, Err(Obstacle::Prompt));
    check(r#"{"prompt":[1,2]}"#, Engine::Vllm, Err(Obstacle::Prompt));
    check(r#"{"messages":[]}"#, Engine::Vllm, Err(Obstacle::Unread));
}

#[test]
fn requests_whose_answers_cannot_be_continued_are_known() {
    let told = said("a", 1);
    let check = |more: &str, expected: Option<Obstacle>| {
        for (dialect, start) in [
            (Dialect::Chat, r#"{"messages":[{"role":"user","content":"x"}]"#),
            (Dialect::Completions, r#"{"prompt":"x""#),
        ] {
            let request = format!("{start}{more}}}");
            assert_eq!(body(dialect, &request, &told, Engine::Vllm).err(), expected, "{request}");
        }
    };
    for fine in [
        r#","n":1,"best_of":1,"seed":7,"stop":["x"],"logit_bias":{}"#,
        r#","n":null,"logprobs":null,"echo":false,"suffix":null,"response_format":null,"tool_choice":null"#,
        r#","logprobs":false,"response_format":{"type":"text"},"tools":[{"type":"function"}],"tool_choice":"auto""#,
        r#","guided_json":null,"grammar":"","function_call":"none","n_probs":0,"prompt_logprobs":null"#,
    ] {
        check(fine, None);
    }
    for (more, obstacle) in [
        (r#","n":2"#, Obstacle::Choices),
        (r#","best_of":2"#, Obstacle::Option),
        (r#","logprobs":true"#, Obstacle::Logprobs),
        (r#","logprobs":0"#, Obstacle::Logprobs),
        (r#","prompt_logprobs":1"#, Obstacle::Logprobs),
        (r#","echo":true"#, Obstacle::Option),
        (r#","suffix":"y""#, Obstacle::Option),
        (r#","return_token_ids":true"#, Obstacle::Option),
        (r#","response_format":{"type":"json_object"}"#, Obstacle::Guided),
        (r#","response_format":{"type":"json_schema","json_schema":{}}"#, Obstacle::Guided),
        (r#","guided_regex":"a+""#, Obstacle::Guided),
        (r#","structured_outputs":{"choice":["a"]}"#, Obstacle::Guided),
        (r#","grammar":"root ::= \"a\"""#, Obstacle::Guided),
        (r#","json_schema":{}"#, Obstacle::Guided),
        (r#","tool_choice":"required""#, Obstacle::Guided),
        (r#","tool_choice":{"type":"function","function":{"name":"f"}}"#, Obstacle::Guided),
        (r#","continue_final_message":false"#, Obstacle::Prefill),
        (r#","add_generation_prompt":true"#, Obstacle::Prefill),
        (r#","max_tokens":1.5"#, Obstacle::Option),
        (r#","max_tokens":5,"max_tokens":6"#, Obstacle::Unread),
    ] {
        check(more, Some(obstacle));
    }
    for (request, obstacle) in [
        (r#"{"messages":[{"role":"assistant","content":"x"}]}"#, Obstacle::Prefill),
        (r#"{"messages":[{"role":"assis\u0074ant","content":"x"}]}"#, Obstacle::Prefill),
        (r#"{"messages":[]}"#, Obstacle::Unread),
        (r#"{"messages":"x"}"#, Obstacle::Unread),
        (
            r#"{"messages":[{"role":"user","content":"x"}],"messages":[{"role":"user","content":"y"}]}"#,
            Obstacle::Unread,
        ),
    ] {
        assert_eq!(chat(request, &told, Engine::Vllm), Err(obstacle), "{request}");
    }
}

#[test]
fn the_answers_own_obstacle_counts_as_well() {
    let told = told(&[delta(r#"{"reasoning":"hm"}"#)]);
    assert_eq!(chat(r#"{"messages":[{"role":"user","content":"x"}]}"#, &told, Engine::Vllm), Err(Obstacle::Reasoning));
}

#[test]
fn whether_usage_was_asked_for_is_read_also_where_nothing_can_be_continued() {
    for (request, usage) in [
        (r#"{"messages":[],"stream_options":{"include_usage":true}}"#, true),
        (r#"{"n":2,"stream_options":{"include_usage":false}}"#, false),
        (r#"{"stream_options":null}"#, false),
        ("{", false),
    ] {
        assert_eq!(Asked::read(Dialect::Chat, request.as_bytes()).usage, usage, "{request}");
    }
}

// ---- the seam

/// An event of the replica that goes on: another id and another time.
fn other(event: String) -> String {
    event.replace("c-1", "c-2").replace("\"created\":17", "\"created\":99")
}

#[test]
fn the_client_sees_one_answer() {
    let mut told = told(&[role(), says("\"a\""), says("\"b\"")]);
    told.hand_over();
    let rest = [role(), says("\"c\""), says("\"\""), finish("stop"), usage(12, 7, Some(11)), "data: [DONE]\n\n".into()];
    let seen = continued(&mut told, &rest.map(other)).unwrap();
    let expected =
        [says("\"c\""), says("\"\""), finish("stop"), usage(10, 9, Some(10)), "data: [DONE]\n\n".into()].concat();
    assert_eq!(chunks(&seen), chunks(&expected));
    assert!(seen.starts_with(&says("\"c\"")) && seen.ends_with("data: [DONE]\n\n"));
    assert!(told.finished() && told.usage_told);
}

#[test]
fn what_opens_a_continuation_is_left_out_and_nothing_else() {
    for opening in [
        delta(r#"{"role":"assistant","content":""}"#),
        delta(r#"{"role":"assistant","content":null}"#),
        delta(r#"{"content":null}"#),
        delta("{}"),
    ] {
        let mut told = told(&[role(), says("\"a\"")]);
        told.hand_over();
        let events = [": hi\n\n".into(), opening.clone(), opening.clone(), says("\"b\""), delta("{}")];
        let seen = continued(&mut told, &events).unwrap();
        assert_eq!(seen, [": hi\n\n", &says("\"b\""), &delta("{}")].concat(), "{opening}");
    }
    // The speaker was not named before.
    let mut told = told(&[event("\"choices\":[]")]);
    told.hand_over();
    assert_eq!(continued(&mut told, &[role(), role()]).unwrap(), role());
}

#[test]
fn the_speaker_is_not_named_again() {
    let mut told = told(&[role(), says("\"a\"")]);
    told.hand_over();
    let seen = continued(&mut told, &[delta(r#"{"role":"assistant","content":"b"}"#)]).unwrap();
    assert_eq!(seen, says("\"b\""));
}

#[test]
fn text_goes_on_byte_for_byte_whatever_the_engine_makes_of_the_seam() {
    let mut told = told(&[role(), says("\"a \"")]);
    told.hand_over();
    let seen = continued(&mut told, &[says("\" \""), says("\"\\u0062\"")]).unwrap();
    assert_eq!(seen, [says("\" \""), says("\"\\u0062\"")].concat());
    assert_eq!(told.text, b"a  \\u0062");
}

#[test]
fn a_stream_can_be_handed_over_again() {
    let mut told = told(&[role(), says("\"a\""), says("\"b\"")]);
    told.hand_over();
    continued(&mut told, &[role(), says("\"c\"")].map(other)).unwrap();
    assert_eq!((&told.text[..], told.tokens.told()), (&b"abc"[..], 3));
    told.hand_over();
    let seen = continued(&mut told, &[role(), says("\"d\""), finish("length"), usage(13, 1, None)].map(other)).unwrap();
    assert_eq!(chunks(&seen), chunks(&[says("\"d\""), finish("length"), usage(10, 4, None)].concat()));
    assert_eq!(told.obstacle(), None);
}

#[test]
fn usage_told_with_every_event_is_summed_in_every_event() {
    let with = |event: String, prompt: u64, completion: u64, cached: u64| {
        let own = usage(prompt, completion, Some(cached));
        let own = own.split_once("\"choices\":[],").unwrap().1.trim_end();
        event.trim_end().strip_suffix('}').unwrap().to_owned() + "," + own + "\n\n"
    };
    // Several tokens came with one event; the engine says so.
    let mut told = told(&[with(role(), 10, 0, 8), with(says("\"a b c\""), 10, 3, 8)]);
    assert_eq!(told.tokens.told(), 3);
    told.hand_over();
    let rest = [with(role(), 13, 0, 0), with(says("\"d\""), 13, 2, 0), usage(13, 2, Some(0))];
    let seen = continued(&mut told, &rest.map(other)).unwrap();
    assert_eq!(chunks(&seen), chunks(&[with(says("\"d\""), 10, 5, 8), usage(10, 5, Some(8))].concat()));
    assert_eq!(told.known_usage().map(|usage| (usage.prompt_tokens, usage.completion_tokens)), Some((10, 5)));
}

#[test]
fn a_tool_call_may_follow_but_not_be_continued() {
    let mut told = told(&[role(), says("\"a\"")]);
    told.hand_over();
    let call = delta(r#"{"tool_calls":[{"index":0,"id":"t","function":{"name":"f","arguments":""}}]}"#);
    assert_eq!(continued(&mut told, &[other(call.clone())]).unwrap(), call);
    assert_eq!(told.obstacle(), Some(Obstacle::ToolCall));
}

#[test]
fn a_continuation_that_is_none_is_refused() {
    for event in [
        delta(r#"{"reasoning_content":"hm"}"#),
        "data: {\"choices\":\n\n".into(),
        says("\"a\"").replace(",\"object\"", "\ndata: ,\"object\""),
        says("\"a\"").replace("\"index\":0", "\"index\":1"),
    ] {
        let mut told = told(&[role(), says("\"a\"")]);
        told.hand_over();
        assert_eq!(continued(&mut told, &[event]), Err(Unfit));
    }
}

#[test]
fn an_engines_own_error_passes() {
    let mut told = told(&[role(), says("\"a\"")]);
    told.hand_over();
    let error = "data: {\"error\":{\"message\":\"no\"}}\n\n".to_owned();
    assert_eq!(continued(&mut told, std::slice::from_ref(&error)), Ok(error.clone()));
}

#[test]
fn completions_go_on_in_their_own_form() {
    let says = |id: &str, text: &str, finish: &str| {
        format!(
            "data: {{\"id\":\"{id}\",\"created\":17,\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"finish_reason\":{finish}}}]}}\n\n"
        )
    };
    let mut told = told_in(Dialect::Completions, &[says("c-1", "a", "null")]);
    told.hand_over();
    let seen = continued(&mut told, &[says("c-2", "", "null"), says("c-2", "b", "null"), says("c-2", "", "\"stop\"")])
        .unwrap();
    assert_eq!(seen, [says("c-1", "b", "null"), says("c-1", "", "\"stop\"")].concat());
}

// ---- the end

#[test]
fn an_end_is_made_up_of_what_is_known() {
    let end = |told: &mut Told, usage| String::from_utf8(told.end(usage)).unwrap();
    // The prompt's tokens are not known, and nothing is invented.
    assert_eq!(end(&mut told(&[role(), says("\"a\""), finish("stop")]), true), "data: [DONE]\n\n");
    assert_eq!(end(&mut told(&[finish("stop"), usage(3, 1, None)]), true), "data: [DONE]\n\n");
    let known = finish("stop").replace("]}\n", r#"],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#) + "\n";
    let mut whole = told(&[role(), known]);
    let made = end(&mut whole, true);
    assert_eq!(chunks(&made)[0]["usage"], json!({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}));
    assert_eq!((&chunks(&made)[0]["id"], &chunks(&made)[0]["choices"]), (&json!("c-1"), &json!([])));
    assert!(made.ends_with("data: [DONE]\n\n"));
}

#[test]
fn an_answer_that_used_up_its_tokens_ends_for_its_length() {
    let mut chat = told(&[role(), says("\"a\"")]);
    let end = String::from_utf8(chat.end(true)).unwrap();
    assert_eq!(end, finish("length") + "data: [DONE]\n\n");
    let completions = "data: {\"id\":\"x\",\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n".to_owned();
    let end = String::from_utf8(told_in(Dialect::Completions, &[completions]).end(false)).unwrap();
    let choice = r#"{"index":0,"text":"","logprobs":null,"finish_reason":"length"}"#;
    assert_eq!(end, format!("data: {{\"id\":\"x\",\"choices\":[{choice}]}}\n\ndata: [DONE]\n\n"));
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::wire::scan::{ITEMS_MAX, Scanner};

const GENERATING: [Endpoint; 4] = [Endpoint::Chat, Endpoint::Completions, Endpoint::Responses, Endpoint::Messages];

fn read_chunks<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, endpoint: Endpoint) -> Prompt {
    let (mut scanner, mut body) = (Scanner::new(), Body::new());
    for chunk in chunks {
        scanner.push(chunk).unwrap();
        body.push(chunk.to_vec().into());
    }
    read(&scanner.finish().unwrap(), &body, endpoint)
}

fn prompt(endpoint: Endpoint, body: &str) -> Prompt {
    let whole = read_chunks([body.as_bytes()], endpoint);
    for step in [1, 7, 100, 1500] {
        assert_eq!(read_chunks(body.as_bytes().chunks(step), endpoint), whole, "by {step}: {body:.300}");
    }
    whole
}

fn conversation(endpoint: Endpoint, body: &Value) -> Conversation {
    prompt(endpoint, &body.to_string()).conversation.unwrap_or_else(|| panic!("no conversation in {body}"))
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

/// The second call continues the first: all that the first told, the second tells first.
#[track_caller]
fn check_continues(endpoint: Endpoint, first: &Value, second: &Value) {
    let (first, second) = (prompt(endpoint, &first.to_string()), prompt(endpoint, &second.to_string()));
    assert_eq!(first.cuts[..], second.cuts[..first.cuts.len()]);
    let (first, second) = (first.conversation.unwrap(), second.conversation.unwrap());
    assert_eq!(first.ends, second.ends[..first.ends.len()]);
    assert!(second.ends.len() > first.ends.len());
}

#[track_caller]
fn check_same(endpoint: Endpoint, one: &str, other: &str) {
    assert_eq!(prompt(endpoint, one).conversation, prompt(endpoint, other).conversation, "{one} {other}");
    assert!(prompt(endpoint, one).conversation.is_some(), "{one}");
}

#[track_caller]
fn check_differ(endpoint: Endpoint, one: &Value, other: &Value) {
    assert_ne!(conversation(endpoint, one), conversation(endpoint, other), "{one} {other}");
}

#[track_caller]
fn check_none(endpoint: Endpoint, body: &str) {
    assert_eq!(prompt(endpoint, body).conversation, None, "{body:.300}");
}

#[test]
fn a_call_that_appends_continues_in_every_dialect() {
    let (system, user) = (message("system", "You."), message("user", "Hi"));
    let (answer, more) = (message("assistant", "Hello"), message("user", &"text ".repeat(2000)));
    check_continues(
        Endpoint::Chat,
        &json!({"messages": [system, user]}),
        &json!({"messages": [system, user, answer, more]}),
    );
    check_continues(
        Endpoint::Messages,
        &json!({"system": "You.", "messages": [user]}),
        &json!({"system": "You.", "messages": [user, answer, more]}),
    );
    let call = json!({"type": "function_call_output", "call_id": "c", "output": "x"});
    check_continues(
        Endpoint::Responses,
        &json!({"instructions": "You.", "input": [user]}),
        &json!({"instructions": "You.", "input": [user, call, more]}),
    );
    check_continues(
        Endpoint::Completions,
        &json!({"prompt": "a\nb".repeat(700)}),
        &json!({"prompt": "a\nb".repeat(1200)}),
    );
    let ids = |n: u32| (0..n).collect::<Vec<_>>();
    check_continues(Endpoint::Completions, &json!({"prompt": ids(1000)}), &json!({"prompt": ids(1500)}));
}

#[test]
fn an_input_that_is_a_string_is_one_message_of_the_users() {
    let listed = r#"{"input":[{"role":"user","content":"Hi"}]}"#;
    check_same(Endpoint::Responses, r#"{"input":"Hi"}"#, listed);
    check_none(Endpoint::Responses, r#"{"input":7}"#);
}

#[test]
fn the_opening_reaches_to_the_first_message_of_the_users() {
    let (system, user, answer) = (message("system", "You."), message("user", "Hi"), message("assistant", "Hello"));
    let found = conversation(Endpoint::Chat, &json!({"messages": [system, answer, user, answer, user]}));
    assert_eq!(found.ends.len(), 3);
    assert_eq!(found.opening, found.ends[0]);
    for messages in
        [json!([system, system]), json!([answer]), json!([]), json!([{"content": "user"}]), json!([{"role": ["user"]}])]
    {
        check_none(Endpoint::Chat, &json!({ "messages": messages }).to_string());
    }
    check_none(Endpoint::Messages, r#"{"system":"You are helpful."}"#);
    check_none(
        Endpoint::Responses,
        r#"{"instructions":"You.","input":[{"type":"function_call_output","output":"\"role\":\"user\""}]}"#,
    );
}

#[test]
fn the_system_prompt_and_every_message_tell_conversations_apart_and_tools_do_not() {
    let user = message("user", "Hi");
    let base = json!({"system": "A", "messages": [user], "tools": [{"name": "t"}]});
    check_differ(Endpoint::Messages, &base, &json!({"system": "B", "messages": [user]}));
    check_differ(Endpoint::Messages, &base, &json!({"messages": [user]}));
    check_differ(Endpoint::Messages, &base, &json!({"system": "A", "messages": [message("user", "Ho")]}));
    assert_eq!(
        conversation(Endpoint::Messages, &base),
        conversation(Endpoint::Messages, &json!({"system": "A", "messages": [user]}))
    );
    let long = |tool: &str| json!({"tools": [tool.repeat(3000)], "messages": [user]}).to_string();
    assert_ne!(prompt(Endpoint::Chat, &long("a")).cuts, prompt(Endpoint::Chat, &long("b")).cuts);
    assert_eq!(prompt(Endpoint::Chat, &long("a")).conversation, prompt(Endpoint::Chat, &long("b")).conversation);
}

#[test]
fn parts_that_an_endpoint_does_not_read_do_not_count() {
    let chat = r#"{"messages":[{"role":"user","content":"Hi"}]}"#;
    check_same(
        Endpoint::Chat,
        chat,
        r#"{"system":"X","prompt":"x","instructions":"y","input":"z","messages":[{"role":"user","content":"Hi"}]}"#,
    );
    for endpoint in [Endpoint::Embeddings, Endpoint::CountTokens] {
        assert_eq!(
            prompt(endpoint, r#"{"input":"text","messages":[{"role":"user","content":"Hi"}]}"#),
            Prompt::default()
        );
    }
}

#[test]
fn the_order_and_spacing_of_members_do_not_matter() {
    let big = "x".repeat(3000);
    let one = format!(
        r#"{{"tools":[{{"a":1}}],"system":"{big}","messages":[{{"role":"user","content":"Hi"}},{{"role":"assistant","content":"{big}"}}]}}"#
    );
    let other = format!(
        "{{ \"messages\" : [\n{{\"role\":\"user\",\"content\":\"Hi\"}} ,\t{{\"role\":\"assistant\",\"content\":\"{big}\"}}\n],\"x\":1,\"system\":\"{big}\", \"tools\" :[{{\"a\":1}}]}}"
    );
    assert_eq!(prompt(Endpoint::Messages, &one), prompt(Endpoint::Messages, &other));
    assert_eq!(prompt(Endpoint::Messages, &one).cuts.len(), 2);
}

#[test]
fn a_mark_that_moves_along_does_not_tell_calls_apart() {
    let mark = json!({"type": "ephemeral"});
    let block = |text: &str| json!([{"type": "text", "text": text}]);
    let marked = |text: &str| json!([{"type": "text", "text": text, "cache_control": mark}]);
    let two = |mark: Option<&Value>| {
        let mut blocks = json!([{"type": "tool_result", "content": "x"}, {"type": "text", "text": "y"}]);
        mark.into_iter().for_each(|mark| blocks[1]["cache_control"] = mark.clone());
        json!({"role": "user", "content": blocks})
    };
    let tool = json!({"name": "t", "cache_control": mark});
    check_continues(
        Endpoint::Messages,
        &json!({"tools": [tool], "system": marked("S"), "messages": [{"role": "user", "content": marked("Hi")}, two(Some(&mark))]}),
        &json!({"system": block("S"), "messages": [{"role": "user", "content": "Hi"}, two(None), {"role": "user", "content": marked("z")}]}),
    );
}

#[test]
fn texts_are_read_alone_or_as_the_only_one_of_a_list() {
    let text = "once upon a time ".repeat(200);
    check_same(Endpoint::Completions, &json!({"prompt": text}).to_string(), &json!({"prompt": [text]}).to_string());
    check_same(Endpoint::Completions, r#"{"prompt":[1,2,3]}"#, r#"{"prompt":[[1,2,3]]}"#);
    let found = conversation(Endpoint::Completions, &json!({"prompt": text}));
    assert_eq!((found.ends.len(), found.opening), (3, found.ends[2]));
    let short = conversation(Endpoint::Completions, &json!({"prompt": "Hi"}));
    assert_eq!(short.ends, [short.opening]);
    for none in [r#""""#, "[]", r#"["a","b"]"#, "[[1],[2]]", "7", "{}", "null", r#"["a",1]"#] {
        check_none(Endpoint::Completions, &format!(r#"{{"prompt":{none}}}"#));
    }
    assert_eq!(prompt(Endpoint::Completions, r#"{"prompt":["aaaa","bbbb"]}"#).tokens, 3);
}

#[test]
fn what_goes_on_from_a_stored_answer_has_no_beginning_here() {
    let long = "x".repeat(5000);
    for stored in [r#""previous_response_id":"resp_1""#, r#""conversation":{"id":"conv_1"}"#] {
        let found = prompt(Endpoint::Responses, &format!(r#"{{{stored},"input":"{long}"}}"#));
        assert_eq!((found.cuts.len(), found.conversation), (0, None));
        assert!(found.tokens > 1250);
    }
    assert!(
        prompt(Endpoint::Responses, &format!(r#"{{"previous_response_id":null,"input":"{long}"}}"#))
            .conversation
            .is_some()
    );
}

#[test]
fn what_an_engine_may_read_otherwise_names_no_conversation() {
    let list = r#"[{"role":"user","content":"Hi"}]"#;
    for odd in [
        format!(r#"{{"messages":{list},"messages":{list}}}"#),
        format!(r#"{{"messages":{list},"messag\u0065s":null}}"#),
        format!(r#"{{"system":"a","messages":{list},"system":"b"}}"#),
        r#"{"messages":{"role":"user"}}"#.to_owned(),
        r#"{"messages":[{"role":"user"},1]}"#.to_owned(),
        r#"{"messages":[1,2]}"#.to_owned(),
        r#"{"messages":[["user"],"user"]}"#.to_owned(),
        r#"{"messages":7}"#.to_owned(),
        r#"{}"#.to_owned(),
    ] {
        check_none(Endpoint::Messages, &odd);
    }
}

#[test]
fn hostile_lists_cost_no_more_than_their_bytes() {
    let many = format!(r#"{{"messages":[{}]}}"#, vec![r#"{"role":"user"}"#; 100_000].join(","));
    let found = read_chunks(many.as_bytes().chunks(1000), Endpoint::Chat);
    assert_eq!(found.conversation, None);
    assert!(found.cuts.len() <= many.len() / 1024);
    let fewer = format!(r#"{{"messages":[{}]}}"#, vec![r#"{"role":"user"}"#; ITEMS_MAX].join(","));
    let fewer = read_chunks(fewer.as_bytes().chunks(777), Endpoint::Chat);
    assert_eq!(fewer.conversation.unwrap().ends.len(), CONVERSATION_ENDS_MAX);
    assert_eq!(found.cuts[..fewer.cuts.len()], fewer.cuts[..]);
    let deep = format!(r#"{{"messages":[{{"content":{}{},"role":"user"}}]}}"#, "[".repeat(120), "]".repeat(120));
    assert!(read_chunks([deep.as_bytes()], Endpoint::Chat).conversation.is_some());
    let marks = format!(
        r#"{{"messages":[{{"role":"user",{}"a":1}}]}}"#,
        r#""cache_control":{"cache_control":{}},"#.repeat(50_000)
    );
    let plain = prompt(Endpoint::Chat, r#"{"messages":[{"role":"user","a":1}]}"#);
    assert_eq!(read_chunks(marks.as_bytes().chunks(1000), Endpoint::Chat), plain);
}

#[test]
fn long_elements_share_what_they_have_in_common() {
    let document = "The quick brown fox. ".repeat(1050);
    let body = |question: &str| json!({"messages": [message("user", &format!("{document}{question}"))]}).to_string();
    let (one, other) = (prompt(Endpoint::Chat, &body("Who?")), prompt(Endpoint::Chat, &body("Where did it go then?")));
    assert_eq!(one.cuts.len(), 6);
    assert_eq!(one.cuts[..5], other.cuts[..5]);
    assert_ne!(one.cuts[5].chain, other.cuts[5].chain);
}

#[test]
fn prompts_of_different_salts_share_neither_cache_nor_conversation() {
    let with = |more: Value| {
        let mut body = json!({"prompt": "word ".repeat(900), "input": "word ".repeat(900), "messages": [message("user", &"word ".repeat(900))]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for endpoint in GENERATING {
        let read = |more: Value| prompt(endpoint, &with(more).to_string());
        let plain = read(json!({}));
        assert_eq!(plain, read(json!({"cache_salt": null, "extra_key": null})));
        let salts = [
            json!({"cache_salt": "a"}),
            json!({"cache_salt": "b"}),
            json!({"extra_key": "a"}),
            json!({"cache_salt": ["a"]}),
        ];
        let salted: Vec<_> = salts.iter().cloned().map(read).chain([plain.clone()]).collect();
        for (n, one) in salted.iter().enumerate() {
            assert_eq!((one.tokens, one.cuts.len()), (plain.tokens, plain.cuts.len()));
            for other in &salted[n + 1..] {
                assert!(one.cuts.iter().zip(&other.cuts).all(|(one, other)| one.chain != other.chain));
                assert_ne!(one.conversation.as_ref().unwrap().opening, other.conversation.as_ref().unwrap().opening);
            }
        }
    }
    let (user, more) = (message("user", "Hi"), message("assistant", &"Hello ".repeat(900)));
    check_continues(
        Endpoint::Chat,
        &json!({"cache_salt": "a", "messages": [user]}),
        &json!({"messages": [user, more, user], "cache_salt": "a"}),
    );
}

/// A message of the user's with a screenshot, whose bytes are told by `seed`.
fn screenshot(seed: usize, bytes: usize) -> Value {
    let data: String = (0..bytes).map(|n| char::from(b'A' + ((n * n + seed + n / 97) % 26) as u8)).collect();
    json!({"role": "user", "content": [
        {"type": "text", "text": "What do you see?"},
        {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{data}")}},
    ]})
}

#[test]
fn an_image_counts_for_its_tokens_and_not_for_its_bytes() {
    let (system, more) = (message("system", "You."), message("assistant", &"word ".repeat(2_000)));
    let tokens = |messages: &[Value]| prompt(Endpoint::Chat, &json!({ "messages": messages }).to_string()).tokens;
    assert!((1_500..1_600).contains(&tokens(&[screenshot(1, 1_100_000)])));
    assert!((3_000..3_200).contains(&tokens(&[screenshot(1, 9_000), screenshot(2, 500_000)])));
    check_continues(
        Endpoint::Chat,
        &json!({"messages": [system, screenshot(1, 100_000)]}),
        &json!({"messages": [system, screenshot(1, 100_000), more, screenshot(2, 100_000)]}),
    );
}

#[test]
fn images_are_told_apart_by_any_of_their_bytes() {
    let body = |image: &Value| json!({"messages": [message("system", &"You. ".repeat(500)), image]});
    let (one, mut other) = (screenshot(1, 200_000), screenshot(1, 200_000));
    let url = other["content"][1]["image_url"]["url"].as_str().unwrap();
    // Nowhere near to where anything is looked at.
    let changed = format!("{}!{}", &url[..101_000], &url[101_001..]);
    other["content"][1]["image_url"]["url"] = changed.into();
    check_differ(Endpoint::Chat, &body(&one), &body(&other));
    let (one, other) =
        (prompt(Endpoint::Chat, &body(&one).to_string()), prompt(Endpoint::Chat, &body(&other).to_string()));
    assert_eq!((one.tokens, one.cuts.len()), (other.tokens, other.cuts.len()));
    assert_eq!(one.cuts[0], other.cuts[0]);
    assert_ne!(one.cuts.last(), other.cuts.last());
}

fn any_message() -> impl Strategy<Value = Value> {
    let text = prop_oneof!["[ -~\n\"\\\\é]{0,60}", (0usize..9000).prop_map(|len| "w\n".repeat(len / 2))];
    let role = prop::sample::select(vec!["system", "user", "assistant", "tool"]);
    let kind = 0..3u8;
    (role, text, kind).prop_map(|(role, text, kind)| match kind {
        0 => json!({"role": role, "content": text}),
        1 => json!({"content": [{"type": "text", "text": text}], "role": role}),
        _ => {
            json!({"role": role, "content": [{"type": "text", "text": text, "cache_control": {"a": 1}}, {"type": "x"}]})
        }
    })
}

fn body_of(messages: &[Value], shuffled: bool, pretty: bool) -> String {
    let print = |value: &Value| {
        if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }.unwrap()
    };
    // Items as they are, whatever stands between them.
    let items: Vec<_> = messages.iter().map(Value::to_string).collect();
    let list = items.join(if pretty { " ,\n  " } else { "," });
    let mut members = [
        format!("\"messages\":[{list}]"),
        "\"tools\":[{\"name\":\"t\"}]".to_owned(),
        format!("\"system\":{}", print(&json!("You are helpful."))),
        "\"model\":\"m\"".to_owned(),
    ];
    if shuffled {
        members.reverse();
    }
    format!("{{{}}}", members.join(","))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn cuts_of_the_body_and_its_formatting_change_nothing(
        messages in prop::collection::vec(any_message(), 0..12), steps in prop::collection::vec(1usize..5000, 1..4),
        shuffled in any::<bool>(), pretty in any::<bool>(),
    ) {
        for endpoint in GENERATING {
            let plain = read_chunks([body_of(&messages, false, false).as_bytes()], endpoint);
            let body = body_of(&messages, shuffled, pretty);
            for step in &steps {
                prop_assert_eq!(&read_chunks(body.as_bytes().chunks(*step), endpoint), &plain);
            }
        }
    }

    #[test]
    fn whoever_appends_keeps_all_cuts_and_ends(messages in prop::collection::vec(any_message(), 1..16), keep in any::<prop::sample::Index>()) {
        let keep = keep.index(messages.len()) + 1;
        let all = read_chunks([body_of(&messages, false, false).as_bytes()], Endpoint::Messages);
        let some = read_chunks([body_of(&messages[..keep], false, false).as_bytes()], Endpoint::Messages);
        prop_assert_eq!(&some.cuts[..], &all.cuts[..some.cuts.len()]);
        prop_assert!(some.tokens <= all.tokens);
        prop_assert!(all.cuts.windows(2).all(|two| two[0].tokens + 256 <= two[1].tokens + 1));
        prop_assert!(all.cuts.last().is_none_or(|cut| cut.tokens <= all.tokens));
        let users = messages.iter().position(|message| message["role"] == "user");
        match (&some.conversation, &all.conversation) {
            (Some(some), Some(all)) => {
                prop_assert_eq!(&some.ends[..], &all.ends[..some.ends.len()]);
                prop_assert_eq!((some.opening, some.ends[0]), (all.opening, all.opening));
                prop_assert_eq!(all.ends.len(), messages.len() - users.unwrap());
            }
            (None, _) => prop_assert!(users.is_none_or(|at| at >= keep)),
            (Some(_), None) => prop_assert!(false, "lost by appending"),
        }
    }

    #[test]
    fn a_text_that_grows_keeps_all_cuts_and_ends(text in "[a-z\n\"é]{0,6000}", cut in 0usize..6000, step in 1usize..3000) {
        let cut = (0..=cut.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let read = |text: &str| read_chunks(json!({"prompt": text}).to_string().as_bytes().chunks(step), Endpoint::Completions);
        let (some, all) = (read(&text[..cut]), read(&text));
        prop_assert_eq!(&some.cuts[..], &all.cuts[..some.cuts.len()]);
        if !some.cuts.is_empty() {
            let (some, all) = (some.conversation.unwrap(), all.conversation.unwrap());
            prop_assert_eq!(&some.ends[..], &all.ends[..some.ends.len()]);
            prop_assert_eq!(Some(&all.opening), all.ends.last());
        }
    }

    #[test]
    fn any_json_is_read_without_a_panic(
        text in r#"\{("(messages|input|prompt|system|tools|instructions)":(\[(\{"role":"user","content":(\[\]|"x"|\[\{"type":"text","text":"y"\}\])\},){0,3}[0-9]\]|"[a-z]{0,5}"|[0-9]|null|\{\}|\[\]),){0,4}"m":1\}"#,
        step in 1usize..9,
    ) {
        for endpoint in GENERATING {
            let whole = read_chunks([text.as_bytes()], endpoint);
            prop_assert_eq!(read_chunks(text.as_bytes().chunks(step), endpoint), whole);
        }
    }
}

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::affinity;
use crate::wire::scan::Scanner;

static SESSION_ID: HeaderName = HeaderName::from_static("x-session-id");

const UUID: &str = "0b9f6a1e-3c55-4d1c-9f5e-7f6f6a3b2c1d";

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
    };
    lines.iter().map(line).collect()
}

fn fields(body: &Value) -> Fields {
    let mut scanner = Scanner::new();
    scanner.push(body.to_string().as_bytes()).unwrap();
    scanner.finish().unwrap().fields
}

/// With the default of `sessions.headers`.
fn names(lines: &[(&str, &str)], body: Value) -> Names {
    HeadNames::read(&headers(lines), std::slice::from_ref(&SESSION_ID)).unwrap().with(&fields(&body))
}

fn text(name: &Option<Name>) -> Option<&str> {
    name.as_ref().map(|name| std::str::from_utf8(name.as_bytes()).unwrap())
}

#[track_caller]
fn check(lines: &[(&str, &str)], body: Value, session: Option<&str>, parent: Option<&str>) {
    let found = names(lines, body);
    assert_eq!((text(&found.session), text(&found.parent)), (session, parent), "{lines:?}");
}

#[test]
fn claude_codes_sub_agents_are_sessions_within_its_own() {
    let (session, agent) = (("x-claude-code-session-id", UUID), ("x-claude-code-agent-id", "a1"));
    let own = format!("{UUID}\0a1");
    check(&[session], json!({}), Some(UUID), None);
    check(&[session, agent], json!({}), Some(&own), Some(UUID));
    let nested = [session, agent, ("x-claude-code-parent-agent-id", "a0")];
    check(&nested, json!({}), Some(&own), Some(&format!("{UUID}\0a0")));
    // Older versions name the session in the body alone, in two ways.
    let user_id = format!("user_3f2a_account_8b0c-11_session_{UUID}");
    check(&[], json!({"metadata": {"user_id": user_id}}), Some(UUID), None);
    let packed = json!({"device_id": "d".repeat(64), "account_uuid": "", "session_id": UUID}).to_string();
    check(&[], json!({"metadata": {"user_id": packed}}), Some(UUID), None);
    check(&[agent], json!({"metadata": {"user_id": packed}}), Some(&own), Some(UUID));
    check(&[agent], json!({}), None, None);
}

#[test]
fn codexs_threads_are_sessions_and_know_their_parent() {
    let key = json!({"prompt_cache_key": UUID, "input": []});
    check(&[("session-id", "root"), ("thread-id", "root")], key.clone(), Some("root"), None);
    let spawned = [("session-id", "root"), ("thread-id", "t2"), ("x-codex-parent-thread-id", "root")];
    check(&spawned, key.clone(), Some("t2"), Some("root"));
    check(&[("session_id", UUID), ("conversation_id", UUID)], key.clone(), Some(UUID), None);
    check(&[("conversation_id", UUID)], key.clone(), Some(UUID), None);
    // The key alone gathers nothing.
    let found = names(&[], key);
    assert!(found.session.is_none() && found.coarse.is_some());
}

#[test]
fn each_agents_own_header_names_its_session() {
    for header in [
        "x-session-affinity",
        "x-session-id",
        "X-Amp-Thread-Id",
        "X-Qwen-Code-Session-Id",
        "X-Dynamo-Session-ID",
        "x-bf-session-id",
        "x-litellm-session-id",
        "X-Session-Affinity",
    ] {
        check(&[(header, "s-1")], json!({}), Some("s-1"), None);
    }
    check(&[("x-session-affinity", "child"), ("x-parent-session-id", "main")], json!({}), Some("child"), Some("main"));
    let dynamo =
        [("X-Dynamo-Session-ID", "c"), ("X-Dynamo-Parent-Session-ID", "p"), ("X-Dynamo-Session-Final", "true")];
    check(&dynamo, json!({}), Some("c"), Some("p"));
    check(&[("x-parent-session-id", "main")], json!({}), None, Some("main"));
    check(&[("x-session-id", "s"), ("x-parent-session-id", "s")], json!({}), Some("s"), None);
    // What a routing key says is no session's id, be it the same text.
    check(&[("X-SMG-Routing-Key", "k")], json!({}), Some("\0k"), None);
}

#[test]
fn fields_of_the_body_that_hold_an_id_name_the_session() {
    check(&[], json!({"conversation": "conv_1"}), Some("conv_1"), None);
    check(&[], json!({"conversation": {"id": "conv_1"}}), Some("conv_1"), None);
    check(&[], json!({"metadata": {"session_id": "m"}}), Some("m"), None);
    check(&[], json!({"session_id": "s"}), Some("s"), None);
    for odd in [
        json!({"session_id": 7, "metadata": "x", "conversation": [1]}),
        json!({"session_id": "é"}),
        json!({"session_id": "a\nb"}),
        json!({"session_id": "  "}),
        json!({"session_id": "s".repeat(257)}),
        json!({"metadata": {"user_id": "alice"}}),
        json!({"metadata": {"user_id": "user_1_session_x"}}),
        json!({"metadata": {"user_id": "my_account_1_session_x"}}),
        json!({"metadata": {"user_id": "user_1_account_2_session_"}}),
        json!({"metadata": {"user_id": "{\"session_id\":7}"}}),
        json!({"metadata": {"user_id": "{\"session_id\":\"x\""}}),
        json!({"user": "u", "input": {"session_id": "x"}}),
    ] {
        check(&[], odd, None, None);
    }
}

#[test]
fn the_configured_go_before_the_agents_own_and_those_before_the_body() {
    let lines = [("x-claude-code-session-id", "claude"), ("x-session-affinity", "open"), ("x-session-id", "given")];
    let body = json!({"conversation": "c", "metadata": {"session_id": "m"}, "session_id": "s"});
    check(&lines, body.clone(), Some("given"), None);
    check(&lines[..2], body.clone(), Some("claude"), None);
    check(&lines[1..2], body.clone(), Some("open"), None);
    check(&[], body, Some("c"), None);
    check(
        &[],
        json!({"metadata": {"session_id": "m", "user_id": format!("user_a_account_b_session_{UUID}")}, "session_id": "s"}),
        Some("m"),
        None,
    );
    let read = |configured: &[&str], lines| {
        let configured: Vec<_> = configured.iter().map(|name| name.parse::<HeaderName>().unwrap()).collect();
        text(&HeadNames::read(&headers(lines), &configured).unwrap().session).map(str::to_owned)
    };
    assert_eq!(read(&["x-b", "x-a"], &[("x-a", "1"), ("x-b", "2")]).as_deref(), Some("2"));
    assert_eq!(read(&["x-b", "x-a"], &[("x-a", "1"), ("x-b", " ")]).as_deref(), Some("1"));
    assert_eq!(read(&[], &[("x-session-id", "still an agent's own")]).as_deref(), Some("still an agent's own"));
    assert_eq!(read(&["x-correlation-id"], &[("x-correlation-id", "c")]).as_deref(), Some("c"));
}

#[test]
fn ids_of_requests_and_coarse_fields_never_name_a_session() {
    for header in
        ["x-request-id", "x-client-request-id", "traceparent", "x-correlation-id", "user-agent", "x-agent-step"]
    {
        check(
            &[(header, UUID)],
            json!({"user": "u", "prompt_cache_key": "k", "previous_response_id": "resp_1"}),
            None,
            None,
        );
    }
}

#[test]
fn coarse_fields_are_told_as_one_hash() {
    let coarse = |body| names(&[], body).coarse;
    let all = [
        coarse(json!({})),
        coarse(json!({"user": "a"})),
        coarse(json!({"user": "b"})),
        coarse(json!({"prompt_cache_key": "a"})),
        coarse(json!({"user": "a", "prompt_cache_key": "a"})),
        coarse(json!({"user": "aa"})),
    ];
    assert_eq!(all[0], None);
    assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
    assert_eq!(coarse(json!({"user": ["a"], "prompt_cache_key": null})), None);
}

#[test]
fn an_agents_header_that_cannot_be_used_is_passed_over_and_a_configured_one_is_an_error() {
    let long = "s".repeat(257);
    for value in [long.as_str(), "a\tb", "caf\u{e9}"] {
        let own = [("x-claude-code-session-id", value), ("x-amp-thread-id", "t")];
        check(&own, json!({}), Some("t"), None);
        assert!(HeadNames::read(&headers(&[("x-session-id", value)]), std::slice::from_ref(&SESSION_ID)).is_err());
    }
    check(&[("session-id", "a"), ("session-id", "b")], json!({}), None, None);
    check(&[("session-id", "a"), ("session-id", "a")], json!({}), Some("a"), None);
    let twice =
        HeadNames::read(&headers(&[("x-a", "a"), ("x-a", "b")]), &[HeaderName::from_static("x-a")]).unwrap_err();
    assert_eq!(twice.to_string(), "the header x-a comes more than once with different values");
}

#[test]
fn values_are_short_visible_ascii_and_single() {
    let ok = headers(&[("x-session-id", "agent 7")]);
    assert_eq!(visible(&ok, &SESSION_ID).unwrap(), Some("agent 7"));
    assert_eq!(visible(&headers(&[("x-session-id", "")]), &SESSION_ID).unwrap(), None);
    assert_eq!(visible(&headers(&[]), &SESSION_ID).unwrap(), None);
    assert!(visible(&headers(&[("x-session-id", &"a".repeat(257))]), &SESSION_ID).is_err());
    assert!(visible(&headers(&[("x-session-id", "a\tb")]), &SESSION_ID).is_err());
}

#[test]
fn the_same_name_is_one_session_for_a_client_and_another_for_every_other() {
    let key = |credential: &str, lines: &[(&str, &str)], body| {
        let scope = affinity::scope(Some(credential.as_bytes()), None);
        affinity::session_key(&scope, names(lines, body).session.unwrap().as_bytes())
    };
    let by_header = key("Bearer a", &[("x-claude-code-session-id", UUID)], json!({}));
    let by_body = key("Bearer a", &[], json!({"metadata": {"user_id": format!("user_1_account__session_{UUID}")}}));
    assert_eq!(by_header, by_body);
    assert_ne!(by_header, key("Bearer b", &[("x-claude-code-session-id", UUID)], json!({})));
    assert_ne!(by_header, key("Bearer a", &[("x-smg-routing-key", UUID)], json!({})));
}

proptest! {
    #[test]
    fn names_are_bounded_whatever_comes(value in "[ -~é\t]{0,300}", user_id in ".{0,80}|user_.{0,9}_account_.{0,9}_session_.{0,9}|\\{.{0,20}") {
        let found = HeadNames::read(&headers(&[("thread-id", &value)]), &[]).unwrap().with(&fields(&json!({"metadata": {"user_id": user_id}})));
        prop_assert!(found.session.is_none_or(|name| (1..=NAME_BYTES_MAX).contains(&name.as_bytes().len())));
    }
}

//! A stored response (`previous_response_id`) is gone on with where it is held, and nowhere else.

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};
use serde_json::{Value, json};

use crate::support::{
    Answer, Edge, EdgeConfig, H2, Http1, Pool, SERVED, Scripted, calls, chat, json_body, post, post_with, sim, with,
};

const RESPONSES: &str = "/v1/responses";

fn first(text: &str) -> Value {
    json!({"model": "m", "input": text, "sim": {"tokens": 4}})
}

fn after(id: &str, text: &str) -> Value {
    with(first(text), json!({"previous_response_id": id}))
}

async fn ask(edge: &Edge, body: &Value) -> Answer {
    Http1::connect(edge.agents()).await.call(&post_with(RESPONSES, &[("authorization", "Bearer key")], body)).await
}

/// The id of an answer, streamed or not.
#[track_caller]
fn id_of(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let event = text.lines().find_map(|line| line.strip_prefix("data: "));
    let whole: Value = serde_json::from_str(event.unwrap_or(&text)).unwrap();
    whole["id"].as_str().or(whole["response"]["id"].as_str()).unwrap().to_owned()
}

#[track_caller]
fn at(answer: &Answer) -> &str {
    answer.header("x-nearpool-replica").unwrap()
}

async fn two() -> (ReplicaHandle, ReplicaHandle) {
    (sim("a").await, sim("b").await)
}

/// Twenty turns over both protocols, streamed and not, each on the one before, while other calls load the replicas.
async fn many_turns(edge: &Edge, agent: usize) {
    let mut id: Option<String> = None;
    let mut home: Option<String> = None;
    for turn in 0..20 {
        let text = format!("agent {agent} turn {turn}");
        let mut body = id.as_deref().map_or(first(&text), |id| after(id, &text));
        body["stream"] = json!(turn % 2 == 0);
        let answer = match turn % 4 {
            0 | 1 => ask(edge, &body).await,
            _ => H2::connect(edge.agents()).await.call(RESPONSES, &[("authorization", "Bearer key")], &body).await,
        };
        id = Some(id_of(&answer));
        let home = home.get_or_insert_with(|| at(&answer).to_owned());
        assert_eq!((at(&answer), answer.header("x-nearpool-attempts")), (home.as_str(), Some("1")), "{agent} {turn}");
        let load = chat(&format!("load {agent} {turn}"), 3);
        assert_eq!(Http1::connect(edge.agents()).await.call(&post("/v1/chat/completions", &load)).await.status, 200);
    }
}

#[tokio::test]
async fn every_turn_goes_to_the_replica_that_holds_the_one_before() {
    let (a, b) = two().await;
    let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
    tokio::join!(many_turns(&edge, 0), many_turns(&edge, 1), many_turns(&edge, 2), many_turns(&edge, 3));
    let one_attempt = |line: &Value| line["endpoint"] == RESPONSES && line["status"] == 200 && line["attempts"] == 1;
    edge.wait_for_logs(80, one_attempt).await;
}

#[tokio::test]
async fn a_call_whose_owner_is_gone_ends_with_a_clear_error_and_tries_no_other() {
    let (a, b) = two().await;
    let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
    let begun = ask(&edge, &first("x")).await;
    let id = id_of(&begun);
    let (owner, other) = if at(&begun) == "a" { (&a, &b) } else { (&b, &a) };
    owner.stop().await;
    let before = calls(other).len();
    // At first the connection is refused; then the circuit breaker is open, and the replica is asked as the last resort.
    for n in 0..8 {
        let answer = ask(&edge, &with(after(&id, "y"), json!({"stream": n % 2 == 0}))).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer:?}");
        let error = &json_body(&answer)["error"];
        assert_eq!(error["code"], "response_owner_unavailable");
        assert_eq!(error["param"], "previous_response_id");
        assert!(error["message"].as_str().unwrap().contains(&id), "{error}");
    }
    assert_eq!(calls(other).len(), before, "no other replica is tried");
    let line = edge.wait_for_log(|line| line["status"] == 503).await;
    assert_eq!((&line["outcome"], &line["blame"]), (&json!("response_owner_unavailable"), &json!("edge")));
    // A conversation that needs nobody's memory goes on.
    assert_eq!(ask(&edge, &first("z")).await.status, 200);
}

#[tokio::test]
async fn an_owner_that_fails_says_so_itself_and_is_the_only_one_asked() {
    let (a, b) = two().await;
    let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
    let begun = ask(&edge, &first("x")).await;
    let (owner, other) = if at(&begun) == "a" { (&a, &b) } else { (&b, &a) };
    let before = calls(other).len();
    for (status, retry_after_s) in [(500, None), (429, Some(1)), (404, None)] {
        owner.set_fault(FaultPlan::from(Fault::Status { status, retry_after_s })).await.unwrap();
        let answer = ask(&edge, &after(&id_of(&begun), "y")).await;
        assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (status, Some("1")));
        assert_eq!(json_body(&answer)["error"]["message"], "told to fail");
    }
    assert_eq!(calls(other).len(), before);
}

#[tokio::test]
async fn an_id_that_the_edge_does_not_know_is_found_at_its_replica_and_known_from_then_on() {
    let (a, b) = two().await;
    for (holder, stream) in [(&a, false), (&b, true), (&b, false), (&a, true)] {
        // Another edge, or this one before it was restarted, saw the answer.
        let body = with(first("x"), json!({"model": SERVED}));
        let id = id_of(&Http1::connect(holder.addr()).await.call(&post(RESPONSES, &body)).await);
        let edge =
            Edge::start(EdgeConfig::of(&[&a, &b]).set("retry", "attempts", "1").set("retry", "attempts_per_pool", "1"));
        let edge = edge.await;
        let answer = ask(&edge, &with(after(&id, "y"), json!({"stream": stream}))).await;
        let next = id_of(&answer);
        assert_eq!(at(&answer), holder.name());
        for id in [&id, &next] {
            let again = ask(&edge, &after(id, "z")).await;
            assert_eq!((again.status, at(&again)), (200, holder.name()));
            assert_eq!(again.header("x-nearpool-attempts"), Some("1"), "it is known now");
        }
        for name in ["a", "b"] {
            let breaker = format!("nearpool_breaker_state{{pool=\"near\",replica=\"{name}\"}}");
            assert_eq!(edge.metric(&breaker).await, 0.0);
            edge.wait_until_idle("near", name).await;
        }
    }
}

#[tokio::test]
async fn an_id_that_nobody_knows_gets_the_last_replicas_404() {
    let (a, b) = two().await;
    let c = sim("c").await;
    let pools = EdgeConfig::new().region("far", 50.11, 8.68).pool(Pool::new("near", "here", "m").sims(&[&a, &b]));
    let edge = Edge::start(pools.pool(Pool::new("far", "far", "m").sims(&[&c]))).await;
    for stream in [false, true] {
        let answer = ask(&edge, &with(after("resp_nobodys", "x"), json!({"stream": stream}))).await;
        assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (404, Some("3")), "{answer:?}");
        assert_eq!(json_body(&answer)["error"]["message"], "Response with id 'resp_nobodys' not found.");
    }
    for sim in [&a, &b, &c] {
        assert_eq!(calls(sim).len(), 2, "each is asked once a call");
    }
    // One that is gone has lost what it held.
    b.stop().await;
    let answer = ask(&edge, &after("resp_nobodys", "x")).await;
    assert_eq!(answer.status, 404, "{answer:?}");
    // One that lives and fails may hold it.
    c.set_fault(FaultPlan::from(Fault::Status { status: 500, retry_after_s: None })).await.unwrap();
    let answer = ask(&edge, &after("resp_nobodys", "x")).await;
    assert_eq!(answer.status, 500, "{answer:?}");
}

#[tokio::test]
async fn what_is_not_stored_or_is_another_clients_is_not_known() {
    let (a, b) = two().await;
    let edge = Edge::start(EdgeConfig::of(&[&a, &b])).await;
    let unstored = ask(&edge, &with(first("x"), json!({"store": false}))).await;
    let answer = ask(&edge, &after(&id_of(&unstored), "y")).await;
    assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (404, Some("2")), "both were asked");
    let stored = id_of(&ask(&edge, &first("x")).await);
    let theirs = post_with(RESPONSES, &[("authorization", "Bearer other")], &after(&stored, "y"));
    let answer = Http1::connect(edge.agents()).await.call(&theirs).await;
    assert_eq!(answer.status, 200, "who may see it is the engine's to say");
    let mine = ask(&edge, &after(&stored, "z")).await;
    assert_eq!(mine.header("x-nearpool-attempts"), Some("1"));
}

#[tokio::test]
async fn an_owner_outside_of_the_pools_of_the_call_is_a_clear_error() {
    let (a, b) = two().await;
    let served = format!("served_as = \"{SERVED}\"");
    let config = EdgeConfig::of(&[&a]).model("n", &[&served]).pool(Pool::new("other", "here", "n").sims(&[&b]));
    let edge = Edge::start(config).await;
    let id = id_of(&ask(&edge, &first("x")).await);
    let answer = ask(&edge, &with(after(&id, "y"), json!({"model": "n"}))).await;
    assert_eq!((answer.status, &json_body(&answer)["error"]["code"]), (503, &json!("response_owner_unavailable")));
    assert_eq!(calls(&b).len(), 0);
}

#[tokio::test]
async fn a_call_waits_in_line_for_a_place_at_its_owner_though_another_replica_is_free() {
    let mut owner = Scripted::start().await;
    let other = sim("b").await;
    let pool = Pool::new("near", "here", "m").replica("owner", &owner.url()).sims(&[&other]);
    let pool = pool.line("max_in_flight = 1").line("queue_timeout = \"20s\"");
    let edge = Edge::start(EdgeConfig::new().pool(pool)).await;
    let answered = r#"{"id":"resp_1","object":"response","output":[]}"#;
    // Different conversations start at either.
    let mut said = 0..1_000;
    let exchange = loop {
        let body = first(&said.next().expect("a conversation that starts at the owner").to_string());
        let mut call = std::pin::pin!(ask(&edge, &body));
        tokio::select! {
            mut exchange = owner.next() => {
                exchange.answer(200, "", answered).await;
                assert_eq!(id_of(&call.await), "resp_1");
                break exchange;
            }
            answer = call.as_mut() => assert_eq!(at(&answer), "b"),
        }
    };
    let before = calls(&other).len();
    let body = after("resp_1", "y");
    let serve = async {
        let mut first = owner.next_after(exchange).await;
        edge.wait_for_metric("nearpool_queued{pool=\"near\"}", |queued| queued == 1.0).await;
        first.answer(200, "", &answered.replace("resp_1", "resp_2")).await;
        let mut second = owner.next_after(first).await;
        second.answer(200, "", &answered.replace("resp_1", "resp_3")).await;
    };
    let (one, two, ()) = tokio::join!(ask(&edge, &body), ask(&edge, &body), serve);
    for answer in [&one, &two] {
        assert_eq!((answer.status, answer.header("x-nearpool-replica")), (200, Some("owner")));
    }
    assert_eq!(calls(&other).len(), before, "the other one was free all the time");
}

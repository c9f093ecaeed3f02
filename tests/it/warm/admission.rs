//! Sessions are taken on as the caches hold them: those under way go on, new ones wait in order, or start elsewhere.

use nearpool::sim::server::{Fault, FaultPlan, LoggedRequest, ReplicaHandle};
use serde_json::{Value, json};

use super::call::{CHAT, call, hold, of_pool, prompt, send, text, told, until_waiting};
use crate::support::{Answer, Edge, EdgeConfig, Http1, Pool, SERVED, calls, json_body, post, sim, sim_with, with};

/// Tokens of a session of which a pool of one replica takes on but one.
pub(super) const ONE: usize = 900;

/// One replica whose cache holds the least that can be said of it, and sessions that are active for a second.
pub(super) fn small(pool: Pool) -> EdgeConfig {
    EdgeConfig::new().pool(pool.line("kv_cache_tokens = 1024")).set("sessions", "active", "\"1s\"").set(
        "sessions",
        "admission_wait",
        "\"2m\"",
    )
}

pub(super) fn near() -> Pool {
    Pool::new("near", "here", "m")
}

/// How often sessions waited, and how often that was in vain.
pub(super) async fn admissions(edge: &Edge) -> (f64, f64) {
    let of = |result: &str| format!("nearpool_admissions_total{{pool=\"near\",result=\"{result}\"}}");
    (edge.metric(&of("waited")).await, edge.metric(&of("sent_away")).await)
}

#[track_caller]
pub(super) fn check_sent_away(answer: &Answer) {
    assert_eq!(answer.status, 429, "{answer:?}");
    let error = &json_body(answer)["error"];
    assert_eq!(error["code"], "at_capacity");
    assert!(error["message"].as_str().unwrap().contains("as many sessions as its caches hold"), "{error}");
    let seconds: u32 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=10).contains(&seconds), "{seconds} s");
}

#[tokio::test]
async fn sessions_under_way_go_on_and_a_new_one_waits_until_one_ceases_to_be_active() {
    let replica = sim("one").await;
    let edge = Edge::start(small(near().sims(&[&replica]))).await;
    call(&edge, "a", &prompt(ONE)).await;
    let held = hold(&edge, &replica, "a", ONE).await;
    let mut waits = send(&edge, "b", &prompt(ONE)).await;
    until_waiting(&edge, 1).await;
    // Whoever waits holds up nobody who is active.
    for _ in 0..3 {
        assert_eq!(told(&call(&edge, "a", &prompt(ONE)).await).1, "session");
    }
    let gauge = async |name: &str| edge.metric(&of_pool(name, "near")).await;
    assert_eq!((gauge("sessions_active").await, gauge("sessions_waiting").await), (1.0, 1.0));
    let context = gauge("sessions_context_tokens").await;
    assert!((ONE as f64..ONE as f64 + 100.0).contains(&context), "{context}");
    assert_eq!(gauge("kv_cache_tokens").await, 1024.0);
    assert_eq!(admissions(&edge).await, (0.0, 0.0));
    let before = calls(&replica).len();
    drop(held);
    let taken_on = waits.answer().await;
    assert_eq!((taken_on.status, told(&taken_on)), (200, ("one", "new")));
    assert_eq!((calls(&replica).len(), admissions(&edge).await), (before + 1, (1.0, 0.0)));
    assert_eq!((gauge("sessions_active").await, gauge("sessions_waiting").await), (1.0, 0.0));
    let line = edge.wait_for_log(|line| line["ms"]["queue"].is_number()).await;
    assert!(line["ms"]["overhead"].as_f64() < line["ms"]["queue"].as_f64(), "to wait is no overhead: {line}");
    // All have gone, and count for nothing.
    edge.wait_for_metric(&of_pool("sessions_active", "near"), |active| active == 0.0).await;
    assert_eq!(gauge("sessions_context_tokens").await, 0.0);
}

#[tokio::test]
async fn a_stream_that_waits_to_be_taken_on_is_kept_alive() {
    let replica = sim("one").await;
    let config = small(near().sims(&[&replica])).set("timeouts", "keep_alive_comment", "\"50ms\"");
    let edge = Edge::start(config).await;
    let held = begun_and_held(&edge, &replica).await;
    let mut waits = send(&edge, "b", &with(prompt(ONE), json!({"stream": true}))).await;
    until_waiting(&edge, 1).await;
    let head = waits.head().await;
    assert_eq!(head.status, 200);
    for _ in 0..2 {
        assert_eq!(waits.chunk().await.unwrap().unwrap().bytes, ": keep-alive\n\n");
    }
    drop(held);
    let (rest, ended) = waits.body(&head).await;
    let rest = String::from_utf8(rest.to_vec()).unwrap();
    assert!(ended.is_ok() && rest.contains("data: [DONE]\n\n") && !rest.contains("\"error\""), "{rest}");
    assert!(rest.ends_with(": region=here pool=near replica=one model=m reason=new attempts=1\n\n"), "{rest}");
}

/// Session `a` begins at the replica, and has a call in flight there for as long as what is returned lives.
pub(super) async fn begun_and_held(edge: &Edge, replica: &ReplicaHandle) -> Http1 {
    call(edge, "a", &prompt(ONE)).await;
    hold(edge, replica, "a", ONE).await
}

/// The sessions of the calls at the replica, in their order, without those that only came before.
pub(super) fn order(replica: &ReplicaHandle) -> Vec<String> {
    let session = |request: &LoggedRequest| request.headers.get("x-session-id").unwrap().to_str().unwrap().to_owned();
    calls(replica).iter().map(session).filter(|session| !session.starts_with("agent-")).collect()
}

/// Shows the edge that sessions go on here: one that has made a single call counts for little until that is known.
pub(super) async fn agents_were_here(edge: &Edge) {
    for n in 0..64 {
        let session = format!("agent-{n}");
        for _ in 0..2 {
            call(edge, &session, &prompt(5)).await;
        }
    }
    edge.wait_for_metric(&of_pool("sessions_active", "near"), |active| active == 0.0).await;
}

#[tokio::test]
async fn sessions_are_taken_on_in_the_order_of_arrival_however_small() {
    let replica = sim_with("one", |params| params.log_requests = 1_024).await;
    let edge = Edge::start(small(near().sims(&[&replica]))).await;
    agents_were_here(&edge).await;
    let held = begun_and_held(&edge, &replica).await;
    let mut waiting = Vec::new();
    // The small one would fit beside each of the others.
    for (n, (session, tokens)) in [("b", ONE), ("c", ONE), ("d", 50), ("e", ONE)].into_iter().enumerate() {
        waiting.push(send(&edge, session, &prompt(tokens)).await);
        until_waiting(&edge, n + 1).await;
    }
    assert_eq!(order(&replica), ["a", "a"]);
    drop(held);
    for client in &mut waiting {
        assert_eq!(client.answer().await.status, 200);
    }
    let mut order = order(&replica);
    // Those two are taken on at once.
    order[3..5].sort();
    assert_eq!(order, ["a", "a", "b", "c", "d", "e"]);
    assert_eq!(admissions(&edge).await, (4.0, 0.0));
}

#[tokio::test]
async fn calls_of_one_session_are_taken_on_together() {
    let replica = sim_with("one", |params| params.log_requests = 1_024).await;
    let edge = Edge::start(small(near().sims(&[&replica]))).await;
    agents_were_here(&edge).await;
    let held = begun_and_held(&edge, &replica).await;
    let mut waiting = Vec::new();
    for (n, session) in ["b", "c", "b"].into_iter().enumerate() {
        waiting.push(send(&edge, session, &prompt(ONE)).await);
        until_waiting(&edge, n + 1).await;
    }
    drop(held);
    for client in &mut waiting {
        assert_eq!(client.answer().await.status, 200);
    }
    assert_eq!(order(&replica), ["a", "a", "b", "b", "c"]);
}

#[tokio::test]
async fn a_new_session_starts_in_another_region_that_has_room_and_stays_there() {
    let (here, there) = (sim("here").await, sim("there").await);
    let far = Pool::new("far", "ireland", "m").sims(&[&there]).line("kv_cache_tokens = 1024");
    let config = small(near().sims(&[&here])).region("ireland", 53.35, -6.26).pool(far);
    let edge = Edge::start(config.set("sessions", "active", "\"10m\"")).await;
    for reason in ["new", "session"] {
        assert_eq!(told(&call(&edge, "a", &prompt(ONE)).await), ("here", reason));
    }
    assert_eq!(told(&call(&edge, "b", &prompt(ONE)).await), ("there", "spill"));
    for (session, replica) in [("a", "here"), ("b", "there"), ("a", "here"), ("b", "there")] {
        assert_eq!(told(&call(&edge, session, &prompt(ONE)).await), (replica, "session"));
    }
    assert_eq!(admissions(&edge).await, (0.0, 0.0), "nobody waited");
    // Now there is room nowhere.
    let third = send(&edge, "c", &prompt(ONE)).await;
    for pool in ["near", "far"] {
        edge.wait_for_metric(&of_pool("sessions_waiting", pool), |waiting| waiting == 1.0).await;
        assert_eq!(edge.metric(&of_pool("sessions_active", pool)).await, 1.0);
    }
    drop(third);
    for pool in ["near", "far"] {
        edge.wait_for_metric(&of_pool("sessions_waiting", pool), |waiting| waiting == 0.0).await;
    }
}

#[tokio::test]
async fn a_session_that_moves_to_another_region_makes_room_at_once() {
    let (here, there) = (sim("here").await, sim("there").await);
    let far = Pool::new("far", "ireland", "m").sims(&[&there]).line("kv_cache_tokens = 1024");
    let config = small(near().sims(&[&here]).line("max_in_flight = 2")).region("ireland", 53.35, -6.26).pool(far);
    let edge = Edge::start(config.set("sessions", "active", "\"10m\"")).await;
    call(&edge, "a", &prompt(ONE)).await;
    here.stop().await;
    assert_eq!(told(&call(&edge, "a", &prompt(ONE)).await), ("there", "failover"));
    assert_eq!(edge.metric(&of_pool("sessions_active", "near")).await, 0.0);
    assert_eq!(edge.metric(&of_pool("sessions_active", "far")).await, 1.0);
}

#[tokio::test]
async fn a_new_session_whose_first_attempts_fail_takes_no_room_where_they_did() {
    let (here, there) = (sim("here").await, sim("there").await);
    let far = Pool::new("far", "ireland", "m").sims(&[&there]);
    let config = small(near().sims(&[&here])).region("ireland", 53.35, -6.26).pool(far);
    let edge = Edge::start(config.set("sessions", "active", "\"10m\"")).await;
    here.set_fault(FaultPlan::from(Fault::Status { status: 503, retry_after_s: None })).await.unwrap();
    assert_eq!(told(&call(&edge, "a", &prompt(ONE)).await), ("there", "failover"));
    assert_eq!(calls(&here).len(), 1, "it was tried");
    for (pool, sessions) in [("near", 0.0), ("far", 1.0)] {
        assert_eq!(edge.metric(&of_pool("sessions_active", pool)).await, sessions, "{pool}");
    }
}

#[tokio::test]
async fn a_session_that_its_messages_tell_is_one_at_a_fallback_too() {
    let (main, other) = (sim("main").await, sim("other").await);
    let config = small(near().sims(&[&main]))
        .without_m()
        .model("m", &[&format!("served_as = \"{SERVED}\""), "fallbacks = [\"n\"]"])
        .model("n", &[&format!("served_as = \"{SERVED}\"")])
        .pool(Pool::new("other", "here", "n").sims(&[&other]).line("kv_cache_tokens = 1024"));
    let edge = Edge::start(config.set("sessions", "active", "\"10m\"")).await;
    let mut client = Http1::connect(edge.agents()).await;
    let mut goes_on = async |body: &mut Value| {
        let answer = client.call(&post(CHAT, body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let messages = body["messages"].as_array_mut().unwrap();
        messages.extend([json!({"role": "assistant", "content": "ok"}), json!({"role": "user", "content": "go on"})]);
        let (replica, reason) = told(&answer);
        (replica.to_owned(), reason.to_owned())
    };
    let told = |replica: &str, reason: &str| (replica.to_owned(), reason.to_owned());
    let (mut begun, mut new) = (prompt(100), prompt(100));
    assert_eq!(goes_on(&mut begun).await, told("main", "new"));
    main.set_fault(FaultPlan::from(Fault::Status { status: 503, retry_after_s: None })).await.unwrap();
    for _ in 0..4 {
        for body in [&mut begun, &mut new] {
            assert_eq!(goes_on(body).await, told("other", "fallback"));
        }
    }
    assert_eq!(edge.metric(&of_pool("sessions_active", "other")).await, 2.0);
}

#[tokio::test]
async fn calls_without_a_session_and_pools_of_unknown_caches_wait_for_nothing() {
    let replica = sim("one").await;
    let edge = Edge::start(small(near().sims(&[&replica])).set("sessions", "active", "\"10m\"")).await;
    call(&edge, "a", &prompt(ONE)).await;
    let system_alone = json!({"model": "m", "messages": [{"role": "system", "content": text(ONE)}]});
    let embeddings = json!({"model": "m", "input": text(ONE)});
    for (path, body) in [(CHAT, system_alone), ("/v1/embeddings", embeddings)] {
        let mut client = Http1::connect(edge.agents()).await;
        assert_eq!(client.call(&post(path, &body)).await.status, 200);
    }
    let unknown = Edge::start(EdgeConfig::of(&[&replica])).await;
    for n in 0..8 {
        call(&unknown, &format!("s{n}"), &prompt(10 * ONE)).await;
    }
    assert_eq!(unknown.metric(&of_pool("sessions_active", "near")).await, 8.0);
    let page: Vec<u8> = unknown.admin_get("/metrics").await.body.to_vec();
    assert!(!String::from_utf8(page).unwrap().contains("nearpool_kv_cache_tokens{"), "nobody has told it");
}

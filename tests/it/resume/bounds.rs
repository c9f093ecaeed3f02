//! How often, where, and what it may take.

use nearpool::sim::server::{Fault, FaultPlan};
use serde_json::json;

use super::seen::{Alone, CHAT, InLine, Seen, see, streamed};
use crate::support::{Edge, EdgeConfig, Http1, Pool, Scripted, calls, post, sim, soon, with};

fn cut(after_events: u32) -> FaultPlan {
    Fault::CutMidStream { after_events }.into()
}

#[tokio::test]
async fn an_answer_may_need_three_replicas_and_no_more() {
    let world = InLine::start(4, "engine = \"vllm\"").await;
    let body = with(streamed("x", 30), json!({"stream_options": {"include_usage": true}}));
    let whole = Alone::start().await.says(CHAT, &body).await;
    for sim in &world.sims[..2] {
        sim.set_fault(cut(5)).await.unwrap();
    }
    let seen = see(&world.edge, CHAT, &body).await;
    seen.check_one_whole_answer("two deaths");
    assert_eq!((&seen.text, seen.usage()[0]["completion_tokens"].as_u64()), (&whole.text, Some(30)));
    assert_eq!(seen.usage()[0]["prompt_tokens"], whole.usage()[0]["prompt_tokens"]);
    world.edge.wait_for_log(|line| line["resumes"] == 2 && line["replica"] == "c" && line["outcome"] == "ok").await;
    world.sims[2].set_fault(cut(5)).await.unwrap();
    let seen = see(&world.edge, CHAT, &body).await;
    seen.check_honest_end("cut", "three deaths");
    assert!(whole.text.starts_with(&seen.text) && seen.text.len() >= 4 * 12, "{}", seen.text);
    assert_eq!(calls(&world.sims[3]).len(), 0, "a fourth replica is not asked");
    assert_eq!((world.resumes("bound").await, world.resumes("ok").await), (1.0, 4.0));
    let line = world.edge.wait_for_log(|line| line["outcome"] == "cut").await;
    assert_eq!(
        (&line["not_resumed"], &line["blame"], &line["status"]),
        (&json!("bound"), &json!("upstream"), &json!(200))
    );
}

#[tokio::test]
async fn a_request_that_breaks_three_replicas_before_and_after_their_first_events_breaks_no_fourth() {
    let world = InLine::start(5, "engine = \"vllm\"").await;
    for (sim, fault) in world.sims.iter().zip([Fault::ResetBeforeHeaders.into(), cut(5)].iter().cycle()) {
        sim.set_fault(*fault).await.unwrap();
    }
    see(&world.edge, CHAT, &streamed("x", 30)).await.check_honest_end("cut", "reset, cut, reset");
    let asked: Vec<usize> = world.sims.iter().map(|sim| calls(sim).len()).collect();
    assert_eq!(asked, [1, 1, 1, 0, 0]);
}

#[tokio::test]
async fn a_resume_that_fails_before_its_first_event_goes_to_the_next_replica() {
    for fault in [
        Fault::Status { status: 500, retry_after_s: None },
        Fault::Status { status: 503, retry_after_s: Some(1) },
        Fault::ResetBeforeHeaders,
        Fault::CutMidStream { after_events: 0 },
        Fault::Refuse,
    ] {
        let world = InLine::start(3, "engine = \"vllm\"").await;
        let body = streamed("x", 30);
        let whole = Alone::start().await.says(CHAT, &body).await;
        world.sims[0].set_fault(cut(7)).await.unwrap();
        world.sims[1].set_fault(FaultPlan::from(fault)).await.unwrap();
        let seen = see(&world.edge, CHAT, &body).await;
        seen.check_one_whole_answer(&format!("{fault:?}"));
        assert_eq!(seen.text, whole.text, "{fault:?}");
        world.edge.wait_for_log(|line| line["resumes"] == 1 && line["replica"] == "c").await;
    }
}

#[tokio::test]
async fn with_nobody_left_the_answer_ends_honestly() {
    let world = InLine::start(1, "engine = \"vllm\"").await;
    world.sims[0].set_fault(cut(5)).await.unwrap();
    see(&world.edge, CHAT, &streamed("x", 30)).await.check_honest_end("cut", "alone");
    assert_eq!(world.resumes("none_left").await, 1.0);
    world.edge.wait_for_log(|line| line["not_resumed"] == "none_left").await;
}

#[tokio::test]
async fn when_those_that_are_left_fail_the_answer_ends_honestly() {
    let world = InLine::start(2, "engine = \"vllm\"").await;
    world.sims[0].set_fault(cut(5)).await.unwrap();
    for status in [400, 500] {
        let fault = Fault::Status { status, retry_after_s: None };
        world.sims[1].set_fault(FaultPlan::from(fault)).await.unwrap();
        see(&world.edge, CHAT, &streamed("x", 30)).await.check_honest_end("cut", "refused");
    }
    assert_eq!(world.resumes("failed").await, 2.0);
    world.edge.wait_until_idle("b", "b").await;
}

#[tokio::test]
async fn another_model_never_goes_on() {
    let (a, b) = (sim("a").await, sim("other").await);
    let config = EdgeConfig::of(&[&a])
        .model("m", &["served_as = \"meta-llama/Llama-3.1-8B-Instruct\"", "fallbacks = [\"n\"]"])
        .model("n", &["served_as = \"other\""])
        .pool(Pool::new("far", "here", "n").sims(&[&b]));
    let edge = Edge::start(config).await;
    a.set_fault(cut(5)).await.unwrap();
    see(&edge, CHAT, &streamed("x", 30)).await.check_honest_end("cut", "fallback");
    assert_eq!(calls(&b).len(), 0);
}

#[tokio::test]
async fn a_client_that_leaves_meanwhile_cancels_the_resume() {
    let (a, mut b) = (sim("a").await, Scripted::start().await);
    let config = EdgeConfig::new()
        .region("far", 50.0, 8.0)
        .pool(Pool::new("near", "here", "m").sims(&[&a]))
        .pool(Pool::new("far", "far", "m").replica("b", &b.url()));
    let edge = Edge::start(config).await;
    a.set_fault(cut(5)).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &streamed("x", 30))).await;
    let mut upstream = b.next().await;
    drop(client);
    assert_eq!(upstream.connection.until_closed().await, "");
    edge.wait_for_log(|line| line["outcome"] == "client_gone").await;
    edge.wait_until_idle("far", "b").await;
}

#[tokio::test]
async fn a_client_that_waits_long_for_the_rest_hears_comments() {
    let (a, mut b) = (sim("a").await, Scripted::start().await);
    let config = EdgeConfig::new()
        .region("far", 50.0, 8.0)
        .pool(Pool::new("near", "here", "m").sims(&[&a]))
        .pool(Pool::new("far", "far", "m").replica("b", &b.url()))
        .set("timeouts", "keep_alive_comment", "\"50ms\"");
    let edge = Edge::start(config).await;
    a.set_fault(cut(5)).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post(CHAT, &streamed("x", 30))).await;
    let mut upstream = b.next().await;
    let head = client.head().await;
    let mut raw = Vec::new();
    while !raw.ends_with(b": keep-alive\n\n") {
        raw.extend_from_slice(&client.chunk().await.unwrap().unwrap().bytes);
    }
    upstream.begin_stream().await;
    upstream
        .chunk("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"end\"},\"finish_reason\":\"stop\"}]}\n\n")
        .await;
    upstream.chunk("data: [DONE]\n\n").await;
    upstream.send("0\r\n\r\n").await;
    let (rest, ended) = soon(client.body(&head)).await;
    raw.extend_from_slice(&rest);
    let seen = Seen::of(&raw, ended.is_ok());
    assert!(seen.done && seen.ended && seen.text.ends_with("end"), "{}", seen.raw);
}

#[tokio::test]
async fn bodies_of_streams_under_way_leave_room_for_new_requests() {
    let world = InLine::start_with(2, "engine = \"vllm\"", |config| {
        config.set("limits", "body", "\"64KiB\"").set("limits", "buffered", "\"100KiB\"")
    })
    .await;
    world.sims[0].set_fault(cut(5)).await.unwrap();
    let long = "word ".repeat(11 * 1024);
    see(&world.edge, CHAT, &streamed(&long, 30)).await.check_honest_end("cut", "long");
    world.edge.wait_for_log(|line| line["not_resumed"] == "not_kept").await;
    see(&world.edge, CHAT, &streamed(&long[..40 * 1024], 30)).await.check_one_whole_answer("short");
    see(&world.edge, CHAT, &streamed(&long[..40 * 1024], 30)).await.check_one_whole_answer("given back");
}

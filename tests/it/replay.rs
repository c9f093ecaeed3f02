//! The same body goes whole to a second replica after the first one failed in any way.

use nearpool::sim::server::{Fault, FaultPlan, ReplicaHandle};

use crate::bodies::{ModelAt, PLACES, Voice, assert_same_bytes, odd_body, odd_body_at_replica, send};
use crate::support::{Edge, EdgeConfig, Http1, Pool, calls, chat, json_body, post, sim, soon, unheard};

/// It says to come back at once, so that it is not left alone in the calls that follow.
const BUSY: Fault = Fault::Status { status: 503, retry_after_s: Some(0) };
const BROKEN: Fault = Fault::Status { status: 503, retry_after_s: None };

/// An edge over two replicas, and which of them a session starts at.
struct Two {
    edge: Edge,
    a: ReplicaHandle,
    b: ReplicaHandle,
}

impl Two {
    async fn start(http2: bool, timeouts: &str) -> Two {
        let (a, b) = (sim("a").await, sim("b").await);
        let pool = Pool::new("near", "here", "m").sims(&[&a, &b]).line(&format!("http2 = {http2}"));
        let config = EdgeConfig::new()
            .pool(pool)
            .set("circuit_breaker", "failure_threshold", "1000")
            .set("timeouts", "first_byte", timeouts)
            .set("timeouts", "answer", timeouts);
        Two { edge: Edge::start(config).await, a, b }
    }

    /// Sends an odd body while the replica that would get it shows the fault; the other one must answer.
    async fn check(&self, fault: Fault, stream: bool, voice: Voice, at: ModelAt, label: &str) {
        let what = format!("{fault:?}, stream {stream}, {voice:?}, model {at:?}");
        let session = [("x-session-id", "replay")];
        let before = send(
            &self.edge,
            Voice::Http1,
            &session,
            r#"{"model":"m","messages":[{"role":"user","content":"?"}],"sim":{"tokens":1}}"#,
        )
        .await;
        let (home, other) = match before.header("x-nearpool-replica") {
            Some("a") => (&self.a, &self.b),
            _ => (&self.b, &self.a),
        };
        let got_before = (calls(home).len(), calls(other).len());
        let retries = format!("nearpool_retries_total{{reason=\"{label}\"}}");
        let retried = self.edge.metric(&retries).await;
        home.set_fault(FaultPlan::from(fault)).await.unwrap();
        let answer = send(&self.edge, voice, &session, &odd_body("m", at, stream)).await;
        home.set_fault(None).await.unwrap();
        assert_eq!(answer.status, 200, "{what}: {answer:?}");
        let ending = if stream { "data: [DONE]\n\n" } else { "}" };
        assert!(answer.body.ends_with(ending.as_bytes()), "{what}");
        assert_eq!(answer.header("x-nearpool-replica"), Some(other.name()), "{what}");
        assert_eq!(answer.header("x-nearpool-attempts"), Some("2"), "{what}");
        assert_eq!(answer.header("x-nearpool-reason"), Some("moved"), "{what}");
        assert_eq!(answer.header("x-sim-replica"), Some(other.name()), "{what}");
        let expected = odd_body_at_replica(at, stream);
        let got = calls(other);
        assert_eq!(got.len(), got_before.1 + 1, "{what}");
        assert_same_bytes(&got.last().unwrap().body, expected.as_bytes(), &what);
        if fault != Fault::Refuse {
            let got = calls(home);
            // A kept-alive connection that breaks at once may have been stale: then once more on a new one.
            let most = if label == "reset" { 2 } else { 1 };
            let given = got.len() - got_before.0;
            assert!((1..=most).contains(&given), "{what}: given {given} times");
            assert_same_bytes(&got.last().unwrap().body, expected.as_bytes(), &what);
        }
        assert_eq!(self.edge.metric(&retries).await, retried + 1.0, "{what}");
    }
}

/// Whatever fails at once: the timeouts stay out of it.
async fn fails_at_once(http2: bool) {
    let two = Two::start(http2, "\"20s\"").await;
    let mut n = 0;
    for (fault, label) in [
        (Fault::Refuse, "connect_failed"),
        (BUSY, "busy"),
        (BROKEN, "server_error"),
        (Fault::Status { status: 500, retry_after_s: None }, "server_error"),
        (Fault::ResetBeforeHeaders, "reset"),
        (Fault::CloseBeforeHeaders, "reset"),
    ] {
        for stream in [false, true] {
            let voice = [Voice::Http1, Voice::H2c, Voice::Http1Chunked][n % 3];
            two.check(fault, stream, voice, PLACES[n % 3], label).await;
            n += 1;
        }
    }
    two.check(Fault::TruncatedBody, false, Voice::Http1, ModelAt::Last, "cut").await;
    two.check(Fault::CutMidStream { after_events: 0 }, true, Voice::Http1, ModelAt::Last, "cut").await;
    // The last, since a replica that says so rests for a second, and the next call would begin at the other one.
    let busy = Fault::Status { status: 429, retry_after_s: None };
    two.check(busy, false, Voice::Http1Chunked, ModelAt::Last, "busy").await;
    two.check(busy, true, Voice::H2c, PLACES[0], "busy").await;
}

#[tokio::test]
async fn a_body_is_replayed_whole_after_a_replica_fails_at_once() {
    fails_at_once(false).await;
}

#[tokio::test]
async fn a_body_is_replayed_whole_after_a_replica_fails_at_once_over_http2() {
    fails_at_once(true).await;
}

#[tokio::test]
async fn a_request_that_kills_replicas_stops_at_the_second_one() {
    let sims = [sim("a").await, sim("b").await, sim("c").await, sim("d").await];
    let pool = Pool::new("near", "here", "m").sims(&sims.each_ref());
    let config = EdgeConfig::new().pool(pool).set("retry", "attempts", "16").set("retry", "attempts_per_pool", "16");
    let edge = Edge::start(config).await;
    // Connections to all of them are kept alive: a replica that dies over a request looks like one that closed them.
    let mut client = Http1::connect(edge.agents()).await;
    for _ in 0..200 {
        if sims.iter().all(|sim| !calls(sim).is_empty()) {
            break;
        }
        assert_eq!(client.call(&post("/v1/chat/completions", &chat("warm up", 1))).await.status, 200);
    }
    let mut tasks = Vec::new();
    for sim in sims {
        sim.set_fault(FaultPlan::from(Fault::Stall)).await.unwrap();
        tasks.push(tokio::spawn(async move {
            sim.wait_for(|stats| stats.faults_total > 0).await;
            sim.stop().await;
        }));
    }
    let answer = client.call(&post("/v1/chat/completions", &chat("query of death", 1))).await;
    assert_eq!((answer.status, json_body(&answer)["error"]["code"].as_str()), (502, Some("upstream_crashed")));
    assert_eq!(answer.header("x-should-retry"), Some("false"), "an SDK would take down the next two");
    assert_eq!(answer.header("x-nearpool-attempts"), Some("2"));
    assert_eq!(tasks.iter().filter(|task| task.is_finished()).count(), 2);
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Whatever goes silent. The time given is above what a whole call takes on a busy machine.
async fn goes_silent(http2: bool) {
    let two = Two::start(http2, "\"1500ms\"").await;
    for fault in [Fault::Stall, Fault::StallAfterHeaders] {
        two.check(fault, true, Voice::Http1, ModelAt::First, "first_byte_timeout").await;
        two.check(fault, false, Voice::H2c, ModelAt::Last, "answer_timeout").await;
    }
    // Given up means cancelled: nothing runs on at the replicas.
    for replica in [&two.a, &two.b] {
        soon(replica.wait_for(|stats| stats.engine.running == 0 && stats.engine.waiting == 0)).await;
    }
}

#[tokio::test]
async fn a_body_is_replayed_whole_after_a_replica_goes_silent() {
    goes_silent(false).await;
}

#[tokio::test]
async fn a_body_is_replayed_whole_after_a_replica_goes_silent_over_http2() {
    goes_silent(true).await;
}

#[tokio::test]
async fn a_request_that_every_replica_fails_over_opens_no_breaker_and_a_replica_that_fails_alone_opens_its_own() {
    let (a, b) = (sim("a").await, sim("b").await);
    let edge = Edge::start(EdgeConfig::of(&[&a, &b]).set("circuit_breaker", "failure_threshold", "1")).await;
    let state = async |replica: &str| {
        edge.metric(&format!("nearpool_breaker_state{{pool=\"near\",replica=\"{replica}\"}}")).await
    };
    let failing = || FaultPlan::from(Fault::Status { status: 500, retry_after_s: None });
    a.set_fault(failing()).await.unwrap();
    b.set_fault(failing()).await.unwrap();
    let mut client = Http1::connect(edge.agents()).await;
    for _ in 0..3 {
        let answer = client.call(&post("/v1/chat/completions", &chat("poison", 1))).await;
        assert_eq!((answer.status, answer.header("x-nearpool-attempts")), (500, Some("2")));
    }
    assert_eq!((state("a").await, state("b").await), (0.0, 0.0));
    b.set_fault(None).await.unwrap();
    // New sessions begin at either.
    let mut tries = 0..100;
    while state("a").await == 0.0 {
        tries.next().expect("the breaker opens");
        assert_eq!(client.call(&post("/v1/chat/completions", &chat(&unheard(), 1))).await.status, 200);
    }
    assert_eq!((state("a").await, state("b").await), (2.0, 0.0));
}

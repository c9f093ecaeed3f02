//! Calls of sessions that have a name, with prompts of a given size.

use nearpool::sim::server::{ReplicaHandle, ServerStats};
use serde_json::{Value, json};

use crate::support::{Answer, Edge, Http1, chat, post_with, soon, unheard, with};

pub(super) const CHAT: &str = "/v1/chat/completions";

/// A text of so many tokens, by the edge's estimate of four bytes each, that nobody has sent before.
pub(super) fn text(tokens: usize) -> String {
    let begun = unheard();
    let rest = "-".repeat((4 * tokens).saturating_sub(begun.len()));
    begun + &rest
}

/// A chat request with such a prompt.
pub(super) fn prompt(tokens: usize) -> Value {
    chat(&text(tokens), 1)
}

/// Sends a call of a session on a connection of its own.
pub(super) async fn send(edge: &Edge, session: &str, body: &Value) -> Http1 {
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(CHAT, &[("x-session-id", session)], body)).await;
    client
}

/// The same, until it is answered well.
pub(super) async fn call(edge: &Edge, session: &str, body: &Value) -> Answer {
    let answer = send(edge, session, body).await.answer().await;
    assert_eq!(answer.status, 200, "{session}: {answer:?}");
    answer
}

/// A call whose prompt this replica, where its session is at home, does not end to read before the client goes: the
/// session stays active, and its prompt is what others have to wait for there.
pub(super) async fn hold(edge: &Edge, at: &ReplicaHandle, session: &str, tokens: usize) -> Http1 {
    // Not those that run: one that was held before may still be on its way out.
    let begun = |stats: &ServerStats| stats.engine.running as u64 + stats.finished_total + stats.cancelled_total;
    let before = begun(&at.stats());
    let endless = json!({"stream": true, "sim": {"tokens": 2, "prefill_ms": 600_000}});
    let client = send(edge, session, &with(prompt(tokens), endless)).await;
    soon(at.wait_for(|stats| begun(stats) > before)).await;
    client
}

/// Where a call went, and why.
#[track_caller]
pub(super) fn told(answer: &Answer) -> (&str, &str) {
    let header = |name| answer.header(name).unwrap_or_else(|| panic!("no {name}: {answer:?}"));
    (header("x-nearpool-replica"), header("x-nearpool-reason"))
}

/// The first of these names that hashing puts at this replica. Its session has begun then.
pub(super) async fn begun_at(edge: &Edge, replica: &ReplicaHandle, prefix: &str) -> String {
    for n in 0..1_000 {
        let name = format!("{prefix}-{n}");
        if told(&call(edge, &name, &prompt(10)).await).0 == replica.name() {
            return name;
        }
    }
    panic!("hashing puts nothing at {}", replica.name());
}

/// `name{pool="pool"}`.
pub(super) fn of_pool(name: &str, pool: &str) -> String {
    format!("nearpool_{name}{{pool=\"{pool}\"}}")
}

/// Waits until so many calls wait to be taken on.
pub(super) async fn until_waiting(edge: &Edge, count: usize) {
    edge.wait_for_metric(&of_pool("sessions_waiting", "near"), |waiting| waiting == count as f64).await;
}

//! Traces, as a collector and as replicas see them.

mod attempts;
mod collectors;
mod context;

use serde_json::Value;

use crate::support::{Collector, Edge, EdgeConfig, Http1, post_with};

const CHAT: &str = "/v1/chat/completions";

/// The context of the standard's own example, and its parts.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn caller(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// That configuration with traces that go to this collector.
fn traced(config: EdgeConfig, collector: &Collector, sample: &str) -> EdgeConfig {
    config.set("tracing", "endpoint", &format!("\"{}\"", collector.url())).set("tracing", "sample", sample)
}

/// That configuration with callers whose flag is believed: all that this machine can be.
fn trusting(config: EdgeConfig) -> EdgeConfig {
    config.set("edge", "trusted_proxies", "[\"127.0.0.0/8\"]")
}

/// Makes a call that must be answered with this status.
async fn call(edge: &Edge, headers: &[(&str, &str)], body: &Value, status: u16) {
    let mut client = Http1::connect(edge.agents()).await;
    client.send(&post_with(CHAT, headers, body)).await;
    assert_eq!(client.answer().await.status, status);
}

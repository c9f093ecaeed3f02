//! An inference server over [`super::engine`] in real time: OpenAI chat, completions, Responses and embeddings, Anthropic
//! messages, vLLM's `/metrics` and `/health`; HTTP/1.1 and h2c on one port.
//!
//! Every answer carries `x-sim-replica: NAME`. A request may carry `"sim": {"tokens": N, "itl_ms": X, "prefill_ms": Y}` to
//! force its answer's length and pace; with a pace given it runs beside the engine's batch. An answer becomes a tool call when
//! tools are offered and `tool_choice` or the user's last message asks for one.
//!
//! A running replica is told to misbehave by its handle, or by `POST /sim/fault` on the same listener, for example
//! `{"fault":"status","status":503,"retry_after_s":1,"remaining":3}`, `{"fault":"cut_mid_stream","after_events":5}`,
//! `{"fault":"stall","scope":"all","for_ms":2000}`, `{"fault":"refuse","for_ms":1000}`, `{"fault":"none"}`; see [`Fault`] and
//! [`FaultPlan`] for all of them. `for_ms` heals by itself, which is the only way back from `refuse`.

mod replica;

mod fault;
mod listen;
mod request_log;

mod http;
mod infer;

mod answer;
mod body;
mod call;
mod driver;
mod tools;

mod chat;
mod completions;
mod embeddings;
mod messages;
mod responses;
mod responses_store;
mod responses_voice;

mod metrics;

pub use fault::{Fault, FaultPlan, Scope};
pub use replica::{MetricsPage, ReplicaHandle, ServerParams, ServerStats, spawn};
pub use request_log::LoggedRequest;

#[cfg(test)]
mod tests;

//! A request's place in a trace that many programs write together (W3C Trace Context).

use std::fmt;

use super::hex::hex;

/// One span of a trace, as it is named to whoever is called next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: TraceId,
    /// The span; never 0.
    pub span_id: SpanId,
    /// Whether the trace's spans are recorded.
    pub sampled: bool,
    /// Whether the trace's id is said to be random in its last 7 bytes. Passed on as it came.
    pub random_id: bool,
}

/// The id of a trace; written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceId(pub u128);

/// The id of a span; written as 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanId(pub u64);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0.to_be_bytes()))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0.to_be_bytes()))
    }
}

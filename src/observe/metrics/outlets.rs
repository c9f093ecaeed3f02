//! What does not reach those who watch: the access log's lines and the traces' spans.

use prometheus::{IntCounter, IntCounterVec};

use super::Maker;

labels! {
    /// What became of the spans of requests that were sampled.
    SpanResult {
        /// A collector took them.
        Exported = "exported",
        /// The queue was full, since the collector is slow or away, or tracing was turned off meanwhile.
        Dropped = "dropped",
        /// No collector could be reached, or it refused them.
        Failed = "failed",
    }
}

/// Handles of these metrics.
#[derive(Debug)]
pub(super) struct Outlets {
    log_dropped: IntCounter,
    spans: IntCounterVec,
}

impl Outlets {
    #[rustfmt::skip] // one metric, one line
    pub(super) fn new(new: &Maker<'_>) -> Result<Outlets, prometheus::Error> {
        let outlets = Outlets {
            log_dropped: new.counter("nearpool_access_log_dropped_total", "Lines of the access log that were not written.")?,
            spans: new.counters("nearpool_trace_spans_total", "Spans of sampled requests; result: exported, dropped, failed.", &["result"])?,
        };
        for result in SpanResult::ALL {
            outlets.spans.with_label_values(&[result.name()]);
        }
        Ok(outlets)
    }

    pub(super) fn log_dropped(&self) -> IntCounter {
        self.log_dropped.clone()
    }

    pub(super) fn spans(&self, result: SpanResult) -> IntCounter {
        self.spans.with_label_values(&[result.name()])
    }
}

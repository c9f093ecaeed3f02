//! Traces: what a request and its attempts are as spans, and the queue in which finished spans wait for their exporter.
//!
//! Only requests that are sampled come here; the others cost a few bytes of ids. A request never waits for an exporter:
//! where the queue is full, spans are dropped and counted. The words are those of OpenTelemetry's conventions for
//! generative AI and for HTTP, and `nearpool.…` for what only an edge knows. Prompts, answers, keys, addresses of clients
//! and the names that they give to sessions have no place here.

mod attempt;
mod request;
mod span;

use std::fmt;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanData;
use prometheus::IntCounter;
use tokio::sync::{mpsc, oneshot};

use crate::policy::sampling::QUEUE_SPANS_MAX;

pub use self::attempt::{AttemptEnd, AttemptKind, AttemptStart, attempt};
pub use self::request::{RequestFacts, request};
pub use self::span::{State, Times};

/// Flushes that may wait; one is all that the end of a process needs.
const FLUSHES: usize = 4;

/// How long the end of the process waits for the last spans.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Where finished spans go. Share it in an `Arc`.
pub struct Spans {
    queue: mpsc::Sender<SpanData>,
    flushes: mpsc::Sender<oneshot::Sender<()>>,
    dropped: IntCounter,
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spans").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

/// The exporter's end of the queue.
#[derive(Debug)]
pub struct Queued {
    /// Finished spans, the oldest first.
    pub spans: mpsc::Receiver<SpanData>,
    /// Who waits until all spans that are queued now are gone.
    pub flushes: mpsc::Receiver<oneshot::Sender<()>>,
}

/// A queue of spans; those that find it full are counted in `dropped`.
pub fn queue(dropped: IntCounter) -> (Spans, Queued) {
    let (queue, spans) = mpsc::channel(QUEUE_SPANS_MAX);
    let (ask, flushes) = mpsc::channel(FLUSHES);
    (Spans { queue, flushes: ask, dropped }, Queued { spans, flushes })
}

impl Spans {
    /// Queues a finished span, unless `most` wait already. Never waits.
    pub fn record(&self, span: SpanData, most: usize) {
        if self.waiting() >= most || self.queue.try_send(span).is_err() {
            self.dropped.inc();
        }
    }

    fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Waits until everything queued so far has been exported or given up, at most 3 s: a collector that is away must not
    /// keep the process alive.
    pub async fn flush(&self) {
        let (done, exported) = oneshot::channel();
        if self.flushes.try_send(done).is_ok() {
            let _late = tokio::time::timeout(FLUSH_TIMEOUT, exported).await;
        }
    }
}

#[cfg(test)]
mod tests;

//! Sends finished spans to an OpenTelemetry collector: OTLP over HTTP, protobuf.
//!
//! Spans wait in a queue of bounded length; one task takes them out, a batch at a time. While a collector is slow or away
//! its batch is tried again, ever less often and only a few times; meanwhile the queue fills, and what finds it full is
//! dropped and counted. HTTP and not gRPC: one POST a batch goes over the connections that the control plane has anyway,
//! through load balancers and gateways, and needs no second HTTP stack.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use opentelemetry_sdk::trace::SpanData;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use prometheus::IntCounter;

use self::otlp::{Batch, Collector, Verdict};
use super::line::Connections;
use crate::config::Config;
use crate::observe::metrics::{Metrics, SpanResult};
use crate::observe::seldom::Seldom;
use crate::observe::trace::Queued;
use crate::roster::Roster;

mod otlp;

/// Spans of one batch at most: the default of OpenTelemetry's own exporters, some 500 KiB.
const BATCH_SPANS: usize = 512;

/// How long spans are gathered: the default queue of 2,048 holds what 5,000 sampled requests a second bring meanwhile.
const GATHER: Duration = Duration::from_millis(200);

/// How often a batch is tried.
const TRIES_MAX: u32 = 4;

/// The pause before a batch is tried again; each further one is twice as long.
const BACKOFF: Duration = Duration::from_secs(1);

/// The background service.
#[derive(Debug)]
pub struct Export {
    // Std mutex, for the start alone; never held across an `.await`.
    exporter: Mutex<Option<Exporter>>,
}

impl Export {
    /// Exports what comes out of this queue, to where the roster's configuration of then says.
    pub fn new(roster: Arc<Roster>, connections: Connections, metrics: &Metrics, queued: Queued) -> Export {
        let exporter = Exporter {
            roster,
            collector: Collector::new(connections),
            queued,
            gathered: Vec::new(),
            batch: None,
            tries: 0,
            exported: metrics.spans(SpanResult::Exported),
            dropped: metrics.spans(SpanResult::Dropped),
            failed: metrics.spans(SpanResult::Failed),
            failing: Seldom::default(),
        };
        Export { exporter: Mutex::new(Some(exporter)) }
    }
}

#[async_trait]
impl BackgroundService for Export {
    /// Goes on while the edge drains, since requests end then too; ends with its runtime.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let exporter = self.exporter.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(exporter) = exporter {
            exporter.run().await;
        }
    }
}

#[derive(Debug)]
struct Exporter {
    roster: Arc<Roster>,
    collector: Collector,
    queued: Queued,
    /// Spans of the next batch.
    gathered: Vec<SpanData>,
    /// What is to be sent.
    batch: Option<Batch>,
    /// How often it was tried in vain.
    tries: u32,
    exported: IntCounter,
    dropped: IntCounter,
    failed: IntCounter,
    failing: Seldom,
}

impl Exporter {
    /// Runs until nobody can record spans any more.
    async fn run(mut self) {
        loop {
            let mut flush = None;
            if self.batch.is_none() && self.gathered.is_empty() {
                tokio::select! {
                    taken = self.queued.spans.recv_many(&mut self.gathered, BATCH_SPANS) => if taken == 0 { return },
                    asked = self.queued.flushes.recv() => flush = asked,
                }
            }
            if flush.is_none() {
                // Not woken for each span: they come in numbers.
                tokio::select! {
                    () = tokio::time::sleep(self.pause()) => {}
                    asked = self.queued.flushes.recv() => flush = asked,
                }
            }
            self.export(flush.is_some()).await;
            if let Some(done) = flush {
                let _gone = done.send(());
            }
        }
    }

    fn pause(&self) -> Duration {
        match self.tries {
            0 => GATHER,
            tries => BACKOFF * 2_u32.saturating_pow(tries - 1),
        }
    }

    /// Sends all that waits, as far as the collector takes it. `last` says that nothing can be tried again.
    async fn export(&mut self, last: bool) {
        let snapshot = self.roster.snapshot();
        let Some(tracing) = &snapshot.config.tracing else { return self.drop_all() };
        loop {
            let Some(batch) = self.batch.take().or_else(|| self.next(&snapshot.config)) else { return };
            let verdict = self.collector.send(tracing, &batch).await;
            self.tries += 1;
            match verdict {
                Verdict::Later(_) if !last && self.tries < TRIES_MAX => {
                    self.batch = Some(batch);
                    return self.tell(&verdict);
                }
                Verdict::Later(_) | Verdict::Refused(_) => self.failed.inc_by(batch.spans),
                Verdict::Taken { rejected, .. } => {
                    let rejected = rejected.min(batch.spans);
                    self.exported.inc_by(batch.spans - rejected);
                    self.failed.inc_by(rejected);
                }
            }
            self.tries = 0;
            self.tell(&verdict);
        }
    }

    /// The next batch of what waits, if anything does.
    fn next(&mut self, config: &Config) -> Option<Batch> {
        while self.gathered.len() < BATCH_SPANS
            && let Ok(span) = self.queued.spans.try_recv()
        {
            self.gathered.push(span);
        }
        let spans = std::mem::take(&mut self.gathered);
        (!spans.is_empty()).then(|| Batch::of(spans, config))
    }

    /// Tracing was turned off while spans waited.
    fn drop_all(&mut self) {
        let mut spans = self.batch.take().map_or(0, |batch| batch.spans);
        spans += self.gathered.drain(..).count() as u64;
        while self.queued.spans.try_recv().is_ok() {
            spans += 1;
        }
        self.dropped.inc_by(spans);
        self.tries = 0;
    }

    /// Warns of a collector that fails, now and then.
    fn tell(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Taken { rejected: 0, .. } => {
                if self.failing.is_over() {
                    log::warn!("spans are exported again failed={} dropped={}", self.failed.get(), self.dropped.get());
                }
            }
            verdict => {
                if self.failing.is_due(Instant::now()) {
                    let (failed, dropped) = (self.failed.get(), self.dropped.get());
                    log::warn!("spans cannot be exported error={verdict} failed={failed} dropped={dropped}");
                }
            }
        }
    }
}

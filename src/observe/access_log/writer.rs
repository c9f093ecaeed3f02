//! The thread that writes the log.
//!
//! It gathers what is queued into large writes, and sleeps before it waits: a sender need not wake a thread that is not
//! waiting. What cannot be written is kept up to [`WRITE_BYTES`], for when it can; beyond, lines are counted and dropped.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use super::queue::Queue;
use crate::observe::seldom::Seldom;

/// Bytes gathered into one write.
const WRITE_BYTES: usize = 64 * 1024;
/// How long lines are gathered between two writes. Waking the writer for each line took a tenth of a busy edge's CPU
/// time; so it wakes at most 50 times a second, and the queue holds 40 times what comes meanwhile at 10,000 requests/s.
const GATHER: Duration = Duration::from_millis(20);

/// Where lines go.
pub(super) type Sink = Box<dyn Write + Send>;

/// The place that a new sink is laid in for the writer to find.
#[derive(Default)]
pub(super) struct Next {
    laid: AtomicBool,
    // Std mutex, for reloads only; never held across an `.await`.
    sink: Mutex<Option<Sink>>,
}

impl Next {
    pub(super) fn lay(&self, sink: Sink) {
        *self.sink.lock().unwrap_or_else(PoisonError::into_inner) = Some(sink);
        self.laid.store(true, Ordering::Release);
    }

    fn take(&self) -> Option<Sink> {
        // Mostly there is none.
        if !self.laid.load(Ordering::Acquire) {
            return None;
        }
        self.laid.store(false, Ordering::Release);
        self.sink.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The writer's own.
pub(super) struct Writer {
    sink: BufWriter<Sink>,
    next: Arc<Next>,
    dropped: IntCounter,
    failing: Seldom,
}

impl Writer {
    pub(super) fn new(sink: Sink, next: Arc<Next>, dropped: IntCounter) -> Writer {
        Writer { sink: BufWriter::with_capacity(WRITE_BYTES, sink), next, dropped, failing: Seldom::default() }
    }

    /// Writes until the queue is closed.
    pub(super) fn run(mut self, queue: &Queue) {
        let mut lines = Vec::new();
        while let Some(flushes) = queue.take(&mut lines) {
            if let Some(next) = self.next.take() {
                self.turn_to(next);
            }
            let mut from = 0;
            for end in memchr::memchr_iter(b'\n', &lines) {
                self.line(&lines[from..=end]);
                from = end + 1;
            }
            self.flush();
            for done in flushes {
                let _gone = done.try_send(());
            }
            thread::sleep(GATHER);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let written = self.sink.write_all(line);
        if written.is_err() {
            self.dropped.inc();
        }
        self.tell(written);
    }

    fn flush(&mut self) {
        let written = self.sink.flush();
        self.tell(written);
    }

    /// Goes on at another sink. What the old one did not take is lost.
    fn turn_to(&mut self, next: Sink) {
        self.flush();
        let lost = memchr::memchr_iter(b'\n', self.sink.buffer()).count();
        self.dropped.inc_by(lost as u64);
        // Taken apart, since dropping it would write once more.
        let _old = std::mem::replace(&mut self.sink, BufWriter::with_capacity(WRITE_BYTES, next)).into_parts();
    }

    /// Warns of a sink that fails, now and then, and says when it has recovered.
    fn tell(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) if self.sink.buffer().is_empty() => {
                if self.failing.is_over() {
                    log::warn!("access log is written again dropped={}", self.dropped.get());
                }
            }
            Ok(()) => {}
            Err(error) => {
                if self.failing.is_due(Instant::now()) {
                    let dropped = self.dropped.get();
                    log::warn!("access log cannot be written, lines are dropped error={error} dropped={dropped}");
                }
            }
        }
    }
}

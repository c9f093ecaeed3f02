//! The thread that writes the log.
//!
//! It gathers what is queued into large writes, and sleeps before it waits: a sender need not wake a thread that is not
//! waiting. What cannot be written is kept up to [`WRITE_BYTES`], for when it can; beyond, lines are counted and dropped.

use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;

use crate::observe::seldom::Seldom;

/// Bytes gathered into one write.
const WRITE_BYTES: usize = 64 * 1024;
/// How long lines are gathered between two writes. Waking the writer for each line took a tenth of a busy edge's CPU
/// time; so it wakes at most 50 times a second, and the queue holds 40 times what comes meanwhile at 10,000 requests/s.
const GATHER: Duration = Duration::from_millis(20);

/// Where lines go.
pub(super) type Sink = Box<dyn Write + Send>;

/// What the writer is sent.
pub(super) enum Message {
    Line(Vec<u8>),
    /// Everything before it has been written when the answer comes.
    Flush(SyncSender<()>),
}

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
        // Looked at for every line, so without the lock.
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

    /// Writes until the last sender is gone.
    pub(super) fn run(mut self, lines: &Receiver<Message>) {
        let mut waiting = None;
        while let Some(message) = waiting.take().or_else(|| lines.recv().ok()) {
            if let Some(next) = self.next.take() {
                self.turn_to(next);
            }
            match message {
                Message::Line(line) => {
                    let written = self.sink.write_all(&line);
                    if written.is_err() {
                        self.dropped.inc();
                    }
                    self.tell(written);
                }
                Message::Flush(done) => {
                    self.flush();
                    let _gone = done.try_send(());
                }
            }
            waiting = lines.try_recv().ok();
            if waiting.is_none() {
                self.flush();
                thread::sleep(GATHER);
            }
        }
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

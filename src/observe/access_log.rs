//! One JSON line per request, and one per [interaction](super::interaction).
//!
//! A request never waits for the log: its line is put into a queue of bounded length, and one thread writes. When the
//! reader of the log is slower than the traffic for long, or its disk is full, lines are dropped and counted; requests are
//! not slowed. Prompts, answers and keys have no field here.

mod file;
mod line;
mod queue;
mod writer;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use prometheus::IntCounter;
use serde::Serialize;

use self::file::RotatingFile;
pub(super) use self::line::session;
pub use self::line::{AccessLine, Times, Tokens};
use self::queue::Queue;
use self::writer::{Next, Sink, Writer};
use crate::config;

/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The log. Share it in an `Arc`; what is queued when the last owner drops it is still written.
pub struct AccessLog {
    on: Option<On>,
    dropped: IntCounter,
}

/// What only a log has that keeps something.
struct On {
    queue: Arc<Queue>,
    next: Arc<Next>,
    // Std mutex, for reloads only; never held across an `.await`.
    settings: Mutex<config::AccessLog>,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("on", &self.on.is_some()).finish_non_exhaustive()
    }
}

/// A sink that was opened for a new configuration, and is not in use yet.
pub struct Opened {
    sink: Sink,
    settings: config::AccessLog,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Opens where the log goes.
fn open(settings: &config::AccessLog) -> io::Result<Sink> {
    let Some(path) = &settings.file else { return Ok(Box::new(io::stdout())) };
    match RotatingFile::open(path, settings.rotate_at_bytes, settings.keep) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => {
            let message = format!(
                "cannot write the access log {} ({error}): create its folder, and let the user that runs nearpool write there",
                path.display()
            );
            Err(io::Error::new(error.kind(), message))
        }
    }
}

impl AccessLog {
    /// Starts the log that these settings describe. Lines that are not written are counted in `dropped`.
    pub fn start(settings: &config::AccessLog, dropped: IntCounter) -> io::Result<AccessLog> {
        AccessLog::over(open(settings)?, settings.clone(), dropped)
    }

    /// Starts the writer thread over a sink.
    fn over(sink: Sink, settings: config::AccessLog, dropped: IntCounter) -> io::Result<AccessLog> {
        let queue = Arc::new(Queue::default());
        let lines = Arc::clone(&queue);
        let next = Arc::new(Next::default());
        let writer = Writer::new(sink, Arc::clone(&next), dropped.clone());
        thread::Builder::new().name("access-log".into()).spawn(move || writer.run(&lines))?;
        Ok(AccessLog { on: Some(On { queue, next, settings: Mutex::new(settings) }), dropped })
    }

    /// A log that keeps nothing.
    pub fn off(dropped: IntCounter) -> AccessLog {
        AccessLog { on: None, dropped }
    }

    /// Opens what a new configuration says, without using it yet; `None` where nothing changes. The error says what to do.
    pub fn prepare(&self, settings: &config::AccessLog) -> io::Result<Option<Opened>> {
        let Some(on) = &self.on else { return Ok(None) };
        if *on.settings.lock().unwrap_or_else(PoisonError::into_inner) == *settings {
            return Ok(None);
        }
        Ok(Some(Opened { sink: open(settings)?, settings: settings.clone() }))
    }

    /// Goes on at what was opened, from about the next line on.
    pub fn turn_to(&self, opened: Opened) {
        if let Some(on) = &self.on {
            *on.settings.lock().unwrap_or_else(PoisonError::into_inner) = opened.settings;
            on.next.lay(opened.sink);
        }
    }

    /// Queues the line of a request. Waits for nobody but another line that is being queued.
    pub fn request(&self, line: &AccessLine<'_>) {
        thread_local! {
            /// Where this thread's lines are made.
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let Some(on) = &self.on else { return };
        LINE.with_borrow_mut(|bytes| {
            bytes.clear();
            *bytes = line.write(std::mem::take(bytes));
            self.queue(on, bytes);
        });
    }

    /// Queues any other line, likewise.
    pub fn log(&self, line: &impl Serialize) {
        let Some(on) = &self.on else { return };
        match serde_json::to_vec(line) {
            Ok(mut bytes) => {
                bytes.push(b'\n');
                self.queue(on, &bytes);
            }
            Err(_) => self.dropped.inc(),
        }
    }

    fn queue(&self, on: &On, line: &[u8]) {
        if !on.queue.push(line) {
            self.dropped.inc();
        }
    }

    /// Lines that were not written, since the start: the queue was full or the sink failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Waits until everything logged so far has been written, at most 2 s: a sink that stands still must not keep the
    /// process alive. For the end of the process, since it blocks.
    pub fn flush(&self) {
        let Some(On { queue, .. }) = &self.on else { return };
        let (done, written) = mpsc::sync_channel(1);
        queue.flush(done);
        let _late = written.recv_timeout(FLUSH_TIMEOUT);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
        if let Some(on) = &self.on {
            on.queue.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::line::tests::line;
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "Lines.").unwrap()
    }

    fn over(sink: &Gated) -> AccessLog {
        let settings = config::AccessLog { file: None, rotate_at_bytes: 1, keep: 1 };
        AccessLog::over(Box::new(sink.clone()), settings, counter()).unwrap()
    }

    /// A sink that lets go of what it is given only while the gate is open.
    #[derive(Clone, Default)]
    struct Gated {
        full: Arc<AtomicBool>,
        written: Arc<Mutex<Vec<u8>>>,
        gate: Arc<Mutex<()>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().unwrap();
            if self.full.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_sink_that_stands_still_costs_lines_and_no_time() {
        let sink = Gated::default();
        let log = over(&sink);
        let shut = sink.gate.lock().unwrap();
        let start = Instant::now();
        // Of some 600 bytes each.
        let all = 40_000;
        for _ in 0..all {
            log.request(&line());
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(log.dropped() > 0);
        drop(shut);
        log.flush();
        let written = sink.written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count() as u64;
        assert_eq!(written + log.dropped(), all);
    }

    #[test]
    fn what_is_queued_at_the_end_is_written() {
        let sink = Gated::default();
        let log = over(&sink);
        for _ in 0..1000 {
            log.request(&line());
        }
        drop(log);
        assert_eq!(sink.written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 1000);
    }

    #[test]
    fn a_disk_that_is_full_costs_lines_and_none_is_torn_when_it_recovers() {
        let sink = Gated::default();
        let log = over(&sink);
        sink.full.store(true, Ordering::SeqCst);
        let all = 1000;
        for _ in 0..all {
            log.request(&line());
        }
        log.flush();
        let dropped = log.dropped();
        assert!(dropped > 0 && dropped < all, "{dropped}: what fits one write is kept");
        sink.full.store(false, Ordering::SeqCst);
        log.request(&line());
        log.flush();
        let written = sink.written.lock().unwrap().clone();
        let lines: Vec<serde_json::Value> =
            written.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
        assert_eq!(lines.len() as u64 + dropped, all + 1);
        assert_eq!(log.dropped(), dropped);
    }

    #[test]
    fn another_sink_is_turned_to_and_what_the_old_one_did_not_take_is_counted() {
        let (old, new) = (Gated::default(), Gated::default());
        let log = over(&old);
        log.request(&line());
        log.flush();
        old.full.store(true, Ordering::SeqCst);
        log.request(&line());
        log.flush();
        let settings = config::AccessLog { file: Some("other".into()), rotate_at_bytes: 1, keep: 1 };
        log.turn_to(Opened { sink: Box::new(new.clone()), settings: settings.clone() });
        log.request(&line());
        log.flush();
        let lines = |sink: &Gated| sink.written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((lines(&old), lines(&new), log.dropped()), (1, 1, 1));
        assert!(log.prepare(&settings).unwrap().is_none(), "nothing changes");
    }

    #[test]
    fn off_is_off() {
        let log = AccessLog::off(counter());
        log.request(&line());
        log.flush();
        assert_eq!(log.dropped(), 0);
    }
}

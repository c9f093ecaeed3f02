//! One JSON line per request, and one per [interaction](super::interaction).
//!
//! A request never waits for the log: its line is put into a queue of bounded length, and one thread writes. When the
//! reader of the log is slower than the traffic for long, or its disk is full, lines are dropped and counted; requests are
//! not slowed. Prompts, answers and keys have no field here.

mod file;
mod writer;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use prometheus::IntCounter;
use serde::{Serialize, Serializer};

use self::file::RotatingFile;
use self::writer::{Message, Next, Sink, Writer};
use super::interaction::dollars;
use super::timestamp::Timestamp;
use crate::config;
use crate::domain::ids::SessionKey;
use crate::domain::outcome::Outcome;
use crate::policy::select::Reason;

/// Lines that may wait for the writer: at about 700 bytes each, under 6 MB; at 10,000 requests/s, 0.8 s of traffic.
const QUEUE_LINES: usize = 8192;
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is logged of one request. `None` where it is not known or does not apply.
#[derive(Clone, Debug, Serialize)]
pub struct AccessLine<'a> {
    /// When the request's first byte came.
    pub ts: Timestamp,
    /// The value of `x-request-id`.
    pub request_id: &'a str,
    /// The trace whose spans tell of it, if it is sampled; 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<&'a str>,
    /// The edge.
    pub edge: &'a str,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// Its country, ISO 3166, by GeoIP or by what a trusted peer says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<&'a str>,
    /// Where its address or place was learned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place_source: Option<&'a str>,
    /// `HTTP/1.1` or `HTTP/2`.
    pub http: &'a str,
    /// The endpoint's path, without a query; empty for an unknown path.
    pub endpoint: &'a str,
    /// The dialect spoken there.
    pub dialect: Option<&'a str>,
    /// The model as the client wrote it.
    pub model_asked: Option<&'a str>,
    /// The configured model that it stood for.
    pub model: Option<&'a str>,
    /// The step.
    pub step: Option<&'a str>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// The session, as the first 8 hex digits of its key.
    #[serde(serialize_with = "session")]
    pub session: Option<SessionKey>,
    /// The region that answered.
    pub region: Option<&'a str>,
    /// The pool that answered.
    pub pool: Option<&'a str>,
    /// The replica that answered.
    pub replica: Option<&'a str>,
    /// Why it went there.
    #[serde(serialize_with = "reason")]
    pub reason: Option<Reason>,
    /// Attempts made.
    pub attempts: u32,
    /// How often another replica went on with the answer where one had broken off.
    #[serde(skip_serializing_if = "is_zero")]
    pub resumes: u32,
    /// Why an answer that broke off was not resumed: what forbade it, or how it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_resumed: Option<&'a str>,
    /// The status sent downstream; 0 if none was.
    pub status: u16,
    /// How it ended, with the blame.
    #[serde(flatten, serialize_with = "outcome")]
    pub outcome: Outcome,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// Times, in ms.
    pub ms: Times,
    /// Tokens, as the replica reported them.
    pub tokens: Tokens,
    /// What it cost in USD, where a price is known.
    #[serde(serialize_with = "dollars", skip_serializing_if = "Option::is_none")]
    pub cost_dollars: Option<f64>,
}

/// How long a request's parts took; written in ms with three decimals.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub struct Times {
    /// First byte in to whole request received.
    #[serde(serialize_with = "ms")]
    pub receive: Option<Duration>,
    /// What the edge itself added before the upstream request left.
    #[serde(serialize_with = "ms")]
    pub overhead: Option<Duration>,
    /// In line for a place at a replica; left out when there was one at once.
    #[serde(serialize_with = "ms", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Duration>,
    /// Whole request received to first content event.
    #[serde(serialize_with = "ms")]
    pub ttft: Option<Duration>,
    /// First content event to last byte out.
    #[serde(serialize_with = "ms")]
    pub stream: Option<Duration>,
    /// First byte in to last byte out.
    #[serde(serialize_with = "ms")]
    pub total: Option<Duration>,
}

/// Tokens, as the replica reported them.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub struct Tokens {
    /// Of the prompt, cached ones included.
    pub prompt: Option<u64>,
    /// Of the prompt, those found in the KV cache.
    pub cached: Option<u64>,
    /// Of the answer.
    pub completion: Option<u64>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

pub(super) fn session<S: Serializer>(session: &Option<SessionKey>, to: S) -> Result<S::Ok, S::Error> {
    match session {
        Some(key) => to.collect_str(&format_args!("{:08x}", key.0 >> 96)),
        None => to.serialize_none(),
    }
}

fn reason<S: Serializer>(reason: &Option<Reason>, to: S) -> Result<S::Ok, S::Error> {
    reason.map(Reason::name).serialize(to)
}

fn outcome<S: Serializer>(outcome: &Outcome, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Fields {
        outcome: &'static str,
        blame: &'static str,
    }
    let facts = outcome.facts();
    Fields { outcome: facts.label, blame: facts.blame.name() }.serialize(to)
}

fn ms<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    // Whole microseconds first, so that no digits of binary fractions appear.
    time.map(|time| time.as_micros() as f64 / 1000.0).serialize(to)
}

/// The log. Share it in an `Arc`; what is queued when the last owner drops it is still written.
pub struct AccessLog {
    on: Option<On>,
    dropped: IntCounter,
}

/// What only a log has that keeps something.
struct On {
    queue: SyncSender<Message>,
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
        let (queue, lines) = mpsc::sync_channel(QUEUE_LINES);
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

    /// Queues a line. Never waits.
    pub fn log(&self, line: &impl Serialize) {
        let Some(On { queue, .. }) = &self.on else { return };
        let mut bytes = Vec::with_capacity(768); // a line's usual length, so that it grows in one piece
        let written = serde_json::to_writer(&mut bytes, line);
        bytes.push(b'\n');
        if written.is_err() || queue.try_send(Message::Line(bytes)).is_err() {
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
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let (done, written) = mpsc::sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            // The channel has no send with a deadline.
            thread::sleep(Duration::from_millis(5));
        }
        let _late = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::UNIX_EPOCH;

    use super::*;

    fn line() -> AccessLine<'static> {
        AccessLine {
            ts: Timestamp(UNIX_EPOCH),
            request_id: "req-1",
            trace_id: None,
            edge: "usw-1",
            client: Some(IpAddr::from([203, 0, 113, 9])),
            country: None,
            place_source: None,
            http: "HTTP/1.1",
            endpoint: "/v1/chat/completions",
            dialect: Some("chat"),
            model_asked: Some("auto\n\"x\""),
            model: Some("small"),
            step: Some("planner"),
            stream: true,
            session: Some(SessionKey(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef)),
            region: Some("here"),
            pool: Some("pool"),
            replica: None,
            reason: Some(Reason::Failover),
            attempts: 2,
            resumes: 0,
            not_resumed: None,
            status: 502,
            outcome: Outcome::Cut,
            bytes_in: 10,
            bytes_out: 20,
            ms: Times {
                receive: Some(Duration::from_micros(1500)),
                overhead: Some(Duration::from_nanos(40_100)),
                queue: None,
                ttft: None,
                stream: None,
                total: Some(Duration::from_secs(1)),
            },
            tokens: Tokens { prompt: Some(5), cached: None, completion: None },
            cost_dollars: Some(0.1 + 0.2),
        }
    }

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
    fn a_line_says_all_and_stays_one_line() {
        let sink = Gated::default();
        let log = over(&sink);
        log.log(&line());
        log.flush();
        let text = String::from_utf8(sink.written.lock().unwrap().clone()).unwrap();
        let expected = concat!(
            r#"{"ts":"1970-01-01T00:00:00.000Z","request_id":"req-1","edge":"usw-1","client":"203.0.113.9","http":"HTTP/1.1","#,
            r#""endpoint":"/v1/chat/completions","dialect":"chat","model_asked":"auto\n\"x\"","model":"small","#,
            r#""step":"planner","stream":true,"session":"01234567","region":"here","pool":"pool","replica":null,"#,
            r#""reason":"failover","attempts":2,"status":502,"outcome":"cut","blame":"upstream","bytes_in":10,"#,
            r#""bytes_out":20,"ms":{"receive":1.5,"overhead":0.04,"ttft":null,"stream":null,"total":1000.0},"#,
            r#""tokens":{"prompt":5,"cached":null,"completion":null},"cost_dollars":0.3}"#,
        );
        assert_eq!(text, format!("{expected}\n"));
    }

    #[test]
    fn a_sink_that_stands_still_costs_lines_and_no_time() {
        let sink = Gated::default();
        let log = over(&sink);
        let shut = sink.gate.lock().unwrap();
        let start = Instant::now();
        let all = QUEUE_LINES as u64 * 2;
        for _ in 0..all {
            log.log(&line());
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
            log.log(&line());
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
            log.log(&line());
        }
        log.flush();
        let dropped = log.dropped();
        assert!(dropped > 0 && dropped < all, "{dropped}: what fits one write is kept");
        sink.full.store(false, Ordering::SeqCst);
        log.log(&line());
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
        log.log(&line());
        log.flush();
        old.full.store(true, Ordering::SeqCst);
        log.log(&line());
        log.flush();
        let settings = config::AccessLog { file: Some("other".into()), rotate_at_bytes: 1, keep: 1 };
        log.turn_to(Opened { sink: Box::new(new.clone()), settings: settings.clone() });
        log.log(&line());
        log.flush();
        let lines = |sink: &Gated| sink.written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count();
        assert_eq!((lines(&old), lines(&new), log.dropped()), (1, 1, 1));
        assert!(log.prepare(&settings).unwrap().is_none(), "nothing changes");
    }

    #[test]
    fn off_is_off() {
        let log = AccessLog::off(counter());
        log.log(&line());
        log.flush();
        assert_eq!(log.dropped(), 0);
    }
}

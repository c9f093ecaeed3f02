//! One JSON line per request.
//!
//! A request never waits for the log: its line is put into a queue of bounded length, and one thread writes. When the
//! reader of the log is slower than the traffic for long, lines are dropped and counted; requests are not slowed.
//! Prompts, answers and keys have no field here.

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::timestamp::Timestamp;
use crate::domain::ids::SessionKey;
use crate::domain::outcome::Outcome;
use crate::policy::select::Reason;

/// Lines that may wait for the writer: at about 700 bytes each, under 6 MB; at 10,000 requests/s, 0.8 s of traffic.
const QUEUE_LINES: usize = 8192;
/// Bytes gathered into one write.
const WRITE_BYTES: usize = 64 * 1024;
/// How long lines are gathered between two writes. Waking the writer for each line took a tenth of a busy edge's CPU
/// time; so it wakes at most 50 times a second, and the queue holds 40 times what comes meanwhile at 10,000 requests/s.
const GATHER: Duration = Duration::from_millis(20);
/// How long the end of the process waits for the last lines.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// What is logged of one request. `None` where it is not known or does not apply.
#[derive(Clone, Debug, Serialize)]
pub struct AccessLine<'a> {
    /// When the request's first byte came.
    pub ts: Timestamp,
    /// The value of `x-request-id`.
    pub request_id: &'a str,
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
}

/// How long a request's parts took; written in ms with three decimals.
#[derive(Clone, Copy, Default, Debug, Serialize)]
pub struct Times {
    /// What the edge itself added before the upstream request left.
    #[serde(serialize_with = "ms")]
    pub overhead: Option<Duration>,
    /// In line for a place at a replica; left out when there was one at once.
    #[serde(serialize_with = "ms", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Duration>,
    /// Whole request received to first content event.
    #[serde(serialize_with = "ms")]
    pub ttft: Option<Duration>,
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

fn session<S: Serializer>(session: &Option<SessionKey>, to: S) -> Result<S::Ok, S::Error> {
    match session {
        Some(key) => to.collect_str(&format_args!("{:08x}", key.0 >> 96)),
        None => to.serialize_none(),
    }
}

fn reason<S: Serializer>(reason: &Option<Reason>, to: S) -> Result<S::Ok, S::Error> {
    reason.map(Reason::name).serialize(to)
}

fn outcome<S: Serializer>(outcome: &Outcome, to: S) -> Result<S::Ok, S::Error> {
    use crate::domain::outcome::Blame;
    #[derive(Serialize)]
    struct Fields {
        outcome: &'static str,
        blame: &'static str,
    }
    let facts = outcome.facts();
    let blame = match facts.blame {
        Blame::None => "none",
        Blame::Client => "client",
        Blame::Edge => "edge",
        Blame::Upstream => "upstream",
    };
    Fields { outcome: facts.label, blame }.serialize(to)
}

fn ms<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    // Whole microseconds first, so that no digits of binary fractions appear.
    time.map(|time| time.as_micros() as f64 / 1000.0).serialize(to)
}

/// The log. Share it in an `Arc`; what is queued when the last owner drops it is still written.
#[derive(Debug)]
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Line(Vec<u8>),
    /// Everything before it has been written when the answer comes.
    Flush(SyncSender<()>),
}

impl AccessLog {
    /// Starts the writer thread, which writes to `sink`.
    pub fn start(sink: impl Write + Send + 'static) -> io::Result<AccessLog> {
        let (queue, lines) = mpsc::sync_channel(QUEUE_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        thread::Builder::new().name("access-log".into()).spawn(move || write_lines(&lines, sink, &lost))?;
        Ok(AccessLog { queue: Some(queue), dropped })
    }

    /// A log that keeps nothing.
    pub fn off() -> AccessLog {
        AccessLog { queue: None, dropped: Arc::default() }
    }

    /// Queues a line. Never waits.
    pub fn log(&self, line: &AccessLine<'_>) {
        let Some(queue) = &self.queue else { return };
        let mut bytes = Vec::with_capacity(768); // a line's usual length, so that it grows in one piece
        let written = serde_json::to_writer(&mut bytes, line);
        bytes.push(b'\n');
        if written.is_err() || queue.try_send(Message::Line(bytes)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written, since the start: the queue was full or the sink failed.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything logged so far has been written, at most 2 s: a sink that stands still must not keep the
    /// process alive. For the end of the process, since it blocks.
    pub fn flush(&self) {
        let Some(queue) = &self.queue else { return };
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

/// The writer: gathers what is queued into large writes, and flushes whenever the queue is empty. It sleeps before it
/// waits: a sender need not wake a thread that is not waiting.
fn write_lines(lines: &Receiver<Message>, sink: impl Write, dropped: &AtomicU64) {
    let mut sink = BufWriter::with_capacity(WRITE_BYTES, sink);
    let mut waiting = None;
    while let Some(message) = waiting.take().or_else(|| lines.recv().ok()) {
        match message {
            Message::Line(line) => {
                if sink.write_all(&line).is_err() {
                    dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Message::Flush(done) => {
                let _failed = sink.flush();
                let _gone = done.try_send(());
            }
        }
        waiting = lines.try_recv().ok();
        if waiting.is_none() {
            let _failed = sink.flush();
            thread::sleep(GATHER);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn line() -> AccessLine<'static> {
        AccessLine {
            ts: Timestamp(UNIX_EPOCH),
            request_id: "req-1",
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
                overhead: Some(Duration::from_nanos(40_100)),
                queue: None,
                ttft: None,
                total: Some(Duration::from_secs(1)),
            },
            tokens: Tokens { prompt: Some(5), cached: None, completion: None },
        }
    }

    /// A sink that lets go of what it is given only while the gate is open.
    #[derive(Clone, Default)]
    struct Gated {
        written: Arc<Mutex<Vec<u8>>>,
        gate: Arc<Mutex<()>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.gate.lock().unwrap();
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
        let log = AccessLog::start(sink.clone()).unwrap();
        log.log(&line());
        log.flush();
        let text = String::from_utf8(sink.written.lock().unwrap().clone()).unwrap();
        let expected = concat!(
            r#"{"ts":"1970-01-01T00:00:00.000Z","request_id":"req-1","client":"203.0.113.9","http":"HTTP/1.1","#,
            r#""endpoint":"/v1/chat/completions","dialect":"chat","model_asked":"auto\n\"x\"","model":"small","#,
            r#""step":"planner","stream":true,"session":"01234567","region":"here","pool":"pool","replica":null,"#,
            r#""reason":"failover","attempts":2,"status":502,"outcome":"cut","blame":"upstream","bytes_in":10,"#,
            r#""bytes_out":20,"ms":{"overhead":0.04,"ttft":null,"total":1000.0},"#,
            r#""tokens":{"prompt":5,"cached":null,"completion":null}}"#,
        );
        assert_eq!(text, format!("{expected}\n"));
    }

    #[test]
    fn a_sink_that_stands_still_costs_lines_and_no_time() {
        let sink = Gated::default();
        let log = AccessLog::start(sink.clone()).unwrap();
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
        let log = AccessLog::start(sink.clone()).unwrap();
        for _ in 0..1000 {
            log.log(&line());
        }
        drop(log);
        assert_eq!(sink.written.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 1000);
    }

    #[test]
    fn off_is_off() {
        let log = AccessLog::off();
        log.log(&line());
        log.flush();
        assert_eq!(log.dropped(), 0);
    }
}

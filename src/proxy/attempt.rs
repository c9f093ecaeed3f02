//! Station 6, send: did this attempt reach its first event?
//!
//! An attempt is one try at one replica. It ends with the first event of a stream or with a whole answer in hand; until
//! then nothing has gone downstream, so that whatever goes wrong can be tried elsewhere. A replica's head alone is no
//! sign of life: engines send it at once and may die in the seconds of prefill that follow.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header};
use pingora::connectors::http::v2::ConnectionRef;
use pingora::http::RequestHeader;
use pingora::protocols::http::client::HttpSession;
use pingora::{ErrorType, RetryType};
use tokio::time::{Instant, timeout};

use super::due::Due;
use super::events::{Events, Ready};
use super::head::AnswerHead;
use super::headers;
use super::upstream::{Exchange, Upstream};
use crate::config::Timeouts;
use crate::domain::ask::Dialect;
use crate::domain::outcome::{Again, Outcome};
use crate::roster::Live;
use crate::wire::body::{is_whole_json, reports_error};
use crate::wire::include_usage::Unasked;
use crate::wire::usage::{Meter, Usage};

/// An answer that is not streamed is held back up to this many bytes, so that a replica that dies over it can be
/// replaced; a longer one goes down as it comes.
const HELD_ANSWER_BYTES_MAX: usize = 8 << 20;

/// How much of a failed answer is kept, to be passed on if no other replica does better.
const FAILED_ANSWER_BYTES_MAX: usize = 256 << 10;

/// How long a replica that stopped reading is given to say why: some answer 413 or 503 and close.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Informational heads before an answer's own. Engines send none, servers before them one or two.
const INFORMATIONAL_HEADS_MAX: usize = 16;

/// Comments before a stream's first event: one a second for `first_byte` stays far below.
const EARLY_COMMENT_BYTES_MAX: usize = 1 << 20;

/// One try at one replica.
pub(super) struct Attempt<'a> {
    pub(super) upstream: &'a Upstream,
    pub(super) live: &'a Live,
    pub(super) segments: &'a [Bytes],
    pub(super) dialect: Dialect,
    pub(super) stream: bool,
    /// What of a stream was not asked for by the client.
    pub(super) unasked: Option<Unasked>,
    pub(super) timeouts: &'a Timeouts,
    /// How long the replica may take to its first event, or to the whole answer when it is not streamed.
    pub(super) patience: Duration,
    /// When the request must have begun to be answered, whatever this attempt may take.
    pub(super) limit: Due,
}

/// An attempt that may be shown to the client.
pub(super) enum Began {
    /// A whole answer.
    Whole(Box<Answer>),
    /// An answer under way.
    Under(Box<AnswerHead>, Box<UnderWay>),
}

impl Began {
    /// How it ends, as far as it can be told.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Began::Whole(answer) => answer.outcome(),
            Began::Under(..) => Outcome::Ok,
        }
    }

    /// How long its first event took, if it is a stream.
    pub(super) fn ttft(&self) -> Option<Duration> {
        match self {
            Began::Under(_, under) if under.events.is_some() => Some(under.ttft),
            Began::Under(..) | Began::Whole(_) => None,
        }
    }
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) head: Box<AnswerHead>,
    pub(super) body: Vec<Bytes>,
}

impl Answer {
    /// What its status line says.
    pub(super) fn outcome(&self) -> Outcome {
        Outcome::of_status(self.head.status.as_u16(), false)
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.body.iter().map(Bytes::len).sum()
    }

    /// What the engine says it used. It says so at the end of the body, mostly in its last chunk.
    pub(super) fn usage(&self) -> Option<Usage> {
        let mut meter = Meter::new();
        match self.body.as_slice() {
            [] => return None,
            [whole] => meter.body(whole),
            many => meter.body(&many.concat()),
        }
        meter.usage()
    }
}

/// An answer whose beginning is here and whose rest is still to come. In this order for the same reason as [`Events`].
#[repr(C)]
pub(super) struct UnderWay {
    pub(super) exchange: Box<Exchange>,
    /// What has come so far, ready to be sent.
    pub(super) ready: Ready,
    /// Whether the replica has sent everything.
    pub(super) ended: bool,
    /// Tells events apart; `None` when the answer is no event stream.
    pub(super) events: Option<Box<Events>>,
    /// From the whole request sent to what came first.
    pub(super) ttft: Duration,
}

/// An attempt that came to nothing.
pub(super) struct Failed {
    pub(super) outcome: Outcome,
    /// What the replica said, if it said something.
    pub(super) answer: Option<Box<Answer>>,
    /// How long it asked to be left alone, when it is busy.
    pub(super) retry_after: Option<Duration>,
}

impl From<Outcome> for Failed {
    fn from(outcome: Outcome) -> Failed {
        Failed { outcome, answer: None, retry_after: None }
    }
}

/// Why an attempt shows nothing.
pub(super) enum Missed {
    /// The replica had closed the kept-alive connection; it saw nothing of the request. Neither the replica's fault nor
    /// an attempt: to be run once more, with a fresh connection.
    Stale,
    /// As told.
    Failed(Failed),
}

impl From<Outcome> for Missed {
    fn from(outcome: Outcome) -> Missed {
        Missed::Failed(outcome.into())
    }
}

/// An exchange whose answer has begun.
struct Answered {
    exchange: Box<Exchange>,
    head: Box<AnswerHead>,
    /// When the whole request had been sent.
    sent: Instant,
    /// When the first event, or the whole answer, is due.
    due: Due,
}

impl Attempt<'_> {
    /// Runs it. `fresh` says that it was [`Missed::Stale`] before. Dropping the future at any point closes the connection
    /// or resets the stream.
    pub(super) async fn run(&self, head: Box<RequestHeader>, fresh: bool) -> Result<Began, Missed> {
        let answered = self.exchange(head, fresh).await?;
        let shared = answered.exchange.shared();
        let begun = answered.due.bound(pin!(self.begin(answered))).await;
        begun.unwrap_or_else(|late| Err(given_up(shared, late).into())).map_err(Missed::Failed)
    }

    /// Sends the request and reads the answer's head.
    async fn exchange(&self, head: Box<RequestHeader>, fresh: bool) -> Result<Answered, Missed> {
        let at = self.live.resolved().ok_or(Outcome::ConnectFailed)?;
        let peer = Upstream::peer(self.live.address(), at, self.timeouts.connect);
        let mut exchange = self.upstream.connect(peer, fresh).await.map_err(|error| match connect_outcome(&error) {
            // It took the request and is gone. That must count as a breakdown and not as a refused connection, which is
            // free: else a request that kills its replica would walk through the whole fleet.
            outcome if fresh && outcome.facts().again == Again::Free => Outcome::Reset,
            outcome => outcome,
        })?;
        if self.stream {
            exchange.expect_stream();
        }
        let began = Instant::now();
        let broke = |exchange: &Exchange, outcome: Outcome, since: Instant| match outcome {
            // The replica says that it did not look at the request, or it could not even be begun.
            Outcome::ConnectFailed if !fresh => Missed::Stale,
            Outcome::Reset if exchange.reused && !fresh && since.elapsed() < exchange.stale_within() => Missed::Stale,
            outcome => outcome.into(),
        };
        let written = self.limit.bound(pin!(self.write(&mut exchange, head))).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(_)) if exchange.takes_no_stream() => return Err(broke(&exchange, Outcome::ConnectFailed, began)),
            Ok(Err(_)) => {
                exchange.unfinished = true;
                // Some engines answer 413 or 503 and close without reading the rest.
                return match timeout(LAST_WORDS, read_head(&mut exchange)).await {
                    Ok(Ok(head)) => {
                        let sent = Instant::now();
                        Ok(Answered { exchange, head, sent, due: self.due(sent) })
                    }
                    Ok(Err(outcome)) => Err(broke(&exchange, outcome, began)),
                    Err(_) => Err(broke(&exchange, Outcome::Reset, began)),
                };
            }
            Err(late) => return Err(late.into()),
        }
        let sent = Instant::now();
        let due = self.due(sent);
        let head = due.bound(pin!(read_head(&mut exchange))).await;
        match head {
            Ok(Ok(head)) => Ok(Answered { exchange, head, sent, due }),
            Ok(Err(outcome)) => Err(broke(&exchange, outcome, sent)),
            Err(late) => Err(given_up(exchange.shared(), late).into()),
        }
    }

    async fn write(&self, exchange: &mut Exchange, head: Box<RequestHeader>) -> pingora::Result<()> {
        let session = &mut exchange.session;
        session.set_write_timeout(Some(self.timeouts.idle));
        session.write_request_header(head).await?;
        for segment in self.segments {
            session.write_request_body(segment.clone(), false).await?;
        }
        session.finish_request_body().await
    }

    /// Counted from the whole request sent: a large body's way to the replica is not the replica's delay.
    fn due(&self, sent: Instant) -> Due {
        let outcome = if self.stream { Outcome::FirstByteTimeout } else { Outcome::AnswerTimeout };
        self.limit.or_before(Some(Due::new(sent + self.patience, outcome)))
    }

    /// Reads an answer to where it may be shown.
    async fn begin(&self, answered: Answered) -> Result<Began, Failed> {
        let Answered { mut exchange, head, sent, .. } = answered;
        let outcome = Outcome::of_status(head.status.as_u16(), head.headers.contains_key(header::RETRY_AFTER));
        if !matches!(outcome, Outcome::Ok | Outcome::ClientError) {
            let retry_after = retry_after(&head).filter(|_| outcome == Outcome::Busy);
            let answer = Box::pin(self.failed_answer(exchange, head)).await;
            return Err(Failed { outcome, answer, retry_after });
        }
        if outcome == Outcome::Ok && self.stream && is_event_stream(&head) {
            if head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
                // It was not asked for, and events cannot be told apart in it.
                return Err(Outcome::Garbage.into());
            }
            return self.begin_stream(exchange, head, sent).await;
        }
        let (mut body, mut bytes) = (Vec::new(), 0);
        loop {
            match exchange.read().await {
                Ok(Some(chunk)) => {
                    bytes += chunk.len();
                    body.push(chunk);
                }
                // Where the connection's end is the body's, it ends in the same way when the replica dies.
                Ok(None) if head.status == StatusCode::OK && is_cut(&exchange, &head, &body) => {
                    return Err(Outcome::Cut.into());
                }
                Ok(None) => {
                    self.upstream.release(exchange).await;
                    let answer = Box::new(Answer { head, body });
                    return match outcome {
                        // No call is answered with nothing.
                        Outcome::Ok if bytes == 0 => Err(Outcome::Garbage.into()),
                        Outcome::Ok if reports_error(self.dialect, &answer.body) => {
                            Err(Failed { outcome: Outcome::ServerError, answer: Some(answer), retry_after: None })
                        }
                        _ => Ok(Began::Whole(answer)),
                    };
                }
                Err(_) => return Err(Outcome::Cut.into()),
            }
            if bytes > HELD_ANSWER_BYTES_MAX {
                let under = UnderWay { exchange, ready: body.into(), events: None, ended: false, ttft: sent.elapsed() };
                return Ok(Began::Under(head, Box::new(under)));
            }
        }
    }

    /// Waits for the first data event; comments before it are no sign of life.
    async fn begin_stream(
        &self,
        mut exchange: Box<Exchange>,
        head: Box<AnswerHead>,
        sent: Instant,
    ) -> Result<Began, Failed> {
        exchange.is_stream();
        let mut events = Box::new(Events::new(self.dialect, self.unasked));
        let mut ready = Ready::new();
        loop {
            match exchange.read().await {
                Ok(Some(chunk)) => {
                    events.push(chunk, &mut ready).map_err(|_| Outcome::Garbage)?;
                    if events.failed_at_once() {
                        // Nothing of an answer came before it: as good as a 5xx, and passed on only if nobody does better.
                        let answer = Some(Box::new(Answer { head, body: ready.into_vec() }));
                        return Err(Failed { outcome: Outcome::ServerError, answer, retry_after: None });
                    }
                    if events.begun() {
                        let ended = exchange.is_done();
                        if ended {
                            events.finish(&mut ready);
                        }
                        let under = UnderWay { exchange, ready, events: Some(events), ended, ttft: sent.elapsed() };
                        return Ok(Began::Under(head, Box::new(under)));
                    }
                    if ready.iter().map(Bytes::len).sum::<usize>() > EARLY_COMMENT_BYTES_MAX {
                        return Err(Outcome::Garbage.into());
                    }
                }
                Ok(None) | Err(_) => return Err(Outcome::Cut.into()),
            }
        }
    }

    /// What a replica says of its failure, as far as it says it soon and in few words.
    async fn failed_answer(&self, mut exchange: Box<Exchange>, head: Box<AnswerHead>) -> Option<Box<Answer>> {
        let mut body = Vec::new();
        let read = timeout(LAST_WORDS, async {
            let mut bytes = 0;
            while let Some(chunk) = exchange.read().await.ok()? {
                bytes += chunk.len();
                body.push(chunk);
                if bytes > FAILED_ANSWER_BYTES_MAX {
                    return None;
                }
            }
            Some(())
        });
        read.await.ok().flatten()?;
        self.upstream.release(exchange).await;
        Some(Box::new(Answer { head, body }))
    }
}

/// Reads an answer's head, as the client gets it, passing over informational ones. A 101 was not asked for and ends the
/// exchange.
async fn read_head(exchange: &mut Exchange) -> Result<Box<AnswerHead>, Outcome> {
    for _ in 0..=INFORMATIONAL_HEADS_MAX {
        let head = exchange.read_head().await.map_err(|error| head_outcome(&error))?.ok_or(Outcome::Garbage)?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Outcome::Garbage);
        }
        if !head.status.is_informational() {
            return headers::incoming(head).map(Box::new).ok_or(Outcome::Garbage);
        }
    }
    Err(Outcome::Garbage)
}

/// Nothing came in time. Where that speaks of the replica, a connection that others share takes no further request: it
/// may be the connection that is dead, on which nothing ever comes, and the system would notice many minutes later.
fn given_up(shared: Option<ConnectionRef>, late: Outcome) -> Outcome {
    if let (Outcome::FirstByteTimeout | Outcome::AnswerTimeout, Some(connection)) = (late, shared) {
        connection.mark_shutdown();
    }
    late
}

fn connect_outcome(error: &pingora::Error) -> Outcome {
    match error.etype() {
        ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Outcome::ConnectTimeout,
        _ => Outcome::ConnectFailed,
    }
}

/// How it ends when no head comes; [`Outcome::ConnectFailed`] when the replica did not look at the request.
fn head_outcome(error: &pingora::Error) -> Outcome {
    match error.etype() {
        ErrorType::InvalidHTTPHeader => Outcome::Garbage,
        // HTTP/2 can say so: the stream was refused, or the replica goes away and names the last stream it looked at.
        ErrorType::H2Error if matches!(error.retry, RetryType::Decided(true)) => Outcome::ConnectFailed,
        _ => Outcome::Reset,
    }
}

/// The seconds of `Retry-After`. Engines write no dates.
fn retry_after(head: &AnswerHead) -> Option<Duration> {
    let seconds = head.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    seconds.parse().ok().map(Duration::from_secs)
}

fn is_event_stream(head: &AnswerHead) -> bool {
    has_type(head, b"text/event-stream")
}

fn has_type(head: &AnswerHead, name: &[u8]) -> bool {
    let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    content_type.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

/// Whether a body that ended in good order by its framing is but the beginning of one.
fn is_cut(exchange: &Exchange, head: &AnswerHead, body: &[Bytes]) -> bool {
    ends_with_connection(exchange) && has_type(head, b"application/json") && !is_whole_json(body)
}

/// Whether nothing but the end of the connection tells where the answer's body ends (RFC 9112, 6.3).
fn ends_with_connection(exchange: &Exchange) -> bool {
    let HttpSession::H1(session) = &exchange.session else { return false };
    session.resp_header().is_some_and(|head| {
        !head.headers.contains_key(header::CONTENT_LENGTH) && !head.headers.contains_key(header::TRANSFER_ENCODING)
    })
}

//! Station 1, accept, continued: the request's body, read whole before anything is chosen.
//!
//! The model's name may stand behind a megabyte of messages, and a retry needs every byte again. So the chunks are kept
//! as they arrive and scanned in passing; bounds hold for each body, for all bodies together, and in time. The body of a
//! stream that could be resumed is kept to the stream's end, as long as such bodies leave room for new requests.

mod direct;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use http::header;
use pingora::protocols::http::ServerSession;
use tokio::time::{Instant, timeout_at};

use self::direct::Direct;
use super::due::at_once;
use super::reply::Refusal;
use crate::domain::ids::ClientKey;
use crate::domain::outcome::Outcome;
use crate::policy::limits::{Over, Params};
use crate::wire::body::Body;
use crate::wire::scan::{Model, Scan, Scanner};

/// Of the bytes that bodies may take, those kept for streams under way take at most this part: streams last for minutes,
/// and to take in new requests matters more than to resume every old one.
const KEPT_PART: usize = 2;

/// A body that was read whole, what was found in it, and its share of the bytes that the edge may hold. Boxed where it is
/// passed on: it is large.
pub(super) struct Received<'a> {
    pub(super) body: Body,
    pub(super) scan: Scan,
    held: Held<'a>,
}

/// A body that is kept while its answer is streamed.
pub(super) struct Kept<'a> {
    pub(super) body: Body,
    /// Where the model's name stands in it.
    pub(super) model: Model,
    _held: Held<'a>,
    _kept: Held<'a>,
}

impl<'a> Received<'a> {
    /// Keeps the body, unless too many are kept already; else its bytes are given back.
    pub(super) fn keep(self: Box<Self>, limits: &Params, buffered: &'a Buffered) -> Option<Kept<'a>> {
        let mut kept = Held { all: &buffered.kept, mine: 0 };
        let within = kept.add(self.body.len()) <= limits.buffered_bytes_max / KEPT_PART;
        let model = self.scan.model.filter(|_| within)?;
        Some(Kept { body: self.body.compact(), model, _held: self.held, _kept: kept })
    }
}

/// The bytes of bodies that are held now, over all requests.
#[derive(Default)]
pub(super) struct Buffered {
    all: AtomicUsize,
    /// Those of streams under way.
    kept: AtomicUsize,
    // A std mutex: the sections are a few instructions long and never cross an `.await`.
    /// Those of sessions that wait to be taken on.
    waiting: Mutex<WaitingBytes>,
}

/// Clients of which nothing waits are left out.
#[derive(Default)]
struct WaitingBytes {
    all: usize,
    by_client: HashMap<ClientKey, usize>,
}

impl Buffered {
    /// Counts the body of this client's call among those that wait to be taken on, unless they would be too many bytes.
    pub(super) fn wait(&self, client: ClientKey, bytes: usize, limits: &Params) -> Option<Waits<'_>> {
        let mut waiting = self.waiting();
        let (all, own) = (waiting.all + bytes, waiting.by_client.get(&client).copied().unwrap_or(0) + bytes);
        if !limits.may_wait(all, own) {
            return None;
        }
        waiting.all = all;
        waiting.by_client.insert(client, own);
        Some(Waits { buffered: self, client, bytes })
    }

    fn waiting(&self) -> MutexGuard<'_, WaitingBytes> {
        // Every section leaves it whole, so a panic elsewhere does not spoil it.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A body whose call waits to be taken on.
pub(super) struct Waits<'a> {
    buffered: &'a Buffered,
    client: ClientKey,
    bytes: usize,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut waiting = self.buffered.waiting();
        waiting.all -= self.bytes;
        let own = waiting.by_client.get(&self.client).copied().unwrap_or(0).saturating_sub(self.bytes);
        if own == 0 {
            waiting.by_client.remove(&self.client);
        } else {
            waiting.by_client.insert(self.client, own);
        }
    }
}

struct Held<'a> {
    all: &'a AtomicUsize,
    mine: usize,
}

impl Held<'_> {
    /// Adds to this request's share and tells what all requests hold then.
    fn add(&mut self, bytes: usize) -> usize {
        self.mine += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.mine, Ordering::Relaxed);
    }
}

/// Reads the body of a request.
pub(super) async fn receive<'a>(
    session: &mut ServerSession,
    limits: &Params,
    buffered: &'a Buffered,
) -> Result<Box<Received<'a>>, Refusal> {
    if session.req_header().headers.get_all(header::CONTENT_ENCODING).iter().any(|coding| coding != "identity") {
        return Err(Refusal::new(
            Outcome::BadHeader,
            "the body must not be compressed: send it without Content-Encoding",
        ));
    }
    let stated = stated_length(session)?;
    // An early refusal: the client need not send what would not be taken.
    check(limits, stated.unwrap_or(0), 0)?;
    answer_expectation(session).await?;
    let began = Instant::now();
    let (mut body, mut scanner) = (Body::new(), Scanner::new());
    let mut held = Held { all: &buffered.all, mine: 0 };
    let mut direct = stated.and_then(|stated| Direct::begin(session, stated));
    while let Some(chunk) = in_time(next_chunk(session, direct.as_mut()), limits, began).await? {
        let all = held.add(chunk.len());
        check(limits, body.len() + chunk.len(), all)?;
        scanner.push(&chunk).map_err(bad_json)?;
        body.push(chunk);
    }
    if stated.is_some_and(|stated| stated != body.len()) {
        return Err(Refusal::gone());
    }
    let scan = scanner.finish().map_err(bad_json)?;
    Ok(Box::new(Received { body, scan, held }))
}

fn bad_json(error: crate::wire::scan::ScanError) -> Refusal {
    Refusal::new(Outcome::BadJson, error.to_string())
}

fn check(limits: &Params, body_bytes: usize, buffered_bytes: usize) -> Result<(), Refusal> {
    limits.check_body(body_bytes, buffered_bytes).map_err(|over| match over {
        Over::Buffered => {
            Refusal::new(Outcome::Overloaded, "the edge holds as many request bodies as it may").retry_after_s(1)
        }
        Over::Body | Over::Headers => {
            let message = format!("the body is longer than {} bytes, the most that is taken", limits.body_bytes_max);
            Refusal::new(Outcome::BodyTooLarge, message)
        }
    })
}

fn stated_length(session: &ServerSession) -> Result<Option<usize>, Refusal> {
    let Some(value) = session.req_header().headers.get(header::CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| Refusal::new(Outcome::AmbiguousFraming, "Content-Length is no number"))
}

/// Says `100 Continue` where it is waited for. The framework turns keep-alive off with it, since the body is not read
/// yet; it is about to be, so that is put back.
async fn answer_expectation(session: &mut ServerSession) -> Result<(), Refusal> {
    let Some(expect) = session.req_header().headers.get(header::EXPECT) else { return Ok(()) };
    if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return Err(Refusal::new(Outcome::BadHeader, "the only expectation that is met is 100-continue"));
    }
    if !session.is_http2() {
        let keepalive = session.get_keepalive();
        session.write_continue_response().await.map_err(|_| Refusal::gone())?;
        session.set_keepalive(keepalive);
    }
    Ok(())
}

/// The next piece of a body.
async fn next_chunk(session: &mut ServerSession, direct: Option<&mut Direct>) -> Result<Option<Bytes>, Refusal> {
    // Where the connection broke, nobody is left to read an answer.
    let Some(direct) = direct else {
        return session.read_request_body().await.map_err(|error| match is_framing(&error) {
            true => Refusal::new(Outcome::AmbiguousFraming, "the body's framing is not valid HTTP/1.1"),
            false => Refusal::gone(),
        });
    };
    direct.next(session).await.map_err(|_| Refusal::gone())
}

/// Waits for the next piece of a body that `began` to be read then. What is here already needs no clock.
async fn in_time<T>(
    next: impl Future<Output = Result<T, Refusal>>,
    limits: &Params,
    began: Instant,
) -> Result<T, Refusal> {
    let mut next = pin!(next);
    match at_once(next.as_mut()).await {
        Poll::Ready(piece) => piece,
        Poll::Pending => {
            let (deadline, idle) = (began + limits.body_timeout, Instant::now() + limits.body_idle_timeout);
            timeout_at(deadline.min(idle), next).await.unwrap_or_else(|_| Err(late(limits, idle < deadline)))
        }
    }
}

/// `idle`: whether nothing came at all for a while.
fn late(limits: &Params, idle: bool) -> Refusal {
    let (what, limit) = match idle {
        true => ("no byte of the body arrived for", limits.body_idle_timeout),
        false => ("the body did not arrive within", limits.body_timeout),
    };
    Refusal::new(Outcome::BodyTimeout, format!("{what} {} s", limit.as_secs_f64()))
}

/// Whether the client's chunked framing is at fault, and not its connection.
fn is_framing(error: &pingora::Error) -> bool {
    matches!(error.etype(), pingora::ErrorType::Custom("InvalidChunk" | "InvalidTrailerEnd"))
}

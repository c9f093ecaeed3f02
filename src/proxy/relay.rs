//! Station 8, stream and observe: what the replica sends goes down as it comes.
//!
//! A stream is relayed in whole events, so that a cut never lands inside one; whatever is complete goes at once. After
//! the first byte nothing is tried again: a text that breaks off is continued elsewhere ([`resume`](super::resume)), and
//! else the answer ends whole, or so that no client takes it for whole.

mod flow;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use pingora::protocols::http::ServerSession;
use tokio::time::{Instant, timeout, timeout_at};

use self::flow::{Bounds, Flow};
use super::account::Account;
use super::attempt::{Answer, UnderWay};
use super::chunks::Chunks;
use super::client::poll_gone;
use super::due::at_once;
use super::edge::Edge;
use super::events::Ready;
use super::head::{self, AnswerHead};
use super::upstream::Exchange;
use super::waiting::chunked;
use crate::config::Timeouts;
use crate::domain::ask::Dialect;
use crate::domain::outcome::Outcome;
use crate::wire::reply::{Failure, error_event};
use crate::wire::resume::Told;

/// How long an HTTP/2 stream that broke is kept before it is reset. A reset discards what was written and not yet sent,
/// and nothing tells when the error event has left.
const LAST_EVENT_LEAVES: Duration = Duration::from_millis(500);

/// Sends a whole answer, to a client that takes it by `total`.
pub(super) async fn whole(
    session: &mut ServerSession,
    answer: Box<Answer>,
    account: &mut Account<'_>,
    total: Instant,
) -> Result<(), Outcome> {
    let bytes = answer.body_bytes();
    account.status = answer.head.status.as_u16();
    let gone = |_| Outcome::ClientGone;
    let Answer { mut head, body } = *answer;
    head.headers.insert(header::CONTENT_LENGTH, bytes.into());
    account.receipt().write(&mut head);
    session.write_response_header(head::outgoing(*head)).await.map_err(gone)?;
    for chunk in body {
        send(session, chunk, || total).await?;
    }
    session.write_response_body(Bytes::new(), true).await.map_err(gone)?;
    account.going_down.sent(bytes);
    Ok(())
}

/// Sends a piece of a body, and tells whether it was taken at once.
async fn send(session: &mut ServerSession, piece: Bytes, due: impl FnOnce() -> Instant) -> Result<bool, Outcome> {
    bounded(pin!(session.write_response_body(piece, false)), due).await
}

/// Sends what is ready of a stream, together where that can be done, and tells whether it was taken at once.
async fn send_ready(
    session: &mut ServerSession,
    chunks: Option<&mut Chunks>,
    ready: &mut Ready,
    bounds: &Bounds,
) -> Result<bool, Outcome> {
    let due = || bounds.due(Instant::now());
    let mut taken = true;
    match chunks {
        Some(chunks) => taken = bounded(pin!(poll_fn(|cx| chunks.poll_send(cx, ready))), due).await?,
        None => {
            for piece in ready.iter() {
                taken &= send(session, piece.clone(), due).await?;
            }
        }
    }
    ready.clear();
    Ok(taken)
}

/// Waits for a write, and tells whether it was taken at once; a client that has not taken all of it by `due` is given up.
/// `due` is asked only when the write has to wait: nearly none has, and then there is no need of clock and timer.
async fn bounded<E>(
    mut write: Pin<&mut impl Future<Output = Result<(), E>>>,
    due: impl FnOnce() -> Instant,
) -> Result<bool, Outcome> {
    let (sent, taken) = match at_once(write.as_mut()).await {
        Poll::Ready(sent) => (Ok(sent), true),
        Poll::Pending => (timeout_at(due(), write).await, false),
    };
    match sent {
        Ok(Ok(())) => Ok(taken),
        // Part of it may be out, so nothing can follow.
        Ok(Err(_)) | Err(_) => Err(Outcome::ClientGone),
    }
}

/// Sends the event that ends a stream which cannot be finished. The connection is closed next; nothing more can be done
/// for a client that does not take it.
pub(super) async fn break_off(session: &mut ServerSession, event: Bytes) {
    let _ = session.write_response_body(event, false).await;
    if session.is_http2() {
        // The client, once it has read the event, may reset the stream itself: then at once.
        let _ = timeout(LAST_EVENT_LEAVES, poll_fn(|cx| poll_gone(session, cx))).await;
    }
}

/// Relays an answer that is under way, to its end.
pub(super) struct Relay<'a> {
    pub(super) edge: &'a Edge,
    pub(super) timeouts: &'a Timeouts,
    pub(super) dialect: Dialect,
    /// Whether the head of a stream is out already, with comments behind it.
    pub(super) opened: bool,
    /// When the whole request is out of time.
    pub(super) total: Instant,
}

impl Relay<'_> {
    /// Sends the head.
    pub(super) async fn open(
        &self,
        session: &mut ServerSession,
        mut head: Box<AnswerHead>,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        if !self.opened {
            account.status = head.status.as_u16();
            chunked(session, &mut head);
            account.receipt().write(&mut head);
            session.write_response_header(head::outgoing(*head)).await.map_err(|_| Outcome::ClientGone)?;
        }
        account.first_event();
        Ok(())
    }

    /// Ends the answer, and gives the replica's connection back if there still is one.
    pub(super) async fn close(
        &self,
        session: &mut ServerSession,
        exchange: Option<Box<Exchange>>,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        if self.opened {
            send(session, account.receipt().comment(), || self.total).await?;
        }
        session.write_response_body(Bytes::new(), true).await.map_err(|_| Outcome::ClientGone)?;
        if let Some(exchange) = exchange {
            self.edge.upstream.release(exchange).await;
        }
        Ok(())
    }

    /// Sends the last bytes of an answer that no replica sends any more, and ends it.
    pub(super) async fn last(
        &self,
        session: &mut ServerSession,
        end: Bytes,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        account.going_down.sent(end.len());
        send(session, end, || self.total).await?;
        self.close(session, None, account).await
    }

    /// Tells the client of a stream that it broke off; `events` came before.
    pub(super) async fn broke_off(&self, session: &mut ServerSession, outcome: Outcome, events: u64) {
        if outcome != Outcome::ClientGone {
            let message = match outcome {
                Outcome::Drained => "this edge is about to end; the answer is not whole",
                _ => "the answer broke off before its end",
            };
            let failure = Failure::new(outcome, message);
            break_off(session, error_event(self.dialect, &failure, events)).await;
        }
    }

    /// Goes on with an answer that another replica began.
    pub(super) async fn go_on(
        &self,
        session: &mut ServerSession,
        under: &mut UnderWay,
        told: Box<Told>,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        account.going_down.event(std::time::Instant::now());
        let fits = under.events.as_mut().map_or(Ok(()), |events| events.go_on(told, &mut under.ready));
        match fits {
            Ok(()) => self.body(session, under, account).await,
            Err(outcome) => {
                let (mut chunks, bounds) = (Chunks::of(session), self.bounds());
                account.going_down.sent(under.ready.iter().map(Bytes::len).sum());
                send_ready(session, chunks.as_mut(), &mut under.ready, &bounds).await.and(Err(outcome))
            }
        }
    }

    fn bounds(&self) -> Bounds {
        Bounds { idle: self.timeouts.idle, total: self.total }
    }

    /// Sends all that the replica says.
    pub(super) async fn body(
        &self,
        session: &mut ServerSession,
        under: &mut UnderWay,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        Flow::new(session, under, account, self.bounds(), &self.edge.ending).run().await
    }
}

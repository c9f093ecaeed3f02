//! Station 8, stream and observe: what the replica sends goes down as it comes.
//!
//! A stream is relayed in whole events, so that a cut never lands inside one; whatever is complete goes at once. After
//! the first byte nothing is tried again: a text that breaks off is continued elsewhere ([`resume`](super::resume)), and
//! else the answer ends whole, or so that no client takes it for whole.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header;
use pingora::protocols::http::ServerSession;
use tokio::time::{Instant, Sleep, sleep_until, timeout, timeout_at};

use super::account::Account;
use super::attempt::{Answer, UnderWay};
use super::bell::Bell;
use super::client::Chunks;
use super::due::at_once;
use super::edge::Edge;
use super::events::Events;
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

/// The most chunks of a replica's that go down in one write. Each is at most the framework's 64 KiB, and mostly one event.
const CHUNKS_TOGETHER_MAX: usize = 16;

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
    account.sent(bytes);
    Ok(())
}

/// Sends a piece of a body, and tells whether it was taken at once.
async fn send(session: &mut ServerSession, piece: Bytes, due: impl FnOnce() -> Instant) -> Result<bool, Outcome> {
    bounded(pin!(session.write_response_body(piece, false)), due).await
}

/// Sends pieces of a stream, together where that can be done, and tells whether they were taken at once.
async fn send_events(
    session: &mut ServerSession,
    chunks: Option<&Chunks>,
    pieces: &[Bytes],
    due: impl Fn() -> Instant,
) -> Result<bool, Outcome> {
    let Some(chunks) = chunks else {
        let mut taken = true;
        for piece in pieces {
            taken &= send(session, piece.clone(), &due).await?;
        }
        return Ok(taken);
    };
    bounded(pin!(chunks.send(pieces)), due).await
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
        let _ = timeout(LAST_EVENT_LEAVES, session.read_body_or_idle(true)).await;
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
        account.sent(end.len());
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
        account.next_event(std::time::Instant::now());
        let fits = under.events.as_mut().map_or(Ok(()), |events| events.go_on(told, &mut under.ready));
        match fits {
            Ok(()) => self.body(session, under, account).await,
            Err(outcome) => {
                let chunks = Chunks::of(session);
                self.ready(session, chunks.as_ref(), &mut under.ready, account).await.and(Err(outcome))
            }
        }
    }

    /// Sends what is ready, and tells whether it was taken at once.
    async fn ready(
        &self,
        session: &mut ServerSession,
        chunks: Option<&Chunks>,
        ready: &mut Vec<Bytes>,
        account: &mut Account<'_>,
    ) -> Result<bool, Outcome> {
        let due = || (Instant::now() + self.timeouts.idle).min(self.total);
        account.sent(ready.iter().map(Bytes::len).sum());
        let taken = send_events(session, chunks, ready, due).await?;
        ready.clear();
        Ok(taken)
    }

    /// Sends all that the replica says.
    pub(super) async fn body(
        &self,
        session: &mut ServerSession,
        under: &mut UnderWay,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        // Each piece has its own bound there: the framework's would be set up anew for each.
        session.set_write_timeout(None);
        let result = self.pieces(session, under, account).await;
        session.set_write_timeout(Some(self.timeouts.idle));
        result
    }

    async fn pieces(
        &self,
        session: &mut ServerSession,
        under: &mut UnderWay,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        let mut now = Instant::now();
        let chunks = Chunks::of(session);
        let mut watch = Watch {
            http2: session.is_http2(),
            total: self.total,
            idle_timer: pin!(sleep_until((now + self.timeouts.idle).min(self.total))),
            ending: pin!(self.edge.ending.reached()),
            bell: Bell::default(),
        };
        let mut together = 0;
        loop {
            let chunk = {
                let mut read = pin!(under.exchange.session.read_response_body());
                // What has come meanwhile goes down in the same write: the busier the machine, the fewer there are.
                let mut asked = !under.ended && together < CHUNKS_TOGETHER_MAX;
                let here = if asked { at_once(read.as_mut()).await } else { Poll::Pending };
                if let Poll::Ready(chunk) = here {
                    together += 1;
                    chunk
                } else {
                    // If the write has to wait, the replica may have woken the task meanwhile.
                    asked &= self.ready(session, chunks.as_ref(), &mut under.ready, account).await?;
                    if under.ended {
                        return whole_by_its_word(under.events.as_ref());
                    }
                    // A replica that is always ahead leaves the timer no turn.
                    if now >= self.total {
                        return Err(Outcome::TotalTimeout);
                    }
                    let idle = now + self.timeouts.idle;
                    let chunk = poll_fn(|cx| {
                        // Once asked, it has this task's waker already.
                        if !std::mem::take(&mut asked)
                            && let Poll::Ready(chunk) = read.as_mut().poll(cx)
                        {
                            return Poll::Ready(Ok(chunk));
                        }
                        watch.poll(cx, session, idle).map(Err)
                    });
                    let chunk = chunk.await?;
                    now = Instant::now();
                    together = 1;
                    chunk
                }
            };
            if let Err(outcome) = take(under, chunk, now, account) {
                return self.ready(session, chunks.as_ref(), &mut under.ready, account).await.and(Err(outcome));
            }
        }
    }
}

/// What ends a stream from elsewhere than its replica. It happens seldom, and so is asked only when it may have.
struct Watch<'a, E> {
    http2: bool,
    total: Instant,
    /// One timer for the whole stream, looked at when it fires: to set one for each event costs more than all else that is
    /// done for it here.
    idle_timer: Pin<&'a mut Sleep>,
    ending: Pin<&'a mut E>,
    bell: Bell,
}

impl<E: Future<Output = ()>> Watch<'_, E> {
    /// `idle`: when the replica will have been silent for too long.
    fn poll(&mut self, cx: &mut Context<'_>, session: &mut ServerSession, idle: Instant) -> Poll<Outcome> {
        let rung = self.bell.rung(cx.waker());
        // A write to an HTTP/2 stream takes the place of the waker that its end would call.
        let waker = if self.http2 { Some(cx.waker()) } else { rung };
        let Some(waker) = waker else { return Poll::Pending };
        let cx = &mut Context::from_waker(waker);
        if pin!(session.read_body_or_idle(true)).poll(cx).is_ready() {
            return Poll::Ready(Outcome::ClientGone);
        }
        if self.ending.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Outcome::Drained);
        }
        while self.idle_timer.as_mut().poll(cx).is_ready() {
            match Instant::now() {
                now if now >= self.total => return Poll::Ready(Outcome::TotalTimeout),
                now if now >= idle => return Poll::Ready(Outcome::IdleTimeout),
                _ => self.idle_timer.as_mut().reset(idle.min(self.total)),
            }
        }
        Poll::Pending
    }
}

/// Takes in what the replica sent, so that what is whole of it is ready.
fn take(
    under: &mut UnderWay,
    chunk: pingora::Result<Option<Bytes>>,
    now: Instant,
    account: &mut Account<'_>,
) -> Result<(), Outcome> {
    match chunk {
        Ok(Some(chunk)) => {
            account.next_event(now.into_std());
            match &mut under.events {
                Some(events) => events.push(chunk, &mut under.ready)?,
                None => under.ready.push(chunk),
            }
        }
        Ok(None) => {
            under.ended = true;
            if let Some(events) = &mut under.events {
                events.finish(&mut under.ready);
            }
        }
        // The engine had said that this was all: what broke was no part of the answer.
        Err(_) if under.events.as_ref().is_some_and(Events::ended) => under.ended = true,
        Err(_) => return Err(Outcome::Cut),
    }
    Ok(())
}

/// A stream is whole only if its last event says so: a close-delimited body ends the same way when its replica dies.
fn whole_by_its_word(events: Option<&Events>) -> Result<(), Outcome> {
    match events {
        Some(events) if !events.ended() => Err(Outcome::Cut),
        _ => Ok(()),
    }
}

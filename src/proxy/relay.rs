//! Station 8, stream and observe: what the replica sends goes down as it comes.
//!
//! A stream is relayed in whole events, so that a cut never lands inside one; whatever is complete goes at once. After
//! the first byte nothing is tried again: a text that breaks off is continued elsewhere ([`resume`](super::resume)), and
//! else the answer ends whole, or so that no client takes it for whole.

use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header;
use pingora::protocols::http::ServerSession;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::account::Account;
use super::attempt::{Answer, UnderWay};
use super::client::Client;
use super::due::at_once;
use super::edge::Edge;
use super::events::Events;
use super::head::{self, AnswerHead};
use super::upstream::Exchange;
use super::waiting::{chunked, is_chunked};
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

/// Sends a piece of a body.
async fn send(session: &mut ServerSession, piece: Bytes, due: impl FnOnce() -> Instant) -> Result<(), Outcome> {
    bounded(pin!(session.write_response_body(piece, false)), due).await
}

/// Sends pieces of a stream, together where that can be done.
async fn send_events(session: &mut ServerSession, pieces: &[Bytes], due: impl Fn() -> Instant) -> Result<(), Outcome> {
    match Client::of(session) {
        Some(client) if is_chunked(session) => bounded(pin!(client.send_chunk(pieces)), due).await,
        _ => {
            for piece in pieces {
                send(session, piece.clone(), &due).await?;
            }
            Ok(())
        }
    }
}

/// Waits for a write; a client that has not taken all of it by `due` is given up. `due` is asked only when the write has
/// to wait: nearly every one is taken at once, and then needs neither clock nor timer.
async fn bounded<E>(
    mut write: Pin<&mut impl Future<Output = Result<(), E>>>,
    due: impl FnOnce() -> Instant,
) -> Result<(), Outcome> {
    let sent = match at_once(write.as_mut()).await {
        Poll::Ready(sent) => Ok(sent),
        Poll::Pending => timeout_at(due(), write).await,
    };
    match sent {
        Ok(Ok(())) => Ok(()),
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
            Err(outcome) => self.ready(session, under, account).await.and(Err(outcome)),
        }
    }

    /// Sends what is ready.
    async fn ready(
        &self,
        session: &mut ServerSession,
        under: &mut UnderWay,
        account: &mut Account<'_>,
    ) -> Result<(), Outcome> {
        let due = || (Instant::now() + self.timeouts.idle).min(self.total);
        account.sent(under.ready.iter().map(Bytes::len).sum());
        send_events(session, &under.ready, due).await?;
        under.ready.clear();
        Ok(())
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
        // One timer for the whole stream, looked at when it fires: to set one for each event costs more than the rest
        // of what is done here.
        let mut idle_timer = pin!(sleep_until((now + self.timeouts.idle).min(self.total)));
        let mut ending = pin!(self.edge.ending.reached());
        loop {
            self.ready(session, under, account).await?;
            if under.ended {
                return whole_by_its_word(under);
            }
            // A replica that is always ahead leaves the timer no turn.
            if now >= self.total {
                return Err(Outcome::TotalTimeout);
            }
            let idle = now + self.timeouts.idle;
            let chunk = loop {
                tokio::select! {
                    biased;
                    chunk = under.exchange.session.read_response_body() => break chunk,
                    _ = session.read_body_or_idle(true) => return Err(Outcome::ClientGone),
                    () = ending.as_mut() => return Err(Outcome::Drained),
                    () = idle_timer.as_mut() => match Instant::now() {
                        now if now >= self.total => return Err(Outcome::TotalTimeout),
                        now if now >= idle => return Err(Outcome::IdleTimeout),
                        _ => idle_timer.as_mut().reset(idle.min(self.total)),
                    },
                }
            };
            now = Instant::now();
            let mut taken = take(under, chunk, now, account);
            // What has come meanwhile goes down in the same write: the busier the machine, the fewer there are.
            for _ in 1..CHUNKS_TOGETHER_MAX {
                if taken.is_err() || under.ended {
                    break;
                }
                let Some(chunk) = here_already(under).await else { break };
                taken = take(under, chunk, now, account);
            }
            if let Err(outcome) = taken {
                return self.ready(session, under, account).await.and(Err(outcome));
            }
        }
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

/// What the replica has sent already, without waiting for more.
async fn here_already(under: &mut UnderWay) -> Option<pingora::Result<Option<Bytes>>> {
    match at_once(pin!(under.exchange.session.read_response_body())).await {
        Poll::Ready(chunk) => Some(chunk),
        Poll::Pending => None,
    }
}

/// A stream is whole only if its last event says so: a close-delimited body ends the same way when its replica dies.
fn whole_by_its_word(under: &UnderWay) -> Result<(), Outcome> {
    match &under.events {
        Some(events) if !events.ended() => Err(Outcome::Cut),
        _ => Ok(()),
    }
}

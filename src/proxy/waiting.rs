//! What the client sees and does while its answer is on its way: a client that leaves ends the wait, and a stream that
//! waits long gets its head and comments, so that nothing between the client and the edge takes it for dead.
//!
//! A comment is no data: retries and fallbacks go on behind it. But once the head is out no status can follow, so that
//! whatever fails later is told by an event.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use pingora::protocols::http::ServerSession;
use tokio::time::{Instant, sleep_until};

use super::account::Account;
use super::client::poll_gone;
use super::ending::Ending;
use super::head::{self, AnswerHead};
use super::reply::Receipt;
use crate::roster::Snapshot;

/// A line that every reader of event streams passes over (WHATWG HTML, 9.2.5).
const COMMENT: Bytes = Bytes::from_static(b": keep-alive\n\n");

/// How a stream is kept alive before its first event.
pub(super) struct KeepAlive<'a> {
    /// The pause before the head goes down, and between comments.
    every: Duration,
    request_id: String,
    edge: &'a str,
    nearest_edge: Option<&'a str>,
}

impl<'a> KeepAlive<'a> {
    /// `every` so often, if at all.
    pub(super) fn new(every: Option<Duration>, account: &Account<'_>, snapshot: &'a Snapshot) -> Option<KeepAlive<'a>> {
        let edge = &snapshot.config.topology.edge;
        let nearest_edge = account.nearest_edge(snapshot);
        every.map(|every| KeepAlive { every, request_id: account.request_id.clone(), edge, nearest_edge })
    }
}

/// Why the wait ended without what was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unserved {
    /// The client went away.
    Gone,
    /// The edge ends.
    Drained,
}

/// Waits for `walk`. `opened` tells afterwards how many bytes of comments went down, if the stream was opened meanwhile.
/// A client that leaves ends the wait, and dropping the walk cancels what it does at replicas.
pub(super) async fn wait<T>(
    session: &mut ServerSession,
    keep_alive: Option<KeepAlive<'_>>,
    opened: &mut Option<usize>,
    ending: &Ending,
    walk: impl Future<Output = T> + Unpin,
) -> Result<T, Unserved> {
    let mut walk = walk;
    let mut ending = pin!(ending.reached());
    let Some(keep_alive) = keep_alive else {
        return tokio::select! {
            biased;
            result = &mut walk => Ok(result),
            () = poll_fn(|cx| poll_gone(session, cx)) => Err(Unserved::Gone),
            () = ending.as_mut() => Err(Unserved::Drained),
        };
    };
    let comment_due = sleep_until(Instant::now() + keep_alive.every);
    tokio::pin!(comment_due);
    loop {
        tokio::select! {
            biased;
            result = &mut walk => return Ok(result),
            () = poll_fn(|cx| poll_gone(session, cx)) => return Err(Unserved::Gone),
            () = ending.as_mut() => return Err(Unserved::Drained),
            () = comment_due.as_mut() => {
                let mut comment = pin!(comment(session, &keep_alive, opened.is_none()));
                let mut walked = None;
                // The walk goes on meanwhile: a client that takes nothing stops no deadline, and no line behind it.
                let written = loop {
                    tokio::select! {
                        biased;
                        result = &mut walk, if walked.is_none() => walked = Some(result),
                        written = comment.as_mut() => break written,
                    }
                };
                *opened = Some(opened.unwrap_or_default() + written.map_err(|_| Unserved::Gone)?);
                if let Some(result) = walked {
                    return Ok(result);
                }
                comment_due.as_mut().reset(Instant::now() + keep_alive.every);
            }
        }
    }
}

/// Sends a comment, behind the head if that is not out yet; gives its bytes.
async fn comment(session: &mut ServerSession, keep_alive: &KeepAlive<'_>, first: bool) -> pingora::Result<usize> {
    if first {
        open(session, keep_alive).await?;
    }
    session.write_response_body(COMMENT, false).await?;
    Ok(COMMENT.len())
}

/// Sends the head of a stream that nobody has begun to answer yet: of the receipt it knows the edge alone.
async fn open(session: &mut ServerSession, keep_alive: &KeepAlive<'_>) -> pingora::Result<()> {
    let mut head = head::answer(StatusCode::OK, 8);
    head.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    chunked(session, &mut head);
    let KeepAlive { request_id, edge, nearest_edge, .. } = keep_alive;
    Receipt { request_id, edge, nearest_edge: *nearest_edge, route: None, attempts: None }.write(&mut head);
    session.write_response_header(head::outgoing(head)).await
}

/// Says how a body of unknown length is framed. To an HTTP/1.0 client the end of the connection is the end of the answer.
pub(super) fn chunked(session: &ServerSession, head: &mut AnswerHead) {
    if is_chunked(session) {
        head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// Whether a body of unknown length goes to this client in chunks.
pub(super) fn is_chunked(session: &ServerSession) -> bool {
    session.req_header().version == Version::HTTP_11
}

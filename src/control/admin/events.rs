//! `GET /events`: the status each second and the history every ten, as server-sent events (WHATWG HTML, 9.2).
//!
//! Each event is written out once for all viewers. Who reads too slowly for that misses some, and is dropped when the
//! system's buffers are full and stay so for [`IO_TIMEOUT`](super::IO_TIMEOUT); nobody waits for anybody. The stream ends
//! after [`VIEW_MAX`], or when the listener goes to a successor, with the status of then. While the edge drains it goes on;
//! the process ends without waiting for it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Version;
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Viewers at a time: a page or a terminal of everyone who looks after the edge.
pub(super) const VIEWERS_MAX: usize = 16;
/// From one status to the next.
const TICK: Duration = Duration::from_secs(1);
/// Ticks from one history to the next: as long as one of its steps.
const HISTORY_TICKS: u64 = 10;
/// After so long a stream ends and its viewer comes again, if it is still there: a laptop that was shut takes no place for
/// as long as the system would hold the connection open.
const VIEW_MAX: Duration = Duration::from_secs(10 * 60);
/// How soon a browser tries again when the edge was gone, in ms.
const RETRY: &str = "retry: 1000\n\n";

/// Who watches, and what was written out last.
#[derive(Debug)]
pub(super) struct Events {
    start: Instant,
    viewers: Semaphore,
    status: Shared,
    history: Shared,
}

/// What makes the events.
pub(super) trait Source: Sync {
    /// The status of now.
    fn status(&self) -> Bytes;
    /// The history up to now.
    fn history(&self) -> Bytes;
}

impl Events {
    /// Nobody watches yet; ticks count from now.
    pub(super) fn new() -> Events {
        let viewers = Semaphore::new(VIEWERS_MAX);
        Events { start: Instant::now(), viewers, status: Shared::default(), history: Shared::default() }
    }

    /// A place for one more viewer, if there is one.
    pub(super) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.viewers.try_acquire().ok()
    }

    /// How many watch.
    pub(super) fn viewers(&self) -> usize {
        VIEWERS_MAX - self.viewers.available_permits()
    }

    /// Sends events until the listener or the viewer goes.
    pub(super) async fn stream(
        &self,
        session: &mut ServerSession,
        source: &impl Source,
        mut shutdown: ShutdownWatch,
    ) -> pingora::Result<()> {
        session.set_keepalive(None);
        let head = head(session.req_header().version)?;
        session.write_response_header(Box::new(head)).await?;
        session.write_response_body(Bytes::from_static(RETRY.as_bytes()), false).await?;
        let (began, mut told) = (Instant::now(), None);
        while began.elapsed() < VIEW_MAX {
            let tick = self.start.elapsed().as_secs();
            session.write_response_body(self.status.of(tick, || source.status()), false).await?;
            let history = tick / HISTORY_TICKS;
            if told.replace(history) != Some(history) {
                session.write_response_body(self.history.of(history, || source.history()), false).await?;
            }
            let next = self.start + TICK * u32::try_from(tick + 1).unwrap_or(u32::MAX);
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                _ = shutdown.wait_for(|ending| *ending) => break,
            }
        }
        session.write_response_body(source.status(), false).await?;
        session.write_response_body(Bytes::new(), true).await
    }
}

fn head(version: Version) -> pingora::Result<ResponseHeader> {
    let mut head = ResponseHeader::build(200, Some(4))?;
    head.insert_header("content-type", "text/event-stream")?;
    head.insert_header("cache-control", "no-store")?;
    head.insert_header("x-content-type-options", "nosniff")?;
    if version == Version::HTTP_11 {
        head.insert_header("transfer-encoding", "chunked")?;
    }
    Ok(head)
}

/// One event. The data is one line, as JSON without indentation is.
pub(super) fn event(name: &str, data: &impl Serialize) -> Bytes {
    let mut event = format!("event: {name}\ndata: ").into_bytes();
    if let Err(error) = serde_json::to_writer(&mut event, data) {
        // Only a bug can make it: what is written has string keys and finite depth.
        log::error!("event {name} cannot be written: {error}");
        return Bytes::new();
    }
    event.extend_from_slice(b"\n\n");
    event.into()
}

/// An event that was written out for a tick.
#[derive(Default, Debug)]
// A std mutex: it is held while an event is written out, which is to happen once, and never across an `.await`.
struct Shared(Mutex<Option<(u64, Bytes)>>);

impl Shared {
    /// The event of this tick, which the first who asks has made.
    fn of(&self, tick: u64, make: impl FnOnce() -> Bytes) -> Bytes {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((made, event)) if *made >= tick => event.clone(),
            _ => {
                let event = make();
                *last = Some((tick, event.clone()));
                event
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn an_event_is_made_once_for_all_who_watch() {
        let (shared, made) = (Shared::default(), Cell::new(0));
        let of = |tick| {
            shared.of(tick, || {
                made.set(made.get() + 1);
                format!("{}", made.get()).into()
            })
        };
        assert_eq!([of(3), of(3), of(3)], ["1", "1", "1"]);
        assert_eq!([of(4), of(4), of(3)], ["2", "2", "2"], "one that is late is not made again");
        assert_eq!(made.get(), 2);
    }

    #[test]
    fn an_event_is_a_name_and_one_line() {
        assert_eq!(event("status", &serde_json::json!({ "a": "b\nc" })), "event: status\ndata: {\"a\":\"b\\nc\"}\n\n");
    }
}

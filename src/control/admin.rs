//! The admin listener: how things stand, and new configurations by hand.
//!
//! It is never the agents' listener. Reading needs no credential, so it belongs on an address that only operators and
//! their tools reach; writing needs the bearer token, and without one configured there is no writing. The token also
//! keeps out what a browser on the same machine could be made to send.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use prometheus::Registry;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use self::answer::Answer;
use self::events::{Events, Source, VIEWERS_MAX, event};
use self::host::may_ask;
use self::write::may_write;
use super::reload::Reloader;
use super::status::{Beside, Status, unready};
use crate::observe::access_log::AccessLog;
use crate::observe::metrics::{Metrics, ReloadSource};
use crate::observe::recent::{Feed, History};
use crate::observe::timestamp::Timestamp;
use crate::roster::{Roster, Snapshot};

/// From a connection's start, or from the last answer, to a whole request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For writing an answer, and between two pieces of a body.
const IO_TIMEOUT: Duration = Duration::from_secs(10);
/// Names and values of all headers, in bytes; a token and a few more.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Connections at a time: a few scrapers, health checks and people.
const CONNECTIONS_MAX: usize = 64;

/// What the admin listener works with.
#[derive(Debug)]
pub struct Parts {
    /// The replicas, the snapshot, the sessions.
    pub roster: Arc<Roster>,
    /// Where new configurations go.
    pub reloader: Arc<Reloader>,
    /// The metrics, and the registry that they are in.
    pub metrics: Arc<Metrics>,
    /// Everything in it is shown.
    pub registry: Registry,
    /// Whose dropped lines are shown.
    pub access_log: Arc<AccessLog>,
    /// What happened lately.
    pub feed: Arc<Feed>,
    /// When the edge started.
    pub started: Instant,
}

/// The app of the admin listener: HTTP/1.1.
#[derive(Debug)]
pub struct Admin {
    parts: Parts,
    connections: Semaphore,
    events: Events,
}

/// The pages, with the methods that each takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Index,
    Metrics,
    Healthz,
    Readyz,
    Status,
    History,
    Events,
    Explain,
    Reload,
    Config,
}

impl Page {
    fn of_path(path: &str) -> Option<Page> {
        Some(match path {
            "/" => Page::Index,
            "/metrics" => Page::Metrics,
            "/healthz" => Page::Healthz,
            "/readyz" => Page::Readyz,
            "/status" => Page::Status,
            "/history" => Page::History,
            "/events" => Page::Events,
            "/explain" => Page::Explain,
            "/reload" => Page::Reload,
            "/config" => Page::Config,
            _ => return None,
        })
    }

    /// The value of `Allow`.
    const fn allows(self) -> &'static str {
        match self {
            Page::Reload => "POST",
            Page::Config => "PUT",
            _ => "GET, HEAD",
        }
    }
}

impl Admin {
    /// The app with these parts.
    pub fn new(parts: Parts) -> Admin {
        Admin { parts, connections: Semaphore::new(CONNECTIONS_MAX), events: Events::new() }
    }

    /// `Err`: the answer is a stream of events.
    async fn answer(&self, session: &mut ServerSession) -> Result<Answer, SemaphorePermit<'_>> {
        let head = session.req_header();
        let head_bytes: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if head_bytes > HEAD_BYTES_MAX {
            return Ok(Answer::error(431, "headers_too_large", "the headers are longer than 16 KiB"));
        }
        let listener = session.server_addr().and_then(|address| address.as_inet()).copied();
        if !may_ask(head.headers.get("host").map(|host| host.as_bytes()), listener) {
            let message = "this listener is on loopback and answers to addresses and to localhost only";
            return Ok(Answer::error(421, "misdirected", message));
        }
        let Some(page) = Page::of_path(head.uri.path()) else {
            return Ok(Answer::error(404, "not_found", "there is no such page; GET / lists what there is"));
        };
        if !page.allows().split(", ").any(|method| method == head.method.as_str()) {
            let message = format!("{} takes {}", head.uri.path(), page.allows());
            return Ok(Answer::error(405, "method_not_allowed", &message).with("allow", page.allows()));
        }
        match page {
            Page::Reload | Page::Config => Ok(self.write(page, session).await),
            Page::Events if head.method.as_str() == "GET" => self.events.place().map_or_else(|| Ok(crowded()), Err),
            Page::Explain => {
                Ok(explain::answer(&self.parts.roster, head.uri.query().unwrap_or_default(), Instant::now()))
            }
            _ => Ok(self.read(page, Instant::now())),
        }
    }

    fn read(&self, page: Page, now: Instant) -> Answer {
        let parts = &self.parts;
        let (roster, snapshot) = (&*parts.roster, parts.roster.snapshot());
        match page {
            Page::Metrics => {
                parts.metrics.refresh(&snapshot, roster, now);
                Answer::new(200, prometheus::TEXT_FORMAT, parts.metrics.render(&parts.registry))
            }
            Page::Healthz => Answer::new(200, "text/plain; charset=utf-8", "ok\n"),
            Page::Readyz => match unready(roster, &snapshot, now) {
                None => Answer::json(200, &serde_json::json!({ "ready": true })),
                Some(reason) => Answer::json(503, &serde_json::json!({ "ready": false, "reason": reason })),
            },
            Page::Status => Answer::json(200, &self.status(&snapshot, now)),
            Page::History => Answer::json(200, &self.history(&snapshot, now)),
            // HEAD alone comes here.
            Page::Events => Answer::new(200, "text/event-stream", ""),
            Page::Index | Page::Explain | Page::Reload | Page::Config => Answer::index(),
        }
    }

    fn status<'a>(&'a self, snapshot: &'a Snapshot, now: Instant) -> Status<'a> {
        let parts = &self.parts;
        let beside = Beside {
            started: parts.started,
            today: SystemTime::now(),
            reloads: parts.reloader.history(),
            access_log_dropped: parts.access_log.dropped(),
            feed: &parts.feed,
            viewers: self.events.viewers(),
        };
        Status::new(&parts.roster, snapshot, beside, now)
    }

    fn history<'a>(&self, snapshot: &'a Snapshot, now: Instant) -> History<'a> {
        self.parts.feed.history(&snapshot.config.topology, now, Timestamp(SystemTime::now()))
    }

    async fn write(&self, page: Page, session: &mut ServerSession) -> Answer {
        let token = self.parts.roster.snapshot().config.admin_token.clone();
        if let Err(refusal) = may_write(token.as_ref(), session.get_header("authorization")) {
            return refusal;
        }
        let body = match write::body(session).await {
            Ok(body) => body,
            Err(refusal) => return refusal,
        };
        let reloader = Arc::clone(&self.parts.reloader);
        // Files and parsing: not for the event loop. It goes on to its end also if the client goes away.
        let done = tokio::task::spawn_blocking(move || match page {
            Page::Config => match String::from_utf8(body) {
                Ok(text) => write::verdict(reloader.push(&text)),
                Err(_) => Answer::error(422, "not_utf8", "the config is not UTF-8"),
            },
            _ => write::verdict(reloader.reload(ReloadSource::Post)),
        });
        done.await.unwrap_or_else(|_| Answer::error(500, "internal", "the reload ended early; see the log"))
    }
}

#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // Held also while the connection idles, since it waits in here for its next request.
        let _place = self.connections.try_acquire().ok()?;
        session.set_read_timeout(Some(HEAD_TIMEOUT));
        session.set_write_timeout(Some(IO_TIMEOUT));
        match timeout(HEAD_TIMEOUT, session.read_request()).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) | Err(_) => return None,
            Ok(Err(error)) => {
                // The error's text quotes what came, the token included.
                log::debug!("admin request cannot be read kind={}", error.etype().as_str());
                let _gone = session.respond_error(400).await;
                return None;
            }
        }
        session.set_read_timeout(Some(IO_TIMEOUT));
        // After a body the connection ends: nothing that came with it can be taken for another request.
        let reads_only = matches!(session.req_header().method.as_str(), "GET" | "HEAD") && session.is_body_empty();
        let keep = reads_only && !*shutdown.borrow();
        session.set_keepalive(keep.then_some(HEAD_TIMEOUT.as_secs()));
        let is_head = session.req_header().method.as_str() == "HEAD";
        let answer = match self.answer(&mut session).await {
            Ok(answer) => answer,
            Err(_viewer) => {
                // What fails is the viewer that has gone.
                let _gone = self.events.stream(&mut session, &**self, shutdown.clone()).await;
                return None;
            }
        };
        let (header, body) = answer.into_parts().ok()?;
        session.write_response_header(Box::new(header)).await.ok()?;
        if !is_head {
            session.write_response_body(Bytes::from(body), true).await.ok()?;
        }
        if !keep {
            write::discard_rest(&mut session).await;
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

/// The answer to one who comes when as many watch as may.
fn crowded() -> Answer {
    let message =
        format!("{VIEWERS_MAX} viewers watch already, which is as many as may; GET /status tells the same once");
    Answer::error(503, "too_many_viewers", &message).with("retry-after", "10")
}

impl Source for Admin {
    fn status(&self) -> Bytes {
        event("status", &self.status(&self.parts.roster.snapshot(), Instant::now()))
    }

    fn history(&self) -> Bytes {
        event("history", &self.history(&self.parts.roster.snapshot(), Instant::now()))
    }
}

mod answer;
mod events;
mod explain;
mod host;
mod page;
#[cfg(test)]
mod tests;
mod write;

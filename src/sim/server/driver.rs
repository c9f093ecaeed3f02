//! The engine in real time: one task owns it, commands and one timer drive it.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::replica::ServerStats;
use crate::sim::engine::{Engine, Event, Refused, RequestId, Submit};
use crate::sim::preset::Params;

/// A way to the engine's task. The channels are unbounded, yet hold at most two commands for each open request and, for a
/// request, no more events than its answer has tokens.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Submit(Submit, mpsc::UnboundedSender<Event>, oneshot::Sender<Result<(), Refused>>),
    Cancel(RequestId),
    Utilization(oneshot::Sender<f64>),
}

/// A request in the engine. Dropping it cancels it.
#[derive(Debug)]
pub(super) struct Job {
    id: RequestId,
    driver: Driver,
    events: mpsc::UnboundedReceiver<Event>,
    over: bool,
}

/// Why a request did not get into the engine.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubmitError {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the engine is dead")]
    Dead,
}

impl Driver {
    /// Starts an engine. It lives until its task is aborted.
    pub(super) fn start(params: Params, stats: Arc<watch::Sender<ServerStats>>) -> (Self, JoinHandle<()>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let task = tokio::spawn(drive(Engine::new(params), inbox, stats));
        (Self { commands }, task)
    }

    /// The share of the last second in which the engine computed, 0 to 1; 0 when it is dead.
    pub(super) async fn utilization(&self) -> f64 {
        let (reply, told) = oneshot::channel();
        // An engine that is gone drops the question, and so answers.
        let _ = self.commands.send(Command::Utilization(reply));
        told.await.unwrap_or_default()
    }

    pub(super) async fn submit(&self, submit: Submit) -> Result<Job, SubmitError> {
        let id = submit.id;
        let (sender, events) = mpsc::unbounded_channel();
        let (reply, verdict) = oneshot::channel();
        // Made before the verdict is awaited: a client that leaves meanwhile must cancel, too.
        let mut job = Job { id, driver: self.clone(), events, over: true };
        self.commands.send(Command::Submit(submit, sender, reply)).map_err(|_| SubmitError::Dead)?;
        job.over = false;
        match verdict.await {
            Ok(Ok(())) => Ok(job),
            Ok(Err(refused)) => {
                job.over = true;
                Err(refused.into())
            }
            Err(_) => Err(SubmitError::Dead),
        }
    }
}

impl Job {
    /// The next event; `None` when it has finished or the engine has died.
    pub(super) async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = self.events.poll_recv(cx);
        if let Poll::Ready(Some(Event::Finished { .. }) | None) = event {
            self.over = true;
        }
        event
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.over {
            // An engine that is gone has nothing to cancel.
            let _ = self.driver.commands.send(Command::Cancel(self.id));
        }
    }
}

async fn drive(
    mut engine: Engine,
    mut inbox: mpsc::UnboundedReceiver<Command>,
    stats: Arc<watch::Sender<ServerStats>>,
) {
    let start = Instant::now();
    let mut listeners: HashMap<RequestId, mpsc::UnboundedSender<Event>> = HashMap::new();
    let mut events = Vec::new();
    loop {
        engine.advance(start.elapsed(), &mut events);
        let finished = tell(&mut listeners, &mut events);
        publish(&stats, &engine, finished, 0);
        let due = engine.next_event_at().map(|at| start + at);
        let command = tokio::select! {
            biased;
            command = inbox.recv() => match command {
                Some(command) => command,
                None => return,
            },
            () = sleep_until(due.unwrap_or(start)), if due.is_some() => continue,
        };
        let now = start.elapsed();
        match command {
            Command::Submit(submit, listener, reply) => {
                let id = submit.id;
                let verdict = engine.submit(now, submit);
                if verdict.is_ok() {
                    listeners.insert(id, listener);
                }
                // Whoever no longer waits for the verdict sends a cancel next.
                let _ = reply.send(verdict);
            }
            Command::Utilization(reply) => {
                // Whoever asked may be gone.
                let _ = reply.send(engine.utilization(now));
            }
            Command::Cancel(id) => {
                listeners.remove(&id);
                let cancelled = engine.cancel(now, id);
                publish(&stats, &engine, 0, u64::from(cancelled));
            }
        }
    }
}

fn tell(listeners: &mut HashMap<RequestId, mpsc::UnboundedSender<Event>>, events: &mut Vec<Event>) -> u64 {
    let mut finished = 0;
    for event in events.drain(..) {
        let (Event::FirstToken { id, .. } | Event::Tokens { id, .. } | Event::Finished { id, .. }) = event;
        if let Some(listener) = listeners.get(&id) {
            // A listener that is gone sends a cancel.
            let _ = listener.send(event);
        }
        if matches!(event, Event::Finished { .. }) {
            listeners.remove(&id);
            finished += 1;
        }
    }
    finished
}

fn publish(stats: &watch::Sender<ServerStats>, engine: &Engine, finished: u64, cancelled: u64) {
    let now = engine.stats();
    stats.send_if_modified(|stats| {
        let changed = stats.engine != now || finished + cancelled > 0;
        stats.engine = now;
        stats.finished_total += finished;
        stats.cancelled_total += cancelled;
        changed
    });
}

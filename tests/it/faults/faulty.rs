//! Replicas that misbehave, byte by byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::frames::{self, Frames};
use crate::support::{Answer, Http1};

/// What one does wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// Nobody listens.
    Refuse,
    /// Somebody listens and never accepts: connections are neither made nor refused.
    Deaf,
    /// Every connection ends as soon as it is accepted.
    AtAccept(Step),
    /// Once a request is read, these steps. If the last one leaves the connection open, the next request is read.
    Answer(&'static [Step]),
    /// The same over HTTP/2, for each stream.
    Frames(&'static [Frames]),
    /// The same when a connection is made, before anything is read.
    FramesAtAccept(&'static [Frames]),
}

impl Fault {
    /// Whether the edge is to speak HTTP/2 to it.
    pub(super) fn is_http2(self) -> bool {
        matches!(self, Fault::Frames(_) | Fault::FramesAtAccept(_))
    }

    /// Whether its first few answers are to be told from all others by their never ending.
    pub(super) fn floods(self) -> bool {
        matches!(self, Fault::Answer(steps) if steps.iter().any(|step| matches!(step, Step::Flood(_))))
    }

    /// Whether it asks to be left alone for a minute.
    pub(super) fn rests(self) -> bool {
        match self {
            Fault::Answer([Step::Send(text), ..]) => text.contains("retry-after: 60"),
            Fault::Frames([Frames::Only(head), ..]) => head.contains(&("retry-after", "60")),
            _ => false,
        }
    }

    /// Whether it is busy and does not say for how long: it is left alone for a second.
    pub(super) fn pauses(self) -> bool {
        match self {
            Fault::Answer([Step::Send(text), ..]) => text.contains(" 429 ") && !text.contains("retry-after"),
            Fault::Frames([Frames::Only(head), ..]) => {
                head.contains(&(":status", "429")) && !head.iter().any(|(name, _)| *name == "retry-after")
            }
            _ => false,
        }
    }

    /// Whether its streams break after they have begun.
    pub(super) fn begins(self) -> bool {
        matches!(self, Fault::Answer([Step::Begin, ..]))
    }

    /// Whether it reads each request whole before anything else.
    pub(super) fn reads(self) -> bool {
        matches!(self, Fault::Answer(_))
    }
}

/// One step of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Writes these bytes.
    Send(&'static str),
    /// Writes these bytes again and again, as fast as they are taken. Only in the first [`FLOODS`] answers, since each
    /// costs the edge megabytes to read: the others end the connection here.
    Flood(&'static str),
    /// Writes these bytes again and again at the pace of [`DRIP`].
    Drip(&'static str),
    /// Writes the head and the first events of the stream that the other replica would give.
    Begin,
    /// Says nothing more.
    Hang,
    /// Ends the connection (FIN).
    Close,
    /// Breaks the connection (RST).
    Reset,
}

/// The pace of what never ends.
const DRIP: Duration = Duration::from_millis(20);
/// How many answers of one replica are floods.
pub(super) const FLOODS: usize = 4;
/// Events of [`Step::Begin`] with text.
pub(super) const BEGUN_EVENTS: usize = 3;

/// A replica. What it was given to read is counted.
#[derive(Clone)]
pub(super) struct Faulty {
    address: SocketAddr,
    shared: Arc<Shared>,
    ended: Arc<watch::Sender<bool>>,
}

struct Shared {
    fault: Fault,
    /// Whether it misbehaves yet: an edge may want to see a good replica first.
    armed: AtomicBool,
    requests: AtomicUsize,
    floods: AtomicUsize,
    /// What a good replica answers to a prompt.
    answers: Mutex<HashMap<String, String>>,
    /// A listener that does not accept, and connections that fill its queue.
    deaf: Mutex<Option<(TcpListener, Vec<TcpStream>)>>,
}

impl Faulty {
    /// Listens at this address and behaves, for what is no call; a call waits until it is armed.
    pub(super) async fn start(at: SocketAddr, fault: Fault) -> Faulty {
        let shared = Shared {
            fault,
            armed: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            floods: AtomicUsize::new(0),
            answers: Mutex::default(),
            deaf: Mutex::default(),
        };
        let (ended, mut until) = watch::channel(false);
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let faulty = Faulty { address, shared: Arc::new(shared), ended: Arc::new(ended) };
        let shared = Arc::clone(&faulty.shared);
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = until.changed() => return,
                };
                let (shared, mut until) = (Arc::clone(&shared), until.clone());
                tokio::spawn(async move {
                    tokio::select! {
                        () = shared.serve(stream) => {}
                        _ = until.changed() => {}
                    }
                });
            }
        });
        faulty
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it misbehaves.
    pub(super) async fn arm(&self) {
        if matches!(self.shared.fault, Fault::Refuse | Fault::Deaf) {
            self.ended.send_replace(true);
            // Its listener is closed once its task has ended.
            while let Ok(stream) = TcpStream::connect(self.address).await {
                drop(stream);
                tokio::task::yield_now().await;
            }
        }
        if matches!(self.shared.fault, Fault::Deaf) {
            self.fill_queue().await;
        }
        self.shared.armed.store(true, Ordering::Release);
    }

    /// A listener with the shortest queue there is, and connections that fill it.
    async fn fill_queue(&self) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        let listener = socket.listen(0).unwrap();
        let mut queued = Vec::new();
        while let Ok(Ok(stream)) = tokio::time::timeout(DRIP, TcpStream::connect(self.address)).await {
            queued.push(stream);
        }
        *self.shared.deaf.lock().unwrap() = Some((listener, queued));
    }

    /// How many calls it has read whole.
    pub(super) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Tells it what a good replica answers to a prompt, for [`Step::Begin`].
    pub(super) fn learn(&self, prompt: &str, answer: &str) {
        self.shared.answers.lock().unwrap().insert(prompt.to_owned(), answer.to_owned());
    }
}

impl Shared {
    async fn serve(&self, stream: TcpStream) {
        match self.fault {
            Fault::AtAccept(step) if self.armed.load(Ordering::Acquire) => end(Http1::over(stream), step).await,
            Fault::Frames(steps) => frames::serve(stream, &[], steps, &self.requests).await,
            Fault::FramesAtAccept(steps) => frames::serve(stream, steps, &[], &self.requests).await,
            _ => self.serve_http1(Http1::over(stream)).await,
        }
    }

    async fn serve_http1(&self, mut connection: Http1) {
        while let Ok((line, mut request)) = connection.try_request_head().await {
            let (body, ended) = connection.body(&request).await;
            if ended.is_err() {
                return;
            }
            request.body = body;
            let steps = match self.fault {
                _ if line.starts_with("GET ") => &[Step::Send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")][..],
                Fault::Answer(steps) => steps,
                // A connection that was made while it still behaved.
                Fault::AtAccept(step) => return end(connection, step).await,
                _ => return,
            };
            if line.starts_with("POST ") {
                self.requests.fetch_add(1, Ordering::Relaxed);
            }
            for step in steps {
                match step {
                    Step::Close | Step::Reset | Step::Hang => return end(connection, *step).await,
                    step => {
                        if self.write(&mut connection, *step, &request).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Whoever reads may have had enough: that is an error, and no failure here.
    async fn write(&self, connection: &mut Http1, step: Step, request: &Answer) -> std::io::Result<()> {
        match step {
            Step::Send(text) => connection.try_send(text.as_bytes()).await,
            Step::Flood(_) if self.floods.fetch_add(1, Ordering::Relaxed) >= FLOODS => {
                Err(std::io::ErrorKind::Other.into())
            }
            Step::Flood(text) => {
                let text = text.repeat((64 << 10) / text.len());
                loop {
                    connection.try_send(text.as_bytes()).await?;
                }
            }
            Step::Drip(text) => loop {
                connection.try_send(text.as_bytes()).await?;
                tokio::time::sleep(DRIP).await;
            },
            Step::Begin => connection.try_send(self.begin(request).as_bytes()).await,
            Step::Hang | Step::Close | Step::Reset => Ok(()),
        }
    }

    fn begin(&self, request: &Answer) -> String {
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let prompt = body["messages"][0]["content"].as_str().unwrap();
        let answer = self.answers.lock().unwrap()[prompt].clone();
        let mut text =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
        let mut event = |delta: Value| {
            let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": null});
            let chunk = json!({"id": "chatcmpl-faulty", "object": "chat.completion.chunk", "created": 1_700_000_000,
                "model": body["model"], "choices": [choice]});
            let event = format!("data: {chunk}\n\n");
            text.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
        };
        event(json!({"role": "assistant", "content": ""}));
        for token in answer.as_bytes().chunks(TOKEN_BYTES).take(BEGUN_EVENTS) {
            event(json!({"content": std::str::from_utf8(token).unwrap()}));
        }
        text
    }
}

/// Bytes of a simulated token.
pub(super) const TOKEN_BYTES: usize = 4;

async fn end(mut connection: Http1, step: Step) {
    match step {
        Step::Reset => connection.reset(),
        Step::Hang => {
            connection.until_closed().await;
        }
        _ => drop(connection),
    }
}

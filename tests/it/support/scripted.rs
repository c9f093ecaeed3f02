//! A replica that does exactly what a test writes, byte by byte and when it says so.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::http1::{Answer, Http1};
use super::replicas::SERVED;
use super::{own_address, soon};

/// The listener. Health checks are answered by itself.
pub struct Scripted {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Exchange>,
}

/// One request at the replica, read whole, and its connection.
pub struct Exchange {
    /// `POST /v1/… HTTP/1.1`.
    pub line: String,
    /// Headers and body.
    pub request: Answer,
    /// The connection.
    pub connection: Http1,
}

impl Scripted {
    /// Listens.
    pub async fn start() -> Scripted {
        let listener = TcpListener::bind((own_address(), 8000)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, tell.clone()));
            }
        });
        Scripted { address, requests }
    }

    /// `http://ADDRESS:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for the next request on a new connection.
    pub async fn next(&mut self) -> Exchange {
        soon(self.requests.recv()).await.unwrap()
    }

    /// Waits for the next request after this one: on the same connection, or on a new one, since each thread of the edge
    /// keeps connections of its own.
    pub async fn next_after(&mut self, before: Exchange) -> Exchange {
        tokio::select! {
            next = before.next() => next,
            next = self.next() => next,
        }
    }

    /// The same as `next` for as long as it takes; `None` when there will be none.
    pub async fn try_next(&mut self) -> Option<Exchange> {
        self.requests.recv().await
    }
}

/// One chunk of a chunked body, framed.
pub fn chunk(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat()
}

async fn serve(stream: TcpStream, tell: mpsc::UnboundedSender<Exchange>) {
    let mut connection = Http1::over(stream);
    while let Ok(exchange) = read(&mut connection).await {
        if exchange.0.starts_with("GET /health ") {
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            continue;
        }
        if exchange.0.starts_with("GET /v1/models ") {
            let list = format!("{{\"data\":[{{\"id\":\"{SERVED}\"}}]}}");
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", list.len());
            connection.send((head + &list).as_bytes()).await;
            continue;
        }
        // The test may be over.
        let _ = tell.send(Exchange { line: exchange.0, request: exchange.1, connection });
        return;
    }
}

async fn read(connection: &mut Http1) -> std::io::Result<(String, Answer)> {
    let (line, mut request) = connection.try_request_head().await?;
    let (body, ended) = connection.body(&request).await;
    ended?;
    request.body = body;
    Ok((line, request))
}

impl Exchange {
    /// Writes these bytes.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.send(bytes.as_ref()).await;
    }

    /// Writes one chunk of a chunked body.
    pub async fn chunk(&mut self, bytes: impl AsRef<[u8]>) {
        self.connection.send(&chunk(bytes)).await;
    }

    /// Begins an event stream.
    pub async fn begin_stream(&mut self) {
        self.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n").await;
    }

    /// Answers whole, with JSON.
    pub async fn answer(&mut self, status: u16, headers: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n");
        self.send(format!("{head}{headers}\r\n{body}")).await;
    }

    /// Waits for the next request on this connection.
    pub async fn next(mut self) -> Exchange {
        let (line, request) = read(&mut self.connection).await.expect("another request on this connection");
        Exchange { line, request, connection: self.connection }
    }
}

//! An HTTP/2 client with prior knowledge: hyper's.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::http1::Answer;
use super::soon;

/// One connection.
pub struct H2 {
    sender: SendRequest<Full<Bytes>>,
    connection: JoinHandle<()>,
}

impl H2 {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> H2 {
        let stream = soon(TcpStream::connect(to)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = soon(handshake(TokioExecutor::new(), TokioIo::new(stream))).await.unwrap();
        // Its error reaches the requests, too.
        let connection = tokio::spawn(async move { connection.await.unwrap_or(()) });
        H2 { sender, connection }
    }

    /// Sends a request; its answer's body is read by the caller. Dropping the future or the answer resets the stream.
    pub fn send(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> impl Future<Output = hyper::Result<Response<Incoming>>> + use<> {
        let mut request = Request::post(format!("http://edge{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = self.sender.send_request(request.body(Full::new(body.into())).unwrap());
        soon(sent)
    }

    /// Sends a POST of JSON and reads the whole answer.
    pub async fn call(&mut self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let answer = self.send(path, headers, body.to_string()).await.unwrap();
        whole(answer).await
    }

    /// Ends the connection with every stream.
    pub fn close(self) {
        self.connection.abort();
    }
}

/// Reads a whole answer.
pub async fn whole(answer: Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
        .collect();
    let body = soon(body.collect()).await.unwrap().to_bytes();
    Answer { status: head.status.as_u16(), headers, body }
}

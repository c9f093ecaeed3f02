//! An HTTP/2 client with prior knowledge: hyper's.

use std::net::{Shutdown, SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;

use super::http1::{Answer, Stream};
use super::soon;

/// One connection.
pub struct H2 {
    sender: SendRequest<Full<Bytes>>,
    /// The same socket once more, to be ended without asking hyper, which keeps it for its streams.
    socket: Option<std::net::TcpStream>,
}

impl H2 {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> H2 {
        let stream = soon(TcpStream::connect(to)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let stream = stream.into_std().unwrap();
        let socket = stream.try_clone().unwrap();
        let client = H2::over(TcpStream::from_std(stream).unwrap()).await;
        H2 { socket: Some(socket), ..client }
    }

    /// Speaks over a connection that is there.
    pub async fn over(stream: impl Stream + 'static) -> H2 {
        let (sender, connection) = soon(handshake(TokioExecutor::new(), TokioIo::new(stream))).await.unwrap();
        // Its error reaches the requests, too.
        tokio::spawn(async move { connection.await.unwrap_or(()) });
        H2 { sender, socket: None }
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

    /// Ends a plain connection with every stream.
    pub fn close(self) {
        self.socket.unwrap().shutdown(Shutdown::Both).unwrap();
    }
}

/// Reads a whole answer.
pub async fn whole(answer: Response<Incoming>) -> Answer {
    let (answer, ended) = as_far_as_it_came(answer).await;
    assert!(ended, "a whole answer: {answer:?}");
    answer
}

/// Reads an answer, and tells whether it ended regularly.
pub async fn as_far_as_it_came(answer: Response<Incoming>) -> (Answer, bool) {
    let (head, mut frames) = answer.into_parts();
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().to_owned(), value.to_str().unwrap().to_owned()))
        .collect();
    let (mut body, mut ended) = (Vec::new(), true);
    while let Some(frame) = soon(frames.frame()).await {
        match frame {
            Ok(frame) => body.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => {
                ended = false;
                break;
            }
        }
    }
    (Answer { status: head.status.as_u16(), headers, body: body.into() }, ended)
}

//! A plain HTTP/1.1 client with one kept-alive connection, as most SDKs have. Clear text only.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::io;
use tokio::net::TcpStream;

/// One connection at most; not for use by many at once.
#[derive(Debug)]
pub struct Client {
    authority: String,
    prefix: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

/// Why no response came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("connect: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke before the response's head.
    #[error("send: {0}")]
    Send(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("request: {0}")]
    Request(#[from] http::Error),
}

impl Client {
    /// A client of `http://HOST:PORT[/PREFIX]`. Nothing is connected yet.
    pub fn new(base_url: &str) -> Result<Self, String> {
        let rest =
            base_url.strip_prefix("http://").ok_or_else(|| format!("{base_url}: only http:// is spoken here"))?;
        let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let authority = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        Ok(Self { authority, prefix, sender: None })
    }

    /// Sends a request whose URI is a path; the response's body is read by the caller. When a *reused* connection turns out to
    /// be dead, the request is sent once more on a fresh one, as every SDK's pool does.
    pub async fn send(&mut self, request: Request<Bytes>) -> Result<Response<Incoming>, ClientError> {
        let request = self.addressed(request)?;
        if let Some(mut sender) = self.sender.take()
            && sender.ready().await.is_ok()
        {
            match sender.send_request(request.clone()).await {
                Ok(response) => {
                    self.sender = Some(sender);
                    return Ok(response);
                }
                Err(error) if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(request).await?;
        self.sender = Some(sender);
        Ok(response)
    }

    /// Closes the connection. A response that was not read to its end must be followed by this.
    pub fn close(&mut self) {
        self.sender = None;
    }

    fn addressed(&self, request: Request<Bytes>) -> Result<Request<Full<Bytes>>, ClientError> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        head.uri = format!("{}{path}", self.prefix).parse().map_err(http::Error::from)?;
        head.headers.insert(HOST, HeaderValue::from_str(&self.authority).map_err(http::Error::from)?);
        Ok(Request::from_parts(head, Full::new(body)))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let stream = TcpStream::connect(&self.authority).await.map_err(ClientError::Connect)?;
        stream.set_nodelay(true).map_err(ClientError::Connect)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends when the sender is dropped and the last response is read or dropped; its error reaches the request, too.
        tokio::spawn(async move { connection.await.ok() });
        Ok(sender)
    }
}

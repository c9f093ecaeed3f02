//! An HTTP/1.1 client that writes exactly what it is told and hides nothing of what it reads.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{client, server};

use super::soon;

/// Any connection.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// The socket below.
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for client::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

impl Stream for server::TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// One connection.
pub struct Http1 {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
}

/// A head or a whole answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Answer {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// One chunk of a chunked body, and when it was read.
#[derive(Clone, Debug)]
pub struct Piece {
    pub at: Instant,
    pub bytes: Bytes,
}

/// The bytes of a request with `Host` and `Content-Length`.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    [head.as_bytes(), body].concat()
}

/// A POST of JSON.
pub fn post(path: &str, body: &serde_json::Value) -> Vec<u8> {
    post_with(path, &[], body)
}

/// A POST of JSON with further headers.
pub fn post_with(path: &str, headers: &[(&str, &str)], body: &serde_json::Value) -> Vec<u8> {
    let headers = [&[("content-type", "application/json")], headers].concat();
    request("POST", path, &headers, body.to_string().as_bytes())
}

impl Http1 {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Http1 {
        Http1::over(soon(TcpStream::connect(to)).await.unwrap())
    }

    /// Connects from this address, which is what the edge takes for the client's place.
    pub async fn connect_from(from: Ipv4Addr, to: SocketAddr) -> Http1 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        Http1::over(soon(socket.connect(to)).await.unwrap())
    }

    /// Speaks over a connection that is there.
    pub fn over(stream: TcpStream) -> Http1 {
        stream.set_nodelay(true).unwrap();
        Http1::over_any(stream)
    }

    /// The same over TLS.
    pub fn over_any(stream: impl Stream + 'static) -> Http1 {
        Http1 { stream: Box::new(stream), buffer: BytesMut::new() }
    }

    /// Writes these bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        soon(self.stream.write_all(bytes)).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    /// Writes these bytes as far as the other side takes them.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        soon(self.stream.write_all(bytes)).await?;
        soon(self.stream.flush()).await
    }

    /// Says that nothing more will be sent (FIN).
    pub async fn half_close(&mut self) {
        soon(self.stream.shutdown()).await.unwrap();
    }

    /// Ends the connection (FIN), also if something was not read.
    pub async fn close(mut self) {
        self.half_close().await;
    }

    /// Breaks the connection (RST).
    pub fn reset(self) {
        self.stream.tcp().set_zero_linger().unwrap();
    }

    /// Reads one head, `100 Continue` included.
    pub async fn head(&mut self) -> Answer {
        self.try_head().await.expect("the connection ended before an answer's head")
    }

    /// Reads one head; an error when the connection ends before.
    pub async fn try_head(&mut self) -> io::Result<Answer> {
        let (line, mut answer) = self.try_request_head().await?;
        answer.status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        Ok(answer)
    }

    /// Reads one head of either kind: its first line, and its headers.
    pub async fn try_request_head(&mut self) -> io::Result<(String, Answer)> {
        let text = loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                break String::from_utf8(head.to_vec()).unwrap();
            }
            self.fill().await?;
        };
        let mut lines = text.trim_end().split("\r\n");
        let first = lines.next().unwrap().to_owned();
        let headers = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Ok((first, Answer { headers, ..Answer::default() }))
    }

    /// Reads one chunk of a chunked body; `None` is its regular end, an error a connection that ended before.
    pub async fn chunk(&mut self) -> io::Result<Option<Piece>> {
        let line = self.line().await?;
        let size = usize::from_str_radix(line.split(';').next().unwrap().trim(), 16).expect("a chunk's size");
        if size == 0 {
            loop {
                if self.line().await?.is_empty() {
                    return Ok(None);
                }
            }
        }
        let bytes = self.exactly(size).await?;
        let end = self.exactly(2).await?;
        assert_eq!(&end[..], b"\r\n");
        Ok(Some(Piece { at: Instant::now(), bytes }))
    }

    /// Reads the body that belongs to a head, whole or as far as it came.
    pub async fn body(&mut self, head: &Answer) -> (Bytes, io::Result<()>) {
        if head.header("transfer-encoding") == Some("chunked") {
            let mut body = BytesMut::new();
            loop {
                match self.chunk().await {
                    Ok(Some(piece)) => body.extend_from_slice(&piece.bytes),
                    Ok(None) => return (body.freeze(), Ok(())),
                    Err(error) => return (body.freeze(), Err(error)),
                }
            }
        }
        let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
        match self.exactly(length).await {
            Ok(body) => (body, Ok(())),
            Err(error) => (self.buffer.split().freeze(), Err(error)),
        }
    }

    /// Reads a whole answer, which must end as it should.
    pub async fn answer(&mut self) -> Answer {
        let mut head = self.head().await;
        let (body, ended) = self.body(&head).await;
        ended.expect("a whole answer");
        head.body = body;
        head
    }

    /// Sends a request and reads the whole answer.
    pub async fn call(&mut self, bytes: &[u8]) -> Answer {
        self.send(bytes).await;
        self.answer().await
    }

    /// Waits for the other side to end the connection; what it sends before is returned.
    pub async fn until_closed(&mut self) -> Bytes {
        while self.fill().await.is_ok() {}
        self.buffer.split().freeze()
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|two| two == b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(String::from_utf8(line.to_vec()).unwrap());
            }
            self.fill().await?;
        }
    }

    async fn exactly(&mut self, bytes: usize) -> io::Result<Bytes> {
        self.buffer.reserve(bytes.saturating_sub(self.buffer.len()));
        while self.buffer.len() < bytes {
            self.fill().await?;
        }
        Ok(self.buffer.split_to(bytes).freeze())
    }

    async fn fill(&mut self) -> io::Result<()> {
        match soon(self.stream.read_buf(&mut self.buffer)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

//! A client's socket whose small writes go out together.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use pingora::protocols::{Peek, Shutdown};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufWriter, ReadBuf};

use super::socket::{Shared, Socket};
use super::wrapped::asks_the_connection_below;

/// Holds an answer's head and a small body, or a handshake's messages: a system call less for each. It is much of what an
/// idle connection costs. Nothing is held of what is read: whoever reads here brings a buffer of its own.
const BUFFER_BYTES: usize = 8 * 1024;

/// A socket with a buffer in front, which a flush empties.
#[derive(Debug)]
pub(super) struct Batched {
    buffered: BufWriter<Socket>,
}

impl Batched {
    pub(super) fn new(socket: Socket) -> Batched {
        Batched { buffered: BufWriter::with_capacity(BUFFER_BYTES, socket) }
    }

    /// The connection itself, for whoever knows that nothing is held.
    pub(super) fn share(&self) -> Shared {
        self.socket().share()
    }

    fn socket(&self) -> &Socket {
        self.buffered.get_ref()
    }
}

impl AsyncWrite for Batched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.buffered).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.buffered).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.buffered.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.buffered).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.buffered).poll_shutdown(cx)
    }
}

impl AsyncRead for Batched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.buffered).poll_read(cx, buf)
    }
}

#[async_trait]
impl Shutdown for Batched {
    async fn shutdown(&mut self) {
        let _closed_already = AsyncWriteExt::shutdown(&mut self.buffered).await;
    }
}

/// The framework looks for HTTP/2's preface.
#[async_trait]
impl Peek for Batched {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.buffered.get_mut().try_peek(buf).await
    }
}

/// What was written and not flushed goes out still if the kernel takes it at once, as with the framework's own buffer.
impl Drop for Batched {
    fn drop(&mut self) {
        let _too_late = Pin::new(&mut self.buffered).poll_flush(&mut Context::from_waker(Waker::noop()));
    }
}

asks_the_connection_below!(Batched, socket);

#[cfg(test)]
mod tests {
    use super::*;
    use pingora::protocols::GetSocketDigest;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpStream;

    use super::super::socket;

    /// A client, and its connection here.
    async fn connected() -> (TcpStream, Batched) {
        let (client, stream) = socket::connected().await;
        let peer = stream.peer_addr().unwrap();
        let socket = Socket::new(stream, peer).unwrap();
        let known = socket.get_socket_digest().unwrap().peer_addr().and_then(|peer| peer.as_inet().copied());
        assert_eq!(known, client.local_addr().ok());
        (client, Batched::new(socket))
    }

    #[tokio::test]
    async fn small_writes_go_out_with_the_flush() {
        let (mut client, mut batched) = connected().await;
        batched.write_all(b"head ").await.unwrap();
        batched.write_all(b"body").await.unwrap();
        assert_eq!(batched.buffered.buffer(), b"head body");
        batched.flush().await.unwrap();
        let mut read = [0; 9];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"head body");
    }

    #[tokio::test]
    async fn what_was_not_flushed_is_not_lost_with_the_connection() {
        let (mut client, mut batched) = connected().await;
        batched.write_all(b"last words").await.unwrap();
        drop(batched);
        let mut read = Vec::new();
        client.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, b"last words");
    }

    #[tokio::test]
    async fn what_was_peeked_at_is_read_again() {
        let (mut client, mut batched) = connected().await;
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        assert!(batched.try_peek(&mut [0; 3]).await.unwrap());
        let mut read = [0; 14];
        batched.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"PRI * HTTP/2.0");
    }
}

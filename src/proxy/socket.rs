//! A TCP connection as the framework wants one: a client's, or one to a replica.
//!
//! The framework's own counts for each read and write how long it waited, and passes them through three buffers, of which
//! none is used here. At an edge with many streams each of those layers is memory that is in no cache when an event comes.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// A connection that is used beside the framework, which owns it. Nobody ever waits for the lock: it is held for single
/// polls of one task.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<Mutex<Option<TcpStream>>>);

impl Shared {
    /// Asks the connection; an error while it is taken away.
    fn poll<T>(&self, ask: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *lock(&self.0) {
            Some(stream) => ask(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    /// Takes the connection away: until it is put back, everything that is asked of the socket fails.
    pub(super) fn take(&self) -> Option<TcpStream> {
        lock(&self.0).take()
    }

    /// Puts back the connection that was taken.
    pub(super) fn put_back(&self, stream: TcpStream) {
        *lock(&self.0) = Some(stream);
    }
}

/// Every section leaves what it holds whole, so a panic elsewhere does not spoil it.
pub(super) fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A TCP connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Shared,
    raw_fd: RawFd,
    /// To be read before anything else.
    ahead: Bytes,
    digest: Arc<SocketDigest>,
    proxied: Option<Arc<ProxyDigest>>,
}

impl Socket {
    /// Of a connection with `peer`. Whatever is written goes out at once.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Socket> {
        stream.set_nodelay(true)?;
        let raw_fd = stream.as_raw_fd();
        let digest = SocketDigest::from_raw_fd(raw_fd);
        // It is new, so nobody has asked the kernel for it yet.
        let _unset = digest.peer_addr.set(Some(peer.into()));
        let stream = Shared(Arc::new(Mutex::new(Some(stream))));
        Ok(Socket { stream, raw_fd, ahead: Bytes::new(), digest: Arc::new(digest), proxied: None })
    }

    /// Puts back what was read, to be read again.
    pub(super) fn rewind(&mut self, read: &[u8]) {
        self.ahead = [read, &self.ahead].concat().into();
    }

    /// The connection itself.
    pub(super) fn share(&self) -> Shared {
        self.stream.clone()
    }

    /// See [`Shared::take`].
    pub(super) fn take(&self) -> Option<TcpStream> {
        self.stream.take()
    }

    /// See [`Shared::put_back`].
    pub(super) fn put_back(&self, stream: TcpStream) {
        self.stream.put_back(stream);
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return self.stream.poll(|stream| stream.poll_read(cx, buf));
        }
        let bytes = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead[..bytes]);
        self.ahead.advance(bytes);
        if self.ahead.is_empty() {
            // Nothing holds the memory of what was read.
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll(|stream| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll(|stream| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll(|stream| stream.poll_shutdown(cx))
    }
}

#[async_trait]
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        let _closed_already = AsyncWriteExt::shutdown(self).await;
    }
}

/// The framework looks for HTTP/2's preface.
#[async_trait]
impl Peek for Socket {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.read_exact(buf).await?;
        self.rewind(buf);
        Ok(true)
    }
}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        self.raw_fd
    }
}

impl Ssl for Socket {}

/// Nobody here asks for them.
impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.proxied.clone()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.proxied = Some(Arc::new(digest));
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }
}

/// Both ends of a new connection: who connected, then who accepted.
#[cfg(test)]
pub(super) async fn connected() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    (client, accepted)
}

//! A client's connection that takes the chunks of a stream directly.
//!
//! An answer of unknown length goes down in chunks (RFC 9112, 7.1). The framework makes the frame of each with two
//! allocations and a formatter, which is a fifth of what an event costs. `Client` frames and sends a piece by itself,
//! on the same connection; the head and the last chunk stay the framework's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Peek, Shutdown, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::wrapped::asks_the_connection_below;

/// A chunk's size in hexadecimal digits and its line end are never longer.
const SIZE_LINE_MAX: usize = 2 * size_of::<usize>() + 2;

/// An HTTP/1 client's connection. The lock is there because the framework owns the connection and lends it out for
/// reading only; nobody ever waits for it, and it is held for single polls.
#[derive(Debug)]
pub(super) struct Client {
    inner: Mutex<Stream>,
}

impl Client {
    pub(super) fn new(inner: Stream) -> Client {
        Client { inner: Mutex::new(inner) }
    }

    /// The connection below an HTTP/1 session that was made of one.
    pub(super) fn of(session: &ServerSession) -> Option<&Client> {
        (**session.as_http1()?.stream()).as_any().downcast_ref()
    }

    /// Sends the pieces as one chunk, to its end. The answer's head must have said that it is chunked. When this is dropped
    /// early, part of the chunk may be out, so that nothing can follow.
    pub(super) async fn send_chunk(&self, pieces: &[Bytes]) -> io::Result<()> {
        let bytes = pieces.iter().map(Bytes::len).sum();
        // An empty chunk would be the last one.
        if bytes == 0 {
            return Ok(());
        }
        let mut line = [0; SIZE_LINE_MAX];
        let line = IoSlice::new(size_line(bytes, &mut line));
        let end = IoSlice::new(b"\r\n");
        // Nearly always it is one piece, and then takes no allocation.
        let (mut three, mut more);
        let mut unsent = match pieces {
            [piece] => {
                three = [line, IoSlice::new(piece), end];
                &mut three[..]
            }
            _ => {
                more = Vec::with_capacity(pieces.len() + 2);
                more.push(line);
                more.extend(pieces.iter().map(|piece| IoSlice::new(piece)));
                more.push(end);
                &mut more[..]
            }
        };
        std::future::poll_fn(|cx| {
            let mut inner = self.lock();
            while !unsent.is_empty() {
                match ready!(Pin::new(&mut *inner).poll_write_vectored(cx, unsent))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    sent => IoSlice::advance_slices(&mut unsent, sent),
                }
            }
            Pin::new(&mut *inner).poll_flush(cx)
        })
        .await
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut Stream> {
        Pin::new(self.get_mut().inner.get_mut().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The line before a chunk of so many bytes.
fn size_line(bytes: usize, line: &mut [u8; SIZE_LINE_MAX]) -> &[u8] {
    line[SIZE_LINE_MAX - 2..].copy_from_slice(b"\r\n");
    let (mut rest, mut from) = (bytes, SIZE_LINE_MAX - 2);
    loop {
        from -= 1;
        line[from] = b"0123456789ABCDEF"[rest % 16];
        rest /= 16;
        if rest == 0 {
            return &line[from..];
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

#[async_trait]
impl Shutdown for Client {
    async fn shutdown(&mut self) {
        Pin::new(self).inner().shutdown().await;
    }
}

impl Peek for Client {}

asks_the_connection_below!(Client, lock);

#[cfg(test)]
mod tests {
    use tokio_test::io::Builder;

    use super::*;

    #[test]
    fn a_chunks_size_is_written_in_hexadecimal() {
        for bytes in [1, 9, 10, 15, 16, 255, 256, 65_535, 1 << 24, usize::MAX] {
            assert_eq!(size_line(bytes, &mut [0; SIZE_LINE_MAX]), format!("{bytes:X}\r\n").as_bytes());
        }
    }

    #[tokio::test]
    async fn a_chunk_goes_out_whole_and_in_order_also_in_short_writes() {
        let wire = b"5\r\nhello\r\n".as_slice();
        for piece in 1..=wire.len() {
            let mut peer = Builder::new();
            wire.chunks(piece).for_each(|part| {
                peer.write(part);
            });
            let client = Client::new(Box::new(peer.build()));
            client.send_chunk(&[Bytes::from("hel"), Bytes::from("lo")]).await.unwrap();
            client.send_chunk(&[Bytes::new()]).await.unwrap();
            client.send_chunk(&[]).await.unwrap();
        }
    }
}

//! One write for a request's head and its body.
//!
//! The framework flushes a request's head before its body is written: two segments on the wire and two system calls,
//! and the replica wakes up twice. `Corked` passes over that first flush and gathers what is small, so that a small
//! request leaves in one write, and a large one with its head in front of the first piece of its body.
//!
//! Of an answer that is to be a stream it keeps from the framework what comes behind the head, so that the body can be
//! read past the framework.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::BytesMut;
use pingora::protocols::{Peek, Shutdown, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ahead::{Ahead, head_end};
use super::socket::{Socket, lock};
use super::wrapped::asks_the_connection_below;

/// Head and body up to this many bytes are gathered; larger bodies are written from where they are.
const GATHER_BYTES_MAX: usize = 16 * 1024;

/// A connection to a replica whose first flush is passed over.
#[derive(Debug)]
pub(super) struct Corked {
    inner: Stream,
    /// What has been written but not sent; sent in front of whatever is sent next.
    held: Vec<u8>,
    /// How much of `held` is sent already.
    sent: usize,
    corked: bool,
    behind: Mutex<Behind>,
}

/// What is kept from the framework of an answer.
#[derive(Debug, Default)]
struct Behind {
    /// Whether the head's end is looked for.
    looks: bool,
    /// How much of the head the framework was handed.
    handed: usize,
    ahead: Ahead,
}

impl Corked {
    pub(super) fn new(inner: Stream) -> Corked {
        Corked { inner, held: Vec::with_capacity(1024), sent: 0, corked: true, behind: Mutex::default() }
    }

    /// The same connection, where the framework has it.
    pub(super) fn among(stream: &Stream) -> Option<&Corked> {
        (**stream).as_any().downcast_ref()
    }

    /// What is below all layers, where that is plain text.
    pub(super) fn socket(&self) -> Option<&Socket> {
        (*self.inner).as_any().downcast_ref()
    }

    /// Keeps what comes behind the first head of the answer, while it is read.
    pub(super) fn keep_behind_head(&self, keep: bool) {
        lock(&self.behind).looks = keep;
    }

    /// What came behind a head of so many bytes, if the framework has read that head and nothing more.
    pub(super) fn take_behind_head(&self, head_bytes: usize) -> Option<BytesMut> {
        let ahead = &mut lock(&self.behind).ahead;
        (ahead.head_bytes? == head_bytes).then(|| std::mem::take(&mut ahead.bytes))
    }

    /// The connection itself, if this is a corked one, else what was given. Nothing may be held any more: the request
    /// was flushed. `None` where bytes came that nobody has read: they would pass for the beginning of the next answer.
    pub(super) fn uncork(stream: Stream) -> Option<Stream> {
        if !(*stream).as_any().is::<Corked>() {
            return Some(stream);
        }
        let corked = stream.into_any().downcast::<Corked>().ok()?;
        lock(&corked.behind).ahead.bytes.is_empty().then_some(corked.inner)
    }

    fn below(&self) -> &Stream {
        &self.inner
    }

    /// What was held is sent. Its memory is given back too: a stream may stay open for minutes.
    fn forget_held(&mut self) {
        self.held = Vec::new();
        self.sent = 0;
    }

    fn poll_send_held(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.held.len() {
            let n = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.held[self.sent..]))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.forget_held();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Corked {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.sent == 0 && this.held.len() + buf.len() <= GATHER_BYTES_MAX {
            this.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        if this.held.is_empty() {
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        }
        let held_bytes = this.held.len() - this.sent;
        let slices = [IoSlice::new(&this.held[this.sent..]), IoSlice::new(buf)];
        let n = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, &slices))?;
        if n < held_bytes {
            this.sent += n;
            // None of `buf` was taken: go on with the rest of what is held, then come back for `buf`.
            ready!(this.poll_send_held(cx))?;
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        }
        this.forget_held();
        if n == held_bytes {
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        }
        Poll::Ready(Ok(n - held_bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.corked) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send_held(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl AsyncRead for Corked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Corked { inner, behind, .. } = self.get_mut();
        let Behind { looks, handed, ahead } = behind.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ahead.give(buf) {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(inner).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if !*looks {
            if !read.is_empty() {
                ahead.head_bytes = None;
            }
            return Poll::Ready(Ok(()));
        }
        // An end that came in two pieces is not found; then the framework reads on.
        let end = head_end(read);
        *handed += end.unwrap_or(read.len());
        if let Some(end) = end {
            *looks = false;
            *ahead = Ahead { bytes: read[end..].into(), head_bytes: Some(*handed) };
            buf.set_filled(before + end);
        }
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Shutdown for Corked {
    async fn shutdown(&mut self) {
        self.inner.shutdown().await;
    }
}

impl Peek for Corked {}

asks_the_connection_below!(Corked, below);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_test::io::Builder;

    use super::*;

    #[tokio::test]
    async fn a_small_request_leaves_in_one_write() {
        let mut corked = Corked::new(Box::new(Builder::new().write(b"HEADbody").build()));
        corked.write_all(b"HEAD").await.unwrap();
        corked.flush().await.unwrap();
        corked.write_all(b"body").await.unwrap();
        corked.flush().await.unwrap();
    }

    #[tokio::test]
    async fn a_large_body_goes_out_whole_and_in_order_also_in_short_writes() {
        let body: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let whole: Vec<u8> = [b"HEAD".as_slice(), &body].concat();
        for piece in [1, 3, 4, 5, 1000, 70_000] {
            let mut peer = Builder::new();
            for part in whole[..piece.min(8)].chunks(1).chain(whole[piece.min(8)..].chunks(piece.max(512))) {
                peer.write(part);
            }
            let mut corked = Corked::new(Box::new(peer.build()));
            corked.write_all(b"HEAD").await.unwrap();
            corked.flush().await.unwrap();
            corked.write_all(&body).await.unwrap();
            corked.flush().await.unwrap();
        }
    }

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n";

    /// What the framework reads next, as far as it comes at once.
    async fn read(corked: &mut Corked) -> Vec<u8> {
        let mut read = Vec::with_capacity(100);
        corked.read_buf(&mut read).await.unwrap();
        read
    }

    #[tokio::test]
    async fn what_comes_behind_a_head_is_kept_until_it_is_asked_for() {
        let wire = [HEAD, b"5\r\nhel"].concat();
        for first in 1..=HEAD.len() - 4 {
            let peer = Builder::new().read(&wire[..first]).read(&wire[first..]).read(b"more").build();
            let mut corked = Corked::new(Box::new(peer));
            corked.keep_behind_head(true);
            let mut head = read(&mut corked).await;
            assert!(corked.take_behind_head(head.len()).is_none(), "its end has not come yet");
            head.extend(read(&mut corked).await);
            assert_eq!(head, HEAD, "cut at {first}");
            assert!(corked.take_behind_head(HEAD.len() - 1).is_none(), "another head than the framework's");
            assert_eq!(corked.take_behind_head(HEAD.len()).unwrap(), b"5\r\nhel"[..]);
            assert_eq!(read(&mut corked).await, b"more");
        }
    }

    #[tokio::test]
    async fn the_framework_reads_on_where_nobody_asks_and_what_it_has_is_nobody_elses() {
        let wire = [HEAD, b"5\r\nhello\r\n\r\n"].concat();
        let mut corked = Corked::new(Box::new(Builder::new().read(&wire).build()));
        corked.keep_behind_head(true);
        assert_eq!(read(&mut corked).await, HEAD);
        assert_eq!(read(&mut corked).await, b"5\r\nhello\r\n\r\n");
        assert!(corked.take_behind_head(HEAD.len()).is_none());
        assert!(Corked::uncork(Box::new(corked)).is_some());
        // Nothing was to be kept.
        let mut corked = Corked::new(Box::new(Builder::new().read(&wire).build()));
        assert_eq!(read(&mut corked).await, wire);
        assert!(corked.take_behind_head(HEAD.len()).is_none());
        // A head's end that came in two pieces is not found, and the next one is none.
        let end = HEAD.len() - 1;
        let mut corked = Corked::new(Box::new(Builder::new().read(&wire[..end]).read(&wire[end..]).build()));
        corked.keep_behind_head(true);
        assert_eq!([read(&mut corked).await, read(&mut corked).await].concat(), wire);
        assert!(corked.take_behind_head(HEAD.len()).is_none());
    }

    #[tokio::test]
    async fn what_nobody_read_is_not_given_to_the_next_answer() {
        let mut corked = Corked::new(Box::new(Builder::new().read(&[HEAD, b"more"].concat()).build()));
        corked.keep_behind_head(true);
        assert_eq!(read(&mut corked).await, HEAD);
        assert!(Corked::uncork(Box::new(corked)).is_none());
        // Once the head is read, the body is not searched for one.
        let wire = [HEAD, HEAD].concat();
        let mut corked = Corked::new(Box::new(Builder::new().read(&wire[..5]).read(&wire[5..]).build()));
        corked.keep_behind_head(true);
        assert_eq!(read(&mut corked).await, wire[..5]);
        corked.keep_behind_head(false);
        assert_eq!(read(&mut corked).await, wire[5..]);
        assert!(Corked::uncork(Box::new(corked)).is_some());
    }
}

//! A client's connection that gives the body of a request and takes the chunks of a stream directly.
//!
//! An answer of unknown length goes down in chunks (RFC 9112, 7.1). The framework makes the frame of each with two
//! allocations and a formatter, which is a fifth of what an event costs. [`Chunks`] frames and sends a piece by itself,
//! on the same connection; the head and the last chunk stay the framework's.
//!
//! A body the framework reads into a buffer of its own and copies it from there, piece by piece. So what came behind a
//! head is kept from it, and [`body::direct`](super::body) reads on from there.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Peek, Shutdown, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::waiting::is_chunked;
use super::wrapped::asks_the_connection_below;

/// What a head ends with. One that ends with bare line feeds is the framework's to find.
pub(super) const HEAD_END: &[u8] = b"\r\n\r\n";

/// A chunk's size in hexadecimal digits and its line end are never longer.
const SIZE_LINE_MAX: usize = 2 * size_of::<usize>() + 2;

/// An HTTP/1 client's connection. The lock is there because the framework owns the connection and lends it out for
/// reading only; nobody ever waits for it, and it is held for single polls.
#[derive(Debug)]
pub(super) struct Client {
    stream: Arc<Mutex<Stream>>,
    ahead: Mutex<Ahead>,
}

/// What was read of a connection before anybody asked for it.
#[derive(Debug, Default)]
struct Ahead {
    /// To be read before anything else.
    bytes: BytesMut,
    /// The length of the head that the framework was handed, as long as it has read nothing more.
    head_bytes: Option<usize>,
}

impl Ahead {
    fn take(&mut self, most: usize) -> BytesMut {
        if most < self.bytes.len() {
            return self.bytes.split_to(most);
        }
        // An empty rest would hold the memory as long as the connection lasts.
        std::mem::take(&mut self.bytes)
    }
}

impl Client {
    pub(super) fn new(stream: Stream) -> Client {
        Client { stream: Arc::new(Mutex::new(stream)), ahead: Mutex::default() }
    }

    /// The connection below an HTTP/1 session that was made of one.
    pub(super) fn of(session: &ServerSession) -> Option<&Client> {
        Client::among(session.as_http1()?.stream())
    }

    /// The same connection, where the framework has it.
    pub(super) fn among(stream: &Stream) -> Option<&Client> {
        (**stream).as_any().downcast_ref()
    }

    /// Takes from the first bytes of a request what is not its head, to be read next. Gives what the framework is to be
    /// handed: the head, or all of it where no end of a head is among them.
    pub(super) fn keep_behind_head(&self, mut begun: BytesMut) -> BytesMut {
        let mut ahead = self.ahead();
        ahead.head_bytes = None;
        if ahead.bytes.is_empty()
            && let Some(end) = memmem::find(&begun, HEAD_END)
        {
            ahead.bytes = begun.split_off(end + HEAD_END.len());
            ahead.head_bytes = Some(begun.len());
        }
        begun
    }

    /// Whether the framework has read a head of so many bytes and nothing behind it, so that the next bytes are the body's.
    pub(super) fn is_behind_head(&self, head_bytes: usize) -> bool {
        self.ahead().head_bytes == Some(head_bytes)
    }

    /// Up to so many bytes that were read already, without a copy.
    pub(super) fn take_ahead(&self, most: usize) -> Bytes {
        self.ahead().take(most).freeze()
    }

    /// Reads up to so many bytes behind those in `room`, as many as it has room for; 0 at the connection's end.
    pub(super) async fn read(&self, room: &mut BytesMut, most: usize) -> io::Result<usize> {
        // The future of the read holds nothing between two polls, so that the lock is free then.
        std::future::poll_fn(|cx| pin!(self.lock().read_buf(&mut room.limit(most))).poll(cx)).await
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        lock(&self.stream)
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        lock(&self.ahead)
    }
}

/// Every section leaves what it holds whole, so a panic elsewhere does not spoil it.
fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the chunks of an answer on a client's connection, without a way through all that the framework knows of it.
pub(super) struct Chunks {
    stream: Arc<Mutex<Stream>>,
}

impl Chunks {
    /// Where the answer goes down over HTTP/1 and its head says that it is chunked.
    pub(super) fn of(session: &ServerSession) -> Option<Chunks> {
        let client = Client::of(session).filter(|_| is_chunked(session))?;
        Some(Chunks { stream: Arc::clone(&client.stream) })
    }

    /// Sends the pieces as one chunk, to its end. When this is dropped early, part of the chunk may be out, so that nothing
    /// can follow.
    pub(super) async fn send(&self, pieces: &[Bytes]) -> io::Result<()> {
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
            let mut stream = lock(&self.stream);
            while !unsent.is_empty() {
                match ready!(Pin::new(&mut *stream).poll_write_vectored(cx, unsent))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    sent => IoSlice::advance_slices(&mut unsent, sent),
                }
            }
            Pin::new(&mut *stream).poll_flush(cx)
        })
        .await
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
        Pin::new(&mut *self.lock()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.lock()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.lock()).poll_shutdown(cx)
    }
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Client { stream, ahead } = self.get_mut();
        let ahead = ahead.get_mut().unwrap_or_else(PoisonError::into_inner);
        let filled = buf.filled().len();
        if ahead.bytes.is_empty() {
            ready!(Pin::new(&mut *lock(stream)).poll_read(cx, buf))?;
        } else {
            buf.put_slice(&ahead.take(buf.remaining()));
        }
        if buf.filled().len() > filled {
            ahead.head_bytes = None;
        }
        Poll::Ready(Ok(()))
    }
}

#[async_trait]
impl Shutdown for Client {
    async fn shutdown(&mut self) {
        let _closed_already = AsyncWriteExt::shutdown(self).await;
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

    const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: e\r\n\r\n";

    fn begun(behind: &[u8]) -> BytesMut {
        [HEAD, behind].concat().as_slice().into()
    }

    #[tokio::test]
    async fn what_stands_behind_a_head_is_read_next_and_only_once() {
        let mut client = Client::new(Box::new(Builder::new().read(b" of the body, and more").build()));
        assert_eq!(client.keep_behind_head(begun(b"the begin")), HEAD);
        assert!(client.is_behind_head(HEAD.len()) && !client.is_behind_head(HEAD.len() - 1));
        assert_eq!(client.take_ahead(3), "the");
        assert_eq!(client.take_ahead(100), " begin");
        assert_eq!(client.take_ahead(100), "");
        assert_eq!(client.ahead().bytes.capacity(), 0, "nothing holds the memory of what was read");
        let mut room = BytesMut::with_capacity(100);
        assert_eq!(client.read(&mut room, 12).await.unwrap(), 12);
        assert_eq!(room, b" of the body"[..]);
        // And so does the framework.
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b", and more");
    }

    #[tokio::test]
    async fn the_framework_reads_what_nobody_took_and_then_has_the_body() {
        let mut client = Client::new(Box::new(Builder::new().read(b"def").build()));
        client.keep_behind_head(begun(b"abc"));
        let mut byte = [0; 1];
        client.read_exact(&mut byte).await.unwrap();
        assert!(!client.is_behind_head(HEAD.len()));
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&byte, rest.as_slice()), (b"a", b"bcdef".as_slice()));
        assert_eq!(client.ahead().bytes.capacity(), 0);
    }

    #[test]
    fn a_head_without_its_end_is_handed_on_whole_and_so_is_one_before_which_something_is_to_be_read() {
        let client = Client::new(Box::new(Builder::new().build()));
        let lines = b"POST / HTTP/1.1\nhost: e\n\nbody".as_slice();
        assert_eq!(client.keep_behind_head(lines.into()), lines);
        assert!(!client.is_behind_head(lines.len()));
        assert_eq!(client.keep_behind_head(begun(b"abc")), HEAD);
        assert_eq!(client.keep_behind_head(begun(b"later")), begun(b"later"));
        assert!(!client.is_behind_head(HEAD.len()));
        assert_eq!(client.take_ahead(100), "abc");
    }

    #[tokio::test]
    async fn a_chunk_goes_out_whole_and_in_order_also_in_short_writes() {
        let wire = b"5\r\nhello\r\n".as_slice();
        for piece in 1..=wire.len() {
            let mut peer = Builder::new();
            wire.chunks(piece).for_each(|part| {
                peer.write(part);
            });
            let chunks = Chunks { stream: Client::new(Box::new(peer.build())).stream };
            chunks.send(&[Bytes::from("hel"), Bytes::from("lo")]).await.unwrap();
            chunks.send(&[Bytes::new()]).await.unwrap();
            chunks.send(&[]).await.unwrap();
        }
    }
}

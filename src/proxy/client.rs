//! A client's connection that gives the body of a request, and takes the chunks of a stream, directly.
//!
//! A body the framework reads into a buffer of its own and copies it from there, piece by piece. So what came behind a
//! head is kept from it, and [`body::direct`](super::body) reads on from there. [`Chunks`](super::chunks::Chunks) writes.
//!
//! While an answer is on its way, [`poll_gone`] reads on: what a client sends behind its request is kept for later, since
//! it would hide the connection's end, which the framework then sees only when it writes.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use pingora::protocols::http::ServerSession;
use pingora::protocols::{Peek, Shutdown, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::ahead::{Ahead, head_end};
use super::socket::lock;
use super::wrapped::asks_the_connection_below;

/// What is kept of a client's later requests while an answer is on its way: a short pipelined call, or what some clients
/// send behind a body. A client that sends more is read from no further until its turn comes, and found gone only when
/// something is written to it: as many connections as there may be must have room for this.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

/// What is read of that at a time, on the stack: there is seldom any.
const PIECE_BYTES: usize = 1024;

/// Ready once the client has gone: its connection, or its HTTP/2 stream, has ended. Only for a request that is read whole.
/// A client that closes its sending half alone has gone too: which of both it did cannot be told.
pub(super) fn poll_gone(session: &mut ServerSession, cx: &mut Context<'_>) -> Poll<()> {
    match Client::of(session) {
        Some(client) => client.poll_gone(cx),
        None => pin!(session.read_body_or_idle(true)).poll(cx).map(drop),
    }
}

/// An HTTP/1 client's connection. The lock is there because the framework owns the connection and lends it out for
/// reading only; nobody ever waits for it, and it is held for single polls.
#[derive(Debug)]
pub(super) struct Client {
    stream: Arc<Mutex<Stream>>,
    ahead: Mutex<Ahead>,
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
            && let Some(end) = head_end(&begun)
        {
            ahead.bytes = begun.split_off(end);
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
        poll_fn(|cx| pin!(self.lock().read_buf(&mut room.limit(most))).poll(cx)).await
    }

    // In a frame of its own, apart from what each event of a stream walks through.
    #[inline(never)]
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = self.lock();
        let mut ahead = self.ahead();
        // One that has sent just so much, and left, is seen too.
        while ahead.bytes.len() <= AHEAD_BYTES_MAX {
            let mut piece = [MaybeUninit::uninit(); PIECE_BYTES];
            let mut piece = ReadBuf::uninit(&mut piece);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut piece)) {
                Ok(()) if !piece.filled().is_empty() => ahead.append(piece.filled(), AHEAD_BYTES_MAX + PIECE_BYTES),
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// The same connection, to be written to beside the framework.
    pub(super) fn share(&self) -> Arc<Mutex<Stream>> {
        Arc::clone(&self.stream)
    }

    fn lock(&self) -> MutexGuard<'_, Stream> {
        lock(&self.stream)
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        lock(&self.ahead)
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
        if !ahead.give(buf) {
            let filled = buf.filled().len();
            ready!(Pin::new(&mut *lock(stream)).poll_read(cx, buf))?;
            if buf.filled().len() > filled {
                ahead.head_bytes = None;
            }
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

    use super::super::socket::{Socket, connected};
    use super::*;

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

    async fn goes(client: &Client) -> bool {
        poll_fn(|cx| Poll::Ready(client.poll_gone(cx).is_ready())).await
    }

    #[tokio::test]
    async fn a_client_that_goes_is_noticed_behind_what_it_sent_and_that_is_read_in_its_turn() {
        for end in [None, Some(io::ErrorKind::ConnectionReset)] {
            let (mut later, mut kept) = (Builder::new(), Vec::new());
            for n in 0..5_u8 {
                kept.extend([n; PIECE_BYTES - 100]);
                later.read(&[n; PIECE_BYTES - 100]);
            }
            let (stream, mut peer) = later.build_with_handle();
            let mut client = Client::new(Box::new(stream));
            client.keep_behind_head(begun(b"first"));
            assert!(!goes(&client).await && !goes(&client).await, "it is still there");
            peer.read(b"last");
            if let Some(kind) = end {
                peer.read_error(kind.into());
            }
            drop(peer);
            poll_fn(|cx| client.poll_gone(cx)).await;
            let mut all = vec![0; 5 + kept.len() + 4];
            client.read_exact(&mut all).await.unwrap();
            assert_eq!(all, [b"first", kept.as_slice(), b"last"].concat());
        }
    }

    #[tokio::test]
    async fn of_a_client_that_sends_on_and_on_so_much_is_kept_and_no_more() {
        let (mut peer, stream) = connected().await;
        let mut client = Client::new(Box::new(Socket::new(stream, peer.local_addr().unwrap()).unwrap()));
        let sent: Vec<u8> = (0..20 * AHEAD_BYTES_MAX).map(|n| (n / 7) as u8).collect();
        let writing = sent.clone();
        let writing = tokio::spawn(async move {
            peer.write_all(&writing).await.unwrap();
            peer
        });
        let mut all = Vec::new();
        while all.len() + AHEAD_BYTES_MAX < sent.len() {
            let kept = || client.ahead().bytes.len();
            while kept() <= AHEAD_BYTES_MAX && kept() + all.len() < sent.len() {
                assert!(!goes(&client).await);
                tokio::task::yield_now().await;
            }
            assert!(!goes(&client).await);
            let capacity = client.ahead().bytes.capacity();
            assert!(kept() <= capacity && capacity <= AHEAD_BYTES_MAX + PIECE_BYTES, "{capacity}");
            // A request's turn, of a different length each time.
            all.extend_from_slice(&client.take_ahead(1 + all.len() % 5_000));
        }
        let mut rest = vec![0; sent.len() - all.len()];
        client.read_exact(&mut rest).await.unwrap();
        assert!([all, rest].concat() == sent);
        // There is room again.
        drop(writing.await.unwrap());
        poll_fn(|cx| client.poll_gone(cx)).await;
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
}

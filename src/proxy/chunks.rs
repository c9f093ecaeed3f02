//! The chunks of an answer, sent past the framework.
//!
//! An answer of unknown length goes down in chunks (RFC 9112, 7.1). The framework makes the frame of each with two
//! allocations and a formatter, which is a fifth of what an event costs. [`Chunks`] frames and sends a piece by itself,
//! on the same connection; the head and the last chunk stay the framework's.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pingora::protocols::Stream;
use pingora::protocols::http::ServerSession;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::batched::Batched;
use super::client::Client;
use super::socket::{Shared, lock};
use super::waiting::is_chunked;

/// A chunk's size in hexadecimal digits and its line end are never longer.
const SIZE_LINE_MAX: usize = 2 * size_of::<usize>() + 2;

/// What is gathered on the stack: an event or a few. To hold it in a buffer of the connection's own would ask for memory
/// that, at an edge with many streams, is in no cache.
const GATHER_BYTES_MAX: usize = 1024;

/// Sends the chunks of an answer on a client's connection, without a way through all that the framework knows of it.
#[repr(C)]
pub(super) struct Chunks {
    /// What is below all layers, taken from there once none of them holds anything that must go out first, such as the
    /// answer's head.
    taken: Option<TcpStream>,
    /// Bytes of the chunk under way that are sent already.
    sent: usize,
    /// Where that is taken from, of a connection in plain text.
    socket: Option<Shared>,
    stream: Arc<Mutex<Stream>>,
}

impl Chunks {
    /// Where the answer goes down over HTTP/1 and its head says that it is chunked.
    pub(super) fn of(session: &ServerSession) -> Option<Chunks> {
        let client = Client::of(session).filter(|_| is_chunked(session))?;
        let stream = client.share();
        let socket = (**lock(&stream)).as_any().downcast_ref().map(Batched::share);
        Some(Chunks { taken: None, sent: 0, socket, stream })
    }

    /// Lets the framework ask something of the connection meanwhile.
    pub(super) fn lend<T>(&mut self, ask: impl FnOnce() -> T) -> T {
        if self.taken.is_none() {
            return ask();
        }
        self.put_back();
        let answer = ask();
        self.take();
        answer
    }

    fn take(&mut self) {
        self.taken = self.socket.as_ref().and_then(Shared::take);
    }

    fn put_back(&mut self) {
        if let (Some(taken), Some(socket)) = (self.taken.take(), &self.socket) {
            socket.put_back(taken);
        }
    }

    /// Sends the pieces as one chunk. Until it is ready it is to be asked with the same pieces; after an error, or when it
    /// is not asked to the end, part of the chunk may be out, so that nothing can follow.
    pub(super) fn poll_send(&mut self, cx: &mut Context<'_>, pieces: &[Bytes]) -> Poll<io::Result<()>> {
        let bytes = pieces.iter().map(Bytes::len).sum();
        // An empty chunk would be the last one.
        if bytes == 0 {
            return Poll::Ready(Ok(()));
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
        IoSlice::advance_slices(&mut unsent, self.sent);
        let Chunks { taken, sent, stream, .. } = self;
        if let Some(taken) = taken {
            ready!(poll_write_all(unsent, sent, |bufs| poll_write_gathered(Pin::new(taken), cx, bufs)))?;
        } else {
            let mut stream = lock(stream);
            ready!(poll_write_all(unsent, sent, |bufs| Pin::new(&mut *stream).poll_write_vectored(cx, bufs)))?;
            ready!(Pin::new(&mut *stream).poll_flush(cx))?;
            drop(stream);
            self.take();
        }
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// Writes until nothing is left, and counts what is sent.
fn poll_write_all(
    mut unsent: &mut [IoSlice<'_>],
    sent: &mut usize,
    mut write: impl FnMut(&[IoSlice<'_>]) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<()>> {
    while !unsent.is_empty() {
        match ready!(write(unsent))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => {
                *sent += written;
                IoSlice::advance_slices(&mut unsent, written);
            }
        }
    }
    Poll::Ready(Ok(()))
}

/// Writes small pieces as one: the kernel takes one cheaper than three.
fn poll_write_gathered(
    socket: Pin<&mut TcpStream>,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > GATHER_BYTES_MAX {
        return socket.poll_write_vectored(cx, bufs);
    }
    let (mut gathered, mut at) = ([0; GATHER_BYTES_MAX], 0);
    for buf in bufs {
        gathered[at..at + buf.len()].copy_from_slice(buf);
        at += buf.len();
    }
    socket.poll_write(cx, &gathered[..at])
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_test::io::Builder;

    use super::super::socket::{Socket, connected};
    use super::*;

    async fn send(chunks: &mut Chunks, pieces: &[Bytes]) -> io::Result<()> {
        poll_fn(|cx| chunks.poll_send(cx, pieces)).await
    }

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
            let stream: Stream = Box::new(peer.build());
            let mut chunks = Chunks { taken: None, sent: 0, socket: None, stream: Arc::new(Mutex::new(stream)) };
            send(&mut chunks, &[Bytes::from("hel"), Bytes::from("lo")]).await.unwrap();
            send(&mut chunks, &[Bytes::new()]).await.unwrap();
            send(&mut chunks, &[]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn past_all_layers_chunks_follow_what_those_held_and_also_when_the_client_is_slow() {
        let (mut client, socket) = connected().await;
        let peer = client.local_addr().unwrap();
        let mut batched = Batched::new(Socket::new(socket, peer).unwrap());
        batched.write_all(b"head").await.unwrap();
        let socket = Some(batched.share());
        let stream: Stream = Box::new(batched);
        let mut chunks = Chunks { taken: None, sent: 0, socket, stream: Arc::new(Mutex::new(stream)) };
        // More than any socket's buffers hold, so that writes have to wait.
        let large = Bytes::from(vec![b'x'; 16 << 20]);
        let mut expected = b"head3\r\none\r\n6\r\nxthree\r\n1000000\r\n".to_vec();
        expected.extend_from_slice(&large);
        expected.extend_from_slice(b"\r\n4\r\nlast\r\n");
        let sending = tokio::spawn(async move {
            send(&mut chunks, &["one".into()]).await.unwrap();
            send(&mut chunks, &["x".into(), "three".into()]).await.unwrap();
            send(&mut chunks, &[large]).await.unwrap();
            send(&mut chunks, &["last".into()]).await.unwrap();
        });
        let mut read = vec![0; expected.len()];
        client.read_exact(&mut read).await.unwrap();
        assert!(read == expected);
        sending.await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_connection_is_taken_while_chunks_are_sent_and_given_back_to_whoever_asks_and_at_the_end() {
        let (mut client, socket) = connected().await;
        let peer = client.local_addr().unwrap();
        let batched = Batched::new(Socket::new(socket, peer).unwrap());
        let socket = batched.share();
        let stream: Stream = Box::new(batched);
        let stream = Arc::new(Mutex::new(stream));
        let is_there = |socket: &Shared| socket.take().map(|stream| socket.put_back(stream)).is_some();
        let mut chunks = Chunks { taken: None, sent: 0, socket: Some(socket.clone()), stream: Arc::clone(&stream) };
        assert!(chunks.lend(|| is_there(&socket)) && is_there(&socket));
        send(&mut chunks, &["one".into()]).await.unwrap();
        assert!(!is_there(&socket));
        assert!(chunks.lend(|| is_there(&socket)));
        assert!(!is_there(&socket));
        send(&mut chunks, &["two".into()]).await.unwrap();
        drop(chunks);
        // What follows goes the framework's way.
        let mut stream = Arc::into_inner(stream).unwrap().into_inner().unwrap();
        stream.write_all(b"0\r\n\r\n").await.unwrap();
        stream.flush().await.unwrap();
        let mut read = [0; 21];
        client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, *b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n");
    }
}

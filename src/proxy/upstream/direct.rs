//! A stream's body, read past the framework: an event's way through the framework's buffers and futures costs more than
//! all that is done for it here.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{StatusCode, Version};
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::proxy::corked::Corked;
use crate::proxy::headers::chunked_alone;
use crate::wire::chunked::Decoder;

/// The most that is read at once; an event is a few hundred bytes.
const ROOM_BYTES: usize = 16 * 1024;

/// The least that is asked for where part of the room still holds what was read before.
const ROOM_BYTES_MIN: usize = ROOM_BYTES / 4;

thread_local! {
    /// Where every stream of this thread is read to: room of its own would be in no cache when its next event comes.
    static ROOM: RefCell<BytesMut> = RefCell::default();
}

/// A body in chunks on its way.
pub(in crate::proxy) struct Direct {
    stream: TcpStream,
    /// What came behind the head. Boxed, since it is there but once.
    ahead: Option<Box<BytesMut>>,
    decoder: Decoder,
    /// Whether more came than the body.
    overread: bool,
}

impl Direct {
    /// For an answer whose head alone the framework has read, where it comes in chunks over a connection in plain text.
    pub(super) fn begin(session: &HttpSession) -> Option<Direct> {
        let head = session.resp_header()?;
        // Every other status and version is the framework's to judge: some have no body.
        if chunked_alone(&head.headers) != Some(true)
            || head.status != StatusCode::OK
            || head.version != Version::HTTP_11
        {
            return None;
        }
        let corked = Corked::among(session.stream())?;
        let socket = corked.socket()?;
        let ahead = corked.take_behind_head(session.get_headers_raw_bytes().len())?;
        let ahead = (!ahead.is_empty()).then(|| Box::new(ahead));
        let stream = socket.take()?;
        Some(Direct { stream, ahead, decoder: Decoder::default(), overread: false })
    }

    /// What has come of the body; `None` at its end. Where the connection ends before, or sends something else, an error.
    ///
    /// It lies in room that all streams of the thread share. Who keeps it while others have their turn keeps all of that:
    /// see [`own`].
    pub(in crate::proxy) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        while !self.decoder.is_done() {
            if self.decoder.is_malformed() {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            let read = match self.ahead.take() {
                Some(ahead) => *ahead,
                None => ready!(self.poll_read(cx))?,
            };
            let body = self.decode(read);
            if !body.is_empty() {
                return Poll::Ready(Ok(Some(body)));
            }
        }
        Poll::Ready(Ok(None))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<BytesMut>> {
        ROOM.with_borrow_mut(|room| {
            // Mostly nothing of it is in use any more. Else there may be enough left.
            if !room.try_reclaim(ROOM_BYTES) && room.capacity() < ROOM_BYTES_MIN {
                room.reserve(ROOM_BYTES);
            }
            // The future of the read holds nothing between two polls.
            match ready!(pin!(self.stream.read_buf(&mut (&mut *room).limit(ROOM_BYTES))).poll(cx))? {
                0 => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                _ => Poll::Ready(Ok(room.split())),
            }
        })
    }

    fn decode(&mut self, mut read: BytesMut) -> Bytes {
        let decoded = self.decoder.decode(&mut read);
        self.overread |= decoded.used < read.len();
        read.truncate(decoded.body.end);
        read.advance(decoded.body.start);
        read.freeze()
    }

    /// Whether the body has come to its end.
    pub(super) fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Gives the connection back for the next request, if nothing but the body came, and all of it.
    pub(super) fn end(self, session: HttpSession) -> Option<Stream> {
        let reusable = self.is_done() && !self.overread && session.will_keepalive();
        let stream = reusable.then(|| session.into_inner())?;
        Corked::among(&stream)?.socket()?.put_back(self.stream);
        Some(stream)
    }
}

/// Copies what came from [`Direct::poll_next`], so that it can be kept.
pub(in crate::proxy) fn own(read: &mut Bytes) {
    *read = Bytes::copy_from_slice(read);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::proxy::socket::connected;

    /// A body on its way, and the replica that sends it.
    async fn body() -> (Direct, TcpStream) {
        let (stream, replica) = connected().await;
        (Direct { stream, ahead: None, decoder: Decoder::default(), overread: false }, replica)
    }

    async fn says((direct, replica): &mut (Direct, TcpStream), text: &str) -> Bytes {
        replica.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await.unwrap();
        poll_fn(|cx| direct.poll_next(cx)).await.unwrap().unwrap()
    }

    /// Where this lies.
    fn place(bytes: &Bytes) -> usize {
        bytes.as_ptr() as usize
    }

    #[tokio::test]
    async fn streams_share_room_and_never_what_is_in_use() {
        let (mut one, mut other) = (body().await, body().await);
        let begin = place(&says(&mut one, "of one").await);
        assert_eq!(place(&says(&mut other, "of another").await), begin, "nothing was in use");
        let mut kept = vec![says(&mut one, "first").await];
        // More than the room holds: what is in use goes on living, and new room is made.
        for n in 0..2 * ROOM_BYTES / 1000 {
            kept.push(says(&mut other, &n.to_string().repeat(1000)).await);
        }
        assert_eq!(kept[0], "first");
        for (n, piece) in kept[1..].iter().enumerate() {
            assert_eq!(*piece, n.to_string().repeat(1000));
        }
        // What is owned is out of it.
        kept.iter_mut().for_each(own);
        let begin = place(&says(&mut one, "of one").await);
        assert_eq!(place(&says(&mut other, "of another").await), begin);
        assert_eq!((&kept[0][..], &kept[1][..3]), (b"first".as_slice(), b"000".as_slice()));
    }

    #[tokio::test]
    async fn a_body_ends_where_it_says_and_a_connection_that_ends_before_is_an_error() {
        let (mut direct, mut replica) = body().await;
        replica.write_all(b"2\r\nab\r\n0\r\n\r\n").await.unwrap();
        assert_eq!(poll_fn(|cx| direct.poll_next(cx)).await.unwrap().unwrap(), "ab");
        assert_eq!(poll_fn(|cx| direct.poll_next(cx)).await.unwrap(), None);
        let (mut direct, mut replica) = body().await;
        replica.write_all(b"3\r\nab").await.unwrap();
        assert_eq!(poll_fn(|cx| direct.poll_next(cx)).await.unwrap().unwrap(), "ab");
        drop(replica);
        assert!(poll_fn(|cx| direct.poll_next(cx)).await.is_err());
    }
}

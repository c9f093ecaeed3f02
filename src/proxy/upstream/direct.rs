//! A stream's body, read past the framework: an event's way through the framework's buffers and futures costs more than
//! all that is done for it here.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::{StatusCode, Version};
use pingora::protocols::Stream;
use pingora::protocols::http::v1::client::HttpSession;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::proxy::corked::Corked;
use crate::proxy::headers::chunked_alone;
use crate::wire::chunked::Decoder;

/// The most that is read at once; an event is a few hundred bytes.
const ROOM_BYTES: usize = 16 * 1024;

thread_local! {
    /// Where every stream of this thread is read to: room of its own would be in no cache when its next event comes.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM_BYTES].into());
}

/// A body in chunks on its way.
pub(in crate::proxy) struct Direct {
    stream: TcpStream,
    /// What came behind the head.
    ahead: BytesMut,
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
        let stream = socket.take()?;
        Some(Direct { stream, ahead, decoder: Decoder::default(), overread: false })
    }

    /// What has come of the body; `None` at its end. Where the connection ends before, or sends something else, an error.
    pub(in crate::proxy) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        while !self.decoder.is_done() {
            if self.decoder.is_malformed() {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
            let mut ahead = std::mem::take(&mut self.ahead);
            let body = if ahead.is_empty() {
                ready!(ROOM.with_borrow_mut(|room| self.poll_read(cx, room)))?
            } else {
                self.decode(&mut ahead)
            };
            if !body.is_empty() {
                return Poll::Ready(Ok(Some(body)));
            }
        }
        Poll::Ready(Ok(None))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<Bytes>> {
        let mut buf = ReadBuf::new(room);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
        Poll::Ready(match buf.filled_mut() {
            [] => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(self.decode(read)),
        })
    }

    fn decode(&mut self, read: &mut [u8]) -> Bytes {
        let decoded = self.decoder.decode(read);
        self.overread |= decoded.used < read.len();
        Bytes::copy_from_slice(&read[..decoded.body])
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

//! A body of stated length, read past the framework: the framework reads each piece into a buffer of its own and copies it
//! from there, which at a megabyte is a tenth of what a request costs.

use std::io;

use bytes::{Bytes, BytesMut};
use http::header;
use pingora::protocols::http::ServerSession;

use crate::proxy::ahead::HEAD_END;
use crate::proxy::client::Client;

/// The most that is read at once, and what a body that never comes may take up.
const ROOM_BYTES: usize = 64 * 1024;

/// With less room than this left, new room is made: a read for a few bytes costs as much as a large one.
const ROOM_BYTES_MIN: usize = ROOM_BYTES / 16;

/// What is still to be read of a body.
pub(super) struct Direct {
    missing: usize,
    room: BytesMut,
    /// What the connection's was before.
    keepalive: Option<u64>,
}

impl Direct {
    /// For a body of so many bytes of which the framework has read nothing. It is told of a request without a body, so
    /// that it neither reads one nor waits for one; the connection is not used again unless the body was read to its end.
    pub(super) fn begin(session: &mut ServerSession, stated: usize) -> Option<Direct> {
        let head = session.as_http1()?.get_headers_raw_bytes();
        // A head that grew by the framework's escapes, and had ended with bare line feeds before, may happen to be as long.
        if stated == 0 || !head.ends_with(HEAD_END) || !Client::of(session)?.is_behind_head(head.len()) {
            return None;
        }
        let length = session.req_header_mut().remove_header(&header::CONTENT_LENGTH);
        if !session.is_body_done() {
            // It had been asked before, and reads the body after all.
            session.req_header_mut().insert_header(header::CONTENT_LENGTH, length?).ok()?;
            return None;
        }
        let keepalive = session.get_keepalive();
        session.set_keepalive(None);
        Some(Direct { missing: stated, room: BytesMut::new(), keepalive })
    }

    /// The next piece; `None` after the last one. Where the connection ends before, an error.
    pub(super) async fn next(&mut self, session: &mut ServerSession) -> io::Result<Option<Bytes>> {
        if self.missing == 0 {
            return Ok(None);
        }
        let client = Client::of(session).ok_or(io::ErrorKind::NotConnected)?;
        let mut piece = client.take_ahead(self.missing);
        if piece.is_empty() {
            if self.room.capacity() < ROOM_BYTES_MIN.min(self.missing) {
                self.room = BytesMut::with_capacity(ROOM_BYTES.min(self.missing));
            }
            if client.read(&mut self.room, self.missing).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            piece = self.room.split().freeze();
        }
        self.missing -= piece.len();
        if self.missing == 0 {
            session.set_keepalive(self.keepalive);
        }
        Ok(Some(piece))
    }
}

//! Replicas that misbehave over HTTP/2, frame by frame.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;

use crate::support::RawH2;
use crate::support::raw_h2::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, block, frame};

/// One step of an answer. A stream with no step that ends it is left open.
#[derive(Clone, Copy, Debug)]
pub(super) enum Frames {
    /// The head.
    Head(&'static [(&'static str, &'static str)]),
    /// The head, and nothing after it.
    Only(&'static [(&'static str, &'static str)]),
    /// A part of the body.
    Data(&'static str),
    /// The last part of the body.
    Last(&'static str),
    /// Breaks the stream off with this error code.
    Break(u32),
    /// Goes away with this error code, having looked at no stream, or at every stream so far.
    GoAway(u32, Looked),
    /// Writes bytes that are no frame.
    Text(&'static str),
    /// Ends the connection (FIN).
    Close,
    /// Breaks the connection (RST).
    Reset,
}

/// Which streams one that goes away says to have looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Looked {
    AtNone,
    AtAll,
}

/// Serves a connection: first `begin`, then `steps` for each stream once its request is whole.
pub(super) async fn serve(
    stream: TcpStream,
    begin: &'static [Frames],
    steps: &'static [Frames],
    requests: &AtomicUsize,
) {
    let Some(mut connection) = RawH2::accept(stream).await else { return };
    let mut stream = 0;
    let mut steps_now = begin;
    loop {
        for step in steps_now {
            let bytes = match *step {
                Frames::Head(headers) => frame(HEADERS, END_HEADERS, stream, &block(headers)),
                Frames::Only(headers) => frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(headers)),
                Frames::Data(text) => frame(DATA, 0, stream, text.as_bytes()),
                Frames::Last(text) => frame(DATA, END_STREAM, stream, text.as_bytes()),
                Frames::Break(code) => frame(RST_STREAM, 0, stream, &code.to_be_bytes()),
                Frames::GoAway(code, looked) => {
                    let last = if matches!(looked, Looked::AtAll) { stream } else { 0 };
                    frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat())
                }
                Frames::Text(text) => text.as_bytes().to_vec(),
                Frames::Close => return,
                Frames::Reset => return connection.reset(),
            };
            if connection.try_send(&bytes).await.is_err() {
                return;
            }
        }
        let whole =
            |frame: &crate::support::Frame| matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
        let Some(last) = connection.until(whole).await else { return };
        requests.fetch_add(1, Ordering::Relaxed);
        stream = last.stream;
        steps_now = steps;
    }
}

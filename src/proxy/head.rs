//! Heads of requests and answers until the framework sends them.
//!
//! Until then they are those of the `http` crate: to add a line to one of the framework's own, its name is written out in
//! title case and read back, which costs three times what the line does. It is the same on the wire: names as they are here.

use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};

/// The head of an answer.
pub(super) use http::response::Parts as AnswerHead;

/// The most lines that a head can be made for at once. What is read from the wire has far fewer.
const LINES_MAX: usize = 1024;

/// The head of an answer, with room for so many lines.
pub(super) fn answer(status: StatusCode, lines: usize) -> AnswerHead {
    let (mut head, ()) = Response::new(()).into_parts();
    head.status = status;
    head.headers.reserve(lines.min(LINES_MAX));
    head
}

/// It as the framework sends it.
pub(super) fn outgoing(head: AnswerHead) -> Box<ResponseHeader> {
    Box::new(ResponseHeader::from(head))
}

/// The head of a `POST` to this target.
pub(super) fn post(target: &[u8], headers: HeaderMap) -> pingora::Result<RequestHeader> {
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::POST;
    head.version = Version::HTTP_11;
    head.headers = headers;
    let mut head = RequestHeader::from(head);
    head.set_raw_path(target)?;
    Ok(head)
}

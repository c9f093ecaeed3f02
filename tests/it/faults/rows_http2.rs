//! The faults of replicas that are spoken to in HTTP/2.

use super::faulty::Fault;
use super::frames::Frames;
use super::frames::Looked::{AtAll, AtNone};
use super::rows::{Row, row};

const fn frames(name: &'static str, steps: &'static [Frames], label: &'static [&'static str]) -> Row {
    row(name, Fault::Frames(steps), label)
}

const fn frames_at_accept(name: &'static str, steps: &'static [Frames], label: &'static [&'static str]) -> Row {
    row(name, Fault::FramesAtAccept(steps), label)
}

/// Error codes of HTTP/2 (RFC 9113, 7).
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

const JSON: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/json")];
const JSON_OF_99: &[(&str, &str)] =
    &[(":status", "200"), ("content-type", "application/json"), ("content-length", "99")];
const EVENTS: &[(&str, &str)] = &[(":status", "200"), ("content-type", "text/event-stream")];

/// Connections that carry many calls, and fail.
pub(super) const CONNECTIONS: &[Row] = &[
    frames_at_accept("closes HTTP/2 connections at once", &[Frames::Close], &["reset", "connect_failed"]),
    frames_at_accept("resets HTTP/2 connections at once", &[Frames::Reset], &["reset", "connect_failed"]),
    frames_at_accept(
        "goes away at once",
        &[Frames::GoAway(NO_ERROR, AtNone), Frames::Close],
        &["reset", "connect_failed"],
    ),
    frames_at_accept(
        "goes away at once in error",
        &[Frames::GoAway(INTERNAL_ERROR, AtNone)],
        &["reset", "connect_failed"],
    ),
    frames_at_accept(
        "speaks no HTTP/2",
        &[Frames::Text("HTTP/1.1 400 Bad Request\r\n\r\n"), Frames::Close],
        &["garbage", "reset", "connect_failed"],
    ),
    frames("closes a connection over a request", &[Frames::Close], &["reset"]),
    frames("resets a connection over a request", &[Frames::Reset], &["reset"]),
    frames(
        "resets a connection after an answer",
        &[Frames::Only(&[(":status", "503")]), Frames::Reset],
        &["server_error", "reset"],
    ),
    frames("goes away over a request", &[Frames::GoAway(NO_ERROR, AtNone)], &["connect_failed"]),
    frames("goes away in error over a request", &[Frames::GoAway(INTERNAL_ERROR, AtNone)], &["reset"]),
    frames(
        "goes away and forgets a request",
        &[Frames::GoAway(NO_ERROR, AtAll), Frames::Close],
        &["reset", "connect_failed"],
    ),
    frames("writes no frames", &[Frames::Text("POISON POISON POISON")], &["garbage", "reset"]),
];

/// Streams that fail.
pub(super) const STREAMS: &[Row] = &[
    frames("refuses streams", &[Frames::Break(REFUSED_STREAM)], &["connect_failed"]),
    frames("cancels streams", &[Frames::Break(CANCEL)], &["reset"]),
    frames("breaks streams", &[Frames::Break(INTERNAL_ERROR)], &["reset"]),
    frames("500 over HTTP/2", &[Frames::Head(&[(":status", "500")]), Frames::Last("POISON")], &["server_error"]),
    frames("429 over HTTP/2", &[Frames::Only(&[(":status", "429")])], &["busy"]),
    frames("204 over HTTP/2", &[Frames::Only(&[(":status", "204")])], &["garbage"]),
    frames("an empty 200 over HTTP/2", &[Frames::Only(JSON)], &["garbage"]),
    frames(
        "has no status over HTTP/2",
        &[Frames::Only(&[("content-type", "application/json")])],
        &["reset", "garbage"],
    ),
    frames("informs and breaks a stream", &[Frames::Head(&[(":status", "103")]), Frames::Break(CANCEL)], &["reset"]),
    frames("switches protocols over HTTP/2", &[Frames::Only(&[(":status", "101")])], &["reset", "garbage"]),
    frames("breaks a stream after its head", &[Frames::Head(JSON), Frames::Break(CANCEL)], &["cut"]),
    frames(
        "breaks a stream in its body",
        &[Frames::Head(JSON), Frames::Data("{\"POI"), Frames::Break(INTERNAL_ERROR)],
        &["cut"],
    ),
    frames("is short of its length", &[Frames::Head(JSON_OF_99), Frames::Last("{\"id\":\"POISON\"}")], &["cut"]),
    Row {
        name: "breaks events off before the first",
        fault: Fault::Frames(&[Frames::Head(EVENTS), Frames::Data("data: {\"POI"), Frames::Break(NO_ERROR)]),
        streamed: &["cut"],
        whole: &[],
    },
    Row {
        name: "ends events before the first",
        fault: Fault::Frames(&[Frames::Head(EVENTS), Frames::Last(": POISON\n\n")]),
        streamed: &["cut"],
        whole: &[],
    },
];

/// Streams on which nothing comes, of connections that live.
pub(super) const SILENCE: &[Row] = &[
    Row {
        name: "stalls before its head over HTTP/2",
        fault: Fault::Frames(&[]),
        streamed: &["first_byte_timeout"],
        whole: &["answer_timeout"],
    },
    Row {
        name: "stalls after its head over HTTP/2",
        fault: Fault::Frames(&[Frames::Head(JSON_OF_99)]),
        streamed: &["first_byte_timeout"],
        whole: &["answer_timeout"],
    },
    Row {
        name: "stalls before its first event over HTTP/2",
        fault: Fault::Frames(&[Frames::Head(EVENTS), Frames::Data(": POISON\n\n")]),
        streamed: &["first_byte_timeout"],
        whole: &[],
    },
];

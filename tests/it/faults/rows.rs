//! The faults, each with what the edge must call it.

use super::faulty::Fault::{Answer, AtAccept, Deaf, Refuse};
use super::faulty::Step::{Begin, Close, Drip, Flood, Hang, Reset, Send};
use super::faulty::{Fault, Step};

/// One fault of a replica, and how the edge counts the attempts that meet it, by label.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) fault: Fault,
    /// Of calls that ask for a stream; when empty, none is made.
    pub(super) streamed: &'static [&'static str],
    /// Of the others; when empty, none is made.
    pub(super) whole: &'static [&'static str],
}

pub(super) const fn row(name: &'static str, fault: Fault, label: &'static [&'static str]) -> Row {
    Row { name, fault, streamed: label, whole: label }
}

const fn streamed(name: &'static str, steps: &'static [Step], label: &'static [&'static str]) -> Row {
    Row { name, fault: Answer(steps), streamed: label, whole: &[] }
}

const fn whole(name: &'static str, steps: &'static [Step], label: &'static [&'static str]) -> Row {
    Row { name, fault: Answer(steps), streamed: &[], whole: label }
}

/// No answer begins.
pub(super) const CONNECTIONS: &[Row] = &[
    row("refuses connections", Refuse, &["connect_failed"]),
    row("closes connections at once", AtAccept(Close), &["reset"]),
    row("resets connections at once", AtAccept(Reset), &["reset", "connect_failed"]),
    row("closes after the request", Answer(&[Close]), &["reset"]),
    row("resets after the request", Answer(&[Reset]), &["reset"]),
    row("closes in its status line", Answer(&[Send("HTTP/1.1 20"), Close]), &["reset"]),
    row("resets in its headers", Answer(&[Send("HTTP/1.1 200 OK\r\ncontent-ty"), Reset]), &["reset"]),
];

/// What comes is no answer.
pub(super) const HEADS: &[Row] = &[
    row("speaks another protocol", Answer(&[Send("SSH-2.0-OpenSSH_9.6\r\n"), Close]), &["garbage"]),
    row("speaks in zeros", Answer(&[Send("\0\0\0\0\0\0\0\0\r\n\r\n"), Close]), &["garbage"]),
    row("has no status", Answer(&[Send("HTTP/1.1 abc OK\r\n\r\n"), Close]), &["garbage"]),
    row(
        "has a header without a colon",
        Answer(&[Send("HTTP/1.1 200 OK\r\nthis is no header\r\n\r\n{}"), Close]),
        &["garbage"],
    ),
    row(
        "has two lengths",
        Answer(&[Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} "), Close]),
        &["garbage"],
    ),
    row("has a header line without end", Answer(&[Send("HTTP/1.1 200 OK\r\nx-a: "), Flood("a")]), ENDLESS_HEAD),
    row("has headers without end", Answer(&[Send("HTTP/1.1 200 OK\r\n"), Flood("x-a: b\r\n")]), ENDLESS_HEAD),
    row(
        "is never done with informing",
        Answer(&[Flood("HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n")]),
        ENDLESS_HEAD,
    ),
    row(
        "switches protocols",
        Answer(&[Send("HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"), Hang]),
        &["garbage"],
    ),
    row("redirects", Answer(&[Send("HTTP/1.1 307 X\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n")]), &["garbage"]),
    row("has not modified it", Answer(&[Send("HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n")]), &["garbage"]),
];

/// The first few never end, the others end at once: see [`Flood`].
const ENDLESS_HEAD: &[&str] = &["garbage", "reset"];
const ENDLESS_BODY: &[&str] = &["garbage", "cut"];

/// An answer that says that it failed.
pub(super) const STATUSES: &[Row] = &[
    row("500", Answer(&[Send("HTTP/1.1 500 X\r\ncontent-length: 6\r\n\r\nPOISON")]), &["server_error"]),
    row("502", Answer(&[Send("HTTP/1.1 502 X\r\ncontent-length: 6\r\n\r\nPOISON")]), &["server_error"]),
    row("503", Answer(&[Send("HTTP/1.1 503 X\r\ncontent-length: 6\r\n\r\nPOISON")]), &["server_error"]),
    row("504", Answer(&[Send("HTTP/1.1 504 X\r\ncontent-length: 6\r\n\r\nPOISON")]), &["server_error"]),
    row("429", Answer(&[Send("HTTP/1.1 429 X\r\ncontent-length: 6\r\n\r\nPOISON")]), &["busy"]),
    row("429, at once", Answer(&[Send("HTTP/1.1 429 X\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n")]), &["busy"]),
    row("503, at once", Answer(&[Send("HTTP/1.1 503 X\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n")]), &["busy"]),
    row("429, later", Answer(&[Send("HTTP/1.1 429 X\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n")]), &["busy"]),
    row("503, later", Answer(&[Send("HTTP/1.1 503 X\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n")]), &["busy"]),
    row("500 and closes", Answer(&[Send("HTTP/1.1 500 X\r\n\r\nPOISON"), Close]), &["server_error"]),
    row(
        "503 and no word of its closing",
        Answer(&[Send("HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n"), Reset]),
        &["server_error"],
    ),
    row("500 cut", Answer(&[Send("HTTP/1.1 500 X\r\ncontent-length: 99\r\n\r\nPOISON"), Reset]), &["server_error"]),
    row(
        "200 with an error",
        Answer(&[Send(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 38\r\n\r\n\
             {\"error\":{\"message\":\"POISON\",\"x\":null}}",
        )]),
        &["server_error"],
    ),
    row(
        "200 with an error that closes",
        Answer(&[Send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n {\"error\": \"POISON\"}\n"), Close]),
        &["server_error"],
    ),
    row(
        "200 with an object that is an error",
        Answer(&[Send(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 37\r\n\r\n\
             {\"object\":\"error\",\"message\":\"POISON\"}",
        )]),
        &["server_error"],
    ),
    streamed(
        "a stream that begins with an error",
        &[Send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
             7\r\n: hi\n\n\n\r\n26\r\ndata: {\"error\":{\"message\":\"POISON\"}}\n\n\r\n0\r\n\r\n",
        )],
        &["server_error"],
    ),
    row("an empty 200", Answer(&[Send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")]), &["garbage"]),
    row(
        "an empty 200 of chunks",
        Answer(&[Send(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        )]),
        &["garbage"],
    ),
    row("an empty 200 that closes", Answer(&[Send("HTTP/1.1 200 OK\r\n\r\n"), Close]), &["cut", "garbage"]),
    row("204", Answer(&[Send("HTTP/1.1 204 No Content\r\n\r\n")]), &["garbage"]),
];

/// An answer that breaks off or goes wrong before any of it has passed.
pub(super) const BODIES: &[Row] = &[
    whole(
        "closes before the length is reached",
        &[
            Send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"id\":\"POISON\","),
            Close,
        ],
        &["cut"],
    ),
    whole(
        "resets before the length is reached",
        &[
            Send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 900\r\n\r\n{\"id\":\"POISON\","),
            Reset,
        ],
        &["cut"],
    ),
    whole(
        "closes in a chunk",
        &[Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\n{\"id\":\"POISON\","), Close],
        &["cut"],
    ),
    whole(
        "closes between chunks",
        &[Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nf\r\n{\"id\":\"POISON\",\r\n"), Close],
        &["cut"],
    ),
    whole(
        "has a bad chunk",
        &[Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nf\r\n{\"id\":\"POISON\",\r\nzz\r\n}"), Close],
        &["cut"],
    ),
    whole(
        "closes JSON that has no length",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"id\":\"POISON\","), Close],
        &["cut"],
    ),
    streamed(
        "closes a stream at once",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"), Close],
        &["cut"],
    ),
    streamed(
        "resets a stream in its first event",
        &[
            Send(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nff\r\ndata: {\"POI",
            ),
            Reset,
        ],
        &["cut"],
    ),
    streamed(
        "has a bad chunk before its first event",
        &[
            Send(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n\
             7\r\n: hi\n\n\n\r\n-7\r\n",
            ),
            Close,
        ],
        &["cut"],
    ),
    streamed(
        "ends a stream without an event",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")],
        &["cut"],
    ),
    streamed(
        "ends a stream that has no length without an event",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"POISON\":"), Close],
        &["cut"],
    ),
    streamed(
        "compresses its stream",
        &[Send(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nabcd",
        )],
        &["garbage"],
    ),
    streamed(
        "has a first line without end",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: "), Flood("POISON")],
        ENDLESS_BODY,
    ),
    streamed(
        "has comments without end",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"), Flood(": POISON\n\n")],
        ENDLESS_BODY,
    ),
];

/// An answer that does not come.
pub(super) const SILENCE: &[Row] = &[
    row("does not accept connections", Deaf, &["connect_timeout"]),
    Row {
        name: "stalls before its head",
        fault: Answer(&[Hang]),
        streamed: &["first_byte_timeout"],
        whole: &["answer_timeout"],
    },
    Row {
        name: "drips its head",
        fault: Answer(&[Send("HTTP/1.1 200 OK\r\nx-a: "), Drip("a")]),
        streamed: &["first_byte_timeout"],
        whole: &["answer_timeout"],
    },
    Row {
        name: "stalls after its head",
        fault: Answer(&[Send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n"), Hang]),
        streamed: &["first_byte_timeout"],
        whole: &["answer_timeout"],
    },
    streamed(
        "sends its head at once and then nothing, as llama.cpp over a long prompt",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"), Hang],
        &["first_byte_timeout"],
    ),
    streamed(
        "sends comments and nothing else",
        &[
            Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"),
            Drip("a\r\n: POISON\n\n\r\n"),
        ],
        &["first_byte_timeout"],
    ),
    streamed(
        "drips its first event",
        &[
            Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"),
            Drip("6\r\nPOISON\r\n"),
        ],
        &["first_byte_timeout"],
    ),
    whole(
        "drips its answer",
        &[
            Send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"),
            Drip("1\r\n \r\n"),
        ],
        &["answer_timeout"],
    ),
    row(
        "500 and stalls",
        Answer(&[Send("HTTP/1.1 500 X\r\ncontent-length: 99\r\n\r\nPOISON"), Hang]),
        &["server_error"],
    ),
];

/// A stream that goes wrong after it has begun.
pub(super) const MID_STREAM: &[Row] = &[
    streamed("closes in mid-stream", &[Begin, Close], &["cut"]),
    streamed("resets in mid-stream", &[Begin, Reset], &["cut"]),
    streamed("ends without its last event", &[Begin, Send("0\r\n\r\n")], &["cut"]),
    streamed("closes in an event", &[Begin, Send("ff\r\ndata: {\"POISON"), Close], &["cut"]),
    streamed("has a bad chunk in mid-stream", &[Begin, Send("POISON\r\n"), Close], &["cut"]),
];

/// A stream on which nothing comes after it has begun.
pub(super) const MID_STREAM_SILENCE: &[Row] = &[
    streamed("stalls in mid-stream", &[Begin, Hang], &["idle_timeout"]),
    streamed("stalls in an event", &[Begin, Send("ff\r\ndata: {\"POISON"), Hang], &["idle_timeout"]),
];

/// A few that are as good as all of them, for what does not depend on the fault.
pub(super) const SOME: &[Row] = &[
    row("closes after the request, again", Answer(&[Close]), &["reset"]),
    row("503, again", Answer(&[Send("HTTP/1.1 503 X\r\ncontent-length: 6\r\n\r\nPOISON")]), &["server_error"]),
    whole(
        "closes before the length is reached, again",
        &[Send("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{\"id\":\"POISON\","), Close],
        &["cut"],
    ),
    streamed(
        "closes a stream at once, again",
        &[Send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: POISON\n\n"), Close],
        &["cut"],
    ),
];

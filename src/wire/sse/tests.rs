use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::domain::ask::Dialect;

/// The events, and the bytes to forward, of a stream cut like this.
fn frame(chunks: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>, Vec<u8>) {
    let mut framer = Framer::new();
    let (mut events, mut forwarded) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let framed = framer.push(Bytes::copy_from_slice(chunk), |event| events.push(event.to_vec())).unwrap();
        framed.into_parts().for_each(|part| forwarded.extend_from_slice(&part));
    }
    forwarded.extend(framer.finish(|event| events.push(event.to_vec())).unwrap_or_default());
    (events, forwarded, framer.pending().to_vec())
}

/// The events of `stream`, after making sure that every cut gives the same and that no byte is lost or changed.
#[track_caller]
fn events_every_way(stream: &[u8]) -> Vec<Vec<u8>> {
    let whole = frame(&[stream]);
    assert_eq!([&whole.1[..], &whole.2].concat(), stream);
    assert_eq!(whole.0.concat(), whole.1);
    for cut in 0..=stream.len() {
        let (a, b) = stream.split_at(cut);
        assert_eq!(frame(&[a, b]), whole, "cut at {cut} of {:?}", String::from_utf8_lossy(stream));
    }
    assert_eq!(frame(&stream.chunks(1).collect::<Vec<_>>()), whole);
    whole.0
}

#[track_caller]
fn events(stream: &str, expected: &[&str]) {
    let found = events_every_way(stream.as_bytes());
    let found: Vec<_> = found.iter().map(|event| std::str::from_utf8(event).unwrap()).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_event_ends_at_a_blank_line_whatever_the_line_ends() {
    events("", &[]);
    events("data: a\n\ndata: b\n\n", &["data: a\n\n", "data: b\n\n"]);
    events("data: a\r\n\r\ndata: b\r\n\r\n", &["data: a\r\n\r\n", "data: b\r\n\r\n"]);
    events("data: a\r\rdata: b\r\r", &["data: a\r\r", "data: b\r\r"]);
    events("data: a\n\r\ndata: b\r\n\n", &["data: a\n\r\n", "data: b\r\n\n"]);
    events("data: a\r\r\ndata: b\n\rdata: c\n\n", &["data: a\r\r\n", "data: b\n\r", "data: c\n\n"]);
    events("\n\ndata: a\n\n\n: c\n\n", &["\n", "\n", "data: a\n\n", "\n", ": c\n\n"]);
    events("event: x\ndata: a\ndata: b\n\n", &["event: x\ndata: a\ndata: b\n\n"]);
}

#[test]
fn half_an_event_is_never_given() {
    events("data: a", &[]);
    events("data: a\n", &[]);
    events("data: a\r\n", &[]);
    events("data: a\n\ndata: [DONE]\n", &["data: a\n\n"]);
}

#[test]
fn a_chunk_of_whole_events_is_passed_on_uncopied() {
    let chunk = Bytes::from_static(b"data: a\n\ndata: b\n\n");
    let framed = Framer::new().push(chunk.clone(), |_| {}).unwrap();
    assert_eq!(framed.carried, None);
    let whole = framed.whole.unwrap();
    assert_eq!((whole.as_ptr(), whole.len()), (chunk.as_ptr(), chunk.len()));
}

#[test]
fn only_what_straddles_chunks_is_copied() {
    let mut framer = Framer::new();
    assert!(framer.push(Bytes::from_static(b"data: a"), |_| {}).unwrap().is_empty());
    let chunk = Bytes::from_static(b"bc\n\ndata: d\n\ndata: e\n\nda");
    let framed = framer.push(chunk.clone(), |_| {}).unwrap();
    assert_eq!(framed.carried.unwrap(), "data: abc\n\n");
    let whole = framed.whole.unwrap();
    assert_eq!(whole, "data: d\n\ndata: e\n\n");
    assert_eq!(whole.as_ptr(), chunk[4..].as_ptr());
    assert_eq!(framer.pending(), b"da");
}

#[test]
fn an_endless_event_is_an_error() {
    let mut framer = Framer::new();
    let chunk = Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..16 {
        assert!(framer.push(chunk.clone(), |_| {}).unwrap().is_empty());
    }
    assert_eq!(framer.push(Bytes::from_static(b"x"), |_| {}), Err(SseError::TooLong));
    let long = Bytes::from([vec![b'x'; EVENT_BYTES_MAX], b"\n\n".to_vec()].concat());
    assert_eq!(Framer::new().push(long, |_| {}), Err(SseError::TooLong));
}

#[test]
fn a_huge_event_in_many_chunks_comes_out_whole() {
    let event = format!("data: {}\n\n", "y".repeat(3_000_000));
    let chunks: Vec<_> = event.as_bytes().chunks(16_000).collect();
    assert_eq!(frame(&chunks), (vec![event.clone().into_bytes()], event.into_bytes(), vec![]));
}

#[track_caller]
fn kind(dialect: Dialect, event: &str, expected: EventKind) {
    for event in [event.to_owned(), event.replace('\n', "\r\n"), event.replace('\n', "\r"), format!("\u{feff}{event}")]
    {
        assert_eq!(Progress::new(dialect).note(event.as_bytes()), expected, "{dialect:?} {event:?}");
    }
}

#[test]
fn kinds_are_told_by_prefix() {
    use Dialect::{Chat, Completions, Messages, Responses};
    use EventKind::{Comment, Data, Done, Error};
    for dialect in Dialect::ALL {
        kind(dialect, ": keep-alive\n\n", Comment);
        kind(dialect, "\n", Comment);
        kind(dialect, "id: 7\nretry: 10\n\n", Comment);
        kind(dialect, "data: {\"id\":1,\"error\":{}}\n\n", Data);
        kind(dialect, "data:{\"id\":1}\n\n", Data);
        kind(dialect, ": note\ndata: {}\n\n", Data);
        kind(dialect, "data\n\n", Data);
        kind(dialect, "data: {\"error\":{\"message\":\"x\"}}\n\n", Error);
        kind(dialect, "data: { \"error\" : {\"message\":\"x\"}}\n\n", Error);
        kind(dialect, "data: {\"error\":null,\"id\":1}\n\n", Data);
        kind(dialect, "data: {\"errors\":1}\n\n", Data);
        kind(dialect, "event: error\ndata: {\"x\":1}\n\n", Error);
        kind(dialect, "data: {\"type\":\"error\",\"message\":\"x\"}\n\n", Error);
        kind(dialect, "error: {\"code\":500}\n\n", Error);
        kind(dialect, "database: x\n\n", Comment);
    }
    for dialect in [Chat, Completions, Responses] {
        kind(dialect, "data: [DONE]\n\n", Done);
        kind(dialect, "data:[DONE]\n\n", Done);
        kind(dialect, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", Data);
    }
    kind(Messages, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", Done);
    kind(Messages, "data: {\"type\": \"message_stop\"}\n\n", Done);
    kind(Messages, "event: message_delta\ndata: {\"type\":\"message_delta\"}\n\n", Data);
    kind(Messages, "event: ping\ndata: {\"type\": \"ping\"}\n\n", Comment);
    kind(Messages, "data: [DONE]\n\n", Data);
    for name in ["completed", "incomplete", "failed"] {
        kind(Responses, &format!("event: response.{name}\ndata: {{\"type\":\"response.{name}\"}}\n\n"), Done);
        kind(Responses, &format!("data: {{\"type\":\"response.{name}\"}}\n\n"), Done);
    }
    kind(Responses, "event: response.created\ndata: {\"type\":\"response.created\"}\n\n", Data);
    kind(Chat, "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n", Data);
}

#[test]
fn progress_adds_up() {
    let mut progress = Progress::new(Dialect::Chat);
    let stream = b": hi\n\ndata: {\"a\":1}\n\ndata: {\"b\":1}\n\ndata: [DONE]\n\n".as_slice();
    Framer::new()
        .push(Bytes::from_static(stream), |event| {
            progress.note(event);
        })
        .unwrap();
    assert_eq!((progress.events, progress.data_events, progress.done, progress.error), (4, 2, true, false));
}

#[test]
fn a_byte_order_mark_is_tolerated_at_the_beginning_alone() {
    let mut progress = Progress::new(Dialect::Chat);
    assert_eq!(progress.note("\u{feff}data: {}\n\n".as_bytes()), EventKind::Data);
    assert_eq!(progress.note("\u{feff}data: {}\n\n".as_bytes()), EventKind::Comment);
}

#[test]
fn data_is_joined_over_its_lines() {
    assert_eq!(&*data_of(b"event: x\ndata: {\"a\":\r\ndata:1}\n\n"), b"{\"a\":\n1}");
    assert_eq!(&*data_of(b": c\n\n"), b"");
    assert!(matches!(data_of(b"data: {}\n\n"), std::borrow::Cow::Borrowed(b"{}")));
}

proptest! {
    #[test]
    fn any_bytes_give_the_same_events_at_every_split_point(
        pieces in prop::collection::vec(prop_oneof![
            Just("\n".to_owned()), Just("\r".into()), Just("\r\n".into()), Just("data: x".into()), Just(":".into()), ".{0,6}",
        ], 0..30),
    ) {
        events_every_way(pieces.concat().as_bytes());
    }

    #[test]
    fn events_are_those_of_a_plain_reading(
        payloads in prop::collection::vec("[^\r\n]{1,30}", 0..12), end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        size in 1usize..40,
    ) {
        let expected: Vec<_> = payloads.iter().map(|payload| format!("data: {payload}{end}{end}").into_bytes()).collect();
        let stream = expected.concat();
        let (found, forwarded, pending) = frame(&stream.chunks(size).collect::<Vec<_>>());
        prop_assert_eq!(found, expected);
        prop_assert_eq!(forwarded, stream);
        prop_assert!(pending.is_empty());
    }

    #[test]
    fn classifying_any_bytes_never_panics(event in prop::collection::vec(any::<u8>(), 0..100)) {
        for dialect in Dialect::ALL {
            let _ = Progress::new(dialect).note(&event);
        }
        let _ = data_of(&event);
    }
}

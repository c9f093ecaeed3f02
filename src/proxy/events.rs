//! The events of one stream on their way through: told apart, watched for their end, read for what they used, and
//! followed so that another replica can go on where this one stops.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::domain::ask::Dialect;
use crate::domain::outcome::Outcome;
use crate::policy::resume::Obstacle;
use crate::wire::include_usage::Unasked;
use crate::wire::response_id;
use crate::wire::resume::{Told, Unfit};
use crate::wire::sse::{EventKind, Framer, Progress};
use crate::wire::usage::{Meter, Usage};

/// What may be sent: mostly one piece, which then lies where the stream does.
pub(super) type Ready = SmallVec<[Bytes; 1]>;

/// One stream's framing and what was read in it. In this order and that of [`Reading`]: at an edge with many streams each
/// place of memory that an event asks for is in no cache, so that what it asks for stands together.
#[repr(C)]
pub(super) struct Events {
    framer: Framer,
    reading: Reading,
}

/// What was read in a stream.
#[repr(C)]
struct Reading {
    progress: Progress,
    /// What the client was told, where another replica could go on with it.
    told: Option<Box<Told>>,
    /// Whether an event that differs from one before in its text alone goes down whole and says nothing else.
    text_only: bool,
    /// Whether another replica began the answer, so that what this one says must be fitted to it.
    continues: bool,
    /// What the edge asked for and the client did not.
    unasked: Option<Unasked>,
    left_out: LeftOut,
    fitted: Fitted,
    usage: Meter,
    response: Response,
}

impl Events {
    /// Of a stream of this dialect, in which what is `unasked` does not go down.
    pub(super) fn new(dialect: Dialect, unasked: Option<Unasked>) -> Events {
        let reading = Reading {
            progress: Progress::new(dialect),
            usage: Meter::new(),
            told: Told::new(dialect),
            text_only: false,
            continues: false,
            fitted: Fitted::default(),
            unasked,
            left_out: LeftOut::default(),
            response: Response::of(dialect),
        };
        Events { framer: Framer::new(), reading }
    }

    /// Takes a chunk in and puts the whole events that are there now behind `ready`. After an error, what is ready is
    /// good all the same.
    pub(super) fn push(&mut self, chunk: Bytes, ready: &mut Ready) -> Result<(), Outcome> {
        let Events { framer, reading } = self;
        match framer.push(chunk, |event| reading.note(event)) {
            Ok(_) if reading.continues => reading.fitted.move_to(ready),
            Ok(framed) => {
                reading.left_out.pass(framed.into_parts(), ready);
                Ok(())
            }
            Err(_) => {
                // Events of this chunk were noted, and do not go down: nobody knows any more what the client was told.
                reading.told = None;
                Err(Outcome::Garbage)
            }
        }
    }

    /// The engine has sent everything: an event whose end was still in doubt is one now.
    pub(super) fn finish(&mut self, ready: &mut Ready) {
        let Events { framer, reading } = self;
        let mut last = framer.finish(|event| reading.note(event));
        // Some engines leave out the blank line after their last event. Anything else that is cut off is no event.
        if !framer.pending().is_empty() && { reading.progress }.note(framer.pending()) == EventKind::Done {
            let done = Bytes::copy_from_slice(framer.pending());
            reading.note(&done);
            last = Some(done);
        }
        if reading.continues {
            // An event that does not fit leaves the answer without its end, which is seen next.
            let _ = reading.fitted.move_to(ready);
        } else {
            reading.left_out.pass(last.into_iter(), ready);
        }
    }

    /// Goes on with the answer of which the client was `told` by another replica. What is ready already is this replica's
    /// beginning.
    pub(super) fn go_on(&mut self, mut told: Box<Told>, ready: &mut Ready) -> Result<(), Outcome> {
        told.hand_over();
        let (mut progress, mut fitted) = (Progress::new(told.dialect()), Fitted::default());
        let mut fit = |event: &[u8]| fitted.add(&mut told, event, progress.note(event), None);
        let mut framer = Framer::new();
        for events in ready.drain(..) {
            // They came out of a framer: nothing is too long.
            let _ = framer.push(events, &mut fit);
        }
        // All of them are whole, a last one without its blank line too.
        if !framer.pending().is_empty() {
            fit(framer.pending());
        }
        self.reading.told = Some(told);
        self.reading.continues = true;
        self.reading.text_only = false;
        fitted.move_to(ready)
    }

    /// What the client was told, as far as another replica could go on with it. To be asked once, at the end.
    pub(super) fn take_told(&mut self) -> Option<Box<Told>> {
        self.reading.told.take()
    }

    /// No other replica can go on with the answer.
    pub(super) fn cannot_go_on(&mut self, obstacle: Obstacle) {
        if let Some(told) = &mut self.reading.told {
            told.obstruct(obstacle);
        }
    }

    /// Whether the engine reported a failure before anything else.
    pub(super) fn failed_at_once(&self) -> bool {
        self.reading.progress.error && self.reading.progress.data_events == 0
    }

    /// Whether the answer has begun: from here on a client may have seen part of it.
    pub(super) fn begun(&self) -> bool {
        self.reading.progress.data_events > 0 || self.ended()
    }

    /// The id of the stored response that the stream is, where its first events told.
    pub(super) fn response_id(&self) -> Option<&str> {
        self.reading.response.id.as_deref()
    }

    /// How many whole events there were.
    pub(super) fn count(&self) -> u64 {
        self.reading.progress.events
    }

    /// Whether the engine has said that the answer is whole, or that it failed.
    pub(super) fn ended(&self) -> bool {
        self.reading.progress.done || self.reading.progress.error
    }

    /// Whether the engine has reported a failure, and no whole answer.
    pub(super) fn failed(&self) -> bool {
        self.reading.progress.error
    }

    /// What the answer used, once the engine has said so; of one that another replica began, all of it.
    pub(super) fn usage(&self) -> Option<Usage> {
        let usage = self.reading.usage.usage();
        match &self.reading.told {
            Some(told) if self.reading.continues => usage.map(|usage| told.sum(usage)),
            _ => usage,
        }
    }
}

impl Reading {
    #[inline]
    fn note(&mut self, event: &[u8]) {
        if self.text_only
            && let Some(told) = &mut self.told
            && told.follows_on(event)
        {
            self.progress.note_data();
            self.left_out.note(event, Vec::new());
        } else {
            self.note_other(event);
        }
    }

    fn note_other(&mut self, event: &[u8]) {
        let kind = self.progress.note(event);
        let may_tell_usage = self.usage.event(event);
        if self.response.events_left > 0 && kind != EventKind::Comment {
            self.response.note(event);
        }
        let mut parts = Vec::new();
        if kind == EventKind::Data
            && !self.continues
            && let Some(unasked) = self.unasked
        {
            parts = unasked.parts(event);
        }
        match &mut self.told {
            Some(told) if self.continues => return self.fitted.add(told, event, kind, self.unasked),
            Some(told) if kind == EventKind::Data => {
                let learnt = told.note(event);
                if learnt {
                    self.text_only = !may_tell_usage && parts.is_empty();
                }
            }
            _ => {}
        }
        self.left_out.note(event, parts);
    }
}

/// Data events of the Responses API in which the response's id is looked for; it stands in the first.
const RESPONSE_ID_EVENTS_MAX: u8 = 4;

/// What a stream of the Responses API says of itself.
struct Response {
    events_left: u8,
    id: Option<String>,
}

impl Response {
    fn of(dialect: Dialect) -> Response {
        Response { events_left: if dialect == Dialect::Responses { RESPONSE_ID_EVENTS_MAX } else { 0 }, id: None }
    }

    #[cold]
    fn note(&mut self, event: &[u8]) {
        self.id = response_id::of_event(event);
        self.events_left = if self.id.is_some() { 0 } else { self.events_left - 1 };
    }
}

/// Events of a replica that goes on, as the client is to see them.
#[derive(Default)]
struct Fitted {
    events: Vec<u8>,
    unfit: bool,
}

impl Fitted {
    fn add(&mut self, told: &mut Told, event: &[u8], kind: EventKind, unasked: Option<Unasked>) {
        if self.unfit {
            return;
        }
        let from = self.events.len();
        self.unfit = told.continued(event, kind, &mut self.events) == Err(Unfit);
        if let Some(unasked) = unasked.filter(|_| kind == EventKind::Data) {
            for part in unasked.parts(&self.events[from..]).into_iter().rev() {
                self.events.drain(from + part.start..from + part.end);
            }
        }
    }

    /// Those before one that does not fit are good, and were noted.
    fn move_to(&mut self, ready: &mut Ready) -> Result<(), Outcome> {
        if !self.events.is_empty() {
            ready.push(std::mem::take(&mut self.events).into());
        }
        if self.unfit { Err(Outcome::Garbage) } else { Ok(()) }
    }
}

/// What of the events that are about to go down does not.
#[derive(Default)]
struct LeftOut {
    /// Bytes of the events so far.
    bytes: usize,
    parts: Vec<Range<usize>>,
}

impl LeftOut {
    fn note(&mut self, event: &[u8], parts: Vec<Range<usize>>) {
        self.parts.extend(parts.into_iter().map(|part| self.bytes + part.start..self.bytes + part.end));
        self.bytes += event.len();
    }

    /// Moves the events that were noted on. They are as they came where nothing is left out, and else copied together, so
    /// that an event still goes down in one piece.
    fn pass(&mut self, events: impl Iterator<Item = Bytes>, ready: &mut Ready) {
        let LeftOut { parts, .. } = std::mem::take(self);
        if parts.is_empty() {
            return ready.extend(events);
        }
        let events = events.collect::<Vec<_>>().concat();
        let (mut left, mut from) = (Vec::with_capacity(events.len()), 0);
        for part in parts {
            left.extend_from_slice(&events[from..part.start]);
            from = part.end;
        }
        left.extend_from_slice(&events[from..]);
        if !left.is_empty() {
            ready.push(left.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::topology::Engine;

    fn relay(stream: &str) -> (Events, String) {
        let mut events = Events::new(Dialect::Chat, None);
        let mut ready = Ready::new();
        events.push(Bytes::copy_from_slice(stream.as_bytes()), &mut ready).unwrap();
        events.finish(&mut ready);
        (events, String::from_utf8(ready.concat()).unwrap())
    }

    #[test]
    fn a_last_event_without_its_blank_line_ends_the_answer_and_anything_else_cut_off_does_not_pass() {
        let (events, sent) = relay("data: {\"a\":1}\n\ndata: [DONE]\n");
        assert!(events.ended());
        assert_eq!(sent, "data: {\"a\":1}\n\ndata: [DONE]\n");
        let (events, sent) = relay("data: {\"a\":1}\n\ndata: {\"b\"");
        assert!(!events.ended());
        assert_eq!(sent, "data: {\"a\":1}\n\n");
    }

    #[test]
    fn a_continuation_that_ends_without_its_blank_line_ends_all_the_same() {
        let says =
            |text: &str| format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let told = relay(&says("a")).0.take_told().unwrap();
        let mut events = Events::new(Dialect::Chat, None);
        let mut ready = Ready::new();
        // All of it is there before it is fitted.
        events.push(Bytes::from(says("b") + "data: [DONE]\n"), &mut ready).unwrap();
        events.finish(&mut ready);
        events.go_on(told, &mut ready).unwrap();
        assert!(events.ended());
        assert_eq!(String::from_utf8(ready.concat()).unwrap(), says("b") + "data: [DONE]\n");
    }

    const REPORT: &str = r#"data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}}"#;

    /// A stream that came in these pieces, and what goes down of it.
    fn pass(stream: &str, cuts: &[usize], engine: Engine) -> (Events, String) {
        let mut events = Events::new(Dialect::Chat, Some(Unasked::at(engine)));
        let (mut ready, mut from) = (Ready::new(), 0);
        for cut in cuts.iter().copied().chain([stream.len()]) {
            events.push(Bytes::copy_from_slice(&stream.as_bytes()[from..cut]), &mut ready).unwrap();
            from = cut;
        }
        events.finish(&mut ready);
        assert!(ready.iter().all(|piece| !piece.is_empty()));
        (events, String::from_utf8(ready.concat()).unwrap())
    }

    #[test]
    fn events_that_differ_in_their_text_alone_are_taken_like_the_first_of_them() {
        let says = |text: &str, rest: &str| {
            format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]{rest}}}\n\n")
        };
        let null = ",\"usage\":null";
        let used = |tokens: u64| format!(",\"usage\":{{\"prompt_tokens\":7,\"completion_tokens\":{tokens}}}");
        let texts = ["a", "\\\"usage\\\":{", "[DONE]", "b"];
        let stream = |rest: &str| texts.map(|text| says(text, rest)).concat();
        let tokens = |events: &Events| events.usage().map(|usage| usage.completion_tokens);
        for engine in [Engine::Vllm, Engine::OpenAi] {
            // What each of them says besides is read or taken out each time, and what none of them says never.
            let (events, sent) = pass(&stream(""), &[], engine);
            assert_eq!((sent, tokens(&events)), (stream(""), None));
            assert_eq!((events.count(), events.begun(), events.ended()), (4, true, false));
            let (events, sent) = pass(&stream(null), &[], engine);
            assert_eq!((sent, tokens(&events)), (stream(if engine == Engine::OpenAi { "" } else { null }), None));
            let counted = texts.iter().zip(1..).map(|(text, n)| says(text, &used(n))).collect::<String>();
            let (events, sent) = pass(&counted, &[], engine);
            assert_eq!((sent, tokens(&events)), (counted, Some(4)));
            // And each anew when they begin to say it, or cease to.
            let mixed =
                stream("") + &stream(null) + &stream("") + &says("c", &used(9)) + &stream("") + "data: [DONE]\n\n";
            let (events, sent) = pass(&mixed, &[], engine);
            let expected = if engine == Engine::OpenAi { mixed.replace(null, "") } else { mixed };
            assert_eq!((sent, tokens(&events), events.ended()), (expected, Some(9), true));
        }
    }

    #[test]
    fn what_nothing_is_taken_out_of_is_not_copied() {
        let says = Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"usage\"}}]}\n\n");
        let mut events = Events::new(Dialect::Chat, Some(Unasked::at(Engine::OpenAi)));
        let mut ready = Ready::new();
        events.push(says.clone(), &mut ready).unwrap();
        assert_eq!((ready.len(), ready[0].as_ptr()), (1, says.as_ptr()));
    }

    #[test]
    fn a_continuation_tells_no_usage_that_nobody_asked_for_and_counts_it_all_the_same() {
        let says = |text: &str, more: &str| {
            format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{text}\"}}}}]{more}}}\n\n")
        };
        let report = |counts: &str| format!("data: {{\"choices\":[],\"usage\":{{{counts}}}}}\n\n");
        let counts = r#""prompt_tokens":8,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}"#;
        let end = says("c", "") + &report(counts) + "data: [DONE]\n\n";
        for at_once in [0, 1, 2, 3] {
            let told = pass(&says("a", ",\"usage\":null"), &[], Engine::OpenAi).0.take_told().unwrap();
            let mut events = Events::new(Dialect::Chat, Some(Unasked::at(Engine::OpenAi)));
            let (mut ready, mut all) = (Ready::new(), Vec::new());
            let mut parts =
                [says("b", ",\"usage\":null")].into_iter().chain([end.clone()]).collect::<Vec<_>>().concat();
            let rest = parts.split_off(match at_once {
                0 => 0,
                n => parts.match_indices("\n\n").nth(n - 1).unwrap().0 + 2,
            });
            events.push(Bytes::from(parts), &mut ready).unwrap();
            events.go_on(told, &mut ready).unwrap();
            all.extend(ready.drain(..));
            for byte in rest.as_bytes() {
                events.push(Bytes::copy_from_slice(&[*byte]), &mut ready).unwrap();
            }
            all.extend(ready.drain(..));
            let sent = String::from_utf8(all.concat()).unwrap();
            assert_eq!(sent, says("b", "") + &says("c", "") + "data: [DONE]\n\n", "{at_once}");
            let usage = Usage { prompt_tokens: 7, cached_tokens: Some(7), completion_tokens: 3 };
            assert_eq!(events.usage(), Some(usage), "{at_once}");
        }
    }

    proptest! {
        #[test]
        fn the_same_is_taken_out_however_the_stream_was_cut(
            kinds in prop::collection::vec(0..6usize, 0..12),
            line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
            engine in prop::sample::select(vec![Engine::Vllm, Engine::OpenAi]),
            mut cuts in prop::collection::vec(0usize..1_000, 0..12),
        ) {
            let null = r#"data: {"choices":[{"delta":{"content":"a"}}],"usage":null}"#;
            let bare = r#"data: {"choices":[{"delta":{"content":"a"}}]}"#;
            let both = format!(": b{line_end}{REPORT}");
            let (mut stream, mut expected) = (String::new(), String::new());
            for kind in kinds {
                let (event, left) = [
                    (REPORT, None),
                    (null, Some(if engine == Engine::OpenAi { bare } else { null })),
                    (bare, Some(bare)),
                    (": \"usage\":null}", Some(": \"usage\":null}")),
                    (both.as_str(), Some(": b")),
                    ("data: [DONE]", Some("data: [DONE]")),
                ][kind];
                stream.push_str(&format!("{event}{line_end}{line_end}"));
                expected.extend(left.map(|left| format!("{left}{line_end}{line_end}")));
            }
            cuts.iter_mut().for_each(|cut| *cut = (*cut).min(stream.len()));
            cuts.sort_unstable();
            let (events, sent) = pass(&stream, &cuts, engine);
            prop_assert_eq!(sent, expected);
            prop_assert_eq!(events.usage().is_some(), stream.contains(REPORT));
        }
    }

    #[test]
    fn an_error_before_any_data_is_a_failure_at_once() {
        assert!(relay(": hello\n\ndata: {\"error\":{\"message\":\"no\"}}\n\n").0.failed_at_once());
        assert!(!relay("data: {\"a\":1}\n\ndata: {\"error\":{\"message\":\"no\"}}\n\n").0.failed_at_once());
    }
}

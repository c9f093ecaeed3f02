//! The events of one stream on their way through: told apart, watched for their end, read for what they used.

use bytes::Bytes;

use crate::domain::ask::Dialect;
use crate::wire::sse::{EventKind, Framer, Progress, SseError};
use crate::wire::usage::{Meter, Usage};

/// One stream's framing, progress and usage.
pub(super) struct Events {
    framer: Framer,
    progress: Progress,
    usage: Meter,
}

impl Events {
    pub(super) fn new(dialect: Dialect) -> Events {
        Events { framer: Framer::new(), progress: Progress::new(dialect), usage: Meter::new() }
    }

    /// Takes a chunk in and puts the whole events that are there now behind `ready`.
    pub(super) fn push(&mut self, chunk: Bytes, ready: &mut Vec<Bytes>) -> Result<(), SseError> {
        let Events { framer, progress, usage } = self;
        let framed = framer.push(chunk, |event| {
            progress.note(event);
            usage.event(event);
        })?;
        ready.extend(framed.into_parts());
        Ok(())
    }

    /// The engine has sent everything: an event whose end was still in doubt is one now.
    pub(super) fn finish(&mut self, ready: &mut Vec<Bytes>) {
        let Events { framer, progress, usage } = self;
        ready.extend(framer.finish(|event| {
            progress.note(event);
            usage.event(event);
        }));
        // Some engines leave out the blank line after their last event. Anything else that is cut off is no event.
        if !framer.pending().is_empty() && { *progress }.note(framer.pending()) == EventKind::Done {
            let last = Bytes::copy_from_slice(framer.pending());
            progress.note(&last);
            ready.push(last);
        }
    }

    /// Whether the engine reported a failure before anything else.
    pub(super) fn failed_at_once(&self) -> bool {
        self.progress.error && self.progress.data_events == 0
    }

    /// Whether the answer has begun: from here on a client may have seen part of it.
    pub(super) fn begun(&self) -> bool {
        self.progress.data_events > 0 || self.ended()
    }

    /// How many whole events there were.
    pub(super) fn count(&self) -> u64 {
        self.progress.events
    }

    /// Whether the engine has said that the answer is whole, or that it failed.
    pub(super) fn ended(&self) -> bool {
        self.progress.done || self.progress.error
    }

    /// Whether the engine has reported a failure, and no whole answer.
    pub(super) fn failed(&self) -> bool {
        self.progress.error
    }

    /// What the engine says it used, once it has said so.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage.usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(stream: &str) -> (Events, String) {
        let mut events = Events::new(Dialect::Chat);
        let mut ready = Vec::new();
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
    fn an_error_before_any_data_is_a_failure_at_once() {
        assert!(relay(": hello\n\ndata: {\"error\":{\"message\":\"no\"}}\n\n").0.failed_at_once());
        assert!(!relay("data: {\"a\":1}\n\ndata: {\"error\":{\"message\":\"no\"}}\n\n").0.failed_at_once());
    }
}

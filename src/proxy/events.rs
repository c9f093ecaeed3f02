//! The events of one stream on their way through: told apart, watched for their end, read for what they used.

use bytes::Bytes;

use crate::domain::ask::Dialect;
use crate::wire::sse::{Framer, Progress, SseError};
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

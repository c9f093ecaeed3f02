//! Response bodies: whole, streamed as the engine goes, or broken on purpose.

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::answer::{Answer, Meta, Usage, Voice};
use super::driver::Job;
use super::listen::Cut;
use crate::sim::engine::Event;

/// A response's body.
pub(super) enum SimBody {
    Whole(Option<Bytes>),
    Live(Box<Live>),
    /// These bytes, then the connection is closed.
    Torn(Option<Bytes>, Arc<Cut>),
    /// Nothing, for ever.
    Never,
}

/// An answer as it comes into being. Dropping it cancels the request in the engine.
pub(super) struct Live {
    pub(super) job: Job,
    pub(super) voice: Box<dyn Voice>,
    pub(super) meta: Meta,
    pub(super) answer: Answer,
    pub(super) usage: Usage,
    pub(super) mid: Option<Mid>,
    pub(super) cut: Arc<Cut>,
    pub(super) out: VecDeque<Bytes>,
    /// Whether tokens of a text that come together are told in one event.
    pub(super) joins: bool,
    pub(super) sent_events: u32,
    pub(super) ended: bool,
}

/// What befalls a stream after so many events.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mid {
    pub(super) after_events: u32,
    pub(super) what: MidFault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MidFault {
    Cut,
    Stall,
    /// The body ends as if all were said.
    End,
}

impl Body for SimBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Live(live) => live.poll_frame(cx),
            Self::Torn(bytes, cut) => match bytes.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => {
                    cut.close();
                    Poll::Pending
                }
            },
            Self::Never => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            _ => SizeHint::default(),
        }
    }
}

impl Live {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        loop {
            match self.mid {
                Some(mid) if self.sent_events >= mid.after_events => match mid.what {
                    MidFault::Cut => {
                        // What was sent is flushed when hyper finds this body pending; the connection's task cuts after that.
                        self.cut.close();
                        return Poll::Pending;
                    }
                    MidFault::Stall => return Poll::Pending,
                    MidFault::End => return Poll::Ready(None),
                },
                _ => {}
            }
            if let Some(event) = self.out.pop_front() {
                self.sent_events += 1;
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            match self.job.poll_next(cx) {
                Poll::Ready(Some(event)) => self.tell(event),
                Poll::Ready(None) => {
                    return Poll::Ready(Some(Err(io::Error::other("the engine died"))));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn tell(&mut self, event: Event) {
        match event {
            Event::FirstToken { cached_tokens, .. } => {
                self.usage.cached = cached_tokens;
                self.voice.open(&self.meta, &self.usage, &mut self.out);
                self.tell_pieces(0, 1);
            }
            Event::Tokens { index, count, .. } => self.tell_pieces(index, count),
            Event::Finished { .. } => {
                self.voice.close(&self.meta, &self.answer, &self.usage, &mut self.out);
                self.ended = true;
            }
        }
    }

    fn tell_pieces(&mut self, index: u64, count: u64) {
        let tokens = index..index + count;
        let pieces =
            if self.joins { self.answer.joined(tokens) } else { tokens.map(|at| self.answer.piece(at)).collect() };
        for piece in pieces {
            self.voice.piece(&self.meta, &piece, &mut self.out);
        }
        self.usage.completion = index + count;
    }
}

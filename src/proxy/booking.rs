//! An attempt's place at a replica, and its span where the request is traced: both end together, however that is.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry_sdk::trace::SpanData;

use super::account::Account;
use super::attempt::{Began, Failed};
use super::dispatch::Dispatch;
use super::place::Placed;
use crate::domain::outcome::Outcome;
use crate::domain::trace::TraceContext;
use crate::observe::access_log::Tokens;
use crate::observe::trace::{AttemptEnd, AttemptKind, AttemptStart, Spans, attempt};
use crate::policy::sampling;
use crate::policy::select::Selection;
use crate::roster::{Doubt, InFlight};
use crate::wire::response_model::response_model;
use crate::wire::usage::Usage;

/// A replica, and an attempt there.
pub(super) type Sent = (Selection, Booking);

/// A place at a replica with the span of the attempt that has it. Dropped without an end, the attempt was not waited for:
/// it counts as neither success nor failure.
pub(super) struct Booking {
    place: Box<InFlight>,
    span: Option<Box<AttemptSpan>>,
}

/// The span of an attempt that is under way; it is recorded when dropped.
struct AttemptSpan {
    spans: Arc<Spans>,
    queue: usize,
    context: TraceContext,
    span: Option<SpanData>,
    began: Instant,
    end: AttemptEnd,
}

impl Drop for AttemptSpan {
    fn drop(&mut self) {
        if let Some(mut span) = self.span.take() {
            std::mem::take(&mut self.end).close(&mut span, self.began.elapsed());
            self.spans.record(span, self.queue);
        }
    }
}

impl Dispatch<'_> {
    /// An attempt at this place; its span begins now.
    pub(super) fn sent(&self, (selection, place): Placed, kind: AttemptKind, account: &Account<'_>) -> Sent {
        let span = account.trace.recording().map(|recording| {
            let request = recording.begun.context;
            let context = TraceContext { span_id: sampling::span_id(&mut rand::rng()), ..request };
            let span = attempt(&AttemptStart {
                context,
                parent: request.span_id,
                state: &recording.state,
                start: SystemTime::now(),
                endpoint: self.endpoint,
                stream: self.stream,
                number: account.attempts,
                kind,
                selection: &selection,
                topology: &self.snapshot.config.topology,
            });
            Box::new(AttemptSpan {
                spans: Arc::clone(&recording.spans),
                queue: recording.queue,
                context,
                span: Some(span),
                began: Instant::now(),
                end: AttemptEnd::default(),
            })
        });
        (selection, Booking { place, span })
    }
}

impl Booking {
    /// What the replica is told to be a part of, where it is told so for this attempt alone.
    pub(super) fn context(&self) -> Option<TraceContext> {
        self.span.as_ref().map(|span| span.context)
    }

    /// Its answer has begun. What the engine calls the model that answers, where a trace wants to know.
    pub(super) fn began(&mut self, began: &Began) -> Option<String> {
        let end = &mut self.span.as_mut()?.end;
        let (head, pieces) = match began {
            Began::Whole(answer) => (&answer.head, answer.body.as_slice()),
            Began::Under(head, under) => (head, under.ready.as_slice()),
        };
        end.status = Some(head.status.as_u16());
        end.ttft = began.ttft();
        end.response_model = response_model(pieces);
        end.response_model.clone()
    }

    /// It came to nothing.
    pub(super) fn failed(&mut self, failed: &Failed) {
        if let Some(span) = &mut self.span {
            span.end.status = failed.answer.as_ref().map(|answer| answer.head.status.as_u16());
        }
    }

    /// What the engine says it used.
    pub(super) fn used(&mut self, usage: Option<Usage>) {
        if let (Some(span), Some(usage)) = (&mut self.span, usage) {
            span.end.tokens = Tokens::from(&usage);
        }
    }

    /// The answer tells that this share of the prompt was cached.
    pub(super) fn cached(&self, share: f64) {
        self.place.cached(share);
    }

    /// Its answer has begun, so that its prompt was read.
    pub(super) fn was_read(&mut self) {
        self.place.was_read();
    }

    /// The first event of its stream came; `at_home` as of [`InFlight::first_event`].
    pub(super) fn first_event(&mut self, at_home: bool, now: Instant) {
        self.place.first_event(at_home, now);
    }

    /// Reports how it ended.
    pub(super) fn end(mut self, outcome: Outcome, now: Instant) {
        self.note(outcome);
        self.place.end(outcome, now);
    }

    /// The same where it speaks neither for nor against the replica.
    pub(super) fn end_unjudged(mut self, outcome: Outcome) {
        self.note(outcome);
    }

    /// The same where it is open whose fault the ending was.
    pub(super) fn end_in_doubt(mut self, outcome: Outcome) -> Doubt {
        self.note(outcome);
        self.place.end_in_doubt(outcome)
    }

    fn note(&mut self, outcome: Outcome) {
        if let Some(span) = &mut self.span {
            span.end.outcome = Some(outcome);
        }
    }
}

//! What an account says of its request in a trace.

use crate::observe::access_log::Tokens;
use crate::observe::trace::{RequestFacts, Times, request};

use super::Account;

impl Account<'_> {
    /// Records the request's span, if it is sampled. Called once, at its end.
    pub(super) fn record_span(&self) {
        let Some(recording) = self.trace.recording() else { return };
        let topology = &self.snapshot.config.topology;
        let route = self.route();
        let engine = self.selection.map(|selection| topology.pool(selection.pool.pool).engine);
        let span = request(&RequestFacts {
            begun: recording.begun,
            state: &recording.state,
            times: Times { start: self.arrived, took: self.start.elapsed() },
            method: &recording.method,
            http: self.http,
            endpoint: self.endpoint,
            request_id: &self.request_id,
            model: self.model.map(|model| topology.model(model).name.as_str()),
            answered_by: route.map(|route| route.model),
            response_model: recording.response_model.as_deref(),
            step: self.step.as_deref(),
            stream: self.stream,
            session: self.session,
            route: route.map(|route| [route.region, route.pool, route.replica]),
            engine,
            reason: route.map(|route| route.reason),
            attempts: self.attempts,
            resumes: self.resumes,
            status: self.status,
            outcome: self.outcome,
            ttft: self.ttft,
            overhead: self.overhead,
            queued: self.queued,
            tokens: self.usage.as_ref().map(Tokens::from).unwrap_or_default(),
        });
        recording.spans.record(span, recording.queue);
    }
}

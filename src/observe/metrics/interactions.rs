//! What agents' calls cost, and what they come to: interactions.

use prometheus::{CounterVec, Histogram};

use super::Maker;
use crate::policy::interaction::Interaction;

/// The guide's alert (20) is an edge: more calls than that for one interaction are an agent that runs in circles.
const CALLS_BUCKETS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
/// From one short call to an hour of work, with the guide's target (10) and alert (30) as edges.
const SECONDS_BUCKETS: &[f64] =
    &[0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0];
/// USD, with the guide's figures as edges: simple ones 0.002 to 0.01, complex ones to 0.05.
const COST_BUCKETS: &[f64] = &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];

/// Handles of these metrics.
#[derive(Debug)]
pub(super) struct Interactions {
    calls: Histogram,
    seconds: Histogram,
    interaction_cost: Histogram,
    cost: CounterVec,
}

impl Interactions {
    #[rustfmt::skip] // one metric, one line
    pub(super) fn new(new: &Maker<'_>) -> Result<Interactions, prometheus::Error> {
        Ok(Interactions {
            calls: new.histogram("agent_interaction_calls", "LLM calls of an interaction: a session's calls until it idles.", CALLS_BUCKETS)?,
            seconds: new.histogram("agent_interaction_seconds", "From an interaction's first request to its last answer.", SECONDS_BUCKETS)?,
            interaction_cost: new.histogram("agent_interaction_cost_dollars", "What an interaction cost, in USD; of those of which a price is known.", COST_BUCKETS)?,
            cost: new.float_counters("nearpool_cost_dollars_total", "What calls cost, in USD, where a price is known: shares of replicas' time, or their tokens.", &["model", "step_type"])?,
        })
    }

    /// Counts an interaction that is over.
    pub(super) fn closed(&self, interaction: &Interaction) {
        self.calls.observe(interaction.calls.into());
        self.seconds.observe(f64::from(interaction.lasted_ms) / 1_000.0);
        if let Some(dollars) = interaction.cost_dollars() {
            self.interaction_cost.observe(dollars);
        }
    }

    /// Counts what a call cost.
    pub(super) fn cost(&self, model: &str, step: &str, dollars: f64) {
        // The counter panics below 0 in debug builds; no price is.
        self.cost.with_label_values(&[model, step]).inc_by(dollars.max(0.0));
    }
}

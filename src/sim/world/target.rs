//! Where agents call.

use std::sync::Arc;

use super::places::Place;
use super::report::Step;
use super::round_robin::RoundRobin;

/// Where calls go, and which model they name.
#[derive(Debug, Clone)]
pub enum Target {
    /// All to one address, as any SDK's `base_url`.
    BaseUrl {
        /// `http://HOST:PORT`.
        url: String,
        /// The model that every call names; the step's own name when `None`, for an edge that knows the steps' models.
        model: Option<String>,
    },
    /// Each to the next replica in turn of the step's model, in the region nearest to the agent.
    RoundRobin(Arc<RoundRobin>),
}

/// Where one call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Destination<'a> {
    pub(super) url: &'a str,
    /// The model that it names.
    pub(super) model: &'a str,
}

impl Target {
    /// Where the next call goes; `None` when no replica runs the step's model.
    pub(super) fn next(&self, place: Option<&Place>, step: Step) -> Option<Destination<'_>> {
        match self {
            Self::BaseUrl { url, model } => Some(Destination { url, model: model.as_deref().unwrap_or(step.name()) }),
            Self::RoundRobin(turns) => turns.next(place, step),
        }
    }
}

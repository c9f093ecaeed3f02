//! What an agent saw of one call.

use http::HeaderMap;
use std::time::Duration;

use super::session::ERROR_EVENT;

/// The kind of a call within a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Step {
    /// Understands the task and plans.
    Planner,
    /// Fills in a tool's arguments.
    ToolCaller,
    /// Judges what came of it.
    Evaluator,
    /// Writes the final answer.
    Synthesizer,
}

impl Step {
    /// The guide's typical chain: parse, plan, tool, evaluate, tool, synthesize.
    pub const CHAIN: [Self; 6] =
        [Self::Planner, Self::Planner, Self::ToolCaller, Self::Evaluator, Self::ToolCaller, Self::Synthesizer];

    /// Its name, as config and `x-agent-step` know it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planner => "planner",
            Self::ToolCaller => "tool_caller",
            Self::Evaluator => "evaluator",
            Self::Synthesizer => "synthesizer",
        }
    }
}

/// The routing receipt, as the response's headers had it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// `x-nearpool-region`.
    pub region: Option<String>,
    /// `x-nearpool-pool`.
    pub pool: Option<String>,
    /// `x-nearpool-replica`.
    pub replica: Option<String>,
    /// `x-nearpool-model`.
    pub model: Option<String>,
    /// `x-nearpool-reason`.
    pub reason: Option<String>,
    /// `x-nearpool-attempts`.
    pub attempts: Option<String>,
}

impl Receipt {
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self {
            region: text("x-nearpool-region"),
            pool: text("x-nearpool-pool"),
            replica: text("x-nearpool-replica"),
            model: text("x-nearpool-model"),
            reason: text("x-nearpool-reason"),
            attempts: text("x-nearpool-attempts"),
        }
    }
}

/// One call.
#[derive(Debug, Clone)]
pub struct CallReport {
    /// Which agent, from 0.
    pub agent: usize,
    /// Which session, as reports tell them apart. It is never sent.
    pub session: String,
    /// Which call of the session, from 0.
    pub call: usize,
    /// What kind of call.
    pub step: Step,
    /// Where the agent is.
    pub place: String,
    /// Since the agents started.
    pub started: Duration,
    /// The response's status, if there was one.
    pub status: Option<u16>,
    /// Why the call failed; `None` when the answer is whole.
    pub error: Option<String>,
    /// From the request's sending to the first content event.
    pub ttft: Option<Duration>,
    /// From the request's sending to the answer's end, or the failure.
    pub total: Duration,
    /// `usage.prompt_tokens`.
    pub prompt_tokens: Option<u64>,
    /// `usage.prompt_tokens_details.cached_tokens`.
    pub cached_tokens: Option<u64>,
    /// `usage.completion_tokens`.
    pub completion_tokens: Option<u64>,
    /// The model that the answer names: what the replica calls it.
    pub model: Option<String>,
    /// Who answered, if an edge tells.
    pub receipt: Receipt,
}

impl CallReport {
    /// Whether the answer is whole.
    pub fn ok(&self) -> bool {
        self.error.is_none()
    }

    /// Whether the answer had begun and was then ended by an error event: the agent knows that it is not whole.
    pub fn cut(&self) -> bool {
        self.status == Some(200) && self.error.as_ref().is_some_and(|error| error.starts_with(ERROR_EVENT))
    }
}

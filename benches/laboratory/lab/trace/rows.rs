//! One row for each call.

/// All calls of a trace.
pub(crate) enum Rows {
    /// Agents' sessions, each a list of its calls in the order in which they were made: replayed in a closed loop.
    Sessions(Vec<Vec<SessionRow>>),
    /// Calls by their time, from nobody in particular: replayed in an open loop.
    Arrivals(Vec<ArrivalRow>),
}

/// What a prompt is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Of the prompt, in tokens.
    pub(crate) input: u32,
    /// Of the answer, in tokens.
    pub(crate) output: u32,
    /// Whole blocks of the prompt.
    pub(crate) blocks: usize,
    /// The earlier row, by its place in the list, with which the prompt begins.
    pub(crate) reference: Option<usize>,
    /// How many blocks the two have in common. The rest is new.
    pub(crate) same: usize,
}

/// A call of an agent's session. Blocks have [`SessionRow::BLOCK_TOKENS`] tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SessionRow {
    /// 0: the main agent; else a sub-agent.
    pub(crate) agent: u32,
    /// When it was made, since the session began.
    pub(crate) at_ms: u64,
    /// How long after its agent's last answer.
    pub(crate) think_ms: u64,
    /// How long its answer took where it was recorded.
    pub(crate) answer_ms: u64,
    /// Tokens of tools and system prompt, which calls of other sessions with the same number begin with too.
    pub(crate) common: u32,
    /// The prompt.
    pub(crate) shape: Shape,
}

impl SessionRow {
    /// Tokens in one block of a session's prompt.
    pub(crate) const BLOCK_TOKENS: usize = 64;
}

/// A call of an open loop. Blocks have [`ArrivalRow::BLOCK_TOKENS`] tokens, and rows refer to rows of the whole file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ArrivalRow {
    /// The tick in which it came.
    pub(crate) at_ms: u64,
    /// What tells its session.
    pub(crate) kind: Kind,
    /// The prompt.
    pub(crate) shape: Shape,
}

impl ArrivalRow {
    /// Tokens in one block of an arrival's prompt.
    pub(crate) const BLOCK_TOKENS: usize = 512;
    /// The recorded time is rounded down to ticks of this length.
    pub(crate) const TICK_MS: u64 = 3_000;
}

/// Kinds of calls of an open loop.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A conversation.
    Chat,
    /// A call with a long shared prompt.
    Tool46,
    /// A call with a short shared prompt.
    Tool74,
}

impl Kind {
    /// The block that tells which session a call belongs to: in a chat the one after the block that all chats begin
    /// with, in a tool call the last of the shared prompt.
    pub(crate) fn telling_block(self) -> usize {
        match self {
            Kind::Chat => 1,
            Kind::Tool46 => 11,
            Kind::Tool74 => 4,
        }
    }

    /// The blocks that all calls of the kind begin with: a system prompt.
    pub(crate) fn common_blocks(self) -> usize {
        match self {
            Kind::Chat => self.telling_block(),
            Kind::Tool46 | Kind::Tool74 => self.telling_block() + 1,
        }
    }
}

//! What a call's prompt is made of, as far as caches and sessions tell prompts apart: hashes, never text.

/// The most of a conversation's newest messages that are kept as [`Conversation::ends`]: an agent's call adds a few
/// messages to its last one, a step with many parallel tools some dozens.
pub const CONVERSATION_ENDS_MAX: usize = 256;

/// One prompt.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Prompt {
    /// After which of its beginnings a cache may end, shortest first.
    pub cuts: Vec<Cut>,
    /// Tokens of the whole, estimated from its bytes.
    pub tokens: u32,
    /// The conversation, where messages tell it: not for embeddings, nor before the user has said something.
    pub conversation: Option<Conversation>,
}

/// A beginning of a prompt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// A hash over everything from the prompt's start to here: tools, system prompt, messages.
    pub chain: u64,
    /// Tokens from the prompt's start to here, estimated from their bytes.
    pub tokens: u32,
}

/// What makes a conversation recognisable in a later call: that one repeats all of its messages and adds some.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conversation {
    /// A hash of the messages up to and with the first one of the user, the system prompt included and the tools not.
    pub opening: u128,
    /// A hash of all messages up to and with each one, oldest first: those of the newest ones, at most
    /// [`CONVERSATION_ENDS_MAX`]. The last stands for the whole list.
    pub ends: Vec<u128>,
}

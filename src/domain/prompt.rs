//! What a call's prompt is made of, as far as caches and sessions tell prompts apart.

/// Most ends of a conversation that are told. A call adds a few messages to the one before it, with parallel tool calls
/// some dozens; only a list that was not seen for 255 messages is not found again.
pub const CONVERSATION_ENDS_MAX: usize = 256;

/// Bytes of a prompt that count as one token, everywhere: an estimate, good to a third for prose and code.
pub const BYTES_PER_TOKEN: usize = 4;

/// Tokens of so many bytes, estimated.
pub fn estimated_tokens(bytes: usize) -> u32 {
    u32::try_from(bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX)
}

/// A prompt in hashes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Prompt {
    /// Where a beginning that another prompt shares may end, growing: the same prompt with more behind it has all of
    /// these and then more.
    pub cuts: Vec<Cut>,
    /// Estimated tokens of the whole prompt.
    pub tokens: u32,
    /// The conversation, where the messages tell it; `None` for embeddings, for several prompts in one call, for what the
    /// engine itself stores the beginning of, and without a message of the user's.
    pub conversation: Option<Conversation>,
}

impl Prompt {
    /// Whether an answer stands in it, so that its conversation began with an earlier call: after the opening come at least
    /// that answer and what was said to it. Of a text it is never known.
    pub fn has_answer(&self) -> bool {
        let conversation = self.conversation.as_ref();
        conversation.is_some_and(|told| told.ends.len() > 2 && told.ends.last() != Some(&told.opening))
    }
}

/// A place in a prompt after which a cached beginning may end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut {
    /// Hash over everything from the prompt's start (tools, system, messages) to here.
    pub chain: u64,
    /// Estimated tokens from the prompt's start to here.
    pub tokens: u32,
}

/// What names a session that nobody gave a name: its messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conversation {
    /// Hash of the messages up to and with the first of the user's, the system's included, tools not.
    pub opening: u128,
    /// Hash of all messages up to and with each one from the opening on, oldest first: the newest of them, at most
    /// [`CONVERSATION_ENDS_MAX`]. The last stands for the whole list; the first is the opening, unless that was left out.
    pub ends: Vec<u128>,
}

//! Strings of a body that may name the session. What they mean is [`wire::names`](crate::wire::names)'s to say.

/// A string that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    /// `conversation`, or the `id` in it.
    Conversation,
    /// `session_id`.
    SessionId,
    /// `session_id` in `metadata`.
    MetadataSessionId,
    /// `user_id` in `metadata`.
    MetadataUserId,
    /// `user`.
    User,
    /// `prompt_cache_key`.
    PromptCacheKey,
    /// `previous_response_id`.
    PreviousResponse,
}

impl Field {
    const COUNT: usize = Field::PreviousResponse as usize + 1;
}

/// Longest of these strings in the body, escapes as they are: a name of 256 bytes, each of them escaped, and more than the
/// 300 or so that Claude Code's `user_id` takes. A longer one is passed over.
pub(super) const FIELD_RAW_MAX: usize = 256 * 6;

/// The strings that were found, escapes decoded. One of another type, too long, empty or no text is not among them; of a
/// key that stands twice the last one is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fields([Option<String>; Field::COUNT]);

impl Fields {
    /// What stands there.
    pub fn get(&self, field: Field) -> Option<&str> {
        self.0[field as usize].as_deref()
    }

    /// Takes a string in as it stands in the body, quotes included.
    pub(super) fn put(&mut self, field: Field, raw: &[u8]) {
        let text = serde_json::from_slice(raw).ok().filter(|text: &String| !text.is_empty());
        self.0[field as usize] = text;
    }
}

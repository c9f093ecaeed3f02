//! The keys that something is read from.

use super::fields::Field;
use super::parts::PartKey;

/// A top-level key. A new one is added here and in `Scanner::top_value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TopKey {
    Model,
    Stream,
    Store,
    Background,
    StreamOptions,
    /// A part of the prompt.
    Part(PartKey),
    /// A string that may name the session, or what it goes on from.
    Field(Field),
    /// `metadata`, which may hold such strings.
    Metadata,
    /// `conversation`, which is such a string or holds one.
    Conversation,
    Other,
}

impl TopKey {
    pub(super) fn named(name: &str) -> TopKey {
        match name {
            "model" => TopKey::Model,
            "stream" => TopKey::Stream,
            "store" => TopKey::Store,
            "background" => TopKey::Background,
            "stream_options" => TopKey::StreamOptions,
            "messages" => TopKey::Part(PartKey::Messages),
            "input" => TopKey::Part(PartKey::Input),
            "prompt" => TopKey::Part(PartKey::Prompt),
            "system" => TopKey::Part(PartKey::System),
            "instructions" => TopKey::Part(PartKey::Instructions),
            "tools" => TopKey::Part(PartKey::Tools),
            "cache_salt" => TopKey::Part(PartKey::CacheSalt),
            "extra_key" => TopKey::Part(PartKey::ExtraKey),
            "session_id" => TopKey::Field(Field::SessionId),
            "user" => TopKey::Field(Field::User),
            "prompt_cache_key" => TopKey::Field(Field::PromptCacheKey),
            "previous_response_id" => TopKey::Field(Field::PreviousResponse),
            "metadata" => TopKey::Metadata,
            "conversation" => TopKey::Conversation,
            _ => TopKey::Other,
        }
    }

    /// Whether the keys of an object that stands there are read, too.
    pub(super) const fn is_looked_into(self) -> bool {
        matches!(self, TopKey::Metadata | TopKey::Conversation)
    }

    /// What a string right behind this key is.
    pub(super) const fn field(self) -> Option<Field> {
        match self {
            TopKey::Field(field) => Some(field),
            TopKey::Conversation => Some(Field::Conversation),
            _ => None,
        }
    }

    /// What a string behind the key `name` is, in the object that stands here.
    pub(super) fn field_within(self, name: &str) -> Option<Field> {
        match (self, name) {
            (TopKey::Metadata, "session_id") => Some(Field::MetadataSessionId),
            (TopKey::Metadata, "user_id") => Some(Field::MetadataUserId),
            (TopKey::Conversation, "id") => Some(Field::Conversation),
            _ => None,
        }
    }
}

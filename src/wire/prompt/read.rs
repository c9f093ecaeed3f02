//! A prompt's parts in the order of the templates.

use std::ops::Range;

use super::digest::{Digest, Section};
use super::json::member;
use super::normal::Normal;
use super::segments::Segments;
use crate::domain::ask::Endpoint;
use crate::domain::prompt::{CONVERSATION_ENDS_MAX, Conversation, Prompt};
use crate::wire::body::Body;
use crate::wire::scan::{Part, PartKey, Scan};

/// A message that is a bare string, as it stands in the list of the next call.
const USERS_MESSAGE: (&[u8], &[u8]) = (br#"{"role":"user","content":"#, b"}");

/// Reads what a request's prompt is made of. `scan` must be that of `body`.
///
/// An element that lies across the body's chunks is joined for it, one at a time: that is all that is copied. A text of
/// the completions is its own conversation, in blocks of 1 KiB: each whole block is an end and the last one the opening,
/// so that a call which sends the same text with more behind it continues it.
pub fn read(scan: &Scan, body: &Body, endpoint: Endpoint) -> Prompt {
    let (system, list) = match endpoint {
        Endpoint::Chat => (None, PartKey::Messages),
        Endpoint::Messages => (Some(PartKey::System), PartKey::Messages),
        Endpoint::Responses => (Some(PartKey::Instructions), PartKey::Input),
        Endpoint::Completions => (None, PartKey::Prompt),
        Endpoint::Embeddings | Endpoint::CountTokens => return Prompt::default(),
    };
    let parts = &scan.parts;
    let mut reader =
        Reader { segments: Segments::of(body), normal: Normal::new(scan.marked), digest: Digest::default() };
    for (section, key) in [(Section::CacheSalt, PartKey::CacheSalt), (Section::ExtraKey, PartKey::ExtraKey)] {
        parts.get(key).into_iter().for_each(|part| reader.salt(section, part));
    }
    let conversation = match parts.get(list) {
        list if endpoint == Endpoint::Completions => list.and_then(|prompt| reader.text(prompt)),
        list => {
            let tools = (Section::Tools, parts.get(PartKey::Tools));
            let system = (Section::System, system.and_then(|key| parts.get(key)));
            for (section, part) in [tools, system] {
                part.into_iter().for_each(|part| reader.value(section, part));
            }
            list.and_then(|list| reader.messages(list))
        }
    };
    let (cuts, tokens) = reader.digest.finish();
    if scan.goes_on && endpoint == Endpoint::Responses {
        // The prompt begins with what the engine stores: these are but its last messages.
        return Prompt { tokens, ..Prompt::default() };
    }
    Prompt { cuts, tokens, conversation: conversation.filter(|_| !parts.twice) }
}

struct Reader {
    segments: Segments,
    normal: Normal,
    digest: Digest,
}

impl Reader {
    /// A value by which the client keeps its prompts' caches apart.
    fn salt(&mut self, section: Section, part: &Part) {
        let bytes = self.segments.joined(part.range.clone());
        self.digest.section(section);
        self.digest.salt(&bytes);
    }

    /// Tools or a system prompt: one element.
    fn value(&mut self, section: Section, part: &Part) {
        let bytes = self.segments.joined(part.range.clone());
        self.digest.section(section);
        self.digest.element(&self.normal.value(&bytes), matches!(section, Section::System), false);
    }

    /// A list of messages, or one message of the user's.
    fn messages(&mut self, list: &Part) -> Option<Conversation> {
        self.digest.section(Section::Messages);
        if list.items.is_empty() || list.scalars {
            return self.sole_message(list);
        }
        let (mut opened, mut ends) = (false, Vec::new());
        for (index, item) in list.items.iter().enumerate() {
            let is_rest = list.is_overfull() && index + 1 == list.items.len();
            let message = self.segments.joined(item.clone());
            self.digest.element(&self.normal.message(&message), true, is_rest);
            opened = opened || is_users(&message);
            if opened {
                ends.push(self.digest.identity());
            }
        }
        // Of a list that is not told whole, the next one is no continuation that could be recognised.
        conversation(*ends.first()?, ends).filter(|_| !list.is_overfull())
    }

    /// A string is one message of the user's; anything else is none, and the engine's to refuse.
    fn sole_message(&mut self, value: &Part) -> Option<Conversation> {
        let bytes = self.segments.joined(value.range.clone());
        if bytes.first() != Some(&b'"') {
            self.digest.count(bytes.len());
            return None;
        }
        self.digest.element(&[USERS_MESSAGE.0, &bytes, USERS_MESSAGE.1], true, false);
        let end = self.digest.identity();
        conversation(end, vec![end])
    }

    /// The prompt of a completion: one text, or one list of token ids, bare or as the only item of a list.
    fn text(&mut self, prompt: &Part) -> Option<Conversation> {
        let whole = match (prompt.items.as_slice(), prompt.scalars) {
            ([], _) => prompt.range.clone(),
            ([only], false) => only.clone(),
            // Several prompts, each with a cache of its own.
            _ => {
                self.digest.count(prompt.range.len());
                return None;
            }
        };
        // Without its quotes or brackets, the end of which moves when it grows.
        let inside: Range<usize> = whole.start + 1..whole.end.saturating_sub(1);
        let first = self.segments.pieces(whole).find_map(|piece| piece.first());
        if !matches!(first, Some(b'"' | b'[')) {
            return None;
        }
        self.digest.section(Section::Text);
        let ends = self.digest.text(self.segments.pieces(inside));
        conversation(*ends.last()?, ends)
    }
}

fn conversation(opening: u128, mut ends: Vec<u128>) -> Option<Conversation> {
    ends.drain(..ends.len().saturating_sub(CONVERSATION_ENDS_MAX));
    Some(Conversation { opening, ends })
}

fn is_users(message: &[u8]) -> bool {
    member(message, b"\"role\"").is_some_and(|at| message[at.min(message.len())..].starts_with(b"\"user\""))
}

#[cfg(test)]
mod tests;

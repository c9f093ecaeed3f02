//! An answer: decided whole before the engine starts on it, told piece by piece as the engine's tokens come.

use bytes::Bytes;
use serde_json::Value;
use std::collections::VecDeque;
use std::ops::Range;

use super::call::Call;
use crate::sim::prompt::ToolCall;
use crate::sim::text::{TOKEN_BYTES, Tokens, mix, token_id, word};

/// What the engine will say.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    /// Tokens that the engine takes for it, at least 1.
    pub(super) tokens: u64,
    pub(super) finish: Finish,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    /// Tokens `position .. position + words` under `key`.
    Text { key: u64, position: u64, words: u64 },
    /// A tool call: so many tokens before the arguments, then one for each piece of them.
    Call { call: ToolCall, id: String, head: u64, pieces: Vec<String> },
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finish {
    Stop,
    Length,
    ToolCalls,
}

/// What one token adds to an answer, or several tokens of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text {
        text: String,
        token_ids: Vec<u32>,
    },
    CallStart {
        id: String,
        name: String,
    },
    CallArguments(String),
    /// A token that shows nothing.
    Silent,
}

/// Tokens, as every dialect's `usage` tells them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) prompt: u64,
    pub(super) cached: u64,
    pub(super) completion: u64,
}

/// What every dialect says about an answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Meta {
    /// Identifier without the dialect's prefix.
    pub(super) id: String,
    /// Unix time, seconds.
    pub(super) created_s: u64,
    pub(super) model: String,
}

/// A dialect's way to tell an answer. For a stream: `open` once, `piece` for each token, `close` once, each adding whole SSE
/// events. Otherwise `whole`.
pub(super) trait Voice: Send {
    fn open(&mut self, meta: &Meta, usage: &Usage, out: &mut VecDeque<Bytes>);
    fn piece(&mut self, meta: &Meta, piece: &Piece, out: &mut VecDeque<Bytes>);
    fn close(&mut self, meta: &Meta, answer: &Answer, usage: &Usage, out: &mut VecDeque<Bytes>);
    fn whole(&mut self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value;
}

impl Answer {
    /// Decides the answer to a call. `natural` bounds the length of an answer for which nothing is said.
    pub(super) fn plan(call: &Call, natural: (u64, u64), id: &str) -> Self {
        let most = call.max_tokens.unwrap_or(u64::MAX).max(1);
        if let Some(tool) = &call.tool {
            return Self::plan_call(tool, most, id);
        }
        let (key, position) = (call.prompt.key, call.prompt.position);
        let spread = natural.1.saturating_sub(natural.0) + 1;
        let length = call.hints.tokens.unwrap_or(natural.0 + mix(key) % spread);
        let rest = length.saturating_sub(position);
        let words = rest.min(most);
        let finish = if rest > most { Finish::Length } else { Finish::Stop };
        // A continued answer that was whole already still costs the token that says so.
        Self { kind: Kind::Text { key, position, words }, tokens: words.max(1), finish }
    }

    fn plan_call(tool: &ToolCall, most: u64, id: &str) -> Self {
        let mut pieces = split(&tool.arguments);
        let head = tool.tokens().len().saturating_sub(pieces.len() as u64).max(1);
        let all = head + pieces.len() as u64;
        let tokens = all.min(most).max(1);
        pieces.truncate(tokens.saturating_sub(head) as usize);
        let call = ToolCall { name: tool.name.clone(), arguments: pieces.concat() };
        let finish = if tokens < all { Finish::Length } else { Finish::ToolCalls };
        Self { kind: Kind::Call { call, id: id.to_owned(), head, pieces }, tokens, finish }
    }

    /// What token `index` adds.
    pub(super) fn piece(&self, index: u64) -> Piece {
        match &self.kind {
            Kind::Text { key, position, words } if index < *words => {
                let text = word(*key, position + index);
                Piece::Text { token_ids: vec![token_id(text.as_bytes())], text }
            }
            Kind::Text { .. } => Piece::Silent,
            Kind::Call { call, id, .. } if index == 0 => Piece::CallStart { id: id.clone(), name: call.name.clone() },
            Kind::Call { head, pieces, .. } => index
                .checked_sub(*head)
                .and_then(|at| pieces.get(at as usize))
                .map_or(Piece::Silent, |piece| Piece::CallArguments(piece.clone())),
        }
    }

    /// What these tokens add, those of a text in one piece.
    pub(super) fn joined(&self, tokens: Range<u64>) -> Vec<Piece> {
        let mut joined: Vec<Piece> = Vec::new();
        for piece in tokens.map(|index| self.piece(index)) {
            match (joined.last_mut(), piece) {
                (Some(Piece::Text { text, token_ids }), Piece::Text { text: more, token_ids: ids }) => {
                    text.push_str(&more);
                    token_ids.extend(ids);
                }
                (_, piece) => joined.push(piece),
            }
        }
        joined
    }

    /// The whole text; empty for a tool call.
    pub(super) fn text(&self) -> String {
        match &self.kind {
            Kind::Text { key, position, words } => (0..*words).map(|at| word(*key, position + at)).collect(),
            Kind::Call { .. } => String::new(),
        }
    }

    /// The tool call with its id.
    pub(super) fn call(&self) -> Option<(&str, &ToolCall)> {
        match &self.kind {
            Kind::Text { .. } => None,
            Kind::Call { call, id, .. } => Some((id, call)),
        }
    }

    /// Prompt and answer as the engine's cache will hold them.
    pub(super) fn after(&self, prompt: &Tokens) -> Tokens {
        let mut tokens = prompt.clone();
        match &self.kind {
            Kind::Text { .. } => tokens.push(&self.text()),
            Kind::Call { call, .. } => tokens.push_ids(&call.tokens().ids()),
        }
        tokens
    }
}

/// Pieces of at most one token's bytes, never within a character.
fn split(text: &str) -> Vec<String> {
    let mut pieces: Vec<String> = Vec::with_capacity(text.len() / TOKEN_BYTES + 1);
    for letter in text.chars() {
        match pieces.last_mut() {
            Some(piece) if piece.len() + letter.len_utf8() <= TOKEN_BYTES => piece.push(letter),
            _ => pieces.push(letter.to_string()),
        }
    }
    pieces
}

/// One SSE event of `data` only.
pub(super) fn data_event(data: &Value) -> Bytes {
    Bytes::from(format!("data: {data}\n\n"))
}

/// One SSE event that is named as its field `type`.
pub(super) fn typed_event(data: &Value) -> Bytes {
    let name = data["type"].as_str().unwrap_or_default();
    Bytes::from(format!("event: {name}\ndata: {data}\n\n"))
}

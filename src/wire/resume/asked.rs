//! The request of a stream that broke off, read again: where the text so far is put in, and what forbids it.
//!
//! Every byte of the request stays but those that must change. For chat, vLLM and SGLang are told by
//! `continue_final_message` and `add_generation_prompt` to go on with the last message; llama.cpp does so with any
//! assistant's message at the end. For completions the text is a part of the prompt.

use std::ops::Range;

use bytes::Bytes;

use super::told::Told;
use crate::domain::ask::Dialect;
use crate::domain::topology::Engine;
use crate::policy::resume::Obstacle;
use crate::wire::body::Edit;
use crate::wire::members::{Members, inside, items, place};

/// Tokens of a completion for which nothing is said, at vLLM and SGLang (as at OpenAI). llama.cpp has no such limit, nor has
/// an engine that has made more.
const COMPLETION_TOKENS_DEFAULT: u64 = 16;

/// Keys that bound the answer's tokens from above; from below there is `min_tokens`.
const MOST: [&str; 3] = ["max_tokens", "max_completion_tokens", "n_predict"];

/// A request as far as its continuation depends on it.
#[derive(Debug, Default)]
pub struct Asked {
    /// Whether the client asked for the event that reports tokens.
    pub usage: bool,
    obstacle: Option<Obstacle>,
    completions: bool,
    /// Before the closing bracket of `messages`, or the closing quote of `prompt`.
    text_at: usize,
    /// Before the closing brace of it all.
    end_at: usize,
    most: Vec<(Range<usize>, u64)>,
    least: Option<(Range<usize>, u64)>,
}

impl Asked {
    /// Reads the request's body.
    pub fn read(dialect: Dialect, body: &[u8]) -> Asked {
        let unread = || Asked { obstacle: Some(Obstacle::Unread), ..Asked::default() };
        let Some(members) = Members::read(body) else { return unread() };
        let options = members.get("stream_options").and_then(|options| Members::read(options.as_bytes()));
        let usage = options.is_some_and(|options| options.get("include_usage") == Some("true"));
        let mut asked = Asked { usage, completions: dialect == Dialect::Completions, ..unread() };
        asked.obstacle = asked.fill(&members, body).err().or_else(|| forbids(&members));
        asked
    }

    /// What makes of the request one for the rest of the answer, at an engine of this kind; `None` when the answer has all
    /// the tokens that it may have.
    pub fn continuation(&self, told: &Told, engine: Engine) -> Result<Option<Vec<Edit>>, Obstacle> {
        if let Some(obstacle) = self.obstacle.or(told.obstacle()) {
            return Err(obstacle);
        }
        let asks_for_it = !self.completions && matches!(engine, Engine::Vllm | Engine::Sglang);
        // Chat templates trim messages, and an empty one is no place to continue from.
        if asks_for_it && !told.text.is_empty() && is_blank(&told.text) {
            return Err(Obstacle::Blank);
        }
        let (mut edits, spent, mut more) = (Vec::new(), told.tokens.told(), String::new());
        for (at, most) in &self.most {
            let Some(left) = most.checked_sub(spent).filter(|left| *left > 0) else { return Ok(None) };
            edits.push((at.clone(), left.to_string().into()));
        }
        if self.most.is_empty() && self.completions && engine != Engine::LlamaCpp {
            match COMPLETION_TOKENS_DEFAULT.checked_sub(spent) {
                Some(0) => return Ok(None),
                Some(left) => more.push_str(&format!(",\"max_tokens\":{left}")),
                None => {}
            }
        }
        if let Some((at, least)) = &self.least {
            edits.push((at.clone(), least.saturating_sub(spent).to_string().into()));
        }
        if !told.text.is_empty() {
            edits.push((self.text_at..self.text_at, self.text(&told.text)));
            if asks_for_it {
                more.push_str(",\"continue_final_message\":true,\"add_generation_prompt\":false");
            }
        }
        edits.push((self.end_at..self.end_at, more.into()));
        Ok(Some(edits))
    }

    fn text(&self, text: &[u8]) -> Bytes {
        if self.completions {
            return Bytes::copy_from_slice(text);
        }
        [b",{\"role\":\"assistant\",\"content\":\"", text, b"\"}"].concat().into()
    }

    fn fill(&mut self, members: &Members<'_>, body: &[u8]) -> Result<(), Obstacle> {
        let key = if self.completions { "prompt" } else { "messages" };
        if [key, "stream_options"].iter().chain(&MOST).any(|key| members.has_twice(key)) {
            return Err(Obstacle::Unread);
        }
        let value = members.get(key).ok_or(Obstacle::Unread)?;
        self.text_at = end_of(value, body)?;
        self.end_at = body.trim_ascii_end().len().saturating_sub(1);
        if self.completions {
            inside(value).ok_or(Obstacle::Prompt)?;
        } else {
            check_last(value)?;
        }
        for key in MOST {
            // llama.cpp takes a negative number for no limit.
            if let Some(value) = members.get(key).filter(|value| !value.starts_with('-')) {
                self.most.push(number(value, body)?);
            }
        }
        self.least = members.get("min_tokens").map(|value| number(value, body)).transpose()?;
        Ok(())
    }
}

/// The place before the last byte of a value.
fn end_of(value: &str, body: &[u8]) -> Result<usize, Obstacle> {
    place(value, body).map(|place| place.end - 1).ok_or(Obstacle::Unread)
}

fn number(value: &str, body: &[u8]) -> Result<(Range<usize>, u64), Obstacle> {
    let at = place(value, body).ok_or(Obstacle::Unread)?;
    Ok((at, value.parse().map_err(|_| Obstacle::Option)?))
}

/// The last message must not be an assistant's: what was told would not follow it but be a part of it.
fn check_last(messages: &str) -> Result<(), Obstacle> {
    let messages = items(messages).ok_or(Obstacle::Unread)?;
    let last = messages.last().and_then(|last| Members::read(last.get().as_bytes())).ok_or(Obstacle::Unread)?;
    match last.get("role") {
        Some("\"user\"" | "\"tool\"" | "\"system\"" | "\"developer\"" | "\"function\"") => Ok(()),
        Some(_) => Err(Obstacle::Prefill),
        None => Err(Obstacle::Unread),
    }
}

/// What in the request forbids to continue its answer.
fn forbids(members: &Members<'_>) -> Option<Obstacle> {
    members.0.iter().find_map(|(key, value)| {
        let value = value.get();
        if matches!(value, "null" | "false") && !matches!(&**key, "continue_final_message" | "add_generation_prompt") {
            return None;
        }
        let unless = |fine: bool, obstacle| if fine { None } else { Some(obstacle) };
        match &**key {
            "n" => unless(value == "1", Obstacle::Choices),
            "best_of" => unless(value == "1", Obstacle::Option),
            "logprobs" | "prompt_logprobs" => Some(Obstacle::Logprobs),
            "n_probs" => unless(value == "0", Obstacle::Logprobs),
            "echo" | "use_beam_search" | "audio" | "return_token_ids" | "return_tokens_as_token_ids" => {
                Some(Obstacle::Option)
            }
            "suffix" => unless(value == "\"\"", Obstacle::Option),
            "continue_final_message" | "add_generation_prompt" => Some(Obstacle::Prefill),
            "tool_choice" | "function_call" => unless(matches!(value, "\"auto\"" | "\"none\""), Obstacle::Guided),
            "response_format" => unless(is_text_format(value), Obstacle::Guided),
            "grammar" | "json_schema" | "regex" | "ebnf" | "structural_tag" | "structured_outputs" => {
                unless(value == "\"\"", Obstacle::Guided)
            }
            guided if guided.starts_with("guided_") => Some(Obstacle::Guided),
            _ => None,
        }
    })
}

fn is_text_format(value: &str) -> bool {
    Members::read(value.as_bytes()).is_some_and(|format| format.get("type") == Some("\"text\""))
}

/// Whether text has nothing but white space, its escapes included.
fn is_blank(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b' ', _) => after,
            (b'\\', [b'n' | b'r' | b't', after @ ..]) => after,
            _ => return false,
        };
    }
    true
}

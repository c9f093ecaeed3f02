//! One event of a chat or completions stream, read as far as a continuation depends on it.

use serde_json::value::RawValue;

use crate::domain::ask::Dialect;
use crate::policy::resume::Obstacle;
use crate::wire::members::{Members, inside, items};

/// What one event says.
pub(super) struct Chunk<'a> {
    /// `id`, `created`, … as they stand.
    pub(super) top: Members<'a>,
    /// The object `usage`, when it is one.
    pub(super) usage: Option<&'a str>,
    /// The choice; an event that only reports has none.
    pub(super) choice: Option<Choice<'a>>,
}

/// What one event adds to the answer.
#[derive(Default)]
pub(super) struct Choice<'a> {
    /// Chat's `delta`.
    pub(super) delta: Option<&'a str>,
    /// The text that it adds, escapes as they are; empty when it adds none.
    pub(super) text: &'a str,
    /// Whether it names the speaker.
    pub(super) role: bool,
    /// Whether it tells why the answer ends.
    pub(super) finished: bool,
    /// What in it cannot be continued.
    pub(super) obstacle: Option<Obstacle>,
}

impl<'a> Chunk<'a> {
    /// Reads an event's data; `None` when it is no chunk of the dialect.
    pub(super) fn read(dialect: Dialect, data: &'a [u8]) -> Option<Chunk<'a>> {
        let top = Members::read(data)?;
        let usage = top.get("usage").filter(|usage| usage.starts_with('{'));
        let choice = match top.get("choices").map_or(Some(Vec::new()), items)?.as_slice() {
            [] => None,
            [one] => Some(Choice::read(dialect, one)?),
            [one, ..] => Some(Choice { obstacle: Some(Obstacle::Choices), ..Choice::read(dialect, one)? }),
        };
        Some(Chunk { top, usage, choice })
    }

    /// Whether it adds text and nothing else.
    pub(super) fn is_plain_text(&self) -> bool {
        let plain = |choice: &Choice<'_>| !choice.text.is_empty() && !choice.finished && choice.obstacle.is_none();
        self.usage.is_none() && self.choice.as_ref().is_some_and(plain)
    }
}

impl<'a> Choice<'a> {
    fn read(dialect: Dialect, choice: &'a RawValue) -> Option<Choice<'a>> {
        let members = Members::read(choice.get().as_bytes())?;
        // Some engines say `""` where others say `null`.
        let finished = members.get("finish_reason").is_some_and(|reason| reason != "\"\"");
        let mut read = Choice { finished, ..Choice::default() };
        if dialect == Dialect::Chat {
            read.delta = members.get("delta");
            if let Some(delta) = read.delta {
                read.delta(&Members::read(delta.as_bytes())?)?;
            }
        } else {
            read.text = members.get("text").map_or(Some(""), inside)?;
        }
        if members.get("index").is_some_and(|index| index != "0") {
            read.obstacle = Some(Obstacle::Choices);
        } else if members.get("logprobs").is_some() {
            read.obstacle = Some(Obstacle::Logprobs);
        }
        Some(read)
    }

    fn delta(&mut self, members: &Members<'a>) -> Option<()> {
        for (key, value) in &members.0 {
            match (&**key, value.get()) {
                (_, "null" | "\"\"" | "[]" | "{}") => {}
                ("role", _) => self.role = true,
                // Another form than a string is none that could be given back.
                ("content", text) => self.text = inside(text)?,
                ("tool_calls" | "function_call", _) => self.obstacle = Some(Obstacle::ToolCall),
                ("reasoning" | "reasoning_content", _) => self.obstacle = Some(Obstacle::Reasoning),
                _ => self.obstacle = self.obstacle.or(Some(Obstacle::Unread)),
            }
        }
        Some(())
    }
}

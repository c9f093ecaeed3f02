//! The events of the replica that goes on, as the client is to see them: one answer, with one id.

use std::borrow::Cow;
use std::ops::Range;

use super::chunk::Chunk;
use super::told::Told;
use crate::policy::resume::Obstacle;
use crate::wire::members::{Members, place};
use crate::wire::sse::{EventKind, data_of};
use crate::wire::usage::Usage;

/// An event that cannot go on where the answer stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the continuation is none")]
pub struct Unfit;

impl Told {
    /// Puts an event of the replica that goes on behind `out`, as the client is to see it: with the first stream's `id` and
    /// `created`, without naming the speaker again, and with the tokens of the whole answer. What opens its stream and says
    /// nothing is left out. After an error it can be continued no further.
    pub fn continued(&mut self, event: &[u8], kind: EventKind, out: &mut Vec<u8>) -> Result<(), Unfit> {
        self.fit(event, kind, out).inspect_err(|Unfit| self.obstruct(Obstacle::Unread))
    }

    fn fit(&mut self, event: &[u8], kind: EventKind, out: &mut Vec<u8>) -> Result<(), Unfit> {
        if kind != EventKind::Data {
            out.extend_from_slice(event);
            return Ok(());
        }
        // No engine spreads a chunk over several lines.
        let Cow::Borrowed(data) = data_of(event) else { return Err(Unfit) };
        let chunk = Chunk::read(self.dialect, data).ok_or(Unfit)?;
        // An engine that takes the rest of an answer for reasoning would hide it behind a whole one's end.
        let obstacle = chunk.choice.as_ref().and_then(|choice| choice.obstacle);
        if matches!(obstacle, Some(Obstacle::Reasoning | Obstacle::Choices)) {
            return Err(Unfit);
        }
        let names_the_speaker_first = !self.role && chunk.choice.as_ref().is_some_and(|choice| choice.role);
        let speaker_is_known = self.role;
        let sum = self.chunk(&chunk, event, false);
        if let Some(choice) = &chunk.choice {
            let silent = choice.text.is_empty() && obstacle.is_none() && !choice.finished;
            if self.opening && silent && !names_the_speaker_first {
                return Ok(());
            }
            self.opening &= silent;
        }
        let mut edits = Vec::new();
        let mut edit = |at: Option<&str>, new: Cow<'_, str>| {
            let at = at.and_then(|at| place(at, event));
            edits.extend(at.map(|at| (at, new.into_owned())));
        };
        for (key, own) in [("id", &self.identity.id), ("created", &self.identity.created)] {
            if !own.is_empty() {
                edit(chunk.top.get(key), own.into());
            }
        }
        if let Some(choice) = chunk.choice.as_ref().filter(|choice| choice.role && speaker_is_known) {
            edit(choice.delta, choice.delta.map_or_else(String::new, without_role).into());
        }
        if let Some(sum) = sum {
            edit(chunk.usage, chunk.usage.map_or_else(String::new, |usage| with_sum(usage, sum)).into());
        }
        write(event, edits, out);
        Ok(())
    }
}

fn without_role(delta: &str) -> String {
    let members = Members::read(delta.as_bytes()).unwrap_or_default();
    members.rewritten(|key, value| (key != "role").then_some(value.into()))
}

fn with_sum(usage: &str, sum: Usage) -> String {
    let members = Members::read(usage.as_bytes()).unwrap_or_default();
    members.rewritten(|key, value| {
        Some(match key {
            "prompt_tokens" => sum.prompt_tokens.to_string().into(),
            "completion_tokens" => sum.completion_tokens.to_string().into(),
            "total_tokens" => sum.prompt_tokens.saturating_add(sum.completion_tokens).to_string().into(),
            "prompt_tokens_details" => with_cached(value, sum.cached_tokens).unwrap_or(value.into()),
            _ => value.into(),
        })
    })
}

fn with_cached(details: &str, cached: Option<u64>) -> Option<Cow<'_, str>> {
    let cached = cached?.to_string();
    let members = Members::read(details.as_bytes())?;
    let change =
        |key: &str, value| Some(if key == "cached_tokens" { cached.clone().into() } else { Cow::Borrowed(value) });
    Some(members.rewritten(change).into())
}

fn write(event: &[u8], mut edits: Vec<(Range<usize>, String)>, out: &mut Vec<u8>) {
    edits.sort_by_key(|(at, _)| at.start);
    let mut from = 0;
    for (at, new) in edits {
        out.extend_from_slice(&event[from..at.start]);
        out.extend_from_slice(new.as_bytes());
        from = at.end;
    }
    out.extend_from_slice(&event[from..]);
}

//! Station 8, when a stream breaks off: go on elsewhere, make up the end, or tell?
//!
//! A replica that dies in mid-stream has said part of an answer, and another one can say the rest only where text alone
//! is continued: the engine is given what was said so far and goes on from there. Where anything else would have to be
//! continued (a tool call's arguments, a grammar's state, probabilities, hidden reasoning) the seam would show, so such a
//! stream ends with an error instead: a cut answer must never look like a whole one.
//!
//! Resumes are bounded for each request and never by the retry budget: what was streamed would be lost with them. A death
//! in mid-stream is less a sign of a deadly request than one over the body is, since the replica had been answering it; so
//! it may break one replica more, and not one more for each resume.

use super::retry::BREAKDOWNS_MAX_IN_ALL;
use crate::domain::outcome::Outcome;
use crate::domain::topology::Engine;

/// Most resumes of one request: a request that has seen three replicas die is not given a fourth.
pub const RESUMES_MAX: u32 = 2;

/// Why a stream cannot be continued by another replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Obstacle {
    /// The dialect has no way to continue a text.
    Dialect,
    /// No engine that is known to continue a text serves the model.
    Engine,
    /// A tool call was under way.
    ToolCall,
    /// Reasoning was streamed, which no engine takes back.
    Reasoning,
    /// More than one choice.
    Choices,
    /// Probabilities were asked for; those of the seam are not known.
    Logprobs,
    /// The output is guided (a schema, a grammar, a forced tool), and the guide's state is lost.
    Guided,
    /// The request itself continues an assistant's message.
    Prefill,
    /// The prompt is not one text.
    Prompt,
    /// Another option of the request that a continuation would distort.
    Option,
    /// A part of the request or of the answer that is not understood.
    Unread,
    /// So far there is only white space, which chat templates trim away.
    Blank,
    /// The text is longer than what is kept of it.
    TooLong,
    /// The request's body was given back, since the edge held too many.
    NotKept,
}

impl Obstacle {
    /// Every obstacle.
    pub const ALL: [Obstacle; 14] = [
        Obstacle::Dialect,
        Obstacle::Engine,
        Obstacle::ToolCall,
        Obstacle::Reasoning,
        Obstacle::Choices,
        Obstacle::Logprobs,
        Obstacle::Guided,
        Obstacle::Prefill,
        Obstacle::Prompt,
        Obstacle::Option,
        Obstacle::Unread,
        Obstacle::Blank,
        Obstacle::TooLong,
        Obstacle::NotKept,
    ];

    /// The word in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Obstacle::Dialect => "dialect",
            Obstacle::Engine => "engine",
            Obstacle::ToolCall => "tool_call",
            Obstacle::Reasoning => "reasoning",
            Obstacle::Choices => "choices",
            Obstacle::Logprobs => "logprobs",
            Obstacle::Guided => "guided",
            Obstacle::Prefill => "prefill",
            Obstacle::Prompt => "prompt",
            Obstacle::Option => "option",
            Obstacle::Unread => "unread",
            Obstacle::Blank => "blank",
            Obstacle::TooLong => "too_long",
            Obstacle::NotKept => "not_kept",
        }
    }
}

/// What became of a cut stream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Resumed {
    /// Another replica went on.
    Ok,
    /// Only the end was missing; it was made up.
    Ended,
    /// It could not be continued.
    Unsafe,
    /// It had been resumed as often as a request may be.
    Bound,
    /// No other replica was left to ask.
    NoneLeft,
    /// Those that were asked failed.
    Failed,
}

impl Resumed {
    /// Every result.
    pub const ALL: [Resumed; 6] =
        [Resumed::Ok, Resumed::Ended, Resumed::Unsafe, Resumed::Bound, Resumed::NoneLeft, Resumed::Failed];

    /// Its value as a label.
    pub const fn name(self) -> &'static str {
        match self {
            Resumed::Ok => "ok",
            Resumed::Ended => "ended",
            Resumed::Unsafe => "unsafe",
            Resumed::Bound => "bound",
            Resumed::NoneLeft => "none_left",
            Resumed::Failed => "failed",
        }
    }
}

/// A stream that broke off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken {
    /// How.
    pub outcome: Outcome,
    /// Whether the reason of its end was already told: only closing words are missing.
    pub finished: bool,
    /// What forbids a continuation, as far as the answer tells.
    pub obstacle: Option<Obstacle>,
    /// How often the request was resumed before.
    pub resumes: u32,
    /// How many replicas broke down over it so far, this one included.
    pub breakdowns: usize,
}

/// What to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rescue {
    /// Nothing was lost: close the answer.
    MakeUpEnd,
    /// Let another replica continue.
    Continue,
    /// End it with an error.
    Give(Resumed),
    /// The same, but no resume was in question: the replica is not to blame.
    NoCase,
}

/// Decides it.
pub fn rescue(broken: &Broken) -> Rescue {
    if !matches!(broken.outcome, Outcome::Cut | Outcome::IdleTimeout | Outcome::Garbage) {
        return Rescue::NoCase;
    }
    match broken.obstacle {
        // With several choices one of them has told its end and the others have not.
        _ if broken.finished && broken.obstacle != Some(Obstacle::Choices) => Rescue::MakeUpEnd,
        Some(_) => Rescue::Give(Resumed::Unsafe),
        None if broken.resumes >= RESUMES_MAX => Rescue::Give(Resumed::Bound),
        None if broken.breakdowns >= BREAKDOWNS_MAX_IN_ALL => Rescue::Give(Resumed::Bound),
        None => Rescue::Continue,
    }
}

/// Whether the engine is known to continue a text. What an unknown one does with a trailing assistant message is
/// anybody's guess.
pub const fn continues(engine: Engine) -> bool {
    matches!(engine, Engine::Vllm | Engine::Sglang | Engine::LlamaCpp)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const CUT: Broken = Broken { outcome: Outcome::Cut, finished: false, obstacle: None, resumes: 0, breakdowns: 1 };

    #[track_caller]
    fn check(broken: Broken, expected: Rescue) {
        assert_eq!(rescue(&broken), expected, "{broken:?}");
    }

    #[test]
    fn a_replica_that_dies_in_mid_stream_is_replaced() {
        for outcome in [Outcome::Cut, Outcome::IdleTimeout, Outcome::Garbage] {
            check(Broken { outcome, ..CUT }, Rescue::Continue);
        }
    }

    #[test]
    fn an_end_that_is_no_death_is_none() {
        for outcome in [Outcome::ClientGone, Outcome::TotalTimeout, Outcome::Drained, Outcome::ServerError, Outcome::Ok]
        {
            check(Broken { outcome, ..CUT }, Rescue::NoCase);
        }
    }

    #[test]
    fn resumes_are_bounded() {
        check(Broken { resumes: RESUMES_MAX - 1, ..CUT }, Rescue::Continue);
        check(Broken { resumes: RESUMES_MAX, ..CUT }, Rescue::Give(Resumed::Bound));
        check(Broken { breakdowns: BREAKDOWNS_MAX_IN_ALL - 1, ..CUT }, Rescue::Continue);
        check(Broken { breakdowns: BREAKDOWNS_MAX_IN_ALL, ..CUT }, Rescue::Give(Resumed::Bound));
    }

    #[test]
    fn what_cannot_be_continued_is_not() {
        for obstacle in Obstacle::ALL {
            check(Broken { obstacle: Some(obstacle), ..CUT }, Rescue::Give(Resumed::Unsafe));
        }
    }

    #[test]
    fn after_its_last_word_an_answer_needs_no_replica() {
        check(Broken { finished: true, resumes: RESUMES_MAX, ..CUT }, Rescue::MakeUpEnd);
        for obstacle in Obstacle::ALL {
            let expected =
                if obstacle == Obstacle::Choices { Rescue::Give(Resumed::Unsafe) } else { Rescue::MakeUpEnd };
            check(Broken { finished: true, obstacle: Some(obstacle), ..CUT }, expected);
        }
    }

    #[test]
    fn names_are_distinct() {
        assert_eq!(Obstacle::ALL.iter().map(|o| o.name()).collect::<HashSet<_>>().len(), Obstacle::ALL.len());
        assert_eq!(Resumed::ALL.iter().map(|r| r.name()).collect::<HashSet<_>>().len(), Resumed::ALL.len());
    }
}

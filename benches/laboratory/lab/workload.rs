//! Rows → calls: every prompt as the list of its blocks, and what calls for what.

use std::collections::HashMap;

use super::prompts;
use super::time::Micros;
use super::trace::{ArrivalRow, Rows, SessionRow, Shape};

/// Tokens in one block of an engine's cache.
pub(crate) const BLOCK_TOKENS: u32 = 512;

/// A block's number. Equal numbers stand for equal beginnings: the block and all before it.
pub(crate) type Block = u32;

/// A gap between two calls counts at most this: what comes later is as good as a new session.
pub(crate) const GAP_MAX: Micros = 300_000_000;

/// What a call of a closed loop waits for, after its agent's last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Gaps {
    /// The recorded time of thought.
    Think,
    /// What is left of the time between the two calls as recorded once the answer's own is taken off: a fifth less in
    /// all, since recorded answers overlap with what the agent does meanwhile.
    Times,
}

/// All that is replayed.
pub(crate) struct Workload {
    /// In the order of the trace.
    pub(crate) calls: Vec<Call>,
    /// How many sessions they belong to.
    pub(crate) sessions: usize,
    /// How many different blocks their prompts have.
    pub(crate) blocks: usize,
    /// When calls are made.
    pub(crate) pacing: Pacing,
}

/// One call.
pub(crate) struct Call {
    /// Counted from 0.
    pub(crate) session: usize,
    /// Of the session, counted from 0 over all: the main agent's or a sub-agent's.
    pub(crate) conversation: usize,
    /// A sub-agent's: the conversation of its session's main agent.
    pub(crate) parent: Option<usize>,
    /// The prompt's whole blocks, first to last.
    pub(crate) blocks: Box<[Block]>,
    /// The prompt's length in tokens.
    pub(crate) input: u32,
    /// The answer's length in tokens.
    pub(crate) output: u32,
}

/// When calls are made.
pub(crate) enum Pacing {
    /// A call follows an answer.
    Closed {
        /// The calls with which each session begins.
        begins: Vec<Vec<usize>>,
        /// What each call's answer brings about.
        then: Vec<Vec<Next>>,
    },
    /// Calls come when they come: each call's tick.
    Open(Vec<Micros>),
}

/// A call that follows an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Next {
    pub(crate) call: usize,
    /// How long after the answer.
    pub(crate) after: Micros,
}

/// The workload of these rows. With more sessions wanted than there are, the first ones are replayed under second names:
/// with blocks of their own, but for the tools and system prompts that all share. An open loop is taken whole.
pub(crate) fn build(rows: &Rows, sessions: Option<usize>, gaps: Gaps) -> Workload {
    match rows {
        Rows::Sessions(rows) => closed(rows, sessions.unwrap_or(rows.len()), gaps),
        Rows::Arrivals(rows) => open(rows),
    }
}

fn closed(rows: &[Vec<SessionRow>], wanted: usize, gaps: Gaps) -> Workload {
    let mut coarse = Coarse::default();
    let (mut calls, mut begins, mut then) = (Vec::new(), Vec::new(), Vec::new());
    let (mut conversations, mut session) = (0, 0);
    prompts::sessions(rows, wanted, |rows, told| {
        let first = calls.len();
        let mut numbers = HashMap::new();
        for (row, told) in rows.iter().zip(told) {
            let conversation = *numbers.entry(row.agent).or_insert_with(|| {
                conversations += 1;
                conversations - 1
            });
            let blocks = coarse.blocks(&told.blocks);
            let parent = numbers.get(&0).copied().filter(|main| *main != conversation);
            let Shape { input, output, .. } = row.shape;
            calls.push(Call { session, conversation, parent, blocks, input, output });
        }
        let (mut session_begins, session_then) = follow(rows, gaps);
        session_begins.iter_mut().for_each(|call| *call += first);
        begins.push(session_begins);
        then.extend(session_then.into_iter().map(|mut nexts| {
            nexts.iter_mut().for_each(|next| next.call += first);
            nexts
        }));
        session += 1;
    });
    Workload { calls, sessions: wanted, blocks: coarse.0.len(), pacing: Pacing::Closed { begins, then } }
}

/// What begins a session and what follows each of its answers. An agent's calls follow each other; a sub-agent's first
/// follows the main agent's call before it, as long after its answer as it did where it was recorded.
pub(crate) fn follow(rows: &[SessionRow], gaps: Gaps) -> (Vec<usize>, Vec<Vec<Next>>) {
    let mut begins = Vec::new();
    let mut then = vec![Vec::new(); rows.len()];
    let mut last: HashMap<u32, usize> = HashMap::new();
    for (call, row) in rows.iter().enumerate() {
        let micros = |ms: u64| ms.saturating_mul(1_000).min(GAP_MAX);
        let since_answer =
            |before: usize| row.at_ms.saturating_sub(rows[before].at_ms.saturating_add(rows[before].answer_ms));
        match (last.get(&row.agent).copied(), last.get(&0).copied()) {
            (Some(before), _) => {
                let ms = if gaps == Gaps::Think { row.think_ms } else { since_answer(before) };
                then[before].push(Next { call, after: micros(ms) });
            }
            (None, Some(main)) => then[main].push(Next { call, after: micros(since_answer(main)) }),
            (None, None) => begins.push(call),
        }
        last.insert(row.agent, call);
    }
    (begins, then)
}

fn open(rows: &[ArrivalRow]) -> Workload {
    let mut sessions: HashMap<Block, usize> = HashMap::new();
    let (mut unnamed, mut blocks) = (0, 0);
    let mut calls = Vec::with_capacity(rows.len());
    for (row, told) in rows.iter().zip(prompts::arrivals(rows)) {
        let next = sessions.len() + unnamed;
        let session = match told.blocks.get(row.kind.telling_block()) {
            Some(block) => *sessions.entry(*block).or_insert(next),
            // Too short to tell: a session of its own.
            None => {
                unnamed += 1;
                next
            }
        };
        blocks = told.blocks.iter().fold(blocks, |most, block| most.max(*block as usize + 1));
        let Shape { input, output, .. } = row.shape;
        calls.push(Call { session, conversation: session, parent: None, blocks: told.blocks.into(), input, output });
    }
    let ticks = rows.iter().map(|row| row.at_ms * 1_000).collect();
    Workload { calls, sessions: sessions.len() + unnamed, blocks, pacing: Pacing::Open(ticks) }
}

/// Engines' blocks, numbered as they first appear, by the last small block of each: equal beginnings, equal numbers.
#[derive(Default)]
struct Coarse(HashMap<Block, Block>);

impl Coarse {
    fn blocks(&mut self, fine: &[Block]) -> Box<[Block]> {
        const EACH: usize = BLOCK_TOKENS as usize / SessionRow::BLOCK_TOKENS;
        let last = fine.chunks_exact(EACH).filter_map(|small| small.last());
        last.map(|last| {
            let next = self.0.len() as Block;
            *self.0.entry(*last).or_insert(next)
        })
        .collect()
    }
}

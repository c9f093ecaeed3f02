//! Rows → prompts as lists of the trace's own blocks: what an engine's blocks and an agent's messages are both made of.

use std::collections::HashMap;

use super::trace::{ArrivalRow, SessionRow, Shape};
use super::workload::Block;

/// One call's prompt.
pub(crate) struct Told<'r> {
    /// What the trace says of it.
    pub(crate) shape: &'r Shape,
    /// Blocks of tools, and of the system prompt behind them, which other sessions begin with too.
    pub(crate) common: Common,
    /// Its whole blocks. Equal numbers stand for equal beginnings.
    pub(crate) blocks: Vec<Block>,
}

/// What a prompt begins with, in blocks.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Common {
    pub(crate) tools: usize,
    pub(crate) system: usize,
}

/// Agents' tools take so much of what they share with the system prompt.
const TOOLS: f64 = 0.75;

/// Sessions one after the other, with more wanted than there are the first ones again: `see` is given the rows of each and
/// their prompts. Blocks of tools and system prompts are shared by all sessions; all others are new.
pub(crate) fn sessions<'r>(
    rows: &'r [Vec<SessionRow>],
    wanted: usize,
    mut see: impl FnMut(&'r [SessionRow], Vec<Told<'r>>),
) {
    let mut fine = Fine::default();
    rows.iter().cycle().take(wanted).for_each(|rows| see(rows, fine.session(rows)));
}

/// Arrivals' prompts.
pub(crate) fn arrivals(rows: &[ArrivalRow]) -> Vec<Told<'_>> {
    let mut prompts: Vec<Told<'_>> = Vec::with_capacity(rows.len());
    let mut next: Block = 0;
    for ArrivalRow { shape, kind, .. } in rows {
        let mut blocks = Vec::with_capacity(shape.blocks);
        blocks.extend_from_slice(shape.reference.map_or(&[], |at| &prompts[at].blocks[..shape.same]));
        let fresh = (shape.blocks - blocks.len()) as Block;
        blocks.extend(next..next + fresh);
        next += fresh;
        prompts.push(Told { shape, common: Common { tools: 0, system: kind.common_blocks() }, blocks });
    }
    prompts
}

/// Prompts of sessions in the trace's own, small blocks.
#[derive(Default)]
struct Fine {
    /// Blocks of tools and system prompts: by their length, which names them, and their place.
    common: HashMap<(u32, usize), Block>,
    next: Block,
}

impl Fine {
    /// The prompts of one session.
    fn session<'r>(&mut self, rows: &'r [SessionRow]) -> Vec<Told<'r>> {
        let mut prompts: Vec<Told<'_>> = Vec::with_capacity(rows.len());
        for SessionRow { shape, common, .. } in rows {
            let mut blocks = Vec::with_capacity(shape.blocks);
            blocks.extend_from_slice(shape.reference.map_or(&[], |at| &prompts[at].blocks[..shape.same]));
            let all = *common as usize / SessionRow::BLOCK_TOKENS;
            // A prompt that differs from its reference within these differs from what others have there, too.
            if blocks.is_empty() {
                blocks.extend((0..all.min(shape.blocks)).map(|at| {
                    *self.common.entry((*common, at)).or_insert_with(|| {
                        self.next += 1;
                        self.next - 1
                    })
                }));
            }
            let fresh = (shape.blocks - blocks.len()) as Block;
            blocks.extend(self.next..self.next + fresh);
            self.next += fresh;
            let tools = (all as f64 * TOOLS) as usize;
            prompts.push(Told { shape, common: Common { tools, system: all - tools }, blocks });
        }
        prompts
    }
}

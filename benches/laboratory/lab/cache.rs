//! A prefix cache: the blocks used last, up to a number of them.
//!
//! A prompt's blocks are touched from the last to the first, so that a block is never forgotten before one that builds on
//! it: what is held of a prompt is always a beginning.

use super::workload::Block;

/// No slot.
const NONE: u32 = u32::MAX;

/// Blocks by their last use.
pub(crate) struct Cache {
    /// Where each block is held.
    slot_of: Vec<u32>,
    slots: Vec<Slot>,
    /// Used last, and longest ago.
    newest: u32,
    oldest: u32,
    capacity: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    block: Block,
    newer: u32,
    older: u32,
}

impl Cache {
    /// Empty; for so many blocks out of so many different ones.
    pub(crate) fn new(capacity: usize, blocks: usize) -> Cache {
        let slots = Vec::with_capacity(capacity.min(blocks));
        Cache { slot_of: vec![NONE; blocks], slots, newest: NONE, oldest: NONE, capacity }
    }

    /// How many of the prompt's blocks are held: a beginning.
    pub(crate) fn held(&self, prompt: &[Block]) -> usize {
        prompt.partition_point(|block| self.slot_of[*block as usize] != NONE)
    }

    /// The prompt is used: all its blocks are held and the newest, at the cost of the oldest ones.
    pub(crate) fn touch(&mut self, prompt: &[Block]) {
        let fits = &prompt[..prompt.len().min(self.capacity)];
        for block in fits.iter().rev() {
            let slot = match self.slot_of[*block as usize] {
                NONE if self.slots.len() < self.capacity => {
                    self.slots.push(Slot { block: *block, newer: NONE, older: NONE });
                    self.slots.len() as u32 - 1
                }
                NONE => self.forget_oldest(*block),
                slot => {
                    self.unlink(slot);
                    slot
                }
            };
            self.slot_of[*block as usize] = slot;
            self.link_newest(slot);
        }
    }

    /// The oldest block's slot, for this one.
    fn forget_oldest(&mut self, block: Block) -> u32 {
        let slot = self.oldest;
        self.unlink(slot);
        self.slot_of[self.slots[slot as usize].block as usize] = NONE;
        self.slots[slot as usize].block = block;
        slot
    }

    fn unlink(&mut self, slot: u32) {
        let Slot { newer, older, .. } = self.slots[slot as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, slot: u32) {
        let older = std::mem::replace(&mut self.newest, slot);
        self.slots[slot as usize] = Slot { newer: NONE, older, ..self.slots[slot as usize] };
        match older {
            NONE => self.oldest = slot,
            older => self.slots[older as usize].newer = slot,
        }
    }
}

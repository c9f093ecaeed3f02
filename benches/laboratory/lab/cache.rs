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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_blocks_of_the_oldest_prompt_go_first() {
        let mut cache = Cache::new(4, 10);
        cache.touch(&[0, 1, 2]);
        cache.touch(&[5, 6]);
        assert_eq!((cache.held(&[0, 1, 2]), cache.held(&[5, 6])), (2, 2));
        cache.touch(&[0, 1, 2]);
        assert_eq!((cache.held(&[0, 1, 2]), cache.held(&[5, 6])), (3, 1));
    }

    #[test]
    fn a_prompt_larger_than_the_cache_is_held_as_far_as_it_fits() {
        let mut cache = Cache::new(2, 10);
        cache.touch(&[7]);
        cache.touch(&[0, 1, 2]);
        assert_eq!((cache.held(&[0, 1, 2]), cache.held(&[7])), (2, 0));
    }

    /// Against the plain definition: the blocks whose last touch is newest.
    #[test]
    fn it_holds_what_was_touched_last() {
        use rand::{RngExt, SeedableRng, rngs::SmallRng};
        for seed in 0..50 {
            let mut rng = SmallRng::seed_from_u64(seed);
            let mut cache = Cache::new(7, 64);
            let mut touched: Vec<Block> = Vec::new();
            for _ in 0..200 {
                // One of eight trees: four shared blocks, then four of one of two branches.
                let (tree, branch, length) = (rng.random_range(0..8), rng.random_range(0..2), rng.random_range(0..6));
                let prompt: Vec<Block> =
                    (0..length).map(|at| tree * 8 + at % 8 + if at >= 4 { branch * 2 } else { 0 }).collect();
                cache.touch(&prompt);
                touched.retain(|block| !prompt.contains(block));
                touched.extend(prompt.iter().rev());
                let newest = &touched[touched.len().saturating_sub(7)..];
                for block in 0..64 {
                    assert_eq!(cache.held(&[block]) == 1, newest.contains(&block), "seed {seed}, block {block}");
                }
            }
        }
    }
}

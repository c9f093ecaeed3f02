//! The KV cache of one engine: a fixed number of blocks, reused by prefix, evicted least recently used first.
//!
//! As in vLLM, a full block is known by a hash that is chained over everything before it, so equal hashes mean equal
//! prefixes. A block that a running request holds is *used* and cannot be evicted. Any other block is *free*; it keeps its
//! content until it is needed, and a later prompt with the same prefix takes it back. Of a released chain the tail is freed
//! first, because a prefix is worth more than what follows it.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// No block: the end of the list of free blocks.
const NONE: u32 = u32::MAX;

/// A cache of `total` blocks. Every operation is O(1) per block.
#[derive(Debug)]
pub struct KvCache {
    blocks: Vec<Block>,
    by_hash: HashMap<u64, u32, BuildHasherDefault<Prehashed>>,
    oldest: u32,
    newest: u32,
    free: usize,
}

#[derive(Debug, Clone)]
struct Block {
    /// What the block holds; `None` when it holds nothing that could be reused.
    hash: Option<u64>,
    holders: u32,
    older: u32,
    newer: u32,
}

impl KvCache {
    /// An empty cache. The number of blocks is at least 1 and at most `u32::MAX - 1`.
    pub fn new(total: u32) -> Self {
        let total = total.clamp(1, NONE - 1);
        let blocks = (0..total)
            .map(|at| Block {
                hash: None,
                holders: 0,
                older: if at == 0 { NONE } else { at - 1 },
                newer: if at + 1 == total { NONE } else { at + 1 },
            })
            .collect();
        Self { blocks, by_hash: HashMap::default(), oldest: 0, newest: total - 1, free: total as usize }
    }

    /// All blocks.
    pub fn total(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that no running request holds; they may still hold reusable content.
    pub fn free(&self) -> usize {
        self.free
    }

    /// Blocks that running requests hold.
    pub fn used(&self) -> usize {
        self.total() - self.free
    }

    /// How many blocks at the beginning of this chain are in the cache.
    pub fn matched(&self, chain: &[u64]) -> usize {
        chain.iter().take_while(|hash| self.by_hash.contains_key(hash)).count()
    }

    /// Takes `total` blocks for one request: the cached ones at the beginning of `reusable`, and fresh ones for the rest.
    /// Returns the blocks in order and how many were reused; `None`, with nothing changed, when too few are free.
    pub fn take(&mut self, reusable: &[u64], total: usize) -> Option<(Vec<u32>, usize)> {
        let mut taken = Vec::with_capacity(total);
        let mut idle = 0;
        for hash in reusable.iter().take(total) {
            let Some(&at) = self.by_hash.get(hash) else {
                break;
            };
            idle += usize::from(self.blocks[at as usize].holders == 0);
            taken.push(at);
        }
        let reused = taken.len();
        if total - reused > self.free - idle {
            return None;
        }
        for &at in &taken {
            self.hold(at);
        }
        for _ in reused..total {
            let at = self.oldest;
            self.hold(at);
            if let Some(hash) = self.blocks[at as usize].hash.take() {
                self.by_hash.remove(&hash);
            }
            taken.push(at);
        }
        Some((taken, reused))
    }

    /// Says what a held block now contains, so that later prompts can reuse it. A second copy of known content stays unnamed.
    pub fn name(&mut self, at: u32, hash: u64) {
        let block = &mut self.blocks[at as usize];
        if block.hash.is_none() && !self.by_hash.contains_key(&hash) {
            block.hash = Some(hash);
            self.by_hash.insert(hash, at);
        }
    }

    /// Gives back what [`KvCache::take`] returned. The content stays until it is evicted.
    pub fn release(&mut self, taken: &[u32]) {
        for &at in taken.iter().rev() {
            let block = &mut self.blocks[at as usize];
            block.holders -= 1;
            if block.holders == 0 {
                self.append_newest(at);
            }
        }
    }

    fn hold(&mut self, at: u32) {
        if self.blocks[at as usize].holders == 0 {
            self.unlink(at);
        }
        self.blocks[at as usize].holders += 1;
    }

    fn unlink(&mut self, at: u32) {
        let Block { older, newer, .. } = self.blocks[at as usize];
        match older {
            NONE => self.oldest = newer,
            older => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            newer => self.blocks[newer as usize].older = older,
        }
        self.free -= 1;
    }

    fn append_newest(&mut self, at: u32) {
        let before = self.newest;
        match before {
            NONE => self.oldest = at,
            before => self.blocks[before as usize].newer = at,
        }
        let block = &mut self.blocks[at as usize];
        block.older = before;
        block.newer = NONE;
        self.newest = at;
        self.free += 1;
    }
}

/// Keys here are hashes already; hashing them again would only cost time.
#[derive(Debug, Default)]
pub(crate) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    fn write_u64(&mut self, key: u64) {
        // Small keys (request ids) must reach the high bits, which the table looks at.
        self.0 = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(cache: &mut KvCache, chain: &[u64]) -> usize {
        let (taken, reused) = cache.take(chain, chain.len()).unwrap();
        for (at, hash) in taken.iter().zip(chain) {
            cache.name(*at, *hash);
        }
        cache.release(&taken);
        reused
    }

    #[test]
    fn an_extended_chain_reuses_exactly_what_was_there() {
        let mut cache = KvCache::new(8);
        assert_eq!(run(&mut cache, &[1, 2, 3]), 0);
        assert_eq!(run(&mut cache, &[1, 2, 3, 4, 5]), 3);
        assert_eq!(run(&mut cache, &[1, 2, 9]), 2);
    }

    #[test]
    fn the_longest_unused_chain_is_evicted_first_and_from_its_tail() {
        let mut cache = KvCache::new(4);
        run(&mut cache, &[1, 2]);
        run(&mut cache, &[3, 4]);
        run(&mut cache, &[5]);
        assert_eq!(cache.matched(&[1, 2]), 1);
        assert_eq!(cache.matched(&[3, 4]), 2);
        assert_eq!(cache.matched(&[5]), 1);
    }

    #[test]
    fn a_held_block_is_never_evicted() {
        let mut cache = KvCache::new(4);
        run(&mut cache, &[1, 2]);
        let (held, reused) = cache.take(&[1, 2], 2).unwrap();
        assert_eq!(reused, 2);
        run(&mut cache, &[3, 4]);
        run(&mut cache, &[5, 6]);
        assert!(cache.take(&[7, 8, 9], 3).is_none());
        assert_eq!(cache.matched(&[1, 2]), 2);
        cache.release(&held);
        assert_eq!(cache.free(), 4);
    }

    proptest! {
        #[test]
        fn every_block_is_either_used_or_free(
            total in 1u32..20,
            steps in proptest::collection::vec((0u64..6, 1usize..8, any::<bool>()), 1..200),
        ) {
            let mut cache = KvCache::new(total);
            let mut held: Vec<Vec<u32>> = Vec::new();
            for (family, len, release) in steps {
                let chain: Vec<u64> = (0..len as u64).map(|at| family * 100 + at).collect();
                let free = cache.free();
                match cache.take(&chain, len) {
                    Some((taken, reused)) => {
                        prop_assert!(reused <= len && taken.len() == len);
                        for (at, hash) in taken.iter().zip(&chain) {
                            cache.name(*at, *hash);
                        }
                        held.push(taken);
                    }
                    None => prop_assert_eq!(cache.free(), free),
                }
                if release && !held.is_empty() {
                    cache.release(&held.remove(0));
                }
                let distinct: std::collections::HashSet<u32> = held.iter().flatten().copied().collect();
                prop_assert_eq!(cache.used(), distinct.len());
                prop_assert_eq!(cache.used() + cache.free(), cache.total());
                prop_assert_eq!(walk(&cache), cache.free());
            }
        }
    }

    fn walk(cache: &KvCache) -> usize {
        let mut seen = 0;
        let mut at = cache.oldest;
        while at != NONE {
            assert_eq!(cache.blocks[at as usize].holders, 0);
            seen += 1;
            at = cache.blocks[at as usize].newer;
        }
        seen
    }
}

//! The LRU cache of an engine.

use crate::lab::cache::Cache;
use crate::lab::workload::Block;

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

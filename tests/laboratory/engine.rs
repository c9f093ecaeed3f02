//! One replica after the other.

use crate::lab::engine::{Engines, Setup};
use crate::lab::time::SECOND;
use crate::lab::workload::{BLOCK_TOKENS, Block, Call, Pacing, Workload};

fn workload(prompts: &[&[Block]]) -> Workload {
    let call = |(n, blocks): (usize, &&[Block])| Call {
        session: n,
        conversation: n,
        parent: None,
        blocks: (*blocks).into(),
        input: blocks.len() as u32 * BLOCK_TOKENS,
        output: 1,
    };
    let calls: Vec<Call> = prompts.iter().enumerate().map(call).collect();
    Workload { sessions: calls.len(), blocks: 16, pacing: Pacing::Open(vec![0; calls.len()]), calls }
}

fn setup(pooled: bool) -> Setup {
    Setup { replicas: 2, cache_tokens: 4 * 512, speed: 512.0, pooled }
}

#[test]
fn prompts_are_prefilled_in_turn_and_only_what_is_not_cached() {
    let workload = workload(&[&[0, 1, 2], &[0, 1, 3]]);
    let mut engines = Engines::new(&workload, &setup(false));
    assert_eq!(engines.arrive(0, 0, 0), Some(3 * SECOND));
    assert_eq!(engines.arrive(0, 1, SECOND), None);
    assert_eq!((engines.queued_tokens(0, SECOND), engines.outstanding(0)), (5 * 512, 2));
    let done = engines.finish(0, 3 * SECOND).unwrap();
    assert_eq!((done.call, done.cached, done.next), (0, 0, Some(4 * SECOND)));
    let done = engines.finish(0, 4 * SECOND).unwrap();
    assert_eq!((done.call, done.cached, done.next), (1, 2 * 512, None));
    assert_eq!(engines.computed().collect::<Vec<_>>(), [4 * 512, 0]);
    assert_eq!((engines.held_tokens(0, &[0, 1, 2]), engines.held_tokens(1, &[0])), (3 * 512, 0));
}

#[test]
fn a_pooled_cache_is_everybodys() {
    let workload = workload(&[&[0, 1, 2]]);
    let mut engines = Engines::new(&workload, &setup(true));
    engines.arrive(0, 0, 0);
    engines.finish(0, 3 * SECOND);
    assert_eq!(engines.held_tokens(1, &[0, 1, 2]), 3 * 512);
}

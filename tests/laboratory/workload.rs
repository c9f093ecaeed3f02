//! Rows become calls.

use crate::lab::trace::rows::{ArrivalRow, Kind, Rows, SessionRow, Shape};
use crate::lab::workload::{Gaps, Next, build, follow};

fn row(agent: u32, blocks: usize, reference: Option<usize>, same: usize, common: u32) -> SessionRow {
    let shape = Shape { input: blocks as u32 * 64 + 10, output: 1, blocks, reference, same };
    SessionRow { agent, at_ms: 0, think_ms: 0, answer_ms: 0, common, shape }
}

#[test]
fn a_prompt_has_the_blocks_of_the_one_it_repeats() {
    let rows =
        Rows::Sessions(vec![vec![row(0, 32, None, 0, 0), row(0, 48, Some(0), 31, 0), row(0, 33, Some(0), 32, 0)]]);
    let built = build(&rows, None, Gaps::Think);
    let blocks: Vec<_> = built.calls.iter().map(|call| call.blocks.to_vec()).collect();
    assert_eq!(blocks, [vec![0, 1, 2, 3], vec![0, 1, 2, 4, 5, 6], vec![0, 1, 2, 3]]);
    assert_eq!(built.blocks, 7);
}

#[test]
fn sessions_share_tools_and_system_prompt_and_no_more() {
    let rows = Rows::Sessions(vec![
        vec![row(0, 32, None, 0, 1024)],
        vec![row(0, 32, None, 0, 1024), row(0, 32, None, 0, 512)],
    ]);
    let built = build(&rows, Some(3), Gaps::Think);
    let blocks: Vec<_> = built.calls.iter().map(|call| call.blocks.to_vec()).collect();
    // The third session is the first one under a second name.
    assert_eq!(blocks, [vec![0, 1, 2, 3], vec![0, 1, 4, 5], vec![6, 7, 8, 9], vec![0, 1, 10, 11]]);
    assert_eq!(built.calls.iter().map(|call| call.session).collect::<Vec<_>>(), [0, 1, 1, 2]);
}

#[test]
fn agents_follow_their_own_answers_and_sub_agents_begin_after_the_main_one() {
    let timed = |agent, at_ms, think_ms| SessionRow { at_ms, think_ms, answer_ms: 100, ..row(agent, 1, None, 0, 0) };
    let rows = [timed(0, 0, 0), timed(1, 150, 0), timed(0, 400, 300), timed(1, 500, 9_000_000), timed(2, 450, 0)];
    let (begins, then) = follow(&rows, Gaps::Think);
    let next = |call, after_ms: u64| Next { call, after: after_ms * 1_000 };
    assert_eq!(begins, [0]);
    assert_eq!(then, [vec![next(1, 50), next(2, 300)], vec![next(3, 300_000)], vec![next(4, 0)], vec![], vec![]]);
}

#[test]
fn arrivals_are_told_by_their_blocks() {
    let row = |kind, blocks, reference, same| {
        let shape = Shape { input: blocks as u32 * 512, output: 1, blocks, reference, same };
        ArrivalRow { at_ms: 3_000, kind, shape }
    };
    let chat = |blocks, reference, same| row(Kind::Chat, blocks, reference, same);
    let rows = vec![
        chat(3, None, 0),
        chat(2, Some(0), 1),
        chat(4, Some(0), 3),
        chat(1, Some(0), 1),
        row(Kind::Tool74, 6, None, 0),
        row(Kind::Tool74, 6, Some(4), 5),
    ];
    let built = build(&Rows::Arrivals(rows), None, Gaps::Think);
    assert_eq!(built.calls.iter().map(|call| call.session).collect::<Vec<_>>(), [0, 1, 0, 2, 3, 3]);
    assert_eq!(*built.calls[2].blocks, [0, 1, 2, 4]);
    assert_eq!(built.sessions, 4);
}

//! Sessions like recorded ones, where there is no recording.
//!
//! Each figure is drawn from the quantiles of the real agents' sessions; what comes of them together is tested against
//! what was measured: prompts of 104K tokens in the median and 499K in the 99th percentile, answers of 216, gaps of 17 s
//! and in the 90th percentile 129 s, 46 calls a session, 96 % of all prompts' tokens there before.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::quantiles::Quantiles;
use super::rows::{SessionRow, Shape};

const CALLS: Quantiles = Quantiles(&[
    (0.0, 3.0),
    (0.1, 6.0),
    (0.25, 16.0),
    (0.5, 46.0),
    (0.75, 98.0),
    (0.9, 160.0),
    (0.99, 350.0),
    (1.0, 560.0),
]);

/// The first prompt of a session, whole.
const FIRST: Quantiles = Quantiles(&[
    (0.0, 15_000.0),
    (0.25, 18_800.0),
    (0.5, 36_000.0),
    (0.75, 120_000.0),
    (0.9, 260_000.0),
    (0.99, 620_000.0),
    (1.0, 850_000.0),
]);

/// What a call adds to the prompt.
const ADDED: Quantiles = Quantiles(&[
    (0.0, 64.0),
    (0.1, 235.0),
    (0.25, 380.0),
    (0.5, 715.0),
    (0.75, 1_700.0),
    (0.9, 3_900.0),
    (0.99, 16_000.0),
    (1.0, 40_000.0),
]);

/// Answers.
const OUTPUT: Quantiles = Quantiles(&[
    (0.0, 20.0),
    (0.1, 106.0),
    (0.25, 140.0),
    (0.5, 216.0),
    (0.75, 430.0),
    (0.9, 890.0),
    (0.99, 3_650.0),
    (1.0, 18_000.0),
]);

/// From the beginning of one call of an agent to that of its next, in milliseconds; no less than the answer took, which
/// makes the gaps as they come a little longer.
const GAP: Quantiles = Quantiles(&[
    (0.0, 2_000.0),
    (0.1, 6_000.0),
    (0.25, 9_000.0),
    (0.5, 14_500.0),
    (0.75, 34_000.0),
    (0.9, 114_000.0),
    (0.99, 2_000_000.0),
    (1.0, 77_000_000.0),
]);

/// Tools and system prompt.
const COMMON: Quantiles =
    Quantiles(&[(0.0, 8_400.0), (0.1, 11_900.0), (0.5, 15_100.0), (0.9, 15_900.0), (1.0, 23_000.0)]);

/// The context at which a prompt is compacted. One of eight agents has a large one.
const CONTEXT: Quantiles =
    Quantiles(&[(0.0, 120_000.0), (0.5, 165_000.0), (0.87, 200_000.0), (0.88, 400_000.0), (1.0, 1_000_000.0)]);

/// What a compaction leaves.
const COMPACTED: Quantiles = Quantiles(&[(0.0, 40_000.0), (0.5, 75_000.0), (1.0, 120_000.0)]);

/// Calls that rewrite the prompt after its tools and system prompt: edits, compactions without need.
const REWRITES: f64 = 0.006;

/// Sessions with sub-agents, how many each has, how many calls one makes and how it begins.
const WITH_SUB_AGENTS: f64 = 0.035;
const SUB_AGENTS: Quantiles = Quantiles(&[(0.0, 1.0), (0.5, 3.0), (1.0, 12.0)]);
const SUB_CALLS: Quantiles = Quantiles(&[(0.0, 2.0), (0.5, 10.0), (1.0, 24.0)]);
const SUB_FIRST: Quantiles = Quantiles(&[(0.0, 8_900.0), (0.5, 10_200.0), (1.0, 17_000.0)]);

/// Sessions that bring a system prompt of their own; the others have one that was there before.
const OWN_COMMON: f64 = 0.6;

/// Seconds that an answer took where it was recorded: so many milliseconds, and so many for each token.
const ANSWER_MS: (f64, f64) = (2_000.0, 15.0);

/// So many sessions, the same for the same seed.
pub(crate) fn generate(sessions: usize, seed: u64) -> Vec<Vec<SessionRow>> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut commons: Vec<u32> = Vec::new();
    (0..sessions)
        .map(|_| {
            if commons.is_empty() || rng.random_bool(OWN_COMMON) {
                commons.push(COMMON.draw(&mut rng) as u32);
            } else {
                // One that somebody had: the more have it, the likelier.
                commons.push(commons[rng.random_range(0..commons.len())]);
            }
            let common = commons[commons.len() - 1];
            session(common, &mut rng)
        })
        .collect()
}

/// One agent's calls, and its sub-agents' among them.
fn session(common: u32, rng: &mut SmallRng) -> Vec<SessionRow> {
    let context = CONTEXT.draw(rng);
    let first = FIRST.draw(rng).min(context);
    let main = agent(0, common, 0, (first, context), CALLS.draw(rng) as usize, rng);
    let mut drafts = main;
    if rng.random_bool(WITH_SUB_AGENTS) {
        let ends = drafts.last().map_or(0, |draft| draft.row.at_ms);
        for number in 1..=SUB_AGENTS.draw(rng) as u32 {
            let begins = rng.random_range(0..=ends);
            let sub_common = common.min(8_800) - 64;
            drafts.extend(agent(
                number,
                sub_common,
                begins,
                (SUB_FIRST.draw(rng), context),
                SUB_CALLS.draw(rng) as usize,
                rng,
            ));
        }
    }
    in_order(drafts)
}

/// A row whose reference is still counted among its agent's own calls.
struct Draft {
    row: SessionRow,
    own: usize,
}

fn agent(
    agent: u32,
    common: u32,
    begins: u64,
    (first, context): (f64, f64),
    calls: usize,
    rng: &mut SmallRng,
) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::with_capacity(calls);
    let mut at_ms = begins;
    let (mut input, mut answer_ms) = (first.max(f64::from(common) + 64.0), 0);
    for own in 0..calls {
        let think_ms = if own == 0 { 0 } else { (GAP.draw(rng) as u64).saturating_sub(answer_ms) };
        at_ms += if own == 0 { 0 } else { answer_ms + think_ms };
        let before = drafts.last().map(|draft| &draft.row.shape);
        let mut same = before.map_or(0, |shape| shape.blocks);
        if own > 0 {
            input += ADDED.draw(rng);
            let common_blocks = common as usize / SessionRow::BLOCK_TOKENS;
            if input > context {
                input = COMPACTED.draw(rng).max(f64::from(common) + 64.0);
                same = common_blocks;
            } else if rng.random_bool(REWRITES) {
                same = common_blocks;
            }
        }
        let output = OUTPUT.draw(rng) as u32;
        answer_ms = (ANSWER_MS.0 + ANSWER_MS.1 * f64::from(output)) as u64;
        let blocks = input as usize / SessionRow::BLOCK_TOKENS;
        let same = same.min(blocks).min(before.map_or(0, |shape| shape.blocks));
        let shape = Shape { input: input as u32, output, blocks, reference: own.checked_sub(1), same };
        drafts.push(Draft { row: SessionRow { agent, at_ms, think_ms, answer_ms, common, shape }, own });
    }
    drafts
}

/// All agents' calls by their time, with references counted among all of them.
fn in_order(mut drafts: Vec<Draft>) -> Vec<SessionRow> {
    drafts.sort_by_key(|draft| (draft.row.at_ms, draft.row.agent, draft.own));
    let mut last: std::collections::HashMap<u32, usize> = std::collections::HashMap::new();
    let rows = drafts.into_iter().enumerate().map(|(place, Draft { mut row, .. })| {
        let before = last.insert(row.agent, place);
        row.shape.reference = row.shape.reference.and(before);
        row
    });
    rows.collect()
}

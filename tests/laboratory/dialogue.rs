//! Prompts become messages, and messages what the edge reads out of them.

use nearpool::roster::Identity;

use crate::lab::dialogue::{Dialogue, body, each};
use crate::lab::policies::Reading;
use crate::lab::prompts::{Common, sessions};
use crate::lab::trace::generate;
use crate::lab::trace::rows::{Rows, SessionRow, Shape};

const BLOCK: u32 = SessionRow::BLOCK_TOKENS as u32;

/// A session of calls (tokens, reference, blocks in common) that begin with 40 blocks of tools and system prompt.
fn session(calls: &[(u32, Option<usize>, usize)]) -> Vec<SessionRow> {
    let row = |(input, reference, same): &(u32, Option<usize>, usize)| {
        let shape =
            Shape { input: *input, output: 1, blocks: (input / BLOCK) as usize, reference: *reference, same: *same };
        SessionRow { agent: 0, at_ms: 0, think_ms: 0, answer_ms: 0, common: 40 * BLOCK + 5, shape }
    };
    calls.iter().map(row).collect()
}

fn read(calls: &[(u32, Option<usize>, usize)]) -> (Vec<Dialogue>, Vec<String>) {
    let rows = [session(calls)];
    let (mut dialogues, mut bodies) = (Vec::new(), Vec::new());
    sessions(&rows, 1, |_, told| {
        each(&told, BLOCK, 0, |told, dialogue| {
            bodies.push(String::from_utf8(body(told, dialogue, BLOCK)).unwrap());
            dialogues.push(dialogue.clone());
        });
    });
    (dialogues, bodies)
}

#[test]
fn a_prompt_that_goes_on_has_the_messages_of_the_one_before_and_then_new_ones() {
    let (dialogues, bodies) = read(&[(9_000, None, 0), (9_800, Some(0), 140), (9_800, Some(1), 153)]);
    assert_eq!(dialogues[0].common, Common { tools: 30, system: 10 });
    assert!(dialogues[1].turns.starts_with(&dialogues[0].turns) && dialogues[1].turns.len() > dialogues[0].turns.len());
    assert_eq!(dialogues[1].turns.last().unwrap().to, 9_800);
    assert!(bodies[1].starts_with(bodies[0].strip_suffix("]}").unwrap()));
    assert_eq!(bodies[1], bodies[2], "sent again");
}

#[test]
fn an_edited_history_has_the_messages_before_the_edit_and_no_other() {
    let (dialogues, bodies) =
        read(&[(9_000, None, 0), (9_500, Some(0), 100), (9_000, Some(0), 40), (9_000, Some(0), 20)]);
    let kept = dialogues[0].turns.iter().take_while(|turn| turn.to <= 100 * BLOCK).count();
    assert!(kept > 0 && kept < dialogues[0].turns.len());
    assert_eq!(dialogues[1].turns[..kept], dialogues[0].turns[..kept]);
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let shared = [1, 2, 3].map(|n| common(&bodies[0], &bodies[n]) / 4 / BLOCK as usize);
    assert!(shared[0].abs_diff(100) <= 3 && shared[1].abs_diff(40) <= 2 && shared[2].abs_diff(20) <= 2, "{shared:?}");
}

#[test]
fn bodies_are_json_as_long_as_the_trace_says() {
    for body in read(&[(9_000, None, 0), (70, None, 0), (1, None, 0), (64, None, 0), (300_000, Some(0), 140)]).1 {
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        let messages = json["messages"].as_array().unwrap();
        assert_ne!(messages.last().unwrap()["role"], "assistant");
    }
    let bytes = read(&[(300_000, None, 0)]).1[0].len();
    assert!((bytes as f64 / 1_200_000.0 - 1.0).abs() < 0.01, "{bytes}");
}

#[test]
fn the_edge_reads_the_same_prompts_out_of_messages() {
    let rows =
        vec![session(&[(9_000, None, 0), (9_800, Some(0), 140), (9_500, Some(1), 100)]), session(&[(9_000, None, 0)])];
    let reading = Reading::messages(&Rows::Sessions(rows), 2).unwrap();
    let ends = |n: usize| match &reading.prompts[n].1 {
        Some(Identity::Conversation { opening, ends }) => (*opening, ends.clone()),
        other => panic!("{other:?}"),
    };
    assert!(ends(1).1.starts_with(&ends(0).1), "the second call continues the first");
    assert_ne!(ends(3).0, ends(0).0, "another session opens otherwise");
    let shared = |a: usize, b: usize| {
        let pairs = reading.prompts[a].0.cuts.iter().zip(&reading.prompts[b].0.cuts);
        pairs.take_while(|(a, b)| a == b).last().map_or(0, |(cut, _)| cut.tokens)
    };
    assert!(shared(0, 1) > 8_600 && shared(0, 1) <= 9_010, "{}", shared(0, 1));
    assert!(shared(1, 2) > 100 * 64 - 1_100 && shared(1, 2) <= 100 * 64 + 10, "{}", shared(1, 2));
    assert!(shared(0, 3) > 40 * 64 - 300 && shared(0, 3) <= 40 * 64 + 10, "{}", shared(0, 3));
}

#[test]
fn generated_sessions_are_read_to_the_tokens_that_they_have() {
    let rows = Rows::Sessions(generate(6, 5));
    let Rows::Sessions(sessions) = &rows else { return };
    let reading = Reading::messages(&rows, 6).unwrap();
    let inputs = sessions.iter().flatten().map(|row| row.shape.input);
    for (input, (prompt, identity)) in inputs.zip(&reading.prompts) {
        assert!((f64::from(prompt.tokens) / f64::from(input) - 1.0).abs() < 0.01, "{} of {input}", prompt.tokens);
        assert!(identity.is_some());
    }
}

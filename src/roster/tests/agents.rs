//! Agents' calls: bodies as they send them, and prompts of the sizes that theirs have.

use twox_hash::XxHash3_64;

use super::edge::Call;
use crate::domain::prompt::{Cut, Prompt};

/// What every agent of a kind begins with, in tokens: instructions and tools.
pub(super) const INSTRUCTIONS_TOKENS: u32 = 20_480;

/// From cut to cut.
const CUT_TOKENS: u32 = 512;

/// A text that is nobody else's.
pub(super) fn text(seed: &str, bytes: usize) -> String {
    let part = |n: u64| format!("{:016x} ", XxHash3_64::oneshot(format!("{seed} {n}").as_bytes()));
    let mut text: String = (0..=bytes as u64 / 17).map(part).collect();
    text.truncate(bytes);
    text
}

/// A chat's body: the instructions, and then each message of the user's with the answer to the one before it.
pub(super) fn body(instructions: &str, said: &[String]) -> String {
    let mut messages = vec![format!(r#"{{"role":"system","content":"{instructions}"}}"#)];
    for (n, text) in said.iter().enumerate() {
        let role = if n % 2 == 0 { "user" } else { "assistant" };
        messages.push(format!(r#"{{"role":"{role}","content":"{text}"}}"#));
    }
    format!(r#"{{"model":"small","messages":[{}]}}"#, messages.join(","))
}

/// Session `n` of a client: every other one tells its name.
pub(super) fn name(n: usize) -> Option<String> {
    n.is_multiple_of(2).then(|| format!("session-{n}"))
}

/// The call of session `n` after so many answers, its prompt so many tokens long. Who it is stands in a body of short
/// messages, since to read long ones takes an unoptimised program minutes; its cuts are made up for the length.
pub(super) fn call(n: usize, answers: usize, tokens: u32) -> Call {
    let said: Vec<_> = (0..=2 * answers).map(|message| text(&format!("{n} {message}"), 40)).collect();
    let call = Call::read("client", name(n).as_deref(), &body("Be of use.", &said));
    let cut = |at: u32| {
        let of = if at <= INSTRUCTIONS_TOKENS { usize::MAX } else { n };
        Cut { chain: XxHash3_64::oneshot(format!("{of} {at}").as_bytes()), tokens: at }
    };
    let cuts = (1..=tokens / CUT_TOKENS).map(|n| cut(n * CUT_TOKENS)).collect();
    Call { prompt: Prompt { cuts, tokens, ..call.prompt }, ..call }
}

/// Tokens that session `n` has added to the instructions in its middle: to 100,000 with them.
pub(super) fn size(n: usize) -> u32 {
    INSTRUCTIONS_TOKENS + 2_000 + (XxHash3_64::oneshot(&n.to_le_bytes()) % 78_000) as u32
}

//! Prompts → messages, as an agent would send them: tools, a system prompt, then what was said.
//!
//! A trace tells how long each prompt was and how much of it an earlier one had; where one message ended and the next began
//! it does not. So the cuts are made up, by the prompt's beginning alone: a prompt that goes on from the whole of its
//! reference has the reference's messages and then new ones, as agents append; one that repeats less has an edited history,
//! whose messages are cut anew from where it differs.

use super::prompts::{Common, Told};
use super::trace::Shape;
use super::workload::Block;

/// Bytes of text that stand for one token.
pub(crate) const TOKEN_BYTES: usize = 4;

/// Tokens that a message's own form takes, `{"role":"user","content":""}`: as many fewer of its text are written.
const FORM_TOKENS: u32 = 7;

/// The shortest message, in tokens, and how many times that is doubled for the longest: tools' results of some thousands of
/// tokens, between answers of some hundreds.
const TURN_TOKENS_MIN: u32 = 64;
const TURN_DOUBLINGS: f64 = 6.0;

/// The messages of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dialogue {
    /// Blocks of tools and system prompt.
    pub(crate) common: Common,
    pub(crate) turns: Vec<Turn>,
}

/// One message: tokens of its prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Turn {
    role: Role,
    from: u32,
    pub(crate) to: u32,
    /// Whose text it has behind its prompt's last whole block: that is no other prompt's.
    tail: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    User,
    Assistant,
    Tool,
}

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }
}

/// The messages of prompts that refer to each other, of blocks of so many tokens. `see` is given each prompt with them;
/// `salt` tells their tails from others'.
pub(crate) fn each(told: &[Told<'_>], block_tokens: u32, salt: u64, mut see: impl FnMut(&Told<'_>, &Dialogue)) {
    let mut dialogues: Vec<Dialogue> = Vec::with_capacity(told.len());
    for (number, prompt) in told.iter().enumerate() {
        let before = prompt.shape.reference.map(|at| (told[at].shape, &dialogues[at]));
        let dialogue = of(prompt, before, block_tokens, mix(salt, number as u64));
        see(prompt, &dialogue);
        dialogues.push(dialogue);
    }
}

fn of(told: &Told<'_>, before: Option<(&Shape, &Dialogue)>, block_tokens: u32, tail: u64) -> Dialogue {
    let Shape { input, blocks, same, .. } = *told.shape;
    // One that differs within tools and system prompt has nothing else in common.
    let kept = before.filter(|(_, dialogue)| same > dialogue.common.blocks());
    let extends = |shape: &Shape| same == shape.blocks && input >= shape.input;
    let (common, mut turns, edited) = match kept {
        Some((shape, Dialogue { common, turns })) if extends(shape) => (*common, turns.clone(), None),
        Some((_, Dialogue { common, turns })) => {
            let whole = turns.partition_point(|turn| turn.to <= same as u32 * block_tokens);
            (*common, turns[..whole].to_vec(), turns.get(whole))
        }
        None => (told.common.within(blocks, input > blocks as u32 * block_tokens), Vec::new(), None),
    };
    let mut edited = edited.map(|turn| turn.role);
    let mut from = turns.last().map_or(common.blocks() as u32 * block_tokens, |turn| turn.to);
    while from < input {
        let begins = told.blocks.get((from / block_tokens) as usize).map_or(tail, |block| u64::from(*block));
        let to = input.min(from + length(begins));
        let role = match turns.last().map(|turn| turn.role) {
            _ if edited.is_some() => edited.take().unwrap_or(Role::User),
            None => Role::User,
            // An agent waits for an answer to what it or its tools say, not to an answer.
            Some(Role::User | Role::Tool) if to < input => Role::Assistant,
            Some(_) => Role::Tool,
        };
        turns.push(Turn { role, from, to, tail });
        from = to;
    }
    Dialogue { common, turns }
}

/// How long a message is that begins with this block.
fn length(begins: u64) -> u32 {
    let part = mix(begins, 0x6d65_7373) as f64 / u64::MAX as f64;
    (f64::from(TURN_TOKENS_MIN) * (part * TURN_DOUBLINGS).exp2()) as u32
}

impl Common {
    /// In blocks.
    pub(crate) fn blocks(self) -> usize {
        self.tools + self.system
    }

    /// The same in a prompt of so many blocks, of which something must be left to say.
    fn within(self, blocks: usize, more: bool) -> Common {
        let most = if more { blocks } else { blocks.saturating_sub(1) };
        let tools = self.tools.min(most);
        Common { tools, system: self.system.min(most - tools) }
    }
}

/// The body of the call with these messages, of the chat dialect.
pub(crate) fn body(told: &Told<'_>, dialogue: &Dialogue, block_tokens: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity((told.shape.input as usize + 1_024) * TOKEN_BYTES);
    let Common { tools, system } = dialogue.common;
    let text = |out: &mut Vec<u8>, from: u32, to: u32, tail| write(out, &told.blocks, block_tokens, (from, to), tail);
    let [tools, common] = [tools, tools + system].map(|blocks| blocks as u32 * block_tokens);
    out.extend_from_slice(br#"{"model":"small","stream":true,"#);
    if tools > 0 {
        out.extend_from_slice(br#""tools":[{"type":"function","function":{"name":"all","description":""#);
        text(&mut out, FORM_TOKENS.min(tools - 1), tools, 0);
        out.extend_from_slice(br#""}}],"#);
    }
    out.extend_from_slice(br#""messages":["#);
    if common > tools {
        out.extend_from_slice(br#"{"role":"system","content":""#);
        text(&mut out, (tools + FORM_TOKENS).min(common - 1), common, 0);
        out.extend_from_slice(br#""},"#);
    }
    for (n, turn) in dialogue.turns.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"role":""#);
        out.extend_from_slice(turn.role.name().as_bytes());
        out.extend_from_slice(br#"","content":""#);
        text(&mut out, (turn.from + FORM_TOKENS).min(turn.to - 1), turn.to, turn.tail);
        out.extend_from_slice(br#""}"#);
    }
    out.extend_from_slice(b"]}");
    out
}

/// These tokens of a prompt as text: four letters each, told by the block in which they stand. What a message has behind its
/// last whole block is its tail's own, whatever the prompt that repeats it has there.
fn write(out: &mut Vec<u8>, blocks: &[Block], block_tokens: u32, (from, to): (u32, u32), tail: u64) {
    let whole = to - to % block_tokens;
    let mut at = from;
    while at < to {
        let ends = to.min(at - at % block_tokens + block_tokens);
        let block = if at < whole { blocks.get((at / block_tokens) as usize).copied() } else { None };
        let seed = block.map_or(tail, |block| mix(1, u64::from(block)));
        for at in at..ends {
            let mixed = (seed ^ u64::from(at)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
            let letters = (mixed as u32 & 0x0f0f_0f0f) + 0x6161_6161;
            out.extend_from_slice(&letters.to_le_bytes());
        }
        at = ends;
    }
}

/// A hash of two numbers: the finaliser of SplitMix64 over their combination.
fn mix(a: u64, b: u64) -> u64 {
    let mut x = a.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ b.wrapping_mul(0xd1b5_4a32_d192_ed03).rotate_left(17);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

//! What Nearpool reads out of the calls: prompts, and what names their sessions.

use anyhow::{Context, Result};
use nearpool::domain::ask::Endpoint;
use nearpool::domain::prompt::{Cut, Prompt};
use nearpool::policy::affinity;
use nearpool::roster::Identity;
use nearpool::wire::body::Body;
use nearpool::wire::names::HeadNames;
use nearpool::wire::prompt;
use nearpool::wire::scan::Scanner;
use twox_hash::XxHash3_64;

use super::super::dialogue;
use super::super::prompts::{self, Told};
use super::super::trace::{ArrivalRow, Rows, SessionRow};
use super::super::workload::{BLOCK_TOKENS, Call, Workload};

/// How calls tell their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Identities {
    /// By a name, with prompts cut where the engines' blocks end.
    Named,
    /// By their messages alone, which go through the edge's own extractor.
    Messages,
}

impl Identities {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Identities::Named => "names",
            Identities::Messages => "messages",
        }
    }

    pub(crate) fn other(self) -> Identities {
        match self {
            Identities::Named => Identities::Messages,
            Identities::Messages => Identities::Named,
        }
    }
}

/// What the edge reads out of each call of a workload: its prompt, and what names its session.
pub(crate) struct Reading {
    pub(crate) prompts: Vec<(Prompt, Option<Identity>)>,
}

/// The only client, and the only model.
const CLIENT: &[u8] = b"laboratory";
const MODEL: &str = "small";

impl Reading {
    /// Reads the calls of a workload that was built of these rows.
    pub(crate) fn new(identities: Identities, rows: &Rows, workload: &Workload) -> Result<Reading> {
        match identities {
            Identities::Named => Ok(Reading::named(workload)),
            Identities::Messages => Reading::messages(rows, workload.sessions),
        }
    }

    /// As if every session told its name, and prompts were cut where the engines' blocks end.
    pub(crate) fn named(workload: &Workload) -> Reading {
        let key = |conversation: usize| affinity::session_key(CLIENT, &conversation.to_le_bytes());
        let read = |call: &Call| {
            let cut = |(n, block): (usize, &u32)| Cut {
                chain: XxHash3_64::oneshot(&block.to_le_bytes()),
                tokens: (n as u32 + 1) * BLOCK_TOKENS,
            };
            let cuts = call.blocks.iter().enumerate().map(cut).collect();
            let identity = Identity::Named { session: key(call.conversation), parent: call.parent.map(key) };
            (Prompt { cuts, tokens: call.input, conversation: None }, Some(identity))
        };
        Reading { prompts: workload.calls.iter().map(read).collect() }
    }

    /// Every call as an agent would send it that names no session, read as the edge reads it.
    pub(crate) fn messages(rows: &Rows, sessions: usize) -> Result<Reading> {
        let mut read = Vec::new();
        let mut add = |told: &[Told<'_>], block_tokens: usize| {
            let (block_tokens, salt) = (block_tokens as u32, read.len() as u64);
            dialogue::each(told, block_tokens, salt, |told, dialogue| {
                read.push(received(dialogue::body(told, dialogue, block_tokens)));
            });
        };
        match rows {
            Rows::Sessions(rows) => {
                prompts::sessions(rows, sessions, |_, told| add(&told, SessionRow::BLOCK_TOKENS));
            }
            Rows::Arrivals(rows) => add(&prompts::arrivals(rows), ArrivalRow::BLOCK_TOKENS),
        }
        Ok(Reading { prompts: read.into_iter().collect::<Result<_>>()? })
    }
}

/// What the edge makes of a body: what is done in `proxy` at the stations accept and identify, less the sockets.
fn received(body: Vec<u8>) -> Result<(Prompt, Option<Identity>)> {
    let mut scanner = Scanner::new();
    scanner.push(&body).context("a call of the laboratory")?;
    let scan = scanner.finish().context("a call of the laboratory")?;
    let mut prompt = prompt::read(&scan, &Body::from(bytes::Bytes::from(body)), Endpoint::Chat);
    let names = HeadNames::default().with(&scan.fields);
    let identity =
        Identity::of(&affinity::scope(Some(CLIENT), None), &names, &prompt).map(|identity| identity.at_model(MODEL));
    // It is in the identity now, and of a million tokens it would take more than the rest.
    prompt.conversation = None;
    prompt.cuts.shrink_to_fit();
    Ok((prompt, identity))
}

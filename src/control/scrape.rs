//! Engines' own numbers, and those of their GPUs: `GET /metrics` of every replica, and of the exporter beside it where one
//! is configured, into the replica's live record.
//!
//! It is an extra: what an engine says of its load sharpens the choice, and an edge that hears nothing chooses by what it
//! knows itself. So nothing here touches a replica's health. One that has no such page (llama.cpp without `--metrics`,
//! SGLang without `--enable-metrics`, a gateway), or does not answer a few times in a row, is asked more seldom, and said
//! so once in the log. Replicas of kind "openai" are not asked at all: nobody knows what their numbers are called. An
//! exporter that tells of the GPUs of several replicas is asked for each: its page is short, and each question says which
//! of its GPUs are meant.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora::services::background::BackgroundService;
use tokio::task::JoinSet;

use self::rounds::{Rounds, Source};
use super::line::Connections;
use crate::roster::Roster;

mod round;
mod rounds;

/// Questions under way at a time; more would be a burst of work from one thread. At 150 ms each, these are 400 a second.
const ASKED_MAX: usize = 64;

/// The background service.
#[derive(Debug)]
pub struct Scrape {
    roster: Arc<Roster>,
    connections: Connections,
}

impl Scrape {
    /// Asks the replicas of this roster.
    pub fn new(roster: Arc<Roster>, connections: Connections) -> Scrape {
        Scrape { roster, connections }
    }
}

#[async_trait]
impl BackgroundService for Scrape {
    /// Goes on while the edge drains, since it still chooses replicas then; ends with its runtime.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let mut sources = [Rounds::new(Source::Engine), Rounds::new(Source::Gpu)];
        let mut asked = JoinSet::new();
        loop {
            let snapshot = self.roster.snapshot();
            let now = Instant::now();
            for (source, rounds) in sources.iter_mut().enumerate() {
                rounds.follow(&snapshot, now);
                for round in rounds.due(&snapshot, ASKED_MAX.saturating_sub(asked.len()), now) {
                    let connections = self.connections.clone();
                    asked.spawn(async move { (source, round.ask(&connections).await) });
                }
            }
            let wake = sources[0].wake(now).min(sources[1].wake(now));
            tokio::select! {
                Some(Ok((source, answered))) = asked.join_next() => {
                    sources[source].done(&snapshot, answered, Instant::now());
                }
                // At the bound, only an end makes room.
                () = tokio::time::sleep_until(wake.into()), if asked.len() < ASKED_MAX => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;

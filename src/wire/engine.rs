//! Engines' metrics: Prometheus' text format into the load of a replica.
//!
//! Read here and not by a library: a page of 100 KiB comes from every replica every other second, and seven series of it
//! are wanted. The page is read line by line as it arrives, whatever its length, and of a line that is not wanted nothing
//! but its end is looked for. (Of the crates for it, the one that is free to use takes no name with a colon, as all of
//! the engines' are.)
//!
//! Which series count:
//! - Those of the pool's model. An engine has a name of its own choice for its model (its first one, where it answers to
//!   an alias or an adapter's), so where none has the wanted name, the only other one is taken; of several others, none.
//! - Of ranks that step together (`tp_rank`, `pp_rank`) the first, since each would tell of the same requests.
//! - The rest are engines side by side (`engine`, `dp_rank`): requests, capacities and counters are added up. The usage of
//!   their caches is averaged and not its maximum taken: the replica spreads what it gets over them by itself, and so
//!   usage × capacity are the tokens held.
//!
//! What is not finite, negative or no number says nothing.

use memchr::memchr;

use self::series::{Family, family, read};
use self::tally::Tally;
use crate::domain::engine_load::EngineLoad;
use crate::domain::topology::Engine;

mod series;
mod tally;

/// Bytes of a page: vLLM's has 50 to 200 KiB, and ten times that with many engines in one replica.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of a line that came in pieces; a longer one is passed over. `cache_config_info`, with all its labels, has 1 KiB.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Reads one page, in whatever pieces it comes.
#[derive(Debug)]
pub struct Page {
    engine: Engine,
    /// The model's name at the replicas.
    model: String,
    /// The beginning of a line whose end is still to come.
    begun: Vec<u8>,
    /// The line is too long: nothing of it counts.
    skips: bool,
    /// Of series with the model's name or none.
    own: Tally,
    /// Of series with another model's name.
    other: Tally,
    other_model: Option<Vec<u8>>,
    /// Several other models are told of.
    several: bool,
}

impl Page {
    /// A page of a replica of this kind that serves this model.
    pub fn new(engine: Engine, served_as: &str) -> Page {
        let (own, other) = (Tally::default(), Tally::default());
        let (begun, model) = (Vec::new(), served_as.to_owned());
        Page { engine, model, begun, skips: false, own, other, other_model: None, several: false }
    }

    /// The next piece.
    pub fn push(&mut self, mut piece: &[u8]) {
        while let Some(at) = memchr(b'\n', piece) {
            let (line, rest) = (&piece[..at], &piece[at + 1..]);
            piece = rest;
            if std::mem::take(&mut self.skips) {
                continue;
            }
            if self.begun.is_empty() {
                self.line(line);
            } else if self.keep(line) {
                let whole = std::mem::take(&mut self.begun);
                self.line(&whole);
                self.begun = whole;
                self.begun.clear();
            } else {
                self.skips = false;
            }
        }
        if !self.skips && !piece.is_empty() {
            self.keep(piece);
        }
    }

    /// The load, unless the page says nothing of requests.
    pub fn finish(mut self) -> Option<EngineLoad> {
        if !self.begun.is_empty() {
            let last = std::mem::take(&mut self.begun);
            self.line(&last);
        }
        let other = self.other.load().filter(|_| !self.several);
        self.own.load().or(other)
    }

    /// Adds to the line that has begun; `false` when it is too long now, and given up.
    fn keep(&mut self, part: &[u8]) -> bool {
        self.skips = self.begun.len() + part.len() > LINE_BYTES_MAX;
        if self.skips {
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(part);
        }
        !self.skips
    }

    fn line(&mut self, line: &[u8]) {
        // Also where it came in one piece, so that pieces make no difference.
        if line.len() > LINE_BYTES_MAX {
            return;
        }
        let Some((family, rest)) = family(self.engine, line) else { return };
        let Some(sample) = read(rest) else { return };
        if sample.is_of_a_further_rank() {
            return;
        }
        match sample.label(b"model_name") {
            // What a page says without a model's name holds for whichever model is taken.
            None if family == Family::CacheConfig => {
                self.own.add(family, &sample);
                self.other.add(family, &sample);
            }
            None => self.own.add(family, &sample),
            Some(model) if *model == *self.model.as_bytes() => self.own.add(family, &sample),
            Some(model) => match &self.other_model {
                Some(known) if **known != *model => self.several = true,
                Some(_) => self.other.add(family, &sample),
                None => {
                    self.other_model = Some(model.to_vec());
                    self.other.add(family, &sample);
                }
            },
        }
    }
}

#[cfg(test)]
mod tests;

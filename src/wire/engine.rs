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

use self::lines::Lines;
use self::series::{Family, family, read};
use self::tally::Tally;
use crate::domain::engine_load::EngineLoad;
use crate::domain::topology::Engine;

mod gpu;
mod lines;
mod series;
mod tally;

pub use gpu::GpuPage;

/// Bytes of a page: vLLM's has 50 to 200 KiB, and ten times that with many engines in one replica.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// Reads one page, in whatever pieces it comes.
#[derive(Debug)]
pub struct Page {
    lines: Lines,
    samples: Samples,
}

/// What was read of it so far.
#[derive(Debug)]
struct Samples {
    engine: Engine,
    /// The model's name at the replicas.
    model: String,
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
        let samples = Samples { engine, model: served_as.to_owned(), own, other, other_model: None, several: false };
        Page { lines: Lines::default(), samples }
    }

    /// The next piece.
    pub fn push(&mut self, piece: &[u8]) {
        let Page { lines, samples } = self;
        lines.push(piece, |line| samples.line(line));
    }

    /// The load, unless the page says nothing of requests.
    pub fn finish(self) -> Option<EngineLoad> {
        let Page { lines, mut samples } = self;
        lines.finish(|line| samples.line(line));
        let other = samples.other.load().filter(|_| !samples.several);
        samples.own.load().or(other)
    }
}

impl Samples {
    fn line(&mut self, line: &[u8]) {
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

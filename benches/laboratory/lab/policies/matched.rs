//! Longest match.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::engine::Engines;
use super::super::time::Micros;
use super::blind::least;
use super::router::{Ask, Decision, Router};

/// The replica whose cache, known exactly, holds the most of the prompt; among equals the one with the fewest unanswered
/// calls.
pub(crate) struct LongestMatch(SmallRng);

impl LongestMatch {
    pub(crate) fn new(seed: u64) -> LongestMatch {
        LongestMatch(SmallRng::seed_from_u64(seed))
    }
}

impl Router for LongestMatch {
    fn route(&mut self, ask: &Ask<'_>, engines: &Engines<'_>, _now: Micros) -> Decision {
        let input = u64::from(ask.call.input);
        Decision::Go(least(engines.count(), &mut self.0, |replica| {
            (input - engines.held_tokens(replica, &ask.call.blocks), engines.outstanding(replica))
        }))
    }
}

//! Policies that know nothing of sessions and caches.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::super::engine::Engines;
use super::super::time::Micros;
use super::router::{Ask, Decision, Router};

/// One after the other.
#[derive(Default)]
pub(crate) struct RoundRobin(usize);

impl Router for RoundRobin {
    fn route(&mut self, _ask: &Ask<'_>, engines: &Engines<'_>, _now: Micros) -> Decision {
        let replica = self.0 % engines.count();
        self.0 += 1;
        Decision::Go(replica)
    }
}

/// Any.
pub(crate) struct Random(SmallRng);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(SmallRng::seed_from_u64(seed))
    }
}

impl Router for Random {
    fn route(&mut self, _ask: &Ask<'_>, engines: &Engines<'_>, _now: Micros) -> Decision {
        Decision::Go(self.0.random_range(0..engines.count()))
    }
}

/// The one with the fewest unanswered calls; among equals, any.
pub(crate) struct LeastOutstanding(SmallRng);

impl LeastOutstanding {
    pub(crate) fn new(seed: u64) -> LeastOutstanding {
        LeastOutstanding(SmallRng::seed_from_u64(seed))
    }
}

impl Router for LeastOutstanding {
    fn route(&mut self, _ask: &Ask<'_>, engines: &Engines<'_>, _now: Micros) -> Decision {
        Decision::Go(least(engines.count(), &mut self.0, |replica| engines.outstanding(replica)))
    }
}

/// The replica with the least of something; among equals, any.
pub(crate) fn least<K: PartialOrd>(count: usize, rng: &mut SmallRng, key: impl Fn(usize) -> K) -> usize {
    let mut best = (key(0), 0);
    let mut equals = 1;
    for replica in 1..count {
        let key = key(replica);
        if key < best.0 {
            (best, equals) = ((key, replica), 1);
        } else if key == best.0 {
            equals += 1;
            // Each of the equals is kept with the same chance.
            if rng.random_range(0..equals) == 0 {
                best = (key, replica);
            }
        }
    }
    best.1
}

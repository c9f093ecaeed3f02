//! The oracle: it knows every engine's cache and queue exactly.

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::super::engine::Engines;
use super::super::time::Micros;
use super::super::workload::Call;
use super::admission::Admission;
use super::blind::least;
use super::router::{Ask, Decision, Router};

/// Least cost: the queue's seconds and `weight` times the prompt's own, which evicts others' blocks too.
pub(crate) struct Oracle {
    weight: f64,
    admission: Option<Admission>,
    rng: SmallRng,
}

impl Oracle {
    pub(crate) fn new(weight: f64, admission: Option<Admission>, seed: u64) -> Oracle {
        Oracle { weight, admission, rng: SmallRng::seed_from_u64(seed) }
    }
}

impl Router for Oracle {
    fn route(&mut self, ask: &Ask<'_>, engines: &Engines<'_>, now: Micros) -> Decision {
        if let Some(verdict) = self.admission.as_mut().and_then(|admission| admission.holds_back(ask, engines, now)) {
            return verdict;
        }
        let input = u64::from(ask.call.input);
        Decision::Go(least(engines.count(), &mut self.rng, |replica| {
            let uncached = (input - engines.held_tokens(replica, &ask.call.blocks)) as f64;
            (engines.queued_tokens(replica, now) as f64 + self.weight * uncached) / engines.speed()
        }))
    }

    fn next_in_line(&mut self, after: Option<usize>, _now: Micros) -> Option<usize> {
        self.admission.as_ref()?.next_in_line(after)
    }

    fn answered(&mut self, _number: usize, call: &Call, _replica: usize, now: Micros) {
        if let Some(admission) = &mut self.admission {
            admission.answered(call, now);
        }
    }
}

//! How busy a replica's GPUs are, as an exporter beside the engine tells.
//!
//! It is shown to people and to whoever scales the fleet, and decides nothing here: a GPU is as busy with one long decode
//! as with a full batch, so it says neither how much room a replica has nor how soon it answers.

use std::time::Instant;

use super::engine_load::STALE;

/// What an exporter said last.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GpuReport {
    /// The share of time in which the GPUs were busy, 0 to 1, as the mean over them.
    pub utilization: f64,
    /// When it said so.
    pub at: Instant,
}

impl GpuReport {
    /// The utilisation as far as this report tells at `now`: as with an engine's word, one that is [`STALE`] tells nothing.
    pub fn utilization(&self, now: Instant) -> Option<f64> {
        (now.saturating_duration_since(self.at) < STALE).then_some(self.utilization)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_exporters_word_holds_until_it_is_stale() {
        let at = Instant::now() + STALE;
        let report = GpuReport { utilization: 0.4, at };
        for now in [at - STALE, at, at + STALE - Duration::from_millis(1)] {
            assert_eq!(report.utilization(now), Some(0.4));
        }
        assert_eq!(report.utilization(at + STALE), None);
    }
}

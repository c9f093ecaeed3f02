//! The round trip to a region, from its replicas' health checks.
//!
//! What a check takes is the round trip and whatever the engine had to do first, so the shortest of the last few is the
//! nearest to the truth, and the nearest of a region's replicas tells how far the region is. What the order of regions goes
//! by moves only when that differs by more than it usually wavers: else two regions that are equally far would take turns.

use std::time::Duration;

/// Checks of which the shortest counts: at the usual interval of 2 s, a quarter of a minute.
const WINDOW: usize = 8;

/// By how much a round trip must have changed before that counts: the larger of the two. Round trips between regions waver
/// by a few percent in a day.
const CHANGE_MS: f64 = 2.0;
const CHANGE_SHARE: f64 = 0.1;

/// The last checks of one replica.
#[derive(Clone, Copy, Default, Debug)]
pub struct Window {
    /// In ms; of the first `noted`.
    last: [f64; WINDOW],
    noted: usize,
}

impl Window {
    /// A check was answered after so long.
    pub fn note(&mut self, took: Duration) {
        self.last[self.noted % WINDOW] = took.as_secs_f64() * 1_000.0;
        // Past the first round only the place within it matters.
        self.noted = if self.noted + 1 == 2 * WINDOW { WINDOW } else { self.noted + 1 };
    }

    /// The shortest, in ms; `None` before the first.
    pub fn shortest_ms(&self) -> Option<f64> {
        self.last.iter().take(self.noted).copied().reduce(f64::min)
    }
}

/// What the order goes by from now on, in ms, when it went by `before` and the shortest is `shortest_ms` now.
pub fn held(before: Option<f64>, shortest_ms: f64) -> f64 {
    let wavers = |before: &f64| (shortest_ms - before).abs() <= CHANGE_MS.max(CHANGE_SHARE * before);
    before.filter(wavers).unwrap_or(shortest_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_the_last_few_counts() {
        let mut window = Window::default();
        assert_eq!(window.shortest_ms(), None);
        let mut all = Vec::new();
        for n in 0..100u64 {
            all.push(10 + n * 37 % 50);
            window.note(Duration::from_millis(all[n as usize]));
            let last = &all[all.len().saturating_sub(WINDOW)..];
            assert_eq!(window.shortest_ms(), last.iter().min().map(|ms| *ms as f64), "after {n}");
        }
    }

    #[test]
    fn what_wavers_changes_nothing_and_what_changes_does() {
        for (before, shortest, expected) in [
            (None, 30.0, 30.0),
            (Some(30.0), 32.9, 30.0),
            (Some(30.0), 33.1, 33.1),
            (Some(30.0), 26.9, 26.9),
            (Some(3.0), 4.9, 3.0),
            (Some(3.0), 5.1, 5.1),
            (Some(200.0), 219.0, 200.0),
        ] {
            assert_eq!(held(before, shortest), expected, "{before:?} {shortest}");
        }
    }
}

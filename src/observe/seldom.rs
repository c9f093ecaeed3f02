//! Warnings that would come with every line or every second: told at once, and then again only after a while.

use std::time::{Duration, Instant};

/// From one warning to the next of the same kind.
pub const WARN_EVERY: Duration = Duration::from_secs(60);

/// When a warning is due.
#[derive(Debug, Default)]
pub struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    /// Whether to warn now: the first time, and then once in every [`WARN_EVERY`].
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.last.is_none_or(|last| now.saturating_duration_since(last) >= WARN_EVERY);
        if due {
            self.last = Some(now);
        }
        due
    }

    /// All is well again: whether there had been a warning. The next one comes at once.
    pub fn is_over(&mut self) -> bool {
        self.last.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_comes_at_once_and_then_once_a_minute_until_all_is_well() {
        let (mut seldom, start) = (Seldom::default(), Instant::now());
        assert!(!seldom.is_over(), "nothing was wrong");
        assert!(seldom.is_due(start));
        assert!(!seldom.is_due(start + WARN_EVERY / 2));
        assert!(seldom.is_due(start + WARN_EVERY));
        assert!(!seldom.is_due(start + WARN_EVERY));
        assert!(seldom.is_over() && !seldom.is_over());
        assert!(seldom.is_due(start + WARN_EVERY));
    }
}

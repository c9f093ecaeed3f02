//! How long a replica takes to its first event, as far as this edge sees.
//!
//! TTFT is mostly prefill, and that depends on the prompt: a session at home computes some hundred tokens, a new one
//! all of its own. So the two are kept apart, and only like is compared with like. Within each, prompts still differ by
//! their length; over some thirty calls, and in logarithms, where one prompt of 100K tokens does not outweigh the rest,
//! replicas of one pool come close. It errs when a few sessions of very long prompts are all of a replica's calls: that
//! replica is given fewer new sessions, which is not wrong either.

use std::time::{Duration, Instant};

/// About so many calls count; older ones fade.
const SPAN: u32 = 32;

/// Fewer calls say nothing.
const SAMPLES_MIN: u32 = 10;

/// What is older says nothing of now; a replica that was slow is taken for well again, and shows what it is.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Shorter times count as this: nobody notices the difference, and noise would be told as a multiple.
const LEAST: Duration = Duration::from_millis(50);

/// A replica's times to its first event.
#[derive(Clone, Copy, Default, Debug)]
pub struct Ttft {
    at_home: Mean,
    elsewhere: Mean,
}

/// The times that are typical of a replica now, in seconds, where enough is known.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Typical {
    /// Of sessions at home, whose cache is warm.
    pub at_home: Option<f32>,
    /// Of all other calls.
    pub elsewhere: Option<f32>,
}

/// A geometric mean in which the newest counts for more.
#[derive(Clone, Copy, Default, Debug)]
struct Mean {
    log_s: f32,
    samples: u32,
    last: Option<Instant>,
}

impl Ttft {
    /// Takes in the time of one call: of a session that was at home there, or not.
    pub fn note(&mut self, ttft: Duration, at_home: bool, now: Instant) {
        let mean = if at_home { &mut self.at_home } else { &mut self.elsewhere };
        mean.note(ttft.max(LEAST).as_secs_f32().ln(), now);
    }

    /// What is typical now.
    pub fn typical(&self, now: Instant) -> Typical {
        Typical { at_home: self.at_home.typical(now), elsewhere: self.elsewhere.typical(now) }
    }
}

impl Mean {
    fn note(&mut self, log_s: f32, now: Instant) {
        if self.is_forgotten(now) {
            *self = Mean::default();
        }
        self.samples = (self.samples + 1).min(SPAN);
        self.log_s += (log_s - self.log_s) / self.samples as f32;
        self.last = Some(now);
    }

    fn typical(&self, now: Instant) -> Option<f32> {
        (self.samples >= SAMPLES_MIN && !self.is_forgotten(now)).then(|| self.log_s.exp())
    }

    fn is_forgotten(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= FORGOTTEN_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is typical so many seconds after calls of these milliseconds each, one a second.
    #[track_caller]
    fn check(calls_ms: &[u64], later_s: u64, expected_ms: Option<f32>) {
        let (mut ttft, start) = (Ttft::default(), Instant::now());
        let mut now = start;
        for ms in calls_ms {
            now += Duration::from_secs(1);
            ttft.note(Duration::from_millis(*ms), true, now);
        }
        let typical = ttft.typical(now + Duration::from_secs(later_s));
        assert_eq!(typical.elsewhere, None, "the kinds are kept apart");
        let near = match (typical.at_home, expected_ms) {
            (Some(found), Some(expected)) => (found * 1_000.0 / expected - 1.0).abs() < 0.05,
            (found, expected) => found.is_none() == expected.is_none(),
        };
        assert!(near, "{:?} s, expected {expected_ms:?} ms", typical.at_home);
    }

    #[test]
    fn enough_calls_make_a_mean_that_one_long_prompt_does_not_move_far() {
        check(&[200; 10], 0, Some(200.0));
        check(&[&[200; 31][..], &[20_000]].concat(), 0, Some(231.0));
        check(&[&[200; 100][..], &[2_000; 150]].concat(), 0, Some(1_970.0));
        check(&[1; 20], 0, Some(50.0));
    }

    #[test]
    fn too_few_or_old_calls_say_nothing() {
        check(&[], 0, None);
        check(&[200; 9], 0, None);
        check(&[200; 50], 59, Some(200.0));
        check(&[200; 50], 60, None);
    }
}

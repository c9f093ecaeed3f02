//! How fast a pool is, learned from its answers: how soon first events come, and how many tokens of prompt it reads in a
//! second.
//!
//! Two decisions stand on it. A stream that is slower than nearly all before it may be hedged; and a deadline for the
//! first event grows with the prompt and with those before it in the queue, since a long prefill is no failure. Both say
//! nothing until enough was seen. The growth goes by the slowest tenth of what was seen, and is bounded, so that a silent
//! replica is given up in any case.

use std::time::Duration;

/// Answers that are remembered: enough for a 95th percentile, few enough to follow a pool whose load changes.
const RECENT: usize = 128;

/// Answers that must have been seen: the 95th percentile of fewer is but the slowest.
const ENOUGH: usize = 32;

/// How often the percentiles are taken anew, in answers.
const ANEW_EVERY: usize = 8;

/// What is slow for a first event, and slow and fast for reading, as parts of what was seen.
const SLOW_TTFT: f32 = 0.95;
const SLOW_READING: f32 = 0.1;
const FAST_READING: f32 = 0.9;

/// What the newest answer weighs in the mean of computed tokens: some dozens count.
const NEWEST_SHARE: f32 = 0.05;

/// Computed tokens of a prompt before any was seen: the median of agents' calls, whose most is cached.
const ASSUMED_COMPUTED_TOKENS: f32 = 712.0;

/// Prompts with fewer tokens to compute tell of fixed costs rather than of speed.
const TOKENS_MIN: u64 = 1_024;

/// The most that a deadline grows, as a multiple of itself.
const GROWTH_MAX: u32 = 4;

/// What one pool's answers tell of its pace.
#[derive(Clone, Default, Debug)]
pub struct Pace {
    ttft_s: Recent<1>,
    tokens_per_s: Recent<2>,
    /// Tokens that an answer's prompt had to be read for, a running mean.
    computed_tokens: Option<f32>,
}

impl Pace {
    /// A stream's first event came so long after its request was sent.
    pub fn first_event(&mut self, ttft: Duration) {
        self.ttft_s.push(ttft.as_secs_f32(), [SLOW_TTFT]);
    }

    /// A prompt of which so many tokens had to be computed had its first event so long after it was sent.
    pub fn prefilled(&mut self, computed_tokens: u64, ttft: Duration) {
        let mean = self.computed_tokens.unwrap_or(computed_tokens as f32);
        self.computed_tokens = Some(mean + (computed_tokens as f32 - mean) * NEWEST_SHARE);
        if computed_tokens >= TOKENS_MIN && !ttft.is_zero() {
            self.tokens_per_s.push(computed_tokens as f32 / ttft.as_secs_f32(), [SLOW_READING, FAST_READING]);
        }
    }

    /// How long to wait for a first event before a second attempt: the 95th percentile of the recent ones. `None` until
    /// enough were seen.
    pub fn hedge_after(&self) -> Option<Duration> {
        self.ttft_s.percentiles.and_then(|[s]| Duration::try_from_secs_f32(s).ok())
    }

    /// Tokens of prompt that are read in a second, by the slowest tenth of the recent answers. `None` until enough were
    /// seen.
    pub fn tokens_per_s(&self) -> Option<f32> {
        self.tokens_per_s.percentiles.map(|[slow, _]| slow)
    }

    /// The same by the fastest tenth: as a replica reads a prompt that waits for nobody. `None` until enough were seen.
    pub fn reads_per_s(&self) -> Option<f32> {
        self.tokens_per_s.percentiles.map(|[_, fast]| fast)
    }

    /// Tokens that a prompt gives to read, on average; what is known of calls of which nothing is known.
    pub fn computed_tokens(&self) -> f32 {
        self.computed_tokens.unwrap_or(ASSUMED_COMPUTED_TOKENS)
    }

    /// A deadline of `base` for a call with so many tokens to compute, its own and those before it at its replica.
    pub fn deadline(&self, base: Duration, tokens: u64) -> Duration {
        let seconds = self.tokens_per_s().map_or(0.0, |speed| tokens as f32 / speed);
        let growth = Duration::try_from_secs_f32(seconds).unwrap_or(Duration::MAX);
        base.saturating_add(growth.min(base.saturating_mul(GROWTH_MAX)))
    }
}

/// The last values, and some percentiles of them.
#[derive(Clone, Default, Debug)]
struct Recent<const N: usize> {
    values: Vec<f32>,
    next: usize,
    percentiles: Option<[f32; N]>,
}

impl<const N: usize> Recent<N> {
    fn push(&mut self, value: f32, quantiles: [f32; N]) {
        if self.values.len() < RECENT {
            self.values.push(value);
        } else {
            self.values[self.next % RECENT] = value;
        }
        self.next = self.next.wrapping_add(1);
        if self.values.len() >= ENOUGH && self.next.is_multiple_of(ANEW_EVERY) {
            let mut sorted = self.values.clone();
            sorted.sort_unstable_by(f32::total_cmp);
            // Every quantile lies within.
            self.percentiles =
                Some(quantiles.map(|quantile| sorted[((sorted.len() - 1) as f32 * quantile).round() as usize]));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after_ttfts(ms: impl Iterator<Item = u64>) -> Pace {
        let mut pace = Pace::default();
        ms.for_each(|ms| pace.first_event(Duration::from_millis(ms)));
        pace
    }

    /// A pool that reads so many tokens in a second.
    fn of_speed(tokens_per_s: u64) -> Pace {
        let mut pace = Pace::default();
        (0..ENOUGH).for_each(|_| pace.prefilled(2 * tokens_per_s, 2 * SECOND));
        pace
    }

    #[test]
    fn a_stream_is_slow_when_it_is_slower_than_nearly_all_before_it() {
        assert_eq!(after_ttfts(1..=(ENOUGH as u64 - 1)).hedge_after(), None, "too few");
        let hundred = after_ttfts(1..=100).hedge_after().unwrap();
        assert!((hundred.as_secs_f64() - 0.095).abs() < 0.005, "{hundred:?}");
        let changed = after_ttfts((1..=100).chain(std::iter::repeat_n(700, RECENT))).hedge_after().unwrap();
        assert!((changed.as_secs_f64() - 0.7).abs() < 0.001, "the old ones are forgotten: {changed:?}");
    }

    #[test]
    fn a_deadline_grows_with_the_tokens_once_the_speed_is_known() {
        assert_eq!(Pace::default().deadline(SECOND, u64::MAX), SECOND);
        let pace = of_speed(10_000);
        assert_eq!(pace.deadline(30 * SECOND, 0), 30 * SECOND);
        assert_eq!(pace.deadline(30 * SECOND, 100_000), 40 * SECOND);
        assert_eq!(pace.deadline(30 * SECOND, u64::MAX), 150 * SECOND, "a silent replica is given up in any case");
        assert_eq!(pace.deadline(Duration::MAX, u64::MAX), Duration::MAX);
    }

    #[test]
    fn the_slowest_tenth_gives_the_speed_and_short_prompts_give_none() {
        let mut pace = Pace::default();
        for n in 0..100 {
            pace.prefilled(if n % 5 == 0 { 2_000 } else { 20_000 }, SECOND);
            pace.prefilled(TOKENS_MIN - 1, 100 * SECOND);
            pace.prefilled(1 << 40, Duration::ZERO);
        }
        assert_eq!((pace.tokens_per_s(), pace.reads_per_s()), (Some(2_000.0), Some(20_000.0)));
    }

    #[test]
    fn what_prompts_give_to_read_is_a_running_mean() {
        let mut pace = Pace::default();
        assert_eq!(pace.computed_tokens(), ASSUMED_COMPUTED_TOKENS);
        pace.prefilled(100, SECOND);
        assert_eq!(pace.computed_tokens(), 100.0);
        (0..200).for_each(|_| pace.prefilled(5_000, SECOND));
        assert!((pace.computed_tokens() - 5_000.0).abs() < 10.0, "{}", pace.computed_tokens());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn a_deadline_is_never_shorter_and_never_boundless(
            base in 0u64..100_000, tokens in any::<u64>(), seen in prop::collection::vec((0u64..1 << 40, 0u64..1 << 40), 0..300),
        ) {
            let mut pace = Pace::default();
            for (tokens, ms) in seen {
                pace.prefilled(tokens, Duration::from_millis(ms));
                pace.first_event(Duration::from_millis(ms));
            }
            let base = Duration::from_millis(base);
            let deadline = pace.deadline(base, tokens);
            prop_assert!(deadline >= base && deadline <= base * (1 + GROWTH_MAX));
            prop_assert!(pace.values() <= 2 * RECENT);
        }
    }

    impl Pace {
        fn values(&self) -> usize {
            self.ttft_s.values.len() + self.tokens_per_s.values.len()
        }
    }
}

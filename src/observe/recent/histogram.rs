//! Durations as counts in buckets that grow by a fixed factor, so that a quantile is off by a bounded part of itself.

/// Buckets for each doubling. A quantile is told as the geometric middle of its bucket, so it is at most a factor of
/// 2^(1/8) off: 9.1 %.
const PER_DOUBLING: f64 = 4.0;

/// The first bucket begins at 2^-2 ms, shorter than any prefill. What is shorter still counts there.
const FIRST_LOG2_MS: f64 = -2.0;

/// The last one ends at 2^20 ms, 17 minutes, longer than a call may wait. What is longer still counts there.
const BUCKETS: u8 = 88;

/// Counts by bucket. Only the buckets from the least to the greatest that were ever used take room, four bytes each: times
/// of one pool within ten seconds mostly lie within a factor of ten of each other.
#[derive(Clone, Default, Debug)]
pub(super) struct Histogram {
    /// The bucket of the first count.
    first: u8,
    counts: Vec<u32>,
}

impl Histogram {
    /// Counts one duration, in ms.
    pub(super) fn add(&mut self, ms: f64) {
        *self.at(bucket(ms)) += 1;
    }

    /// Counts all that another one has counted.
    pub(super) fn merge(&mut self, other: &Histogram) {
        for (bucket, count) in (other.first..).zip(&other.counts).filter(|(_, count)| **count > 0) {
            let own = self.at(bucket);
            *own = own.saturating_add(*count);
        }
    }

    /// How many it has counted.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The duration, in ms, that this part of them did not exceed (nearest rank); `None` of nothing. `part` is 0 to 1.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        let rank = ((part * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= rank
        });
        reached.map(|at| middle_ms(f64::from(self.first) + at as f64))
    }

    fn at(&mut self, bucket: u8) -> &mut u32 {
        if self.counts.is_empty() {
            self.first = bucket;
        }
        if bucket < self.first {
            let more = usize::from(self.first - bucket);
            self.counts.splice(0..0, std::iter::repeat_n(0, more));
            self.first = bucket;
        }
        let at = usize::from(bucket - self.first);
        if at >= self.counts.len() {
            self.counts.resize(at + 1, 0);
        }
        &mut self.counts[at]
    }
}

fn bucket(ms: f64) -> u8 {
    // What is no number casts to 0, and what is out of range to the ends of it.
    (((ms.log2() - FIRST_LOG2_MS) * PER_DOUBLING).floor() as u8).min(BUCKETS - 1)
}

fn middle_ms(bucket: f64) -> f64 {
    ((bucket + 0.5) / PER_DOUBLING + FIRST_LOG2_MS).exp2()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the module's doc promises, and a hair for rounding.
    const ERROR_MAX: f64 = 0.0906;

    fn of(times: &[f64]) -> Histogram {
        let mut histogram = Histogram::default();
        times.iter().for_each(|ms| histogram.add(*ms));
        histogram
    }

    proptest! {
        #[test]
        fn a_quantile_is_off_by_less_than_a_tenth(
            mut times in proptest::collection::vec(0.25..1_000_000.0f64, 1..300),
            part in 0.01..=1.0f64,
            cut in 0usize..300,
        ) {
            let (one, other) = times.split_at(cut.min(times.len()));
            let mut told = of(one);
            told.merge(&of(other));
            prop_assert_eq!(told.count(), times.len() as u64);
            times.sort_by(f64::total_cmp);
            let exact = times[((part * times.len() as f64).ceil() as usize).max(1) - 1];
            let told = told.quantile(part).unwrap();
            prop_assert!((told / exact - 1.0).abs() <= ERROR_MAX, "{} told as {}", exact, told);
        }
    }

    #[test]
    fn of_nothing_there_is_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().count(), 0);
    }

    #[test]
    fn what_no_bucket_is_for_counts_at_the_ends() {
        for (ms, told) in [(0.0, 0.27), (-1.0, 0.27), (f64::NAN, 0.27), (1e12, 961_548.0), (f64::INFINITY, 961_548.0)] {
            let quantile = of(&[ms]).quantile(0.5).unwrap();
            assert!((quantile / told - 1.0).abs() < 0.01, "{ms} told as {quantile}");
        }
        assert!(of(&[0.0, 1e12]).counts.len() <= usize::from(BUCKETS));
    }
}

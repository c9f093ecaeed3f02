//! A distribution by its quantiles.

use rand::RngExt;
use rand::rngs::SmallRng;

/// Parts and the values below which they lie; the first is of part 0, the last of part 1. Between two the logarithm is
/// even. All values are positive.
pub(crate) struct Quantiles(pub(crate) &'static [(f64, f64)]);

impl Quantiles {
    /// One value.
    pub(crate) fn draw(&self, rng: &mut SmallRng) -> f64 {
        self.at(rng.random())
    }

    /// The value below which this part lies.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let above = self.0.partition_point(|(end, _)| *end <= part).clamp(1, self.0.len() - 1);
        let ((begin, low), (end, high)) = (self.0[above - 1], self.0[above]);
        low * (high / low).powf((part - begin) / (end - begin))
    }
}

//! What one call has cost so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// The sum of its attempts' shares. Shared with them, since an attempt ends wherever it is dropped: when it failed, when
/// another one was faster, when the client went away.
#[derive(Default, Debug)]
pub struct Bill(
    /// USD, as the bits of a float; 0 is none.
    AtomicU64,
);

impl Bill {
    /// USD so far.
    pub fn dollars(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn add(&self, dollars: f64) {
        let more = |bits| Some((f64::from_bits(bits) + dollars).to_bits());
        // It never fails: there is always a next value.
        let _before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

//! What is measured of each region: the round trip to it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::policy::rtt;

/// One region's live record. It outlives reloads that keep the region's name.
#[derive(Debug)]
pub struct RegionLive {
    /// In ms, as bits; not a number before the first measurement.
    rtt_ms: AtomicU64,
}

impl Default for RegionLive {
    fn default() -> RegionLive {
        RegionLive { rtt_ms: AtomicU64::new(f64::NAN.to_bits()) }
    }
}

impl RegionLive {
    /// The round trip that the order of regions goes by, in ms; `None` while it is not measured.
    pub fn rtt_ms(&self) -> Option<f64> {
        Some(f64::from_bits(self.rtt_ms.load(Ordering::Relaxed))).filter(|ms| !ms.is_nan())
    }

    /// The shortest round trip to any of its replicas is this one now. Told by one thread alone.
    pub(super) fn measured(&self, shortest_ms: f64) {
        self.rtt_ms.store(rtt::held(self.rtt_ms(), shortest_ms).to_bits(), Ordering::Relaxed);
    }
}

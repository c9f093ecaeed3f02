//! Virtual time.

/// Microseconds since the run began.
pub(crate) type Micros = u64;

/// One second.
pub(crate) const SECOND: Micros = 1_000_000;

/// Microseconds of so many seconds, which are not negative.
pub(crate) fn seconds(value: f64) -> Micros {
    (value * SECOND as f64).round() as Micros
}

/// Seconds, to show and to compute with.
pub(crate) fn in_seconds(time: Micros) -> f64 {
    time as f64 / SECOND as f64
}

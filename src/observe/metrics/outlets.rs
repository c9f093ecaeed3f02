//! What does not reach those who watch: the access log's lines.

use prometheus::IntCounter;

use super::Maker;

/// Handles of these metrics.
#[derive(Debug)]
pub(super) struct Outlets {
    log_dropped: IntCounter,
}

impl Outlets {
    #[rustfmt::skip] // one metric, one line
    pub(super) fn new(new: &Maker<'_>) -> Result<Outlets, prometheus::Error> {
        Ok(Outlets {
            log_dropped: new.counter("nearpool_access_log_dropped_total", "Lines of the access log that were not written.")?,
        })
    }

    pub(super) fn log_dropped(&self) -> IntCounter {
        self.log_dropped.clone()
    }
}

//! How busy an engine was of late, as a GPU's driver tells: the share of time in which anything ran, be it one decode or a
//! full batch.

/// One entry of the ring, in nanoseconds.
const SLOT_NS: u64 = 100_000_000;
/// Entries: together the second that is told of.
const SLOTS: usize = 10;

/// Busy time of the last second, in slots that are counted once they are over.
#[derive(Debug, Clone, Default)]
pub(super) struct Busy {
    /// Nanoseconds by slot; slot `n` since the beginning of time stands at `n % (SLOTS + 1)`, one of them being filled.
    ns: [u64; SLOTS + 1],
    /// The newest slot that is in the ring.
    newest: u64,
}

impl Busy {
    /// Something ran from then to then, both in nanoseconds; in order of time.
    pub(super) fn note(&mut self, from: u64, to: u64) {
        self.turn_to(to / SLOT_NS);
        // What is older than the ring is told no more.
        let oldest = self.newest.saturating_sub(SLOTS as u64);
        let mut from = from.max(oldest * SLOT_NS);
        while from < to {
            let slot = from / SLOT_NS;
            let end = to.min((slot + 1) * SLOT_NS);
            self.ns[ring(slot)] += end - from;
            from = end;
        }
    }

    /// The share of the last second in which something ran, 0 to 1; `now` in nanoseconds.
    pub(super) fn share(&mut self, now: u64) -> f64 {
        self.turn_to(now / SLOT_NS);
        let over = self.newest.saturating_sub(SLOTS as u64)..self.newest;
        let busy: u64 = over.map(|slot| self.ns[ring(slot)]).sum();
        busy as f64 / (SLOT_NS * SLOTS as u64) as f64
    }

    fn turn_to(&mut self, slot: u64) {
        let first = (self.newest + 1).max(slot.saturating_sub(SLOTS as u64));
        for passed in first..=slot {
            self.ns[ring(passed)] = 0;
        }
        self.newest = self.newest.max(slot);
    }
}

fn ring(slot: u64) -> usize {
    (slot % (SLOTS as u64 + 1)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_last_second_counts_and_nothing_before_it() {
        let mut busy = Busy::default();
        assert_eq!(busy.share(0), 0.0);
        busy.note(50 * MS, 300 * MS);
        busy.note(700 * MS, 950 * MS);
        assert_eq!(busy.share(1_000 * MS), 0.5);
        // The first 300 ms are forgotten, 50 of which were idle.
        assert_eq!(busy.share(1_300 * MS), 0.25);
        assert_eq!(busy.share(60_000 * MS), 0.0);
        busy.note(60_000 * MS, 62_000 * MS);
        assert_eq!(busy.share(62_000 * MS), 1.0);
        assert_eq!(busy.share(62_099 * MS), 1.0);
        assert_eq!(busy.share(62_500 * MS), 0.5);
    }

    #[test]
    fn a_piece_longer_than_the_ring_fills_it() {
        let mut busy = Busy::default();
        busy.note(30 * MS, 5_000 * MS);
        assert_eq!(busy.share(5_000 * MS), 1.0);
    }
}

//! What was counted in each of the last so many slots of time. Only slots in which something was counted take room.

use std::collections::VecDeque;

/// At most `N` slots, oldest first.
#[derive(Clone, Debug)]
pub(super) struct Ring<T, const N: usize>(VecDeque<(u64, T)>);

impl<T, const N: usize> Default for Ring<T, N> {
    fn default() -> Self {
        Ring(VecDeque::new())
    }
}

impl<T: Default, const N: usize> Ring<T, N> {
    /// The slot of this number; those that are too old beside it are dropped. One that is late, since it waited for a lock,
    /// counts in the newest.
    pub(super) fn at(&mut self, slot: u64) -> &mut T {
        let slot = self.newest().map_or(slot, |newest| newest.max(slot));
        while self.0.front().is_some_and(|(own, _)| own + N as u64 <= slot) {
            self.0.pop_front();
        }
        if self.newest() != Some(slot) {
            self.0.push_back((slot, T::default()));
        }
        // Never empty here: it ends with this slot.
        let last = self.0.len() - 1;
        &mut self.0[last].1
    }

    /// The newest slot in which anything was counted.
    pub(super) fn newest(&self) -> Option<u64> {
        self.0.back().map(|(slot, _)| *slot)
    }

    /// Those of the last `slots` slots, of which `now` is the newest, in which anything was counted, oldest first.
    pub(super) fn last(&self, slots: usize, now: u64) -> impl Iterator<Item = (u64, &T)> {
        let recent = self.0.iter().filter(move |(slot, _)| slot + slots as u64 > now);
        recent.map(|(slot, counted)| (*slot, counted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(ring: &Ring<u32, 3>, slots: usize, now: u64) -> Vec<(u64, u32)> {
        ring.last(slots, now).map(|(slot, counted)| (slot, *counted)).collect()
    }

    #[test]
    fn slots_age_out_and_idle_ones_take_no_room() {
        let mut ring: Ring<u32, 3> = Ring::default();
        assert_eq!((ring.newest(), ring.0.capacity()), (None, 0));
        for slot in [7, 7, 8, 9] {
            *ring.at(slot) += 1;
        }
        assert_eq!(slots(&ring, 3, 9), [(7, 2), (8, 1), (9, 1)]);
        assert_eq!(slots(&ring, 2, 9), [(8, 1), (9, 1)]);
        assert_eq!(slots(&ring, 3, 11), [(9, 1)]);
        assert_eq!(slots(&ring, 3, 12), []);
        *ring.at(10) += 1;
        assert_eq!((ring.0.len(), slots(&ring, 3, 10)), (3, vec![(8, 1), (9, 1), (10, 1)]));
        *ring.at(1_000) += 1;
        assert_eq!(ring.0.len(), 1);
    }

    #[test]
    fn what_comes_late_counts_in_the_newest_slot() {
        let mut ring: Ring<u32, 3> = Ring::default();
        *ring.at(5) += 1;
        *ring.at(4) += 1;
        assert_eq!(slots(&ring, 3, 5), [(5, 2)]);
    }
}

//! How much else was used since: the reuse distance of things in a list whose longest unused goes first.
//!
//! Whether something is still in a cache depends on how many distinct tokens were used after it: those alone push it out.
//! Counting them exactly needs a tree; here time is cut into ages of about a 32nd of the cache each, and for each age the
//! tokens that were used last in it are counted. What was used since an age is then a short sum, exact to an age.

use std::collections::VecDeque;

/// Ages that a cache spans: the error of a distance is one of them, 3 % of the cache.
const AGES: u64 = 32;

/// Ages that are kept. Things that are used again leave holes in the older ones, so that more than [`AGES`] are alive;
/// the two oldest are then taken for one.
const AGES_MAX: usize = 128;

/// The tokens that were used last in each age.
#[derive(Clone, Default, Debug)]
pub(super) struct Ages {
    /// The age that `tokens` begins with.
    first: u32,
    tokens: VecDeque<u64>,
}

impl Ages {
    /// The age of now.
    pub(super) fn now(&self) -> u32 {
        self.first.wrapping_add(self.tokens.len().saturating_sub(1) as u32)
    }

    /// So many tokens are used now, in a cache that holds `capacity`.
    pub(super) fn used(&mut self, tokens: u64, capacity: u64) {
        if self.tokens.back().is_none_or(|last| *last >= (capacity / AGES).max(1)) {
            self.tokens.push_back(0);
            if self.tokens.len() > AGES_MAX
                && let Some(oldest) = self.tokens.pop_front()
            {
                self.first = self.first.wrapping_add(1);
                if let Some(next) = self.tokens.front_mut() {
                    *next += oldest;
                }
            }
        }
        if let Some(last) = self.tokens.back_mut() {
            *last += tokens;
        }
    }

    /// Tokens last used at `age` are forgotten, or were used again.
    pub(super) fn dropped(&mut self, age: u32, tokens: u64) {
        let at = self.at(age);
        if let Some(counted) = self.tokens.get_mut(at) {
            *counted = counted.saturating_sub(tokens);
        }
    }

    /// Tokens used since `age`, those of that age included.
    pub(super) fn since(&self, age: u32) -> u64 {
        self.tokens.iter().skip(self.at(age)).sum()
    }

    /// Where an age stands; those that were taken together stand in the first place. The number wraps after 4 billion
    /// ages, far beyond what is kept.
    fn at(&self, age: u32) -> usize {
        let at = age.wrapping_sub(self.first) as usize;
        if at < self.tokens.len() { at } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_since_is_counted_once_however_often() {
        let mut ages = Ages::default();
        let mut used = Vec::new();
        for _ in 0..64 {
            ages.used(10, 320);
            used.push(ages.now());
        }
        assert_eq!(ages.since(used[63]), 10);
        assert_eq!(ages.since(used[0]), 640);
        ages.dropped(used[0], 10);
        ages.used(10, 320);
        assert_eq!(ages.since(used[1]), 640);
        assert_eq!(ages.since(ages.now()), 10);
    }

    #[test]
    fn ages_are_bounded_and_the_oldest_are_taken_together() {
        let mut ages = Ages::default();
        let first = {
            ages.used(10, 320);
            ages.now()
        };
        for _ in 0..100_000 {
            ages.used(10, 320);
        }
        assert!(ages.tokens.len() <= AGES_MAX);
        assert_eq!(ages.since(first), 1_000_010);
        ages.dropped(first, 10);
        assert_eq!(ages.since(first), 1_000_000);
    }
}

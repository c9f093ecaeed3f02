//! How many tokens a replica's cache holds: told by config or engine, else learned from the answers.
//!
//! The [index](super::prefix_index) keeps of each prompt for how long it would stay in a cache of the assumed size. That
//! size is what costs most when it is wrong on one side: taken as half of the truth, sessions are moved from caches that
//! hold them (a loss of 33 points of cached share in the laboratory); taken as twice the truth, some are led to caches that
//! have forgotten them (8 points). So it starts large and is lowered only by evidence.
//!
//! The evidence: an answer tells how much of its prompt was cached, and the index knows the prompt's reuse distance, the
//! least cache in which that could still be. Hits at a distance say that the cache is larger, misses that it is smaller.
//! They are counted by distance in steps of 8 %, and the size is where the fewest of them are on the wrong side, a hit
//! beyond it weighing four times a miss below it. What fades is what was contradicted: a hit takes from the misses at its
//! distance and below, a miss from the hits at its distance and beyond. The many answers at short distances, which nobody
//! doubts, leave the few alone that tell of the size.

/// What is assumed of a cache of which nothing is known, in tokens: more than replicas of the common kinds have beside
/// their weights (an H100 beside an 8B model has room for less than half a million at 128 KiB each, eight of them beside a
/// 70B model for one and a half at 320 KiB).
pub const ASSUMED_TOKENS: u64 = 2 << 20;

/// The least distance that tells of size: shorter ones miss because an engine was started anew, or keeps nothing at all.
const LEAST_TOKENS: f64 = 16_384.0;

/// Ratio of one step of distance to the one before: within less than admission fills beyond the caches. With a quarter, a
/// size of 1.5 million was learned as 1.8, and in overload a fourth of the answers was lost.
const STEP: f64 = 1.08;

/// Steps: from [`LEAST_TOKENS`] to 64 million tokens.
const STEPS: usize = 108;

/// What a hit beyond the assumed size weighs beside a miss below it (see above).
const HIT_WEIGHT: f64 = 4.0;

/// What is kept of evidence that was contradicted: the half after 69 answers.
const KEPT: f64 = 0.99;

/// Misses before the size is taken as known, and hits as well: where nothing is ever found again the engine keeps nothing
/// (its prefix caching is off, or it counts no hits), which tells of no size.
const ENOUGH: f64 = 4.0;

/// Fewer counts for none.
const TRACE: f64 = 0.05;

/// What is learned enlarges what was told from this ratio on: distances are estimated, and less is not sure.
const LARGER: f64 = 1.25;

/// A cache that held this share of what it should have held at that distance had not forgotten it. Engines give up whole
/// blocks, and templates differ a little from call to call.
const HIT_SHARE: f64 = 0.7;

/// One that held less had.
const MISS_SHARE: f64 = 0.3;

/// More cached tokens than were expected count from here on: fewer are what cuts and templates leave over, or an answer
/// that became a part of the prompt.
const SURPRISE_TOKENS: u32 = 4_096;

/// What is known of the caches of a pool, whose replicas are alike.
#[derive(Clone, Debug)]
pub struct CacheSize {
    told: Option<u64>,
    /// In steps, once enough was seen.
    learned: Option<usize>,
    evidence: [Evidence; STEPS],
}

/// Counts of answers at one step of distance, which fade.
#[derive(Clone, Copy, Default, Debug)]
struct Evidence {
    hits: f64,
    misses: f64,
}

impl Default for CacheSize {
    fn default() -> CacheSize {
        CacheSize { told: None, learned: None, evidence: [Evidence::default(); STEPS] }
    }
}

impl CacheSize {
    /// Config or engine tell the size of one replica's cache, in tokens. What is learned can then only enlarge it: engines
    /// may keep more elsewhere (in the host's memory), never less.
    pub fn tell(&mut self, tokens: Option<u64>) {
        self.told = tokens.filter(|tokens| *tokens > 0);
    }

    /// An answer tells that of `expected` tokens, last used `distance` tokens ago, so many were `cached`.
    pub fn answered(&mut self, expected: u32, cached: u32, distance: u64) {
        let held = f64::from(cached) / f64::from(expected.max(1));
        if (distance as f64) < LEAST_TOKENS || (MISS_SHARE..HIT_SHARE).contains(&held) {
            return;
        }
        let step = ((distance as f64 / LEAST_TOKENS).ln() / STEP.ln()).floor() as usize;
        let (step, hit) = (step.min(STEPS - 1), held >= HIT_SHARE);
        if hit {
            self.evidence[..=step].iter_mut().for_each(|evidence| evidence.misses *= KEPT);
        } else {
            self.evidence[step..].iter_mut().for_each(|evidence| evidence.hits *= KEPT);
        }
        // At its own step it is one more of its kind, of which the old ones count less as well.
        let Evidence { hits, misses } = &mut self.evidence[step];
        let count = if hit { hits } else { misses };
        *count = *count * KEPT + 1.0;
        self.learn();
    }

    /// An answer tells that its replica held more than was expected: so much that is not in the index any more, and was
    /// used there longer ago than what is.
    pub fn surprised(&mut self, expected: u32, cached: u32) {
        let beyond = (self.tokens() as f64 * STEP.sqrt()) as u64;
        if cached > expected.saturating_add(SURPRISE_TOKENS) {
            self.answered(cached, cached, beyond);
        }
    }

    /// What one replica is taken to hold, in tokens.
    pub fn tokens(&self) -> u64 {
        match (self.told, self.learned.map(tokens_at)) {
            (Some(told), Some(learned)) if learned as f64 >= LARGER * told as f64 => learned,
            (Some(told), _) => told,
            (None, learned) => learned.unwrap_or(ASSUMED_TOKENS),
        }
    }

    /// The same if it is known, by being told or by enough evidence; `None` while it is only assumed.
    pub fn known(&self) -> Option<u64> {
        (self.told.is_some() || self.learned.is_some()).then(|| self.tokens())
    }

    /// Learns the size with the fewest answers on its wrong side, once enough hits and misses were seen. Where all misses
    /// have been contradicted since, it is at least what it was, and what the farthest hit says.
    fn learn(&mut self) {
        let sum = |count: fn(&Evidence) -> f64| self.evidence.iter().map(count).sum::<f64>();
        if sum(|evidence| evidence.hits) >= ENOUGH && sum(|evidence| evidence.misses) >= ENOUGH {
            self.learned = Some(self.least_wrong());
        } else if let Some(learned) = &mut self.learned {
            let farthest = self.evidence.iter().rposition(|evidence| evidence.hits >= 1.0);
            *learned = (*learned).max(farthest.map_or(0, |step| step + 1));
        }
    }

    fn least_wrong(&self) -> usize {
        // With a size of `n` steps, hits at step n and beyond and misses before it are wrong.
        let mut wrong: f64 = self.evidence.iter().map(|evidence| HIT_WEIGHT * evidence.hits).sum();
        let (mut best, mut least) = (0, wrong);
        // Beyond the last of which anything is known, all are equal.
        let told = |evidence: &Evidence| evidence.hits.max(evidence.misses) >= TRACE;
        let known = self.evidence.iter().rposition(told).map_or(0, |last| last + 1);
        for (n, evidence) in self.evidence[..known].iter().enumerate() {
            wrong += evidence.misses - HIT_WEIGHT * evidence.hits;
            // Of equals the larger.
            if wrong <= least + 1e-9 {
                (best, least) = (n + 1, wrong);
            }
        }
        best
    }
}

/// Tokens of so many steps.
fn tokens_at(steps: usize) -> u64 {
    (LEAST_TOKENS * STEP.powi(steps as i32)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::RngExt;

    use super::*;
    use crate::policy::testing::rng;

    /// What is known after answers of a cache of `truth` tokens whose distances spread evenly over the powers of two.
    fn after(truth: u64, answers: usize, noise: f64) -> CacheSize {
        let (mut size, mut rng) = (CacheSize::default(), rng(7));
        for _ in 0..answers {
            let distance = LEAST_TOKENS * 2f64.powf(rng.random::<f64>() * 9.0);
            let hit = (distance <= truth as f64) != (rng.random::<f64>() < noise);
            size.answered(10_000, if hit { 9_900 } else { 100 }, distance as u64);
        }
        size
    }

    #[test]
    fn nothing_known_is_taken_as_large_and_told_as_unknown() {
        let size = CacheSize::default();
        assert_eq!((size.tokens(), size.known()), (ASSUMED_TOKENS, None));
        assert_eq!(after(u64::MAX, 1_000, 0.0).known(), None, "hits alone tell of no bound");
    }

    #[test]
    fn the_size_is_learned_and_never_set_too_small() {
        for truth in [300_000, 1_500_000, 4_000_000] {
            for (noise, above) in [(0.0, 1.15), (0.05, 1.3)] {
                let learned = after(truth, 2_000, noise).known().unwrap() as f64 / truth as f64;
                assert!((0.95..above).contains(&learned), "{learned} of {truth} at {noise}");
            }
        }
    }

    #[test]
    fn what_is_known_outlasts_answers_that_say_nothing_of_it() {
        let mut size = after(1_500_000, 2_000, 0.0);
        let before = size.known();
        for n in 0..20_000 {
            size.answered(10_000, 9_900, 20_000 + n % 50_000);
        }
        assert_eq!(size.known(), before);
    }

    #[test]
    fn beyond_the_farthest_answer_nothing_is_assumed() {
        let mut size = CacheSize::default();
        for _ in 0..200 {
            size.answered(10_000, 100, 900_000);
            size.answered(10_000, 9_900, 1_000_000);
        }
        assert!(size.known().is_some_and(|tokens| tokens <= 1_100_000), "{:?}", size.known());
    }

    #[test]
    fn a_cache_that_shrank_is_learned_anew() {
        let mut size = after(1_500_000, 2_000, 0.0);
        for n in 0..2_000 {
            let distance = 16_384 + n * 700;
            size.answered(10_000, if distance < 300_000 { 9_900 } else { 100 }, distance);
        }
        assert!((270_000..400_000).contains(&size.tokens()), "{}", size.tokens());
    }

    #[test]
    fn a_few_misses_lower_nothing() {
        let mut size = CacheSize::default();
        for _ in 0..3 {
            size.answered(10_000, 0, 1_000_000);
        }
        assert_eq!(size.tokens(), ASSUMED_TOKENS);
        for _ in 0..1_000 {
            size.answered(10_000, 5_000, 1_000_000);
            size.answered(10_000, 0, 1_000);
        }
        assert_eq!(size.tokens(), ASSUMED_TOKENS, "neither half hits nor short distances tell of size");
    }

    #[test]
    fn an_engine_that_keeps_nothing_tells_of_no_size() {
        let mut size = CacheSize::default();
        for n in 0..10_000u64 {
            size.answered(10_000, 0, 20_000 + n * 100);
        }
        assert_eq!((size.tokens(), size.known()), (ASSUMED_TOKENS, None));
    }

    #[test]
    fn what_is_told_is_a_floor() {
        let mut size = after(300_000, 2_000, 0.0);
        size.tell(Some(1_000_000));
        assert_eq!((size.tokens(), size.known()), (1_000_000, Some(1_000_000)));
        let mut size = after(3_000_000, 2_000, 0.0);
        size.tell(Some(1_000_000));
        assert!(size.tokens() > 2_000_000, "the host's memory holds more");
        size.tell(None);
        assert!(size.tokens() > 2_000_000);
    }

    #[test]
    fn a_cache_that_grew_is_learned_anew() {
        let mut size = after(300_000, 2_000, 0.0);
        for _ in 0..2_000 {
            size.answered(10_000, 9_900, 1_000_000);
        }
        assert!(size.tokens() > 1_000_000, "{}", size.tokens());
    }

    #[test]
    fn a_cache_that_holds_more_than_is_remembered_of_it_is_taken_as_larger() {
        let mut size = after(300_000, 2_000, 0.0);
        (0..100).for_each(|_| size.surprised(10_000, 14_000));
        let before = size.tokens();
        (0..2_000).for_each(|_| size.surprised(0, 50_000));
        assert!(size.tokens() > 2 * before, "{before} to {}", size.tokens());
    }

    proptest! {
        #[test]
        fn whatever_answers_tell_the_size_stays_in_its_bounds(
            answers in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u64>()), 0..300), told in any::<Option<u64>>(),
        ) {
            let mut size = CacheSize::default();
            size.tell(told);
            for (expected, cached, distance) in answers {
                size.answered(expected, cached, distance);
            }
            prop_assert!(size.tokens() >= told.filter(|told| *told > 0).unwrap_or(LEAST_TOKENS as u64));
        }
    }
}

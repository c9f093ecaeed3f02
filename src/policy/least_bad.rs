//! The least bad: which replica to try when none takes more.
//!
//! A request that would be refused has nothing to lose, and what is known of a replica is always a little old. So those
//! that should be left alone are asked after all, the best of them first: who only said that it is busy; then those whose
//! breaker is open, the one that failed longest ago first; then the others, last those whose health checks fail.
//!
//! **Never more than half of a pool is shut out by its breakers.** A breaker knows its own replica alone: under a load that
//! is too high for all, each would open, and what they keep from their replicas falls on the rest until that breaks too.
//! So once no replica anywhere takes more, the healthy half of each pool takes calls, whatever the breakers say. Not before:
//! as long as any replica takes more, in this pool up to its cap or in the next region, a call is better off there, also
//! after a short wait in line. A share
//! for replicas that are known to fail would cost retries that the budget does not have (a bad deployment of three in four
//! replicas would turn every second call away), and would keep calls in a region that has died. With one replica in a pool
//! the half is that one.

use super::replica::{Candidate, NoReplica, Standing};

/// Who is admitted besides the usable; each admits the ones before it too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Mercy {
    /// Who asked to be left alone.
    Resting,
    /// So many of those whose breaker is open that half of the healthy ones take calls.
    Half,
    /// All whose breaker is open.
    Open,
    /// Those whose health checks fail.
    Unhealthy,
}

impl Mercy {
    /// Whom to admit, one after the other, for a request that is refused so. While there are replicas that take more as
    /// soon as they have room, to wait for them is better than to fail elsewhere, and half of a pool is enough for one
    /// that cannot wait.
    pub(super) fn when(refusal: NoReplica, waits: bool) -> &'static [Mercy] {
        match refusal {
            NoReplica::Full if waits => &[Mercy::Resting],
            NoReplica::Full => &[Mercy::Resting, Mercy::Half],
            NoReplica::Unusable => &[Mercy::Half, Mercy::Open, Mercy::Unhealthy],
        }
    }

    /// Makes those usable that it admits to a pool.
    pub(super) fn admit(self, pool: &mut [Candidate]) {
        pool.iter_mut().for_each(|candidate| candidate.rests = false);
        match self {
            Mercy::Resting => {}
            Mercy::Half => admit_half(pool),
            Mercy::Open => admit_standing(pool, |standing| standing == Standing::BreakerOpen),
            Mercy::Unhealthy => admit_standing(pool, |standing| !standing.is_usable()),
        }
    }
}

fn admit_standing(pool: &mut [Candidate], admitted: impl Fn(Standing) -> bool) {
    for candidate in pool.iter_mut().filter(|candidate| admitted(candidate.standing)) {
        candidate.standing = Standing::Usable;
    }
}

fn admit_half(pool: &mut [Candidate]) {
    let healthy = pool.iter().filter(|candidate| candidate.standing != Standing::Unhealthy).count();
    let usable = pool.iter().filter(|candidate| candidate.standing.is_usable()).count();
    let mut open: Vec<_> = pool.iter_mut().filter(|candidate| candidate.standing == Standing::BreakerOpen).collect();
    // A failure opens it anew, so that those which were tried to no avail step back behind the others.
    open.sort_by_key(|candidate| (candidate.open_since, candidate.key));
    for candidate in open.into_iter().take(healthy.div_ceil(2).saturating_sub(usable)) {
        candidate.standing = Standing::Usable;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::policy::testing::candidate;

    /// A pool as a word: `+` usable, `?` half-open, `-` unhealthy, a digit: its breaker opened at that second.
    fn pool(word: &str, epoch: Instant) -> Vec<Candidate> {
        let one = |(n, c): (usize, char)| Candidate {
            standing: match c {
                '+' => Standing::Usable,
                '?' => Standing::Probe,
                '-' => Standing::Unhealthy,
                _ => Standing::BreakerOpen,
            },
            open_since: c.to_digit(10).map(|second| epoch + Duration::from_secs(second.into())),
            ..candidate(n)
        };
        word.chars().enumerate().map(one).collect()
    }

    /// Which replicas are usable then, by their position.
    #[track_caller]
    fn check(mercy: Mercy, word: &str, usable: &[usize]) {
        let mut pool = pool(word, Instant::now());
        mercy.admit(&mut pool);
        let found: Vec<_> = (0..pool.len()).filter(|n| pool[*n].standing.is_usable()).collect();
        assert_eq!(found, usable, "{mercy:?} {word}");
    }

    #[test]
    fn half_of_the_healthy_take_calls_and_those_that_failed_longest_ago_come_first() {
        check(Mercy::Half, "3142", &[1, 3]);
        check(Mercy::Half, "31425", &[0, 1, 3]);
        check(Mercy::Half, "+142", &[0, 1]);
        check(Mercy::Half, "?+42", &[0, 1]);
        check(Mercy::Half, "+++2", &[0, 1, 2]);
        check(Mercy::Half, "--42", &[3]);
        check(Mercy::Half, "7", &[0]);
        check(Mercy::Half, "--", &[]);
        check(Mercy::Half, "", &[]);
    }

    #[test]
    fn each_mercy_admits_those_of_the_ones_before_it() {
        for word in ["+1-2", "12--", "----", "1234", "?1"] {
            let usable = |mercy: Mercy| {
                let mut pool = pool(word, Instant::now());
                pool[0].rests = true;
                mercy.admit(&mut pool);
                assert!(!pool[0].rests);
                pool.iter().filter(|candidate| candidate.standing.is_usable()).count()
            };
            let counts = [Mercy::Resting, Mercy::Half, Mercy::Open, Mercy::Unhealthy].map(usable);
            assert!(counts.is_sorted(), "{word}: {counts:?}");
            assert_eq!(counts[3], word.len());
        }
    }
}

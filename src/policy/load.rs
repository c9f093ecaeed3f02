//! Load: which of two replicas has less to do, and the power of two choices.
//!
//! Two random candidates and the better of them: nearly as even as asking all, without the herd that runs to the one
//! replica that looks idle in every edge's eyes (Mitzenmacher, 2001).

use rand::RngExt;

use super::replica::Candidate;

/// Whether `a`, with one request more, would have no more to do than `b` has, in proportion to their caps and weights. The
/// one more keeps a replica that fails everything at once, and so is always idle, from being the lighter one always.
pub fn lighter(a: &Candidate, b: &Candidate) -> bool {
    let room = |candidate: &Candidate| f64::from(candidate.cap.max(1)) * candidate.weight;
    (f64::from(a.in_flight) + 1.0) * room(b) <= f64::from(b.in_flight) * room(a)
}

/// The less loaded of two random ones of these; the first drawn when they are equal. Drawn in proportion to their weights, so
/// that these count in an idle pool too.
pub fn lighter_of_two<'a>(among: &[&'a Candidate], rng: &mut impl RngExt) -> Option<&'a Candidate> {
    let first = draw(among, None, rng)?;
    match draw(among, Some(first), rng) {
        Some(second) if lighter(second, first) => Some(second),
        _ => Some(first),
    }
}

fn draw<'a>(among: &[&'a Candidate], but: Option<&Candidate>, rng: &mut impl RngExt) -> Option<&'a Candidate> {
    let others = || among.iter().copied().filter(|one| but.is_none_or(|but| !std::ptr::eq(*one, but)));
    let mut left = others().map(|candidate| candidate.weight).sum::<f64>() * rng.random::<f64>();
    let drawn = others().find(|candidate| {
        left -= candidate.weight;
        left < 0.0
    });
    // Sums are rounded: what is left over belongs to the last.
    drawn.or_else(|| others().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{candidate, rng};

    fn loaded(n: usize, in_flight: u32, cap: u32) -> Candidate {
        Candidate { in_flight, cap, ..candidate(n) }
    }

    fn of_all<'a>(view: &'a [Candidate], rng: &mut impl RngExt) -> Option<&'a Candidate> {
        lighter_of_two(&view.iter().collect::<Vec<_>>(), rng)
    }

    /// How often each of the candidates is drawn, in percent of 20,000 draws.
    fn shares(view: &[Candidate]) -> Vec<f64> {
        let (mut rng, mut counts) = (rng(7), vec![0u32; view.len()]);
        for _ in 0..20_000 {
            counts[of_all(view, &mut rng).unwrap().replica.0] += 1;
        }
        counts.iter().map(|count| f64::from(*count) / 200.0).collect()
    }

    #[track_caller]
    fn check_shares(view: &[Candidate], expected: &[f64]) {
        let shares = shares(view);
        // Three standard deviations of 20,000 draws are about one percent.
        let close = shares.iter().zip(expected).all(|(share, expected)| (share - expected).abs() < 1.1);
        assert!(close, "{shares:?}, expected {expected:?}");
    }

    #[test]
    fn load_counts_in_proportion_to_the_cap() {
        assert!(lighter(&loaded(0, 3, 8), &loaded(1, 2, 4)));
        assert!(!lighter(&loaded(0, 4, 8), &loaded(1, 2, 4)), "equal is not lighter");
        assert!(lighter(&loaded(0, u32::MAX - 1, u32::MAX), &loaded(1, u32::MAX, u32::MAX)), "no overflow");
    }

    #[test]
    fn equals_are_drawn_equally_often() {
        check_shares(&[0, 1, 2, 3, 4].map(candidate), &[20.0; 5]);
    }

    #[test]
    fn weights_are_shares_of_an_idle_pool_and_of_the_load_of_a_busy_one() {
        let mut view = [0, 1].map(candidate);
        view[0].weight = 0.1;
        check_shares(&view, &[100.0 * 0.1 / 1.1, 100.0 / 1.1]);
        let tenth = |in_flight| Candidate { weight: 0.1, ..loaded(0, in_flight, 128) };
        assert!(lighter(&tenth(0), &loaded(1, 10, 128)) && !lighter(&tenth(0), &loaded(1, 9, 128)));
        assert!(lighter(&loaded(1, 9, 128), &tenth(1)) && !lighter(&loaded(1, 10, 128), &tenth(1)));
    }

    #[test]
    fn the_lighter_of_each_pair_wins() {
        // Of n replicas the k-th lightest wins the pairs with the n-k heavier ones: 2(n-k)/(n(n-1)).
        let view = [loaded(0, 0, 8), loaded(1, 1, 8), loaded(2, 2, 8), loaded(3, 3, 8)];
        check_shares(&view, &[50.0, 100.0 / 3.0, 100.0 / 6.0, 0.0]);
    }

    #[test]
    fn of_one_it_is_that_one_and_of_none_none() {
        check_shares(&[loaded(0, 8, 8)], &[100.0]);
        assert!(of_all(&[], &mut rng(1)).is_none());
    }

    #[test]
    fn choosing_the_lighter_of_two_keeps_a_pool_even() {
        let (mut rng, mut view) = (rng(3), (0..10).map(|n| loaded(n, 0, 10_000)).collect::<Vec<_>>());
        for _ in 0..10_000 {
            let at = of_all(&view, &mut rng).unwrap().replica.0;
            view[at].in_flight += 1;
        }
        let most = view.iter().map(|candidate| candidate.in_flight).max().unwrap();
        let least = view.iter().map(|candidate| candidate.in_flight).min().unwrap();
        // One random choice each would spread by about 150; two keep the spread to a few.
        assert!(most - least <= 10, "{least} to {most}");
    }
}

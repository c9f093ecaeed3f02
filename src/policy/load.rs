//! Load: which of two replicas has less to do, and the power of two choices.
//!
//! Two random candidates and the better of them: nearly as even as asking all, without the herd that runs to the one
//! replica that looks idle in every edge's eyes (Mitzenmacher, 2001).

use rand::RngExt;

use super::replica::Candidate;

/// Whether `a` has clearly less to do than `b`: fewer requests in flight in proportion to its cap.
pub fn lighter(a: &Candidate, b: &Candidate) -> bool {
    u64::from(a.in_flight) * u64::from(b.cap.max(1)) < u64::from(b.in_flight) * u64::from(a.cap.max(1))
}

/// The less loaded of two random candidates that take more; the first drawn when they are equal.
pub fn lighter_of_two<'a>(view: &'a [Candidate], rng: &mut impl RngExt) -> Option<&'a Candidate> {
    let open = view.iter().filter(|candidate| candidate.takes_more()).count();
    let nth = |n: usize| view.iter().filter(|candidate| candidate.takes_more()).nth(n);
    match open {
        0 => None,
        1 => nth(0),
        _ => {
            let first = rng.random_range(0..open);
            let second = (first + rng.random_range(1..open)) % open;
            let (a, b) = (nth(first)?, nth(second)?);
            Some(if lighter(b, a) { b } else { a })
        }
    }
}

//! Which requests are traced: those whose caller traces them, and of those whose caller says nothing a share.
//!
//! A caller's decision binds in both directions, since a trace with holes explains nothing: a caller that samples all of
//! its calls has all of them traced here. The share is taken by the trace's id (its last 7 bytes, as W3C Trace Context
//! level 2 has it), so that every program that knows the id and the share decides alike.

use rand::{Rng, RngExt};

use crate::domain::trace::{SpanId, TraceContext, TraceId};

/// Spans that may wait for their exporter, whatever the configuration says.
pub const QUEUE_SPANS_MAX: usize = 65_536;

/// Bits of a trace's id that decide.
const DECIDING_BITS: u32 = 56;

/// The trace that a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun {
    /// The request's own span. Of a request that is not sampled and whose caller named a trace, the caller's: there is no
    /// span of its own, and whoever is called next belongs to the caller.
    pub context: TraceContext,
    /// The caller's span.
    pub parent: Option<SpanId>,
}

/// Begins a request's span. `ratio` is the share of requests that are traced if their caller says nothing, 0 to 1.
pub fn begin(caller: Option<TraceContext>, ratio: f64, rng: &mut impl Rng) -> Begun {
    match caller {
        Some(caller) if caller.sampled => {
            let context = TraceContext { span_id: span_id(rng), ..caller };
            Begun { context, parent: Some(caller.span_id) }
        }
        Some(caller) => Begun { context: caller, parent: Some(caller.span_id) },
        None => {
            let trace_id = trace_id(rng);
            let sampled = is_sampled(trace_id, ratio);
            // The flag for random ids is not set: level 1 of the standard forbids flags that it does not know.
            let context = TraceContext { trace_id, span_id: span_id(rng), sampled, random_id: false };
            Begun { context, parent: None }
        }
    }
}

/// The id of a new span.
pub fn span_id(rng: &mut impl Rng) -> SpanId {
    SpanId(rng.random::<u64>().max(1))
}

fn trace_id(rng: &mut impl Rng) -> TraceId {
    TraceId(rng.random::<u128>().max(1))
}

/// Whether a trace belongs to this share of all.
fn is_sampled(trace_id: TraceId, ratio: f64) -> bool {
    let all = 1_u64 << DECIDING_BITS;
    let rejected = ((1.0 - ratio.clamp(0.0, 1.0)) * all as f64) as u64;
    (trace_id.0 as u64 & (all - 1)) >= rejected
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    const CALLER: TraceContext =
        TraceContext { trace_id: TraceId(7), span_id: SpanId(9), sampled: true, random_id: true };

    #[test]
    fn a_callers_decision_binds_whatever_the_share() {
        let mut rng = SmallRng::seed_from_u64(1);
        for ratio in [0.0, 1.0] {
            let traced = begin(Some(CALLER), ratio, &mut rng);
            assert_eq!((traced.context.trace_id, traced.parent), (CALLER.trace_id, Some(CALLER.span_id)));
            assert!(traced.context.sampled && traced.context.random_id && traced.context.span_id != CALLER.span_id);

            let left_out = TraceContext { sampled: false, ..CALLER };
            assert_eq!(begin(Some(left_out), ratio, &mut rng).context, left_out);
        }
    }

    #[test]
    fn of_requests_without_a_decision_the_share_is_traced() {
        let mut rng = SmallRng::seed_from_u64(2);
        for (ratio, least, most) in [(0.0, 0, 0), (0.01, 70, 130), (0.5, 4_800, 5_200), (1.0, 10_000, 10_000)] {
            let sampled = (0..10_000).filter(|_| begin(None, ratio, &mut rng).context.sampled).count();
            assert!((least..=most).contains(&sampled), "{sampled} of 10,000 at {ratio}");
        }
    }

    #[test]
    fn who_knows_the_id_and_the_share_decides_alike() {
        let of = |deciding: u64| TraceId(u128::from(deciding) | 0xff << 56);
        assert!(is_sampled(of((1 << 56) - 1), 0.01) && !is_sampled(of(0), 0.99));
        assert!(is_sampled(of(1 << 55), 0.5) && !is_sampled(of((1 << 55) - 1), 0.5));
    }
}

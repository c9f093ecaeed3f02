//! Which requests are traced: those whose trusted caller traces them, and of those without such a caller a share.
//!
//! A trusted caller's decision binds in both directions, since a trace with holes explains nothing. Anybody else's flag
//! counts for nothing, or each client could have all that it does recorded; its trace's id is kept, so that what is
//! recorded here belongs to the same trace as what it records itself.
//!
//! The share is taken by the trace's id (its last 7 bytes, as W3C Trace Context level 2 has it), so that every program that
//! knows the id and the share decides alike. An id that is not the edge's own may have been chosen for that, so in its
//! place an id of the edge's own decides: a client's share is the same whatever it sends.

use rand::{Rng, RngExt};

use crate::domain::trace::{SpanId, TraceContext, TraceId};

/// Spans that may wait for their exporter, whatever the configuration says.
pub const QUEUE_SPANS_MAX: usize = 65_536;

/// Bits of a trace's id that decide.
const DECIDING_BITS: u32 = 56;

/// What a request's caller says of its trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The caller's span.
    pub context: TraceContext,
    /// Whether its flag is believed.
    pub is_trusted: bool,
}

/// The trace that a request belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begun {
    /// The request's own span. Of a request that is not sampled and whose caller named a trace, the caller's: there is no
    /// span of its own, and whoever is called next belongs to the caller.
    pub context: TraceContext,
    /// The caller's span.
    pub parent: Option<SpanId>,
}

/// Begins a request's span. `ratio` is the share of requests that are traced if no trusted caller decides, 0 to 1.
pub fn begin(caller: Option<Caller>, ratio: f64, rng: &mut impl Rng) -> Begun {
    match caller {
        Some(Caller { context, is_trusted }) => {
            let sampled = if is_trusted { context.sampled } else { is_sampled(trace_id(rng), ratio) };
            let span_id = if sampled { span_id(rng) } else { context.span_id };
            Begun { context: TraceContext { span_id, sampled, ..context }, parent: Some(context.span_id) }
        }
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
    fn a_trusted_callers_decision_binds_whatever_the_share_and_nobody_elses_does() {
        let mut rng = SmallRng::seed_from_u64(1);
        for (is_trusted, flag, ratio, sampled) in [
            (true, true, 0.0, true),
            (true, true, 1.0, true),
            (true, false, 0.0, false),
            (true, false, 1.0, false),
            (false, true, 0.0, false),
            (false, true, 1.0, true),
            (false, false, 0.0, false),
            (false, false, 1.0, true),
        ] {
            let caller = Caller { context: TraceContext { sampled: flag, ..CALLER }, is_trusted };
            let begun = begin(Some(caller), ratio, &mut rng);
            assert_eq!(begun.parent, Some(CALLER.span_id));
            assert_eq!(begun.context.span_id != CALLER.span_id, sampled, "a span of its own: {caller:?} {ratio}");
            let kept = TraceContext { span_id: begun.context.span_id, sampled, ..CALLER };
            assert_eq!(begun.context, kept, "{caller:?} {ratio}");
        }
    }

    #[test]
    fn nobody_chooses_an_id_that_is_traced() {
        let mut rng = SmallRng::seed_from_u64(3);
        for deciding in [0, (1 << DECIDING_BITS) - 1] {
            let context = TraceContext { trace_id: TraceId(1 << 127 | deciding), ..CALLER };
            let caller = Some(Caller { context, is_trusted: false });
            let sampled = (0..10_000).filter(|_| begin(caller, 0.01, &mut rng).context.sampled).count();
            assert!((70..=130).contains(&sampled), "{sampled} of 10,000 with {deciding:x}");
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

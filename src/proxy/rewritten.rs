//! Station 6, continued: the body as a pool's replicas are to get it. Every byte that is not named here stays.
//!
//! The model is called what the replicas call it. For the rest of an answer the engine is asked in its own way. And usage
//! is asked for where the client of a stream did not, unless the pool says that its engine does not take it.

use bytes::Bytes;

use super::dispatch::Dispatch;
use crate::domain::ids::ModelIx;
use crate::domain::topology::Engine;
use crate::policy::pool::PoolCandidate;
use crate::wire::include_usage::Unasked;
use crate::wire::reply::json_string;

/// All of a pool that the body depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wanted {
    model: ModelIx,
    engine: Engine,
    include_usage: bool,
}

/// The body as it was last made, for as long as the pools that it goes to want the same.
#[derive(Default)]
pub(super) struct Rewritten {
    made: Option<(Wanted, Vec<Bytes>)>,
}

impl Rewritten {
    /// The body for the replicas of this pool.
    pub(super) fn for_pool(&mut self, dispatch: &Dispatch<'_>, pool: &PoolCandidate) -> &[Bytes] {
        let topology = &dispatch.snapshot.config.topology;
        let include_usage = unasked(dispatch, pool).is_some();
        let wanted = Wanted { model: pool.model, engine: topology.pool(pool.pool).engine, include_usage };
        if self.made.as_ref().is_none_or(|(made, _)| *made != wanted) {
            let served_as = &topology.model(pool.model).served_as;
            let mut edits = dispatch.continuing.map_or_else(Vec::new, |rest| rest.edits(wanted.engine));
            if *served_as != dispatch.model.name {
                edits.push((dispatch.model.range.clone(), json_string(served_as)));
            }
            edits.extend(dispatch.usage.filter(|_| include_usage).cloned());
            self.made = Some((wanted, dispatch.body.edited(edits)));
        }
        self.made.as_ref().map_or(&[], |(_, segments)| segments)
    }
}

/// What this pool's replicas add to a stream because the edge asks for usage there, and the client did not.
pub(super) fn unasked(dispatch: &Dispatch<'_>, pool: &PoolCandidate) -> Option<Unasked> {
    let pool = dispatch.snapshot.config.topology.pool(pool.pool);
    dispatch.usage.filter(|_| pool.include_usage).map(|_| Unasked::at(pool.engine))
}

//! What a policy is to the world.

use super::super::engine::Engines;
use super::super::time::Micros;
use super::super::workload::Call;

/// A call that wants a replica.
pub(crate) struct Ask<'w> {
    /// What is asked.
    pub(crate) call: &'w Call,
    /// Since when it waits, if it was told to. It has then been asked before.
    pub(crate) waits_since: Option<Micros>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decision {
    /// To this replica.
    Go(usize),
    /// It waits, behind all that wait already. The first in line is asked again whenever a call is answered, and each
    /// second; who waits behind it, once it is gone.
    Wait,
    /// It is refused, and comes again after so long.
    Refuse(Micros),
}

/// A policy.
pub(crate) trait Router {
    /// Where this call goes.
    fn route(&mut self, ask: &Ask<'_>, engines: &Engines<'_>, now: Micros) -> Decision;

    /// The call's first token has come from where it was sent; so many tokens of its prompt were cached there.
    fn prefilled(&mut self, _number: usize, _call: &Call, _replica: usize, _cached: u32, _now: Micros) {}

    /// The call is answered whole.
    fn answered(&mut self, _number: usize, _call: &Call, _replica: usize, _now: Micros) {}
}

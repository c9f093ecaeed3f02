//! What a policy is to the world.

use super::super::engine::Engines;
use super::super::time::Micros;
use super::super::workload::Call;

/// A call that wants a replica.
pub(crate) struct Ask<'w> {
    /// Its place in the workload.
    pub(crate) number: usize,
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
    /// It waits, in a line that the router keeps.
    Wait,
    /// It is refused, and comes again after so long.
    Refuse(Micros),
}

/// A policy.
pub(crate) trait Router {
    /// Where this call goes.
    fn route(&mut self, ask: &Ask<'_>, engines: &Engines<'_>, now: Micros) -> Decision;

    /// Which of those who wait is asked again: whenever a call is answered, and each second. `after` was just asked and
    /// told to wait on.
    fn next_in_line(&mut self, _after: Option<usize>, _now: Micros) -> Option<usize> {
        None
    }

    /// The call's first token has come from where it was sent; so many tokens of its prompt were cached there.
    fn prefilled(&mut self, _number: usize, _call: &Call, _replica: usize, _cached: u32, _now: Micros) {}

    /// The call is answered whole.
    fn answered(&mut self, _number: usize, _call: &Call, _replica: usize, _now: Micros) {}
}

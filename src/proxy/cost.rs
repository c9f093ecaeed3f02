//! What a call costs: shares of the time of the replicas that its attempts were at, or the tokens of its answer.

use std::sync::Arc;

use super::place::Placed;
use crate::domain::topology::Topology;
use crate::policy::price::{self, Price};
use crate::policy::select::Selection;
use crate::roster::Bill;
use crate::wire::usage::Usage;

/// One call's.
#[derive(Default, Debug)]
pub(super) struct Cost {
    /// Of the attempts that are paid for by their time; none was, while there is none.
    bill: Option<Arc<Bill>>,
}

impl Cost {
    /// Every attempt is paid for, whatever comes of it.
    pub(super) fn attempt(&mut self, topology: &Topology, (selection, booking): Placed) -> Placed {
        match Price::of(topology.pool(selection.pool.pool)) {
            Some(Price::Time(dollars_per_s)) => {
                let bill = self.bill.get_or_insert_default();
                (selection, booking.billed_to(Arc::clone(bill), dollars_per_s))
            }
            Some(Price::Tokens(_)) | None => (selection, booking),
        }
    }

    /// USD, once every attempt has ended; `None` where no price is known, or no tokens are told that have one.
    pub(super) fn dollars(
        &self,
        topology: &Topology,
        answered: Option<&Selection>,
        usage: Option<&Usage>,
    ) -> Option<f64> {
        let time = self.bill.as_ref().map(|bill| bill.dollars());
        let tokens = answered.zip(usage).and_then(|(selection, usage)| {
            let Some(Price::Tokens(price)) = Price::of(topology.pool(selection.pool.pool)) else { return None };
            let cached = usage.cached_tokens.unwrap_or(0);
            Some(price::of_tokens(price, usage.prompt_tokens, cached, usage.completion_tokens))
        });
        time.map_or(tokens, |time| Some(time + tokens.unwrap_or(0.0)))
    }
}

//! The replicas as they are now, and what a request holds of them.
//!
//! Here the two planes meet: the control plane swaps in snapshots and reports health checks, the data plane takes one
//! snapshot per request, books replicas and reports how attempts ended. Neither knows the other.

mod bill;
mod budget;
mod cache;
mod identity;
mod idle_table;
mod inflight;
mod intake;
mod interactions;
mod live;
mod pool;
mod prefill;
mod regions;
mod responses;
mod sessions;
mod snapshot;

pub use bill::Bill;
pub use budget::RetryBudget;
pub use cache::{PoolCache, Slot};
pub use identity::Identity;
pub use inflight::{Doubt, InFlight};
pub use intake::{Intake, Waiting};
pub use interactions::{Cause, Closed, Interactions, Member};
pub use live::{Live, Reading};
pub use pool::{PoolLive, Ticket};
pub use prefill::Prefilling;
pub use regions::RegionLive;
pub use responses::ResponseTable;
pub use sessions::{Session, SessionTable};
pub use snapshot::{Roster, Snapshot};

#[cfg(test)]
mod tests;

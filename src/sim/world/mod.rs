//! A world on loopback: regions with an 8B and a 70B pool each, whose replicas and whole regions die and come back, and agents
//! on several continents that call whatever base URL they are given, or the replicas themselves in turn. It knows no edge.

mod agents;
mod places;
mod regions;
mod report;
mod round_robin;
mod session;
mod target;
mod ways;

pub use agents::{Agents, AgentsParams};
pub use places::{PLACES, Place, REGIONS, RegionSpec};
pub use regions::{ModelSpec, Pool, Region, World, WorldParams};
pub use report::{CallReport, Receipt, Step};
pub use round_robin::RoundRobin;
pub use target::Target;

#[cfg(test)]
mod tests;

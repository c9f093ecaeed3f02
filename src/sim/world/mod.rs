//! A world on loopback: regions with an 8B and a 70B pool each, whose replicas and whole regions die and come back, and agents
//! on several continents that call whatever base URL they are given. It knows no edge.

mod agents;
mod places;
mod regions;
mod report;
mod session;

pub use agents::{Agents, AgentsParams};
pub use places::{PLACES, Place, REGIONS, RegionSpec};
pub use regions::{ModelSpec, Pool, Region, World, WorldParams};
pub use report::{CallReport, Receipt, Step};

#[cfg(test)]
mod tests;

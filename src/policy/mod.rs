//! Floor 1, decisions: pure functions of a view, parameters, the time and a source of randomness.
//!
//! Nothing here reads a clock, the environment or a socket, so that every rule can be tested in virtual time, and so
//! that `nearpool explain` and the data plane cannot differ: both call these functions.

pub mod admission;
pub mod affinity;
pub mod blame;
pub mod breaker;
pub mod budget;
pub mod cache_size;
pub mod client;
pub mod client_rule;
pub mod cost;
pub mod countries;
pub mod engine_load;
pub mod entrance;
pub mod gpu_load;
pub mod health;
pub mod interaction;
pub mod least_bad;
pub mod limits;
pub mod load;
pub mod pace;
pub mod pool;
pub mod prefix_index;
pub mod price;
pub mod queue;
pub mod record;
pub mod region;
pub mod replica;
pub mod resolve;
pub mod resume;
pub mod retry;
mod reuse;
pub mod rtt;
pub mod sampling;
pub mod select;
pub mod share;
pub mod spill;
pub mod steer;
pub mod success_rate;
pub mod ttft;
pub mod weight;

#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod testing;

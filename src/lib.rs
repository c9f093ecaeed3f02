//! Nearpool: an edge routing proxy for AI-agent traffic.
pub mod config;
pub mod domain;
pub mod policy;
pub mod sim;
pub mod wire;

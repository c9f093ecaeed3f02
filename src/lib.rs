//! Nearpool: an edge routing proxy for AI-agent traffic.
pub mod config;
pub mod control;
pub mod domain;
pub mod observe;
pub mod policy;
pub mod proxy;
pub mod roster;
pub mod sim;
pub mod wire;

//! Nearpool: an edge routing proxy for AI-agent traffic.
pub mod sim;

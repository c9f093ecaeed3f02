//! A simulated world: engines, their HTTP servers, regions, faults and agents.
//!
//! Stands apart: it imports nothing of the edge's, so that a bug that both shared could not hide itself.

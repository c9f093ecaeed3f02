//! The control plane: what happens beside the requests. New configurations come in, replicas are checked, and the
//! operator asks how things stand.
//!
//! It knows nothing of the data plane; the two meet in the roster.

pub mod health_check;
pub mod probe;

//! The file's meaning: section by section into plain values, with every error noted on the way.
//!
//! A check that fails goes on with a stand-in value, so that one run finds all errors; what is made of stand-ins never
//! leaves, since a single error refuses the whole.

mod access_log;
mod client_rules;
mod edge;
mod geo;
mod gpu_metrics;
mod knobs;
mod models;
mod names;
mod networks;
mod outside;
mod place_headers;
mod pools;
mod replicas;
mod tls;
mod tracing;
mod url;
mod whole;

pub(super) use outside::Outside;
pub(super) use whole::config;

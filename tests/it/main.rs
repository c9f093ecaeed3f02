//! The data plane over real sockets: the real binary as a child process, simulated or scripted replicas in this process,
//! clients that write exact bytes. Nothing here sleeps to wait; what is waited for is an event, and every wait is bounded.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod support;

mod access_log;
mod affinity;
mod agreement;
mod bad_input;
mod bad_input_h2;
mod bodies;
mod budget;
mod command;
mod deadlines;
mod dialects;
mod ending;
mod engine_metrics;
mod explain;
mod faults;
mod feed;
mod geoip;
mod harness;
mod health;
mod hygiene;
mod interactions;
mod keep_alive;
mod kills;
mod leaving;
mod limits;
mod pace;
mod proxied;
mod queue;
mod refusals;
mod regions;
mod reload;
mod replay;
mod residency;
mod resume;
mod robust;
mod series;
mod slow;
mod stored;
mod streams;
mod tls;
mod traces;
mod usage;
mod warm;
mod whereabouts;

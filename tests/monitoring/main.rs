//! What ships for monitoring, `conf/prometheus` and `conf/grafana`: checked by Prometheus' own tools, against the metrics
//! that there are, and with a real Prometheus over the demo.
//!
//! Where Prometheus is not installed the tests say so and are skipped; under `CI=true` they fail instead.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod dashboard;
mod known;
mod promql;
mod rules;
mod tools;
mod yaml;

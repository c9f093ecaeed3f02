//! A small world for tests: one region, one pool, as many replicas as wanted.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::roster::{Roster, Snapshot};
use crate::wire::geoip::GeoDb;

/// The text of a configuration whose replicas listen at these ports of 127.0.0.1 and are named `r0`, `r1`, …; `edge` is
/// put into its `[edge]`.
pub(crate) fn text(ports: &[u16], edge: &str) -> String {
    let replicas = ports.iter().enumerate().fold(String::new(), |mut list, (n, port)| {
        let _ = writeln!(list, r#"{{ name = "r{n}", url = "http://127.0.0.1:{port}" }},"#);
        list
    });
    format!(
        r#"
        [edge]
        name = "edge-1"
        region = "here"
        listen = ["127.0.0.1:8080"]
        {edge}
        [regions]
        here = {{ latitude = 0.0, longitude = 0.0 }}
        [models.small]
        [health]
        unhealthy_after = 2
        [circuit_breaker]
        failure_threshold = 2
        reset_timeout = "60s"
        [[pools]]
        name = "pool"
        region = "here"
        model = "small"
        engine = "vllm"
        replicas = [{replicas}]
        "#
    )
}

/// That configuration, checked; health checks come every 20 ms.
pub(crate) fn config(ports: &[u16]) -> Config {
    let parsed = config::parse("test.toml", &text(ports, ""), Path::new(""), &|_| None);
    let mut config = parsed.unwrap_or_else(|errors| panic!("{errors}"));
    config.health.interval = Duration::from_millis(20); // a file may not have it below the timeout
    config
}

/// A roster that starts with this configuration.
pub(crate) fn roster(config: Config) -> Arc<Roster> {
    let snapshot = Snapshot::new(Arc::new(config), Arc::new(geo()), None);
    Arc::new(Roster::new(snapshot, Instant::now()))
}

/// A GeoIP database.
pub(crate) fn geo() -> GeoDb {
    GeoDb::from_bytes(include_bytes!("../../tests/data/mini-city.mmdb").to_vec()).unwrap()
}

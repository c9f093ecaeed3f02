//! What the control plane's tests share: a directory of a test's own, an edge's control plane over a config file in it, and
//! waiting for what nobody tells of.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use prometheus::Registry;

use super::reload::{self, Parts, Prepare, Reloader};
use crate::observe::metrics::Metrics;
use crate::observe::testing;
use crate::roster::{Roster, Snapshot};

/// A GeoIP database that can be read.
pub(crate) const GOOD_GEO: &[u8] = include_bytes!("../../tests/data/mini-city.mmdb");

/// Waits for what nobody tells of, which follows an event that was waited for.
pub(crate) async fn soon(holds: impl Fn() -> bool) {
    let mut tries = 0;
    while !holds() {
        tries += 1;
        assert!(tries < 10_000);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Removed with all that is in it when dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Directory {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("nearpool-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in place.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Puts a file there in one step, as an operator's tools do.
    pub(crate) fn swap_in(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::rename(self.write(&format!("{name}.tmp"), text), &path).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A control plane that runs `edge.toml` in a directory of its own.
pub(crate) struct World {
    pub(crate) directory: Directory,
    pub(crate) roster: Arc<Roster>,
    pub(crate) registry: Registry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) reloader: Arc<Reloader>,
}

impl World {
    /// Starts with one replica and these lines at the end of `[edge]`; `{dir}` stands for the directory.
    pub(crate) fn new(edge: &str) -> World {
        World::with(edge, Directory::new(), Box::new(|_| Ok(Box::new(|| ()))))
    }

    pub(crate) fn with(edge: &str, directory: Directory, prepare: Prepare) -> World {
        let path = directory.write("edge.toml", World::text_in(&directory, &[1], edge));
        let env: reload::Env = Box::new(|name| (name == "TOKEN").then(|| "s3cret".to_owned()));
        let loaded = reload::load(&path, &*env).unwrap_or_else(|error| panic!("{error}"));
        let snapshot = Snapshot::new(Arc::clone(&loaded.config), Arc::clone(&loaded.geo), None);
        let roster = Arc::new(Roster::new(snapshot, Instant::now()));
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::new(&registry).unwrap());
        let parts = Parts { path, env, roster: Arc::clone(&roster), metrics: Arc::clone(&metrics), prepare };
        let reloader = Arc::new(Reloader::new(parts, &loaded));
        World { directory, roster, registry, metrics, reloader }
    }

    /// A config's text.
    pub(crate) fn text(&self, ports: &[u16], edge: &str) -> String {
        World::text_in(&self.directory, ports, edge)
    }

    fn text_in(directory: &Directory, ports: &[u16], edge: &str) -> String {
        testing::text(ports, &edge.replace("{dir}", directory.path().to_str().unwrap()))
    }

    /// Replicas in force.
    pub(crate) fn replicas(&self) -> usize {
        self.roster.snapshot().config.topology.replicas.len()
    }

    /// Verdicts counted: `(source, ok, refused)` of those sources that have any.
    pub(crate) fn verdicts(&self) -> Vec<(String, u64, u64)> {
        let text = self.metrics.render(&self.registry);
        let count = |source: &str, result: &str| -> u64 {
            let start = format!(r#"nearpool_config_reloads_total{{result="{result}",source="{source}"}} "#);
            text.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
        };
        let sources = ["file", "geo", "tls", "signal", "post", "push"];
        let all = sources.map(|source| (source.to_owned(), count(source, "ok"), count(source, "refused")));
        all.into_iter().filter(|(_, ok, refused)| ok + refused > 0).collect()
    }
}

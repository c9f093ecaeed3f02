//! The edge's configuration on disk: `conf/demo.toml` with the addresses of this run.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use nearpool::sim::server::ReplicaHandle;

/// The static example is the template, so that it cannot go stale.
const TEMPLATE: &str = include_str!("../../../conf/demo.toml");

/// A folder of this process alone with the file in it; dropping it removes both.
#[derive(Debug)]
pub(super) struct ConfigFile {
    folder: PathBuf,
    path: PathBuf,
}

/// The addresses of a run.
#[derive(Debug)]
pub(super) struct Addresses<'a> {
    pub(super) agents: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) replicas: Vec<Replica<'a>>,
}

/// Where a replica is, and the exporter of its GPUs.
#[derive(Debug)]
pub(super) struct Replica<'a> {
    pub(super) name: &'a str,
    pub(super) url: String,
    pub(super) gpu_metrics: String,
}

impl<'a> Replica<'a> {
    pub(super) fn of(replica: &'a ReplicaHandle) -> Replica<'a> {
        Replica { name: replica.name(), url: replica.url(), gpu_metrics: replica.gpu_metrics_url() }
    }
}

impl ConfigFile {
    pub(super) fn write(addresses: &Addresses<'_>) -> anyhow::Result<ConfigFile> {
        let text = filled_in(TEMPLATE, addresses)?;
        let folder = std::env::temp_dir().join(format!("nearpool-demo-{}", std::process::id()));
        // It fails when the folder is there, so nobody can have prepared it.
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = ConfigFile { path: folder.join("edge.toml"), folder };
        fs::write(&file.path, text).with_context(|| format!("cannot write {}", file.path.display()))?;
        Ok(file)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A name in the same folder.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            log::warn!("{} is left behind: {error}", self.folder.display());
        }
    }
}

/// The template with these addresses. Each must have its place in it: a replica that the template does not name is one
/// that the edge would not know.
fn filled_in(template: &str, addresses: &Addresses<'_>) -> anyhow::Result<String> {
    let mut text = replaced(template, "\nlisten = [\"", &addresses.agents.to_string())?;
    text = replaced(&text, "\nadmin = \"", &addresses.admin.to_string())?;
    for Replica { name, url, gpu_metrics } in &addresses.replicas {
        let before = format!("{{ name = \"{name}\", url = \"");
        text = replaced(&text, &before, url)?;
        text = replaced(&text, &format!("{before}{url}\", gpu_metrics = \""), gpu_metrics)?;
    }
    Ok(text)
}

/// `text` with the rest of the quotes that `before` opens replaced by `value`.
fn replaced(text: &str, before: &str, value: &str) -> anyhow::Result<String> {
    let missing = || anyhow!("conf/demo.toml has no place for {value}: {}", before.trim());
    let (head, tail) = text.split_once(before).ok_or_else(missing)?;
    let (_, tail) = tail.split_once('"').ok_or_else(missing)?;
    Ok(format!("{head}{before}{value}\"{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(name: &&'static str) -> Replica<'static> {
        Replica { name, url: format!("http://{name}"), gpu_metrics: format!("http://{name}/gpu/metrics") }
    }

    fn addresses(names: &[&'static str]) -> Addresses<'static> {
        Addresses {
            agents: "127.0.0.1:1".parse().unwrap(),
            admin: "127.0.0.1:2".parse().unwrap(),
            replicas: names.iter().map(replica).collect(),
        }
    }

    #[test]
    fn every_address_finds_its_place() {
        let text = filled_in(TEMPLATE, &addresses(&["us-west-8b-0", "eu-west-70b-2"])).unwrap();
        for line in [
            "listen = [\"127.0.0.1:1\"]",
            "admin = \"127.0.0.1:2\"",
            "    { name = \"us-west-8b-0\", url = \"http://us-west-8b-0\", gpu_metrics = \"http://us-west-8b-0/gpu/metrics\" },",
            "    { name = \"eu-west-70b-2\", url = \"http://eu-west-70b-2\", gpu_metrics = \"http://eu-west-70b-2/gpu/metrics\" },",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}");
        }
        assert_eq!(text.lines().count(), TEMPLATE.lines().count());
    }

    #[test]
    fn a_replica_that_the_template_does_not_name_is_an_error() {
        assert!(filled_in(TEMPLATE, &addresses(&["mars-8b-0"])).is_err());
    }
}

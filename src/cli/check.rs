//! `nearpool check`: is this file a configuration, with all that it refers to?

use std::path::Path;
use std::process::ExitCode;

use nearpool::control::reload;

use super::assemble::certificates;
use super::numbers::count;

pub(super) fn run(path: &Path) -> anyhow::Result<ExitCode> {
    let config = reload::load(path, &super::environment)?.config;
    certificates(&config)?;
    let topology = &config.topology;
    let counted = [
        count(topology.regions.len() as u64, "region"),
        count(topology.pools.len() as u64, "pool"),
        count(topology.replicas.len() as u64, "replica"),
        count(topology.models.len() as u64, "model"),
    ];
    println!("{}: ok ({}; hash {})", path.display(), counted.join(", "), &config.hash[..12]);
    Ok(ExitCode::SUCCESS)
}

//! `nearpool check`: is this file a configuration?

use std::path::Path;
use std::process::ExitCode;

use nearpool::config;

/// What a script sees of a wrong file, as distinct from a failure of the command.
const WRONG: u8 = 2;

pub(super) fn run(path: &Path) -> ExitCode {
    match config::load(path, &super::environment) {
        Ok(config) => {
            let topology = &config.topology;
            println!(
                "{}: ok ({} regions, {} pools, {} replicas, {} models; hash {})",
                path.display(),
                topology.regions.len(),
                topology.pools.len(),
                topology.replicas.len(),
                topology.models.len(),
                &config.hash[..12]
            );
            ExitCode::SUCCESS
        }
        Err(diagnostics) => {
            eprint!("{diagnostics}");
            ExitCode::from(WRONG)
        }
    }
}

//! `nearpool run`: serve.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use pingora::server::RunArgs as ServerArgs;

use super::assemble::{Assembled, Options, assemble, on_a_thread};
use super::lifecycle::{Caught, Drainer, Signals};

#[derive(clap::Args, Debug)]
pub(super) struct RunArgs {
    /// The config file; conf/edge.toml is the commented reference.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Take the listeners over from the running process, which must get SIGQUIT within 5 s.
    #[arg(long)]
    upgrade: bool,
    /// Where the listeners are handed over.
    #[arg(long, value_name = "PATH", default_value = "/tmp/nearpool-upgrade.sock")]
    upgrade_socket: PathBuf,
    /// Threads of the data plane, 1 to 1024; the default is one for each core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Write no access log.
    #[arg(long)]
    no_access_log: bool,
}

pub(super) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    // What the framework says of a hand-over is said by us: to it, not to have come within a second is an error.
    super::start_log("warn,nearpool=info,pingora_core::server::transfer_fd=off");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let Assembled { mut server, edge, roster, log, spans, config, interactions, unfinished } = assemble(Options {
        config: &args.config,
        access_log: !args.no_access_log,
        upgrade: args.upgrade,
        upgrade_socket: args.upgrade_socket.clone(),
        threads: args.threads.map_or(cores, usize::from),
        seed: rand::random(),
    })?;
    server.add_service(on_a_thread(
        "drain",
        Drainer {
            edge: Arc::clone(&edge),
            roster: Arc::clone(&roster),
            log: Arc::clone(&log),
            interactions: Arc::clone(&interactions),
            spans: Arc::clone(&spans),
            unfinished,
        },
    ));
    for address in &config.listen {
        log::info!("serving agents at http://{address}");
    }
    for address in config.tls.iter().flat_map(|tls| &tls.listen) {
        log::info!("serving agents at https://{address}");
    }
    if let Some(address) = config.admin {
        log::info!("metrics and status at http://{address}");
    }
    let caught = Mutex::new(Some(Caught::now().context("signals cannot be watched")?));
    let signals = Signals { edge, roster, spans, upgrade_socket: args.upgrade_socket.clone(), caught };
    server.run(ServerArgs { shutdown_signal: Box::new(signals) });
    interactions.close_all();
    log.flush();
    Ok(ExitCode::SUCCESS)
}

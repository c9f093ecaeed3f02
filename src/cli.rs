//! What the command line does; each command is a file.

mod admin;
mod assemble;
mod check;
mod cores;
mod demo;
mod explain;
mod geoip;
mod lifecycle;
mod numbers;
mod page;
mod run;
mod simulate;
mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nearpool::control::reload::ReloadError;

/// What a script sees of a wrong configuration, as distinct from a failure of the command.
const WRONG_CONFIG: u8 = 2;

/// An edge routing proxy for AI-agent traffic: to the nearest usable GPU pool, to the replica that is warm.
#[derive(Parser, Debug)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve.
    Run(run::RunArgs),
    /// Check a config file: exit 0, or every error with its place and exit 2.
    Check {
        /// The config file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say where a call would go, and why.
    Explain(explain::ExplainArgs),
    /// GeoIP databases: what one is, where an address stands, providers' networks laid over one.
    #[command(subcommand)]
    Geoip(geoip::GeoipCommand),
    /// Show the whole system on this machine: simulated regions, an edge, agents, failures.
    Demo(demo::DemoArgs),
    /// The status of a running edge in a terminal, live.
    Top(top::TopArgs),
    /// Run one simulated replica.
    Simulate(simulate::SimulateArgs),
}

/// Runs a command.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Run(args) => run::run(&args),
        Command::Check { config } => check::run(&config),
        Command::Explain(args) => explain::run(&args),
        Command::Geoip(command) => geoip::run(&command),
        Command::Demo(args) => demo::run(&args),
        Command::Top(args) => top::run(&args),
        Command::Simulate(args) => simulate::run(&args),
    }
}

/// Says why a command failed. A wrong configuration is told as it is, and apart from other failures: to start again, as a
/// service manager would, mends none.
pub(crate) fn failed(error: &anyhow::Error) -> ExitCode {
    let wrong = error.downcast_ref();
    match wrong {
        Some(ReloadError::Config(diagnostics)) => eprint!("{diagnostics}"),
        _ => eprintln!("nearpool: {error:#}"),
    }
    if wrong.is_some() { ExitCode::from(WRONG_CONFIG) } else { ExitCode::FAILURE }
}

/// How secrets and the like are looked up.
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Log lines go to standard error, since standard output carries the access log. `RUST_LOG` overrides.
fn start_log(default: &str) {
    let env = env_logger::Env::default().default_filter_or(default);
    // A second start (tests, demo) is no fault: the first one stays.
    let _ = env_logger::Builder::from_env(env).try_init();
}

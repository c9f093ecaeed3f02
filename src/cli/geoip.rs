//! `nearpool geoip`: what a GeoIP database is, where it places an address, and how an operator makes one.

mod build;
mod info;
mod lookup;

use std::path::Path;
use std::process::ExitCode;

use clap::Subcommand;
use nearpool::observe::timestamp::Timestamp;
use nearpool::wire::geoip::Metadata;

/// What a script sees of a file that cannot be used, as distinct from a failure of the command.
const WRONG: u8 = 2;

#[derive(Subcommand, Debug)]
pub(super) enum GeoipCommand {
    /// Say what a database is: its kind, age, size, licence, and how finely it tells places.
    Info(info::InfoArgs),
    /// Say where an address stands, and what a client there counts as.
    Lookup(lookup::LookupArgs),
    /// Lay the networks that cloud providers publish, or a geofeed, over a database, or over the registries' statistics.
    Build(build::BuildArgs),
}

pub(super) fn run(command: &GeoipCommand) -> anyhow::Result<ExitCode> {
    match command {
        GeoipCommand::Info(args) => info::run(args),
        GeoipCommand::Lookup(args) => lookup::run(args),
        GeoipCommand::Build(args) => build::run(args),
    }
}

/// Says on standard error what is wrong with a file.
fn wrong(error: &str) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(WRONG)
}

/// The file's name; the one in the binary has none.
fn name(file: Option<&Path>) -> String {
    file.map_or("embedded".to_owned(), |file| file.display().to_string())
}

/// The day on which it was built, such as `2026-06-17`.
fn built(metadata: &Metadata) -> String {
    Timestamp(metadata.built()).to_string().chars().take_while(|c| *c != 'T').collect()
}

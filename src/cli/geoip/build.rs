//! `nearpool geoip build`: a database with providers' networks laid over it, or one made of the registries' statistics.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nearpool::control::geo;
use nearpool::wire::geoip::build::{Base, lay_over};
use nearpool::wire::geoip::overlay::Overlay;

/// Names without a place that are listed of each file.
const UNPLACED_SHOWN: usize = 8;

#[derive(clap::Args, Debug)]
pub(crate) struct BuildArgs {
    /// The database that the networks are laid over; default: the one in the binary.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// Instead of a database the registries' statistics (delegated-…-extended-latest) with the countries of all networks; may be
    /// repeated. Without them the countries, and the age, remain those of the database.
    #[arg(long, value_name = "FILE", conflicts_with = "base")]
    registry: Vec<PathBuf>,
    /// AWS ip-ranges.json, Google cloud.json, Azure service tags, Oracle public_ip_ranges.json or an RFC 8805 geofeed; may be
    /// repeated, and the last wins.
    #[arg(long, value_name = "FILE", required_unless_present = "registry")]
    overlay: Vec<PathBuf>,
    /// Where the new database is put; it may be the one below.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(args: &BuildArgs) -> anyhow::Result<ExitCode> {
    Ok(built(args).map_or_else(|error| super::wrong(&error), |()| ExitCode::SUCCESS))
}

fn built(args: &BuildArgs) -> Result<(), String> {
    let same =
        |file: &PathBuf| file.canonicalize().is_ok_and(|file| args.out.canonicalize().is_ok_and(|out| out == file));
    if let Some(list) = args.overlay.iter().chain(&args.registry).find(|list| same(list)) {
        return Err(format!("{}: is a list to read; give --out another name", list.display()));
    }
    let overlays = args.overlay.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let base = base(args)?;
    let (bytes, db) =
        lay_over(base, &overlays).map_err(|error| format!("{error} ({})", super::name(args.base.as_deref())))?;
    geo::write(&args.out, &bytes).map_err(|error| format!("{}: cannot be written: {error}", args.out.display()))?;
    let metadata = db.metadata();
    println!(
        "wrote    {}: {}, built {}, {} bytes",
        args.out.display(),
        metadata.kind,
        super::built(&metadata),
        bytes.len()
    );
    println!("next     [geo] database = {:?}", args.out.display().to_string());
    if let Some(terms) = metadata.terms() {
        println!("licence  {terms}");
    }
    Ok(())
}

fn base(args: &BuildArgs) -> Result<Base, String> {
    let Some(registry) = geo::read_registries(&args.registry)? else {
        return Ok(Base::Database(geo::bytes(args.base.as_deref())?.into_owned()));
    };
    println!("read     registries' statistics: {} networks", registry.networks.len());
    Ok(Base::Registry(registry))
}

fn read(file: &Path) -> Result<Overlay, String> {
    let overlay = geo::read_overlay(file)?;
    let (name, Overlay { kind, rows, placed, unplaced }) = (file.display(), &overlay);
    println!("read     {name}: {kind}, {} of {rows} rows have a known place", placed.len());
    if !unplaced.is_empty() {
        let mut most: Vec<_> = unplaced.iter().collect();
        most.sort_by_key(|(name, count)| (std::cmp::Reverse(**count), name.as_str()));
        let shown = most.iter().take(UNPLACED_SHOWN).map(|(name, count)| format!("{name:?} {count}"));
        let more = if most.len() > UNPLACED_SHOWN { ", …" } else { "" };
        println!("         without: {}{more}", shown.collect::<Vec<_>>().join(", "));
    }
    Ok(overlay)
}

//! `nearpool geoip info`: what is this file?

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use nearpool::control::geo;
use nearpool::wire::geoip::Metadata;
use nearpool::wire::geoip::census::{Census, Precision};
use serde_json::{Value, json};

#[derive(clap::Args, Debug)]
pub(crate) struct InfoArgs {
    /// The database; default: the one in the binary.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the licence and attribution of the one in the binary, and nothing else.
    #[arg(long, conflicts_with_all = ["file", "json"])]
    notice: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &InfoArgs) -> anyhow::Result<ExitCode> {
    if args.notice {
        print!("{}", geo::notice());
        return Ok(ExitCode::SUCCESS);
    }
    let read = geo::read(args.file.as_deref());
    let db = match read {
        Ok(db) => db,
        Err(error) => return Ok(super::wrong(&error)),
    };
    let info = Info { name: super::name(args.file.as_deref()), metadata: db.metadata(), census: db.census()? };
    let now = SystemTime::now();
    if args.json {
        println!("{:#}", info.json(now))
    } else {
        info.print(now)
    }
    Ok(ExitCode::SUCCESS)
}

struct Info {
    name: String,
    metadata: Metadata,
    census: Census,
}

impl Info {
    fn print(&self, now: SystemTime) {
        let Info { name, metadata, census } = self;
        let stale = if metadata.is_stale(now) { ", stale" } else { "" };
        println!("file       {name}, {} bytes", metadata.bytes);
        println!("type       {}, {}", metadata.kind, versions(metadata.ip_version));
        println!("built      {}, {} days ago{stale}", super::built(metadata), metadata.age_days(now));
        println!("says       {}", metadata.description);
        println!("licence    {}", metadata.terms().unwrap_or("not known of this kind: ask its maker"));
        println!(
            "networks   {} of IPv4, {} of IPv6, {} with a country; {} different records",
            census.ipv4_networks, census.ipv6_networks, census.with_country, census.records
        );
        println!("           {:>9} {:>14}  clients there count as", "networks", "IPv4 addresses");
        for (precision, count) in Precision::ALL.into_iter().zip(census.by_precision) {
            println!(
                "{:<10} {:>9} {:>14}  {}",
                precision.name(),
                count.networks,
                count.ipv4_addresses,
                precision.meaning()
            );
        }
    }

    fn json(&self, now: SystemTime) -> Value {
        let Info { name, metadata, census } = self;
        let precision = Precision::ALL.into_iter().zip(census.by_precision).map(|(precision, count)| {
            (precision.name().to_owned(), json!({"networks": count.networks, "ipv4_addresses": count.ipv4_addresses}))
        });
        json!({
            "file": name,
            "kind": metadata.kind,
            "bytes": metadata.bytes,
            "ip_version": metadata.ip_version,
            "built": super::built(metadata),
            "age_days": metadata.age_days(now),
            "stale": metadata.is_stale(now),
            "description": metadata.description,
            "licence": metadata.terms(),
            "networks": {"ipv4": census.ipv4_networks, "ipv6": census.ipv6_networks, "with_country": census.with_country},
            "records": census.records,
            "precision": precision.collect::<serde_json::Map<_, _>>(),
        })
    }
}

fn versions(ip_version: u16) -> &'static str {
    if ip_version == 6 { "IPv4 and IPv6" } else { "IPv4 only" }
}

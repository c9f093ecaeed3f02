//! `nearpool geoip lookup`: where does this database place an address?

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use nearpool::control::geo;
use nearpool::domain::whereabouts::Unions;
use nearpool::wire::geoip::census::Precision;
use nearpool::wire::geoip::{Located, Metadata, embedded_v4};
use serde_json::{Value, json};

#[derive(clap::Args, Debug)]
pub(crate) struct LookupArgs {
    /// The address, IPv4 or IPv6.
    #[arg(value_name = "ADDR")]
    address: IpAddr,
    /// The database; default: the one in the binary.
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &LookupArgs) -> anyhow::Result<ExitCode> {
    let db = match geo::read(args.database.as_deref()) {
        Ok(db) => db,
        Err(error) => return Ok(super::wrong(&error)),
    };
    let found = Found {
        name: super::name(args.database.as_deref()),
        metadata: db.metadata(),
        address: args.address,
        asked: embedded_v4(args.address),
        located: db.lookup(args.address)?,
    };
    if args.json {
        println!("{:#}", found.json())
    } else {
        found.print()
    }
    Ok(ExitCode::SUCCESS)
}

struct Found {
    name: String,
    metadata: Metadata,
    address: IpAddr,
    /// The address that is looked up: the IPv4 address in an IPv6 one.
    asked: IpAddr,
    located: Option<Located>,
}

impl Found {
    fn precision(&self) -> Precision {
        self.located.map_or(Precision::Nothing, |located| located.precision())
    }

    fn print(&self) {
        let inside = if self.asked == self.address { String::new() } else { format!(", which carries {}", self.asked) };
        println!("address    {}{inside}", self.address);
        println!("database   {}: {} of {}", self.name, self.metadata.kind, super::built(&self.metadata));
        if let Some(located) = self.located {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "not known".to_owned());
            let unions = unions(located.unions);
            println!("country    {}", or_none(located.country.map(|code| code.to_string())));
            println!("continent  {}", or_none(located.continent.map(|code| code.to_string())));
            println!("unions     {}", if unions.is_empty() { "none".to_owned() } else { unions.join(", ") });
            println!("place      {}", or_none(place(&located)));
        } else {
            println!("record     none");
        }
        println!("counts as  {}", self.precision().meaning());
    }

    fn json(&self) -> Value {
        let Found { name, metadata, address, asked, located } = self;
        json!({
            "address": address,
            "looked_up": asked,
            "database": name,
            "kind": metadata.kind,
            "built": super::built(metadata),
            "found": located.is_some(),
            "country": located.and_then(|located| located.country).map(|code| code.to_string()),
            "continent": located.and_then(|located| located.continent).map(|code| code.to_string()),
            "unions": located.map_or(Vec::new(), |located| unions(located.unions)),
            "place": located.and_then(|located| located.place).map(|place| [place.latitude, place.longitude]),
            "accuracy_radius_km": located.and_then(|located| located.accuracy_radius_km),
            "precision": self.precision().name(),
        })
    }
}

fn unions(unions: Unions) -> Vec<&'static str> {
    [(unions.eu, "EU"), (unions.eea, "EEA")].into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
}

fn place(located: &Located) -> Option<String> {
    let radius = located.accuracy_radius_km.map_or_else(String::new, |km| format!(" within {km} km"));
    located.place.map(|place| format!("{:.2}, {:.2}{radius}", place.latitude, place.longitude))
}

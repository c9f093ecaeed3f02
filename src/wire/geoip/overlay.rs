//! Lists of networks with their places: the files that cloud providers publish, and geofeeds (RFC 8805).
//!
//! What kind a list is of is told by its content, as `geoip/build` does. A row without a country, without a region, or with
//! a region that is in no table of ours has no place: what stands there otherwise remains.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;

use super::places::{self, Spot};
use super::printable;

/// Longest list in bytes; the largest that is published, Azure's, has 5 MB.
pub const LIST_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most rows of a list; Azure's has 100,000, many of them twice.
pub const LIST_ROWS_MAX: usize = 1_000_000;
/// Most names that a list's rows without a place are counted by; further ones are counted together.
const UNPLACED_NAMES_MAX: usize = 200;

/// A list that was read.
#[derive(Debug)]
pub struct Overlay {
    /// Of which kind it is.
    pub kind: &'static str,
    /// How many rows it has.
    pub rows: usize,
    /// Those with a place, in the order of the list.
    pub placed: Vec<(IpNet, Spot)>,
    /// How many have none, by the region or country that they name.
    pub unplaced: BTreeMap<String, usize>,
}

/// Why a list cannot be used, and where in it.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// It is too long.
    #[error("more than {LIST_BYTES_MAX} bytes or {LIST_ROWS_MAX} rows: no list of networks is so long")]
    TooLong,
    /// It is no text.
    #[error("line {line}: not UTF-8")]
    NotText {
        /// The first such line.
        line: usize,
    },
    /// It begins as JSON does and is none, or a field is of another type.
    #[error("{0}: if the download was cut short, fetch it again")]
    Json(#[source] serde_json::Error),
    /// It is JSON of another kind.
    #[error(
        "unknown format: give AWS ip-ranges.json, Google cloud.json, Azure service tags, Oracle public_ip_ranges.json or an RFC 8805 geofeed"
    )]
    Unknown,
    /// A row is wrong.
    #[error("{at}: {what}")]
    Row {
        /// `line 3`, or a path such as `prefixes[3].ip_prefix`.
        at: String,
        /// What is wrong, and what to do.
        what: String,
    },
    /// No row has a place.
    #[error("none of {rows} rows has a place that is known: is it the right file?")]
    NoPlace {
        /// How many rows there are.
        rows: usize,
    },
}

impl Overlay {
    /// Reads a list.
    pub fn read(bytes: &[u8]) -> Result<Overlay, OverlayError> {
        if bytes.len() > LIST_BYTES_MAX {
            return Err(OverlayError::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            OverlayError::NotText { line }
        })?;
        let text = text.trim_start_matches('\u{feff}');
        let overlay = match text.trim_start().bytes().next() {
            Some(b'{') => published(serde_json::from_str(text).map_err(OverlayError::Json)?),
            Some(b'[') => Err(OverlayError::Unknown),
            _ => geofeed(text),
        }?;
        if overlay.placed.is_empty() {
            return Err(OverlayError::NoPlace { rows: overlay.rows });
        }
        Ok(overlay)
    }

    fn new(kind: &'static str) -> Overlay {
        Overlay { kind, rows: 0, placed: Vec::new(), unplaced: BTreeMap::new() }
    }

    /// Takes a row whose network stands at `at` and whose place is called `name`.
    fn add(
        &mut self,
        network: &str,
        spot: Option<Spot>,
        name: &str,
        at: impl Fn() -> String,
    ) -> Result<(), OverlayError> {
        self.rows += 1;
        if self.rows > LIST_ROWS_MAX {
            return Err(OverlayError::TooLong);
        }
        let network = self::network(network).map_err(|what| OverlayError::Row { at: at(), what })?;
        if let Some(spot) = spot {
            self.placed.push((network, spot));
        } else {
            let full = self.unplaced.len() >= UNPLACED_NAMES_MAX && !self.unplaced.contains_key(name);
            let name = if full { "others" } else { name };
            *self.unplaced.entry(printable(name, 60)).or_default() += 1;
        }
        Ok(())
    }
}

/// The networks, those that hold others first and of equal ones the later last, so that each may be put over what stands there.
pub(super) fn widest_first(placed: &[(IpNet, Spot)]) -> Vec<(IpNet, Spot)> {
    let mut networks = placed.to_vec();
    networks.sort_by_key(|(network, _)| network.prefix_len());
    networks
}

/// A network, or an address alone; bits beyond its length are dropped. IPv4 inside of IPv6 is IPv4.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let shown = || printable(text, 60);
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let network = parsed.ok_or_else(|| format!("'{}' is no network such as 192.0.2.0/24 or 2001:db8::/32", shown()))?;
    match as_ipv4(network.trunc()) {
        IpNet::V6(v6) if holds_ipv4(v6) => {
            Err(format!("'{}' covers the IPv4 addresses, too: name IPv4 networks as such", shown()))
        }
        network => Ok(network),
    }
}

/// The IPv4 network that an IPv6 one maps (`::ffff:192.0.2.0/120`), since that is where it is looked up.
fn as_ipv4(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96));
    mapped.and_then(|(address, bits)| Ipv4Net::new(address, bits).ok()).map_or(network, IpNet::V4)
}

/// Whether it lies over or in `::/96`, where a database keeps IPv4.
fn holds_ipv4(v6: Ipv6Net) -> bool {
    v6.contains(&Ipv6Addr::UNSPECIFIED) || u128::from(v6.addr()) >> 32 == 0
}

/// What the providers publish. Which fields there are tells whose list it is.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Published {
    values: Option<Vec<Tag>>,
    regions: Option<Vec<OracleRegion>>,
    prefixes: Vec<Prefix>,
    ipv6_prefixes: Option<Vec<Prefix>>,
}

/// Of AWS and Google.
#[derive(Deserialize)]
struct Prefix {
    ip_prefix: Option<String>,
    ipv6_prefix: Option<String>,
    region: Option<String>,
    #[serde(rename = "ipv4Prefix")]
    ipv4: Option<String>,
    #[serde(rename = "ipv6Prefix")]
    ipv6: Option<String>,
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Tag {
    properties: TagProperties,
}

#[derive(Deserialize)]
struct TagProperties {
    #[serde(default)]
    region: String,
    #[serde(rename = "addressPrefixes")]
    prefixes: Vec<String>,
}

#[derive(Deserialize)]
struct OracleRegion {
    region: String,
    cidrs: Vec<Cidr>,
}

#[derive(Deserialize)]
struct Cidr {
    cidr: String,
}

fn published(list: Published) -> Result<Overlay, OverlayError> {
    match list {
        Published { values: Some(tags), .. } => azure(&tags),
        Published { regions: Some(regions), .. } => oracle(&regions),
        Published { prefixes, ipv6_prefixes: Some(ipv6), .. } => aws(&prefixes, &ipv6),
        Published { prefixes, .. } if prefixes.iter().any(|prefix| prefix.scope.is_some()) => google(&prefixes),
        _ => Err(OverlayError::Unknown),
    }
}

fn azure(tags: &[Tag]) -> Result<Overlay, OverlayError> {
    let mut overlay = Overlay::new("Azure service tags");
    for (n, Tag { properties: TagProperties { region, prefixes } }) in tags.iter().enumerate() {
        let spot = places::region("azure", region);
        for (m, prefix) in prefixes.iter().enumerate() {
            overlay.add(prefix, spot, region, || format!("values[{n}].properties.addressPrefixes[{m}]"))?;
        }
    }
    Ok(overlay)
}

fn oracle(regions: &[OracleRegion]) -> Result<Overlay, OverlayError> {
    let mut overlay = Overlay::new("Oracle public_ip_ranges.json");
    for (n, OracleRegion { region, cidrs }) in regions.iter().enumerate() {
        let spot = places::region("oracle", region);
        for (m, Cidr { cidr }) in cidrs.iter().enumerate() {
            overlay.add(cidr, spot, region, || format!("regions[{n}].cidrs[{m}].cidr"))?;
        }
    }
    Ok(overlay)
}

fn aws(ipv4: &[Prefix], ipv6: &[Prefix]) -> Result<Overlay, OverlayError> {
    let mut overlay = Overlay::new("AWS ip-ranges.json");
    let ipv4 = ipv4.iter().enumerate().map(|(n, prefix)| ("prefixes", "ip_prefix", n, &prefix.ip_prefix, prefix));
    let ipv6 =
        ipv6.iter().enumerate().map(|(n, prefix)| ("ipv6_prefixes", "ipv6_prefix", n, &prefix.ipv6_prefix, prefix));
    for (list, field, n, network, Prefix { region, .. }) in ipv4.chain(ipv6) {
        let (Some(network), Some(region)) = (network, region) else {
            return Err(lacks(format!("{list}[{n}]"), &format!("no {field} or no region")));
        };
        overlay.add(network, places::region("aws", region), region, || format!("{list}[{n}].{field}"))?;
    }
    Ok(overlay)
}

fn google(prefixes: &[Prefix]) -> Result<Overlay, OverlayError> {
    let mut overlay = Overlay::new("Google cloud.json");
    for (n, Prefix { ipv4, ipv6, scope, .. }) in prefixes.iter().enumerate() {
        let (Some(network), Some(scope)) = (ipv4.as_ref().or(ipv6.as_ref()), scope) else {
            return Err(lacks(format!("prefixes[{n}]"), "no ipv4Prefix or ipv6Prefix, or no scope"));
        };
        overlay.add(network, places::region("gcp", scope), scope, || format!("prefixes[{n}]"))?;
    }
    Ok(overlay)
}

fn lacks(at: String, what: &str) -> OverlayError {
    OverlayError::Row { at, what: format!("{what}: if this is the provider's own file, fetch it again") }
}

/// `prefix,country,region,city,postal code`; lines that begin with `#` are comments.
fn geofeed(text: &str) -> Result<Overlay, OverlayError> {
    let mut overlay = Overlay::new("RFC 8805 geofeed");
    for (line, row) in (1..).zip(text.lines()) {
        if row.starts_with('#') || row.trim().is_empty() {
            continue;
        }
        let fields = fields(row);
        let field = |n: usize| fields.get(n).map_or("", |field| field.as_str());
        let at = || format!("line {line}");
        let country = field(1);
        let spot =
            places::city(country, field(3)).map_err(|error| OverlayError::Row { at: at(), what: error.to_string() })?;
        overlay.add(field(0), spot, if country.trim().is_empty() { "no country" } else { country }, at)?;
    }
    Ok(overlay)
}

/// The fields of a line, which may be quoted (RFC 4180).
fn fields(row: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    for c in row.chars() {
        match c {
            // A doubled quote ends and begins again, and stands for none of its own: names have no use for them.
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests;

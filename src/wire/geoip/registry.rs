//! The registries' statistics of what they have assigned ("RIR statistics exchange format", version 2): the country in which
//! the holder of each network is registered. Each registry publishes its file daily, as `delegated-…-extended-latest`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Net};

use super::overlay::OverlayError;
use super::places::{self, Spot};
use super::printable;

/// Longest file in bytes; the largest, that of all registries together, has 30 MB.
pub const REGISTRY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most rows of a file; all registries together have 650,000.
const REGISTRY_ROWS_MAX: usize = 4_000_000;

const DAY_S: u64 = 24 * 60 * 60;

/// What was assigned, as of a day.
#[derive(Debug)]
pub struct Registry {
    /// That day's midnight, in seconds since 1970.
    pub made_epoch_s: u64,
    /// The networks that have a country, in the order of their addresses.
    pub networks: Vec<(IpNet, Spot)>,
}

impl Registry {
    /// Reads a file.
    pub fn read(bytes: &[u8]) -> Result<Registry, OverlayError> {
        if bytes.len() > REGISTRY_BYTES_MAX {
            return Err(OverlayError::TooLong);
        }
        let text = String::from_utf8_lossy(bytes);
        let (mut made, mut networks) = (None, Vec::new());
        for (line, row) in (1..).zip(text.lines()) {
            let wrong = |what: String| OverlayError::Row { at: format!("line {line}"), what };
            let cells: Vec<&str> = row.split('|').collect();
            match cells[..] {
                _ if row.starts_with('#') || row.trim().is_empty() => {}
                [version, _, _, _, _, end, ..] if made.is_none() && version.starts_with('2') => {
                    made = Some(
                        midnight(end)
                            .ok_or_else(|| wrong(format!("'{}' is no day such as 20260617", printable(end, 60))))?,
                    );
                }
                _ if made.is_none() => {
                    return Err(wrong("no header such as 2|nro|20260617|…: is it a registry's statistics?".to_owned()));
                }
                [_, country, kind @ ("ipv4" | "ipv6"), first, count, _, "allocated" | "assigned", ..] => {
                    let spot = places::country(country).map_err(|error| wrong(error.to_string()))?;
                    let networks_of = networks_of(kind, first, count).ok_or_else(|| {
                        wrong(format!(
                            "'{}' are no addresses with their number",
                            printable(&[first, count].join("|"), 60)
                        ))
                    })?;
                    networks.extend(spot.into_iter().flat_map(|spot| networks_of.iter().map(move |one| (*one, spot))));
                }
                _ => {}
            }
            if networks.len() > REGISTRY_ROWS_MAX {
                return Err(OverlayError::TooLong);
            }
        }
        match made {
            Some(made_epoch_s) if !networks.is_empty() => Registry { made_epoch_s, networks }.in_order(),
            _ => Err(OverlayError::NoPlace { rows: text.lines().count() }),
        }
    }

    /// All of them as one, as of the oldest day. `None` when there are none.
    pub fn joined(all: Vec<Registry>) -> Result<Option<Registry>, OverlayError> {
        let Some(made_epoch_s) = all.iter().map(|registry| registry.made_epoch_s).min() else { return Ok(None) };
        let networks = all.into_iter().flat_map(|registry| registry.networks).collect();
        Registry { made_epoch_s, networks }.in_order().map(Some)
    }

    /// Sorted; two rows for one address would be a damaged file, or the same one twice.
    fn in_order(mut self) -> Result<Registry, OverlayError> {
        self.networks.sort_by_key(|(network, _)| *network);
        for two in self.networks.windows(2) {
            if two[0].0.contains(&two[1].0) || two[1].0.contains(&two[0].0) {
                return Err(OverlayError::Row {
                    at: two[1].0.to_string(),
                    what: "is in two rows: give each registry's file once, or fetch it again".to_owned(),
                });
            }
        }
        Ok(self)
    }
}

/// Of IPv4, so many addresses from the first on; of IPv6, a network of such a length.
fn networks_of(kind: &str, first: &str, count: &str) -> Option<Vec<IpNet>> {
    if kind == "ipv6" {
        let network = Ipv6Net::new(first.parse::<Ipv6Addr>().ok()?, count.parse().ok()?).ok()?;
        let is_ipv6 = u128::from(network.network()) >> 32 != 0;
        return is_ipv6.then(|| vec![IpNet::V6(network.trunc())]);
    }
    let first: Ipv4Addr = first.parse().ok()?;
    let more = count.parse::<u32>().ok()?.checked_sub(1)?;
    let last = Ipv4Addr::from(u32::from(first).checked_add(more)?);
    Some(Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect())
}

/// The midnight with which a day such as `20260617` begins. Days are counted by H. Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `days_from_civil`; its years begin in March.
fn midnight(day: &str) -> Option<u64> {
    let number = |digits: std::ops::Range<usize>| day.get(digits)?.parse::<u64>().ok();
    let (year, month, date) = (number(0..4)?, number(4..6)?, number(6..8)?);
    if day.len() != 8 || year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&date) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + date - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + day_of_year;
    Some((days - 719_468) * DAY_S) // from 0000-03-01 to 1970-01-01
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::domain::code::Code;

    const SAMPLE: &[u8] = include_bytes!("../../../geoip/samples/delegated.txt");

    fn country_at(registry: &Registry, address: &str) -> Option<Spot> {
        let at: IpAddr = address.parse().unwrap();
        registry.networks.iter().find(|(network, _)| network.contains(&at)).map(|(_, spot)| *spot)
    }

    #[test]
    fn what_is_assigned_has_its_country_as_of_the_files_day() {
        let registry = Registry::read(SAMPLE).unwrap();
        assert_eq!(registry.made_epoch_s, 1_767_225_600, "2026-01-01");
        let country = |code| Code::new(code).map(Spot::Country);
        for (address, spot) in [
            ("192.0.2.255", country("CH")),
            ("2001:db8:ffff::", country("JP")),
            ("198.51.100.1", None),
            ("203.0.113.1", None),
        ] {
            assert_eq!(country_at(&registry, address), spot, "{address}");
        }
    }

    #[test]
    fn days_are_counted_right() {
        for (day, epoch_s) in [
            ("19700101", Some(0)),
            ("20000229", Some(951_782_400)),
            ("20260617", Some(1_781_654_400)),
            ("20261301", None),
            ("2026061", None),
            ("202606170", None),
            ("00000000", None),
            ("2026-6-1", None),
            ("€€€", None),
        ] {
            assert_eq!(midnight(day), epoch_s, "{day}");
        }
    }

    #[test]
    fn a_number_of_addresses_is_split_into_networks() {
        let of = |first, count| {
            networks_of("ipv4", first, count).map(|all| all.iter().map(IpNet::to_string).collect::<Vec<_>>())
        };
        assert_eq!(of("192.0.2.0", "768").unwrap(), ["192.0.2.0/23", "192.0.4.0/24"]);
        for (first, count) in [("192.0.2.0", "0"), ("255.255.255.0", "257"), ("x", "1"), ("192.0.2.0", "-1")] {
            assert_eq!(of(first, count), None, "{first} {count}");
        }
        assert_eq!(networks_of("ipv6", "2001:db8::", "129"), None);
        assert_eq!(networks_of("ipv6", "::", "0"), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        const HEADER: &str = "2|nro|20260617|1|19830101|20260617|+0000";
        let row = |row: &str| format!("{HEADER}\n{row}");
        for (text, says) in [
            (String::new(), "none of 0 rows"),
            (HEADER.to_owned(), "none of 1 rows"),
            ("<html>".to_owned(), "line 1: no header"),
            (row("x|DE|ipv4|192.0.2.0|0|20100101|assigned"), "line 2: '192.0.2.0|0' are no addresses"),
            (row("x|XX|ipv4|192.0.2.0|256|20100101|assigned"), "line 2: 'XX' is no country code"),
            (HEADER.replace("|20260617|+", "|today|+"), "line 1: 'today' is no day"),
        ] {
            let error = Registry::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
        let twice = || vec![Registry::read(SAMPLE).unwrap(), Registry::read(SAMPLE).unwrap()];
        let error = Registry::joined(twice()).unwrap_err().to_string();
        assert!(error.starts_with("192.0.2.0/24: is in two rows"), "{error}");
        assert!(Registry::joined(Vec::new()).unwrap().is_none());
    }
}

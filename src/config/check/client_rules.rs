//! `geo.overrides` and `geo.residency`: regions for clients of one kind.

use super::names::Names;
use super::networks;
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report, Table, Value};
use crate::domain::code::Code;
use crate::domain::ids::RegionIx;
use crate::policy::client_rule::{KEY_DIGITS_MIN, Selector, Union};
use crate::policy::countries;
use crate::policy::region::{RegionSet, ResidencyUnknown};

/// The most rules of a kind: each request looks at all.
const RULES_MAX: usize = 1_000;

/// SHA-256 in hexadecimal digits.
const KEY_DIGITS_MAX: usize = 64;

const HOW: &str = "write \"country:DE\", \"continent:AS\", \"union:EU\", \"union:EEA\", \"network:203.0.113.0/24\" or \
                   \"key:\" and the SHA-256 of an API key in hexadecimal digits";

/// Whether a rule may leave out what kind of name it has.
#[derive(Clone, Copy, PartialEq)]
enum Bare {
    Allowed,
    Refused,
}

/// Regions that stand before all others for some clients; the rules that speak of the fewest first.
pub(super) fn overrides(geo: &Table<'_>, regions: &Names) -> Vec<(Selector, Vec<RegionIx>)> {
    let mut rules = rules(geo, "overrides", Bare::Allowed, regions);
    rules.sort_by_key(|(selector, _)| selector.breadth());
    rules
}

/// The only regions that may serve some clients.
pub(super) fn residency(geo: &Table<'_>, regions: &Names) -> Vec<(Selector, RegionSet)> {
    let rules = rules(geo, "residency", Bare::Refused, regions);
    rules.into_iter().map(|(selector, regions)| (selector, regions.into_iter().collect())).collect()
}

/// What holds for clients of whom nobody knows whether a rule means them.
pub(super) fn residency_unknown(geo: &Table<'_>, regions: &Names) -> ResidencyUnknown {
    let Some(value) = geo.get("residency_unknown") else { return ResidencyUnknown::default() };
    match value.as_text() {
        Some(text) if text.value == "common" => ResidencyUnknown::Common,
        Some(text) if text.value == "any" => ResidencyUnknown::Any,
        Some(text) => {
            let message = format!("`geo.residency_unknown` cannot be {}", quoted(text.value));
            geo.report().error(&text.span, message, "write \"common\", \"any\" or a list of regions");
            ResidencyUnknown::default()
        }
        None => ResidencyUnknown::Only(named_regions(&value, regions).into_iter().collect()),
    }
}

fn rules(geo: &Table<'_>, key: &'static str, bare: Bare, regions: &Names) -> Vec<(Selector, Vec<RegionIx>)> {
    let (section, report) = (geo.section(key), geo.report());
    let entries = section.entries();
    if entries.len() > RULES_MAX {
        let message = format!("`geo.{key}` has {} rules, more than {RULES_MAX}", entries.len());
        report.error(section.span(), message, "name countries, or larger networks");
        return Vec::new();
    }
    let mut found: Vec<(Selector, Vec<RegionIx>)> = Vec::new();
    for (name, value) in entries {
        let regions = named_regions(&value, regions);
        let Some(selector) = selector(&name, bare, report) else { continue };
        if found.iter().any(|(known, _)| *known == selector) {
            report.error(&name.span, format!("{} is named twice", quoted(name.value)), "write one rule for it");
        }
        found.push((selector, regions));
    }
    found
}

/// The regions of a list, in its order.
fn named_regions(value: &Value<'_>, regions: &Names) -> Vec<RegionIx> {
    if value.is_empty_list() {
        let hint = "name at least one region; to serve these clients nowhere, refuse them before they reach the edge";
        value.report().error(&value.span(), "there is no region in the list", hint);
    }
    let mut found = Vec::new();
    for name in value.items().iter().filter_map(Value::text) {
        match regions.find(&name, value.report()).map(RegionIx) {
            Some(region) if found.contains(&region) => {
                let message = format!("{} is named twice", quoted(name.value));
                value.report().error(&name.span, message, "the order is the order of choosing; name each region once");
            }
            Some(region) => found.push(region),
            None => {}
        }
    }
    found
}

fn selector(name: &At<&str>, bare: Bare, report: &Report) -> Option<Selector> {
    match name.value.split_once(':') {
        Some(("country", code)) => country(code, name, report).map(Selector::Country),
        Some(("continent", code)) => continent(code, name, report).map(Selector::Continent),
        Some(("union", "EU")) => Some(Selector::Union(Union::Eu)),
        Some(("union", "EEA")) => Some(Selector::Union(Union::Eea)),
        Some(("network", network)) => {
            networks::network(&At { value: network, ..name.clone() }, report).map(Selector::Network)
        }
        Some(("key", digits)) => key(digits, name, report),
        _ if bare == Bare::Allowed && networks::parse(name.value).is_some() => {
            networks::network(name, report).map(Selector::Network)
        }
        _ => bare_code(name, bare, report),
    }
}

/// A code without its kind: some mean a country and a continent.
fn bare_code(name: &At<&str>, bare: Bare, report: &Report) -> Option<Selector> {
    let error = |hint: String| {
        report.error(&name.span, format!("{} does not say which clients are meant", quoted(name.value)), hint);
        None
    };
    let upper = name.value.to_ascii_uppercase();
    let code = Code::new(name.value).filter(|_| upper == name.value);
    let (is_country, is_continent) = match code {
        Some(code) => (countries::of(code).is_some(), countries::is_continent(code)),
        None => (false, false),
    };
    match (is_country, is_continent) {
        (true, false) if bare == Bare::Allowed => code.map(Selector::Country),
        (true, false) => error(format!("write \"country:{upper}\"")),
        (false, true) if upper == "EU" => error("write \"union:EU\" or \"continent:EU\": the two differ".to_owned()),
        (false, true) => error(format!("write \"continent:{upper}\"")),
        (true, true) => error(format!("write \"country:{upper}\" or \"continent:{upper}\"")),
        (false, false) if name.value == "EEA" => error("write \"union:EEA\"".to_owned()),
        (false, false) => error(HOW.to_owned()),
    }
}

fn country(code: &str, name: &At<&str>, report: &Report) -> Option<Code> {
    let found = Code::new(code).filter(|found| found.as_str() == code && countries::of(*found).is_some());
    if found.is_none() {
        let hint = match code {
            "UK" => "the code of the United Kingdom is GB",
            _ => "write the country's two letters of ISO 3166-1 in upper case, as \"country:DE\"",
        };
        report.error(&name.span, format!("there is no country {}", quoted(code)), hint);
    }
    found
}

fn continent(code: &str, name: &At<&str>, report: &Report) -> Option<Code> {
    let found = Code::new(code).filter(|found| found.as_str() == code && countries::is_continent(*found));
    if found.is_none() {
        let hint = "the continents are AF, AN, AS, EU, NA, OC and SA";
        report.error(&name.span, format!("there is no continent {}", quoted(code)), hint);
    }
    found
}

fn key(digits: &str, name: &At<&str>, report: &Report) -> Option<Selector> {
    let is_hex = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !is_hex || !(KEY_DIGITS_MIN..=KEY_DIGITS_MAX).contains(&digits.len()) {
        // Whoever wrote the key itself must not read it again in a log.
        report.mask(&name.span);
        let hint = "write \"key:\" and 16 to 64 lower-case hexadecimal digits of the key's SHA-256: printf %s \"$KEY\" | sha256sum";
        report.error(&name.span, "this names no API key", hint);
        return None;
    }
    Some(Selector::Key(digits.to_owned()))
}

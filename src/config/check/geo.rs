//! `[regions]` and `[geo]`: where things are.

use super::names::{self, Names};
use super::outside::Outside;
use super::{client_rules, knobs, place_headers};
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Table, Value};
use crate::config::values::Geo;
use crate::domain::place::Place;
use crate::domain::topology::Region;
use crate::policy::region::{NearestTo, REGIONS_MAX, Rules};

const EXAMPLE: &str = "[regions] with at least one, as us-west = { latitude = 45.84, longitude = -119.70 }";

/// Checks `[regions]`; in order of name.
pub(super) fn regions(root: &Table<'_>) -> (Vec<Region>, Names) {
    let report = root.report();
    let section = root.required_section("regions", EXAMPLE);
    let mut declared = Names::new("region", "[regions]");
    let mut regions = Vec::new();
    let mut edges = Names::new("edge", "[regions]");
    let entries = section.entries();
    if section.is_present() && entries.is_empty() {
        report.error(section.span(), "there is no region", format!("write {EXAMPLE}"));
    }
    for (name, value) in entries {
        names::plain("a region", &name, report);
        declared.declare(&name, regions.len(), report);
        regions.push(region(&name, &value, &mut edges));
    }
    if regions.len() > REGIONS_MAX {
        let message = format!("there are {} regions, more than {REGIONS_MAX}", regions.len());
        report.error(section.span(), message, "regions in one metro can be one");
    }
    (regions, declared)
}

/// One region. `edges` are the edges that stand in others.
fn region(name: &At<&str>, value: &Value<'_>, edges: &mut Names) -> Region {
    let hint = "write its place as { latitude = 45.84, longitude = -119.70 }";
    let Some(region) = value.table_or("a table for each region", hint) else {
        return Region::new(name.value, Place { latitude: 0.0, longitude: 0.0 });
    };
    let bias = region.get("bias").and_then(|bias| bias.number(-99.0..=99.0, "percent"));
    let edge = region.text("edge");
    if let Some(edge) = &edge {
        names::plain("an edge", edge, region.report());
        edges.declare(edge, 0, region.report());
    }
    let edge = edge.map(|edge| edge.value.to_owned());
    let mut found = Region::new(name.value, place(&region));
    (found.bias, found.edge) = (bias.unwrap_or_default().round() as i8, edge);
    found
}

fn place(region: &Table<'_>) -> Place {
    let degrees = |key, example, max: f64| {
        let value = region.required(key, example);
        value.and_then(|value| value.number(-max..=max, "degrees")).unwrap_or_default()
    };
    Place {
        latitude: degrees("latitude", "degrees north, as latitude = 45.84", 90.0),
        longitude: degrees("longitude", "degrees east, as longitude = -119.70", 180.0),
    }
}

/// Checks `[geo]`.
pub(super) fn check(root: &Table<'_>, outside: &Outside<'_>, regions: &Names) -> Geo {
    let report = root.report();
    let section = root.section("geo");
    let database = section.text("database");
    let rules = Rules {
        nearest_to: nearest_to(&section),
        overrides: client_rules::overrides(&section, regions),
        residency: client_rules::residency(&section, regions),
        residency_unknown: client_rules::residency_unknown(&section, regions),
        cheaper_within_ms: knobs::cheaper_within(&section).as_secs_f64() * 1_000.0,
    };
    // What is in the database is seen by whoever reads it; here it is only seen that it can be read.
    let database = database.and_then(|path| outside.open("geo.database", &path, report));
    let headers = place_headers::check(&section);
    let stripped_headers = place_headers::stripped(&headers);
    Geo { database: database.map(|(path, _)| path), headers, stripped_headers, rules }
}

fn nearest_to(section: &Table<'_>) -> NearestTo {
    let Some(text) = section.text("nearest_to") else { return NearestTo::default() };
    match text.value {
        "client" => NearestTo::Client,
        "edge" => NearestTo::Edge,
        value => {
            let message = format!("`geo.nearest_to` cannot be {}", quoted(value));
            section.report().error(&text.span, message, "write \"client\" or \"edge\"");
            NearestTo::default()
        }
    }
}

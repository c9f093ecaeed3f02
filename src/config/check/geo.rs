//! `[regions]` and `[geo]`: where things are.

use super::names::{self, Names};
use super::outside::Outside;
use crate::config::diagnostic::quoted;
use crate::config::raw::{Table, Value, planned_value};
use crate::config::values::Geo;
use crate::domain::place::Place;
use crate::domain::topology::Region;

const EXAMPLE: &str = "[regions] with at least one, as us-west = { latitude = 45.84, longitude = -119.70 }";

/// Checks `[regions]`; in order of name.
pub(super) fn regions(root: &Table<'_>) -> (Vec<Region>, Names) {
    let report = root.report();
    let section = root.required_section("regions", EXAMPLE);
    let mut declared = Names::new("region", "[regions]");
    let mut regions = Vec::new();
    let entries = section.entries();
    if section.is_present() && entries.is_empty() {
        report.error(section.span(), "there is no region", format!("write {EXAMPLE}"));
    }
    for (name, value) in entries {
        names::plain("a region", &name, report);
        declared.declare(&name, regions.len(), report);
        regions.push(Region { name: name.value.to_owned(), place: place(&value) });
    }
    (regions, declared)
}

fn place(region: &Value<'_>) -> Place {
    let Some(region) = region.table() else { return Place { latitude: 0.0, longitude: 0.0 } };
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
pub(super) fn check(root: &Table<'_>, outside: &Outside<'_>) -> Geo {
    let report = root.report();
    let section = root.section("geo");
    let database = section.text("database");
    if let Some(nearest_to) = section.text("nearest_to") {
        match (nearest_to.value, planned_value("geo.nearest_to", nearest_to.value)) {
            ("client", _) => {}
            (value, Some(why)) => {
                let message =
                    format!("`geo.nearest_to = {}` is not available in this version of nearpool", quoted(value));
                report.error(&nearest_to.span, message, why);
            }
            (value, None) => {
                let message = format!("`geo.nearest_to` cannot be {}", quoted(value));
                report.error(&nearest_to.span, message, "write \"client\"");
            }
        }
    }
    // What is in the database is seen by whoever reads it; here it is only seen that it can be read.
    let database = database.and_then(|path| outside.open("geo.database", &path, report));
    Geo { database: database.map(|(path, _)| path) }
}

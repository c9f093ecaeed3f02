//! `geo.headers`: the headers in which trusted proxies name the client's place.

use http::HeaderName;

use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report, Table, Value, hint_among};
use crate::policy::client::PlaceHeaders;

/// Most sets: each is looked for in the requests of trusted peers.
const SETS_MAX: usize = 8;

/// Longest name of a header, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// Sets that have a name: country, latitude, longitude, position.
const KNOWN: [(&str, [Option<&str>; 4]); 3] = [
    // The country by the setting "IP geolocation", the place by the transform "visitor location headers".
    ("cloudflare", [Some("cf-ipcountry"), Some("cf-iplatitude"), Some("cf-iplongitude"), None]),
    (
        "cloudfront",
        [
            Some("cloudfront-viewer-country"),
            Some("cloudfront-viewer-latitude"),
            Some("cloudfront-viewer-longitude"),
            None,
        ],
    ),
    ("appengine", [Some("x-appengine-country"), None, None, Some("x-appengine-citylatlong")]),
];

/// Headers that every request needs, or that say something else: a proxy does not name a place in them, and what is
/// named here does not go upstream.
const OTHERS: [&str; 9] = [
    "accept",
    "authorization",
    "content-length",
    "content-type",
    "forwarded",
    "host",
    "user-agent",
    "x-api-key",
    "x-forwarded-for",
];

/// The names in these sets: a client's own copies end at the edge. Those of the sets that have a name always do.
pub(super) fn stripped(believed: &[PlaceHeaders]) -> Vec<HeaderName> {
    believed.iter().flat_map(PlaceHeaders::names).filter_map(|name| name.parse().ok()).collect()
}

/// Checks `headers` of `[geo]`. None is believed unless it is named: a proxy that sets none of them passes on what its
/// clients claim.
pub(super) fn check(section: &Table<'_>) -> Vec<PlaceHeaders> {
    let Some(list) = section.get("headers") else { return Vec::new() };
    let mut sets: Vec<PlaceHeaders> = Vec::new();
    for item in list.items() {
        let Some(set) = one(&item) else { continue };
        let (span, report) = (item.span(), item.report());
        if sets.contains(&set) {
            report.error(&span, "these headers are named already", "name each set once, the surest first");
        } else if sets.len() == SETS_MAX {
            report.error(&span, format!("more than {SETS_MAX} sets of headers"), "keep those that your proxies set");
        } else {
            sets.push(set);
        }
    }
    sets
}

fn set(names: [Option<&str>; 4]) -> PlaceHeaders {
    let [country, latitude, longitude, position] = names.map(|name| name.map(str::to_owned));
    PlaceHeaders { country, latitude, longitude, position }
}

/// `"cloudflare"`, or `{ country = "x-geo-country", … }`.
fn one(item: &Value<'_>) -> Option<PlaceHeaders> {
    if let Some(name) = item.as_text() {
        let known = KNOWN.into_iter().find(|(known, _)| *known == name.value);
        if known.is_none() {
            let hint = hint_among(name.value, KNOWN.iter().map(|(name, _)| *name));
            let hint = format!("{hint}; others are written as {{ country = \"x-geo-country\" }}");
            item.report().error(&name.span, format!("unknown headers {}", quoted(name.value)), hint);
        }
        return known.map(|(_, names)| set(names));
    }
    let table = item.table_or("a name or a table", "write \"cloudflare\" or { country = \"x-geo-country\" }")?;
    let written = ["country", "latitude", "longitude", "position"].map(|key| table.get(key));
    let report = table.report();
    match written.each_ref().map(Option::is_some) {
        [_, true, false, _] | [_, false, true, _] => {
            let hint = "name both, or `position` for a header that holds both with a comma between";
            report.error(table.span(), "a latitude or a longitude alone is no place", hint);
            return None;
        }
        [false, false, _, false] => {
            let hint = "write { country = \"x-geo-country\" }, or `position`, or `latitude` and `longitude`";
            report.error(table.span(), "no header is named", hint);
            return None;
        }
        _ => {}
    }
    let names = written.map(|value| value.map(|value| header(&value.text()?, report)));
    // What is written and cannot be used has been reported.
    let [country, latitude, longitude, position] = match names {
        names if names.contains(&Some(None)) => return None,
        names => names.map(Option::flatten),
    };
    Some(PlaceHeaders { country, latitude, longitude, position })
}

/// The name of a header, in lower case.
fn header(name: &At<&str>, report: &Report) -> Option<String> {
    let lower = name.value.to_ascii_lowercase();
    if name.value.len() > NAME_BYTES_MAX || http::HeaderName::from_bytes(name.value.as_bytes()).is_err() {
        report.error(
            &name.span,
            format!("{} is no name of a header", quoted(name.value)),
            "use letters, digits and `-`",
        );
        return None;
    }
    if OTHERS.contains(&lower.as_str()) || lower.starts_with("x-nearpool-") {
        let hint = "name a header that your proxy sets to the client's place";
        report.error(&name.span, format!("{} does not name a place", quoted(name.value)), hint);
        return None;
    }
    Some(lower)
}

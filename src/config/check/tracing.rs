//! `[tracing]`: where spans of requests are sent, and of how many requests.

use std::time::Duration;

use super::outside::Outside;
use super::url;
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Knob, Report, Table};
use crate::config::values::{Secret, Tracing};
use crate::domain::topology::ReplicaAddress;
use crate::policy::sampling::QUEUE_SPANS_MAX;

const SAMPLE: Knob<f64> = Knob {
    key: "sample",
    default: 0.01,
    min: 0.0,
    max: 1.0,
    why: "the share of the requests whose caller does not say whether they are traced",
};

const TIMEOUT: Knob<Duration> = Knob {
    key: "timeout",
    default: Duration::from_secs(10),
    min: Duration::from_millis(10),
    max: Duration::from_secs(60),
    why: "a collector that takes longer than a minute for some hundred spans does not keep up",
};

const QUEUE: Knob<usize> = Knob {
    key: "queue",
    default: 2048,
    min: 16,
    max: QUEUE_SPANS_MAX,
    why: "spans that wait; each takes about 3 KiB, and what finds the queue full is dropped and counted",
};

/// Most headers; collectors ask for one or two.
const HEADERS_MAX: usize = 8;

/// Headers that belong to the request itself.
const OWN: [&str; 7] =
    ["connection", "content-encoding", "content-length", "content-type", "host", "transfer-encoding", "user-agent"];

/// Checks `[tracing]`.
pub(super) fn check(root: &Table<'_>, outside: &Outside<'_>) -> Option<Tracing> {
    let (section, report) = (root.section("tracing"), root.report());
    let endpoint = section.required("endpoint", "where the collector listens, as endpoint = \"http://127.0.0.1:4318\"");
    let endpoint = endpoint.and_then(|value| address(&value.text()?, outside, report));
    let (sample, timeout, queue) =
        (section.knob(&SAMPLE).value, section.knob(&TIMEOUT).value, section.knob(&QUEUE).value);
    let headers = headers(&section, outside);
    Some(Tracing { endpoint: endpoint?, sample, headers, timeout, queue })
}

fn address(url: &At<&str>, outside: &Outside<'_>, report: &Report) -> Option<ReplicaAddress> {
    match url::collector(url.value) {
        Ok(address) => {
            outside.link_local(&address, url, report);
            Some(address)
        }
        Err(refusal) => {
            if refusal.secret {
                report.mask(&url.span);
            }
            report.error(&url.span, refusal.message, refusal.hint);
            None
        }
    }
}

fn headers(section: &Table<'_>, outside: &Outside<'_>) -> Vec<(String, Secret)> {
    let Some(table) = section.get("headers").and_then(|value| value.table()) else { return Vec::new() };
    let (report, mut headers) = (table.report(), Vec::new());
    for (name, value) in table.entries() {
        let lower = name.value.to_ascii_lowercase();
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if lower.is_empty() || lower.len() > 128 || !lower.bytes().all(token) {
            value.mask_all_but(&["env", "file"]);
            let hint = "header names have letters, digits, `-`, `_` and `.`";
            report.error(&name.span, format!("{} is no name of a header", quoted(name.value)), hint);
        } else if OWN.contains(&lower.as_str()) {
            value.mask_all_but(&["env", "file"]);
            report.error(&name.span, format!("{} is the edge's own", quoted(name.value)), "remove it");
        } else if headers.iter().any(|(other, _)| *other == lower) {
            value.mask_all_but(&["env", "file"]);
            let hint = "upper and lower case are the same in headers";
            report.error(&name.span, format!("{} is named twice", quoted(name.value)), hint);
        } else if headers.len() == HEADERS_MAX {
            report.error(
                &name.span,
                format!("more than {HEADERS_MAX} headers"),
                "keep those that the collector asks for",
            );
            break;
        } else if let Some(secret) = outside.header("tracing.headers", &value, report) {
            headers.push((lower, Secret(secret)));
        }
    }
    headers
}

//! What the edge itself says in Anthropic's dialect: errors, errors in a stream, the list of models.
//!
//! In a stream the official SDK (`anthropic` for Python 2.12, `_streaming.py`) goes by the event's name: `event: error` raises
//! with the data as its body; data of an event without a name is never looked at.

use bytes::Bytes;
use serde::Serialize;

use super::reply::{Failure, ModelEntry, json};

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'static str,
    error: Error<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Error<'a> {
    r#type: &'static str,
    message: &'a str,
}

/// `{"type":"error","error":{"type","message"},"request_id"}`
pub(super) fn error_body(failure: &Failure<'_>) -> Bytes {
    let facts = failure.outcome.facts();
    let r#type = if facts.anthropic_type.is_empty() { "api_error" } else { facts.anthropic_type };
    json(&Envelope {
        r#type: "error",
        error: Error { r#type, message: failure.message },
        request_id: failure.request_id,
    })
}

/// The event that ends a messages stream; no `message_stop` follows.
pub(super) fn error_event(failure: &Failure<'_>) -> Bytes {
    [b"event: error\ndata: ", &error_body(failure)[..], b"\n\n"].concat().into()
}

/// The body of `GET /v1/models`, one page.
pub(super) fn models(entries: &[ModelEntry<'_>]) -> Bytes {
    #[derive(Serialize)]
    struct Page<'a> {
        data: Vec<Item<'a>>,
        has_more: bool,
        first_id: Option<&'a str>,
        last_id: Option<&'a str>,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        r#type: &'static str,
        id: &'a str,
        display_name: &'a str,
        created_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        max_input_tokens: Option<u32>,
    }
    let data = entries.iter().map(|entry| Item {
        r#type: "model",
        id: entry.id,
        display_name: entry.id,
        created_at: rfc3339(entry.created_s),
        max_input_tokens: entry.context_tokens,
    });
    json(&Page {
        data: data.collect(),
        has_more: false,
        first_id: entries.first().map(|entry| entry.id),
        last_id: entries.last().map(|entry| entry.id),
    })
}

/// Seconds since 1970 as `2026-11-22T11:35:07Z`: the one date in the whole wire format, not worth a crate.
fn rfc3339(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day counted from 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
const fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // from 0000-03-01: the leap day is then a year's last
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153; // 0 is March
    let day = of_year - (153 * month + 2) / 5 + 1;
    let calendar = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + if calendar <= 2 { 1 } else { 0 }, calendar, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_795_347_307), "2026-11-22T11:35:07Z");
        assert_eq!(rfc3339(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}

//! Station 2, identify: who calls, in which session, at which step? Read from the head; the body may name the session, too.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use pingora::protocols::http::ServerSession;

use super::due::Patience;
use super::reply::Refusal;
use crate::config::Config;
use crate::domain::hex::hex;
use crate::domain::ids::ClientKey;
use crate::domain::outcome::Outcome;
use crate::policy::affinity;
use crate::policy::client::Client;
use crate::wire::key_hash::key_sha256;
use crate::wire::names::{HeadNames, Unusable, visible};

/// Names the step that a call is.
pub(super) const STEP: HeaderName = HeaderName::from_static("x-agent-step");

/// Names the request in the logs of everything that it passes through.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How long the official SDKs wait for the next byte, in seconds.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");
const READ_TIMEOUT: HeaderName = HeaderName::from_static("x-stainless-read-timeout");

/// How long a client waits for the whole, in seconds.
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout");

/// A client that says it waits longer than a day has no deadline of its own.
const PATIENCE_MAX: Duration = Duration::from_secs(86_400);

pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    /// Who the client is, as far as trusted peers tell it.
    pub(super) who: Client,
    /// Whose retry budget it is.
    pub(super) client: ClientKey,
    /// Whether the client's SDK says that it has sent this request before.
    pub(super) sdk_retry: bool,
    /// SHA-256 of each API key that it shows, where a rule of `[geo]` names one; else none.
    pub(super) keys: Vec<String>,
    /// What names belong to: nobody reaches a session that another client named.
    pub(super) scope: Vec<u8>,
    /// What the head says of the session.
    pub(super) names: HeadNames,
    /// The step that the head names.
    pub(super) step: Option<String>,
    /// How long the client says that it will wait.
    pub(super) patience: Patience,
}

/// Reads how `who` calls. Errors name the header that cannot be used.
pub(super) fn caller(session: &ServerSession, config: &Config, who: Client) -> Result<Caller, Refusal> {
    let headers = &session.req_header().headers;
    let credential = credentials(headers).next();
    let scope = affinity::scope(credential.map(|value| value.as_bytes()), who.address);
    let names = HeadNames::read(headers, &config.sessions.headers).map_err(bad_header)?;
    let step = visible(headers, &STEP).map_err(bad_header)?.map(str::to_owned);
    let patience = Patience { read: seconds(headers, READ_TIMEOUT), total: seconds(headers, REQUEST_TIMEOUT) };
    let (client, sdk_retry) = (affinity::client_key(&scope), is_sdk_retry(headers));
    // Each of them counts: an engine that is shown several takes whichever it likes.
    let named = credentials(headers).filter(|_| config.geo.rules.names_keys());
    let keys = named.filter_map(|value| key_sha256(value.as_bytes())).collect();
    Ok(Caller { who, client, sdk_retry, keys, scope, names, step, patience })
}

/// What the client shows to be let in, `Authorization` first. A line with nothing in it shows nothing.
fn credentials(headers: &HeaderMap) -> impl Iterator<Item = &HeaderValue> {
    let lines = [header::AUTHORIZATION, API_KEY].into_iter().flat_map(|name| headers.get_all(name));
    lines.filter(|value| !value.as_bytes().trim_ascii().is_empty())
}

fn bad_header(unusable: Unusable) -> Refusal {
    Refusal::new(Outcome::BadHeader, unusable.to_string())
}

/// Whether the SDK's count of retries is above 0. A hint: however high, it counts once.
fn is_sdk_retry(headers: &HeaderMap) -> bool {
    let count = headers.get(RETRY_COUNT).map_or(&b""[..], |value| value.as_bytes());
    count.iter().all(u8::is_ascii_digit) && count.iter().any(|digit| *digit != b'0')
}

/// A header's duration in seconds. A hint and no more: what is no positive number is passed over.
fn seconds(headers: &HeaderMap, name: HeaderName) -> Option<Duration> {
    let value: f64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(value).ok().filter(|wait| !wait.is_zero() && *wait <= PATIENCE_MAX)
}

/// Longest request id that is kept.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The client's request id if it can be kept, else a new one.
pub(super) fn request_id(session: &ServerSession, seed: impl FnOnce() -> u64) -> String {
    let given = session.req_header().headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    match given {
        Some(id) if (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) => id.to_owned(),
        _ => new_request_id(seed()),
    }
}

pub(super) fn new_request_id(seed: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO).as_micros() as u64;
    hex(&(u128::from(time) << 64 | u128::from(seed)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn a_clients_patience_is_seconds_and_nonsense_is_passed_over() {
        let read = |value: &str| seconds(&headers(&[("x-stainless-read-timeout", value)]), READ_TIMEOUT);
        assert_eq!(read("600"), Some(Duration::from_secs(600)));
        assert_eq!(read(" 0.5 "), Some(Duration::from_millis(500)));
        for nonsense in ["", "0", "-1", "NaN", "inf", "1e300", "soon", "86401"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
        assert_eq!(seconds(&HeaderMap::new(), READ_TIMEOUT), None);
    }

    #[test]
    fn an_sdks_retry_is_a_count_above_nothing() {
        for (count, retry) in [("0", false), ("00", false), ("1", true), ("10", true), ("-1", false), ("", false)] {
            assert_eq!(is_sdk_retry(&headers(&[("x-stainless-retry-count", count)])), retry, "{count:?}");
        }
        assert!(is_sdk_retry(&headers(&[("x-stainless-retry-count", &"9".repeat(1_000))])));
        assert!(!is_sdk_retry(&headers(&[])));
    }
}

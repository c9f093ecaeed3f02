//! Station 2, identify: who calls, in which session, at which step? Read from the head; the body may name the session, too.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;
use pingora::protocols::http::ServerSession;

use super::due::Patience;
use super::reply::Refusal;
use crate::config::Config;
use crate::domain::ids::{ClientKey, SessionKey};
use crate::domain::outcome::Outcome;
use crate::policy::affinity;
use crate::wire::key_hash::key_sha256;
use crate::wire::names::{HeadNames, Name, Unusable, visible};

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

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Who calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    /// The client's address, as far as trusted peers tell it.
    pub(super) address: Option<IpAddr>,
    /// Whose retry budget it is.
    pub(super) client: ClientKey,
    /// Whether the client's SDK says that it has sent this request before.
    pub(super) sdk_retry: bool,
    /// SHA-256 of the client's API key in hexadecimal digits, where a rule of `[geo]` names one; else empty.
    pub(super) key_sha256: String,
    /// What names belong to: nobody reaches a session that another client named.
    pub(super) scope: Vec<u8>,
    /// What the head says of the session.
    pub(super) names: HeadNames,
    /// The step that the head names.
    pub(super) step: Option<String>,
    /// How long the client says that it will wait.
    pub(super) patience: Patience,
}

/// Reads who calls. Errors name the header that cannot be used.
pub(super) fn caller(session: &ServerSession, config: &Config) -> Result<Caller, Refusal> {
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_canonical());
    let headers = &session.req_header().headers;
    let address = client_address(peer, headers, &config.trusted_proxies);
    let credential = headers.get(header::AUTHORIZATION).or_else(|| headers.get(API_KEY));
    let scope = affinity::scope(credential.map(|value| value.as_bytes()), address);
    let names = HeadNames::read(headers, &config.sessions.headers).map_err(bad_header)?;
    let step = visible(headers, STEP.as_str()).map_err(bad_header)?.map(str::to_owned);
    let patience = Patience { read: seconds(headers, READ_TIMEOUT), total: seconds(headers, REQUEST_TIMEOUT) };
    let (client, sdk_retry) = (affinity::client_key(&scope), is_sdk_retry(headers));
    let named = credential.filter(|_| config.geo.rules.names_keys());
    let key_sha256 = named.map_or(String::new(), |value| key_sha256(value.as_bytes()));
    Ok(Caller { address, client, sdk_retry, key_sha256, scope, names, step, patience })
}

impl Caller {
    /// The key of a session that this client calls so.
    pub(super) fn session(&self, name: &Name) -> SessionKey {
        affinity::session_key(&self.scope, name.as_bytes())
    }
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

/// The client's address: the peer's, or, while the peer is a trusted proxy, the one that it names. Read from the right,
/// since everything to the left of the first untrusted hop is the client's own invention.
fn client_address(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let mut address = peer?;
    let is_trusted = |address: &IpAddr| trusted.iter().any(|net| net.contains(address));
    if !is_trusted(&address) {
        return Some(address);
    }
    for line in headers.get_all(FORWARDED_FOR).iter().rev() {
        for hop in line.to_str().unwrap_or("").rsplit(',') {
            let Some(hop) = parse_hop(hop.trim()) else { return Some(address) };
            address = hop;
            if !is_trusted(&address) {
                return Some(address);
            }
        }
    }
    Some(address)
}

/// `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]:443`.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim_matches('"');
    hop.parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .map(|address| address.to_canonical())
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
    format!("{time:016x}{seed:016x}")
}

/// Whether an address can have a place on Earth at all.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast())
        }
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local())
        }
    }
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

    #[track_caller]
    fn check_address(peer: &str, forwarded: &[&str], trusted: &[&str], expected: &str) {
        let lines: Vec<_> = forwarded.iter().map(|line| ("x-forwarded-for", *line)).collect();
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let address = client_address(peer.parse().ok(), &headers(&lines), &trusted);
        assert_eq!(address, expected.parse().ok());
    }

    #[test]
    fn an_untrusted_peer_is_believed_nothing() {
        check_address("203.0.113.9", &["198.51.100.1"], &[], "203.0.113.9");
        check_address("203.0.113.9", &["198.51.100.1", "192.0.2.7"], &["10.0.0.0/8"], "203.0.113.9");
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        let trusted = &["10.0.0.0/8"];
        check_address("10.0.0.1", &["198.51.100.1"], trusted, "198.51.100.1");
        check_address("10.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.2"], trusted, "198.51.100.1");
        check_address("10.0.0.1", &["6.6.6.6", "198.51.100.1,10.9.9.9"], trusted, "198.51.100.1");
        check_address("10.0.0.1", &["10.0.0.5"], trusted, "10.0.0.5");
        check_address("10.0.0.1", &[], trusted, "10.0.0.1");
        check_address("10.0.0.1", &["198.51.100.1, nonsense"], trusted, "10.0.0.1");
        check_address("10.0.0.1", &["[2001:db8::1]:443"], trusted, "2001:db8::1");
        check_address("10.0.0.1", &["::ffff:198.51.100.1"], trusted, "198.51.100.1");
        check_address("10.0.0.1", &["198.51.100.1:9999"], trusted, "198.51.100.1");
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

    #[test]
    fn private_addresses_have_no_place() {
        for private in ["127.0.0.1", "10.1.2.3", "192.168.0.1", "::1", "fd00::1", "fe80::1", "0.0.0.0"] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        assert!(is_public("198.51.100.1".parse().unwrap()));
    }
}

//! Under which names the admin listener answers.
//!
//! A page of anywhere can make a browser call a name of its own that resolves to this machine, and would be let to read the
//! answer: the browser takes the listener for that page's server (DNS rebinding). What it cannot do is leave the name out. So
//! a listener that only this machine reaches answers to addresses and to `localhost`.

use std::net::{IpAddr, SocketAddr};

/// Whether a request with this `Host` may be answered by the listener at this address.
pub(super) fn may_ask(host: Option<&[u8]>, listener: Option<SocketAddr>) -> bool {
    let (Some(host), Some(true)) = (host, listener.map(|listener| listener.ip().is_loopback())) else { return true };
    let Ok(host) = std::str::from_utf8(host) else { return false };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        None => host.split_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_elsewhere_is_not_answered_on_loopback() {
        let loopback = Some("127.0.0.1:9901".parse().unwrap());
        for host in ["127.0.0.1:9901", "localhost:9901", "LOCALHOST", "[::1]:9901", "10.0.0.1"] {
            assert!(may_ask(Some(host.as_bytes()), loopback), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9901", "localhost.evil.example", "127.0.0.1.evil.example", "", "[", "\u{e9}"]
        {
            assert!(!may_ask(Some(host.as_bytes()), loopback), "{host}");
        }
        assert!(!may_ask(Some(b"\xff"), loopback));
        // Tools that speak HTTP/1.0 name no host, and browsers always do.
        assert!(may_ask(None, loopback));
        assert!(may_ask(Some(b"edge-1.internal:9901"), Some("10.0.0.1:9901".parse().unwrap())));
        assert!(may_ask(Some(b"edge-1.internal:9901"), None));
    }
}

//! Networks and addresses, as several sections name them.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report};

/// The network of a text; a single address is one, too.
pub(super) fn network(text: &At<&str>, report: &Report) -> Option<IpNet> {
    let Some(network) = parse(text.value) else {
        let hint = "write a network or an address, as \"10.0.0.0/8\", \"192.0.2.7\" or \"fd00::/8\"";
        report.error(&text.span, format!("{} is no network", quoted(text.value)), hint);
        return None;
    };
    if network != network.trunc() {
        let message = format!("{} has bits set beyond its prefix", quoted(text.value));
        report.error(&text.span, message, format!("write \"{}\", if that is meant", network.trunc()));
    }
    Some(network)
}

/// The same, if it is one.
pub(super) fn parse(text: &str) -> Option<IpNet> {
    IpNet::from_str(text).ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

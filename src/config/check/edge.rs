//! `[edge]` and `[edge.tls]`: who this edge is and where it listens.

use std::net::SocketAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::names::{self, Names};
use super::networks;
use super::outside::Outside;
use super::tls;
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report, Span, Table, Value};
use crate::config::values::{Secret, Tls};
use crate::domain::ids::RegionIx;

/// What `[edge]` says.
pub(super) struct Edge {
    pub(super) name: String,
    pub(super) home: RegionIx,
    pub(super) listen: Vec<SocketAddr>,
    pub(super) tls: Option<Tls>,
    pub(super) proxy_protocol: Vec<SocketAddr>,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) admin_token: Option<Secret>,
}

impl Edge {
    /// Every address at which it listens.
    pub(super) fn listeners(&self) -> Vec<SocketAddr> {
        let tls = self.tls.iter().flat_map(|tls| &tls.listen);
        self.listen.iter().chain(tls).chain(&self.admin).copied().collect()
    }
}

/// Checks `[edge]`.
pub(super) fn check(root: &Table<'_>, regions: &Names, outside: &Outside<'_>) -> Edge {
    let report = root.report();
    let edge = root.required_section("edge", "[edge] with `name`, `region` and `listen`");
    let name = edge.required_text("name", "the edge's own name, as name = \"usw-1\"");
    if !name.value.is_empty() {
        names::plain("an edge", &name, report);
    }
    let region = edge.required_text("region", "where the edge stands: a name of [regions]");
    let mut taken = Vec::new();
    let plain = edge.get("listen");
    let section = edge.section("tls");
    if edge.is_present() && !section.is_present() && plain.as_ref().is_none_or(Value::is_empty_list) {
        let hint = "write listen = [\"0.0.0.0:8080\"], or add [edge.tls]";
        report.error(edge.span(), "the edge listens nowhere", hint);
    }
    let listen = plain.map(|value| listeners(&value, &mut taken)).unwrap_or_default();
    let tls = if section.is_present() { tls(&section, &mut taken, outside) } else { None };
    let agents: Vec<_> = listen.iter().chain(tls.iter().flat_map(|tls| &tls.listen)).copied().collect();
    let admin = edge.text("admin").and_then(|text| listener(&text, &mut taken, report));
    let token = edge.get("admin_token").and_then(|value| outside.secret("edge.admin_token", &value, report));
    Edge {
        name: name.value.to_owned(),
        home: RegionIx(regions.find(&region, report).unwrap_or_default()),
        listen,
        tls,
        proxy_protocol: proxy_protocol(&edge, &agents),
        trusted_proxies: trusted(&edge),
        admin,
        admin_token: token.map(Secret),
    }
}

fn tls(section: &Table<'_>, taken: &mut Vec<(SocketAddr, Span)>, outside: &Outside<'_>) -> Option<Tls> {
    let listen = section.required("listen", "where to listen, as listen = [\"0.0.0.0:8443\"]");
    let certificate = section.required("certificate", "the PEM file of the certificate chain");
    let key = section.required("key", "the PEM file of the private key");
    if let Some(listen) = listen.as_ref().filter(|listen| listen.is_empty_list()) {
        section.report().error(&listen.span(), "TLS listens nowhere", "write listen = [\"0.0.0.0:8443\"]");
    }
    let listen = listen.map(|value| listeners(&value, taken)).unwrap_or_default();
    let (certificate, key) = (certificate.and_then(|value| value.text()), key.and_then(|value| value.text()));
    let (certificate, key) = tls::check(&certificate?, &key?, outside, section.report())?;
    Some(Tls { listen, certificate, key })
}

fn listeners(list: &Value<'_>, taken: &mut Vec<(SocketAddr, Span)>) -> Vec<SocketAddr> {
    let texts = list.items().into_iter().filter_map(|value| value.text());
    texts.filter_map(|text| listener(&text, taken, list.report())).collect()
}

/// An address to listen at that no other listener has.
fn listener(text: &At<&str>, taken: &mut Vec<(SocketAddr, Span)>, report: &Report) -> Option<SocketAddr> {
    let Ok(address) = SocketAddr::from_str(text.value) else {
        let hint = "write an IP address and a port, as \"0.0.0.0:8080\", \"127.0.0.1:9901\" or \"[::]:8080\"";
        report.error(&text.span, format!("{} is no address to listen at", quoted(text.value)), hint);
        return None;
    };
    match taken.iter().find(|(other, _)| clash(*other, address)) {
        Some((_, first)) => {
            let message = format!("another listener has {} already", quoted(text.value));
            report.twice(&text.span, first, message, "give each listener a port of its own");
        }
        None => taken.push((address, text.span.clone())),
    }
    Some(address)
}

/// Whether two listeners cannot both be: the same port at the same address, or at all addresses. Port 0 is any free one.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    let covers = |a: SocketAddr, b: SocketAddr| a.ip().is_unspecified() && (a.is_ipv6() || b.is_ipv4());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || covers(a, b) || covers(b, a))
}

/// The listeners that take PROXY headers; each must be one of the agents'.
fn proxy_protocol(edge: &Table<'_>, agents: &[SocketAddr]) -> Vec<SocketAddr> {
    let report = edge.report();
    let mut named: Vec<SocketAddr> = Vec::new();
    for text in edge.texts("proxy_protocol").unwrap_or_default() {
        let address = SocketAddr::from_str(text.value).ok();
        let Some(address) = address.filter(|address| agents.contains(address)) else {
            let hint = "repeat an address of `listen`, here or in [edge.tls], as it stands there";
            report.error(&text.span, format!("agents are not served at {}", quoted(text.value)), hint);
            continue;
        };
        if address.port() == 0 {
            let hint = "give the listener a port: it is known by it";
            report.error(&text.span, "a listener at any free port cannot take PROXY headers", hint);
        } else if named.contains(&address) {
            report.error(&text.span, format!("{} is named twice", quoted(text.value)), "name each listener once");
        } else {
            named.push(address);
        }
    }
    named
}

fn trusted(edge: &Table<'_>) -> Vec<IpNet> {
    let report = edge.report();
    edge.texts("trusted_proxies")
        .unwrap_or_default()
        .iter()
        .filter_map(|text| networks::network(text, report))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_clash_on_the_same_port_where_their_addresses_overlap() {
        let clashes = |a: &str, b: &str| {
            let there = clash(a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(there, clash(b.parse().unwrap(), a.parse().unwrap()), "{a} {b}");
            there
        };
        assert!(clashes("127.0.0.1:80", "127.0.0.1:80"));
        assert!(clashes("0.0.0.0:80", "127.0.0.1:80"));
        assert!(clashes("[::]:80", "127.0.0.1:80"));
        assert!(clashes("[::]:80", "0.0.0.0:80"));
        assert!(!clashes("0.0.0.0:80", "[::1]:80"));
        assert!(!clashes("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!clashes("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!clashes("127.0.0.1:0", "127.0.0.1:0"));
    }
}

//! A replica's URL: scheme, host, port and what comes before `/v1`; and the URL of a page with metrics. Strict, since what
//! is read here is where calls go.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::diagnostic::quoted;
use crate::domain::topology::ReplicaAddress;

/// Longest URL.
const CHARS_MAX: usize = 512;

/// Why a URL cannot be a replica's.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) message: String,
    pub(super) hint: &'static str,
    /// Whether there may be a secret in it.
    pub(super) secret: bool,
}

const HINT: &str = "write scheme, host and port, as \"http://10.0.1.11:8000\" or \"https://gpu-1.example.net\"";

fn refused<T>(message: impl Into<String>, hint: &'static str) -> Result<T, Refusal> {
    Err(Refusal { message: message.into(), hint, secret: false })
}

const CREDENTIALS_HINT: &str = "remove what stands before the @: credentials go into `api_key`";

const COLLECTOR_HINT: &str = "write where the collector takes OTLP over HTTP, as \"http://127.0.0.1:4318\"";

const PAGE_HINT: &str = "write the whole URL of the page, as \"http://10.0.1.12:9400/metrics\"";

/// The address in a replica's URL.
pub(super) fn address(url: &str, http2: bool) -> Result<ReplicaAddress, Refusal> {
    let address = read(url)?;
    if address.base_path.split('/').any(|part| part == "v1") {
        let hint = "leave `/v1` and what follows out: the edge appends the path that the client called";
        return refused("the URL goes on to /v1", hint);
    }
    Ok(ReplicaAddress { http2, ..address })
}

/// The address in the URL of a page. Its base path is the whole path.
pub(super) fn page(url: &str) -> Result<ReplicaAddress, Refusal> {
    let told = |refusal: Refusal| match refusal {
        Refusal { hint: CREDENTIALS_HINT, .. } => {
            Refusal { hint: "the page must be readable without credentials", ..refusal }
        }
        Refusal { hint: HINT, .. } => Refusal { hint: PAGE_HINT, ..refusal },
        refusal => refusal,
    };
    let page = read(url).map_err(told)?;
    if page.base_path.is_empty() { refused("the URL has no path", PAGE_HINT) } else { Ok(page) }
}

/// The address of a collector. Its base path is what comes before `/v1/traces`.
pub(super) fn collector(url: &str) -> Result<ReplicaAddress, Refusal> {
    let told = |refusal: Refusal| match refusal {
        Refusal { hint: CREDENTIALS_HINT, .. } => {
            Refusal { hint: "remove what stands before the @: credentials go into `headers`", ..refusal }
        }
        Refusal { hint: HINT, .. } => Refusal { hint: COLLECTOR_HINT, ..refusal },
        refusal => refusal,
    };
    let collector = read(url).map_err(told)?;
    if collector.base_path.ends_with("/v1/traces") {
        return refused("the URL ends in /v1/traces", "leave `/v1/traces` out: the edge appends it");
    }
    Ok(collector)
}

fn read(url: &str) -> Result<ReplicaAddress, Refusal> {
    // Before all that is told of the URL itself, whatever its scheme: keys stand before an @ and behind a `?`.
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(Refusal { message: "credentials in a URL".to_owned(), hint: CREDENTIALS_HINT, secret: true });
    }
    if path.contains(['?', '#']) {
        let hint = "remove the `?` or `#` and what follows";
        return Err(Refusal { message: "the URL goes on behind its path".to_owned(), hint, secret: true });
    }
    let tls = match url.split_once("://") {
        Some(("http", _)) => false,
        Some(("https", _)) => true,
        Some((scheme, _)) => {
            return refused(format!("{} is neither http nor https", quoted(scheme)), "use http:// or https://");
        }
        None => return refused(format!("{} is no URL", quoted(url)), HINT),
    };
    if url.len() > CHARS_MAX || !url.bytes().all(|b| b.is_ascii_graphic()) || url.contains(['\\', '"', '<', '>', '%']) {
        return refused(format!("{} is no URL", quoted(url)), HINT);
    }
    let (host, port) = host_and_port(authority)?;
    let port = match port {
        None => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(port) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => return refused(format!("{} is no port", quoted(port)), "a port is a number from 1 to 65535"),
        },
    };
    let base_path = path.trim_end_matches('/');
    if path.contains("//") || base_path.split('/').any(|part| part == "." || part == "..") {
        return refused("the URL's path has empty or dotted parts", "write the path that the server sees");
    }
    Ok(ReplicaAddress { tls, host, port, base_path: base_path.to_owned(), http2: false })
}

/// Splits `host:port` and checks the host; an IPv6 address loses its brackets.
fn host_and_port(authority: &str) -> Result<(String, Option<&str>), Refusal> {
    let wrong = |host: &str| refused(format!("{} is no host", quoted(host)), HINT);
    if let Some(rest) = authority.strip_prefix('[') {
        let Some((host, after)) = rest.split_once(']') else { return wrong(authority) };
        let Ok(address) = host.parse::<Ipv6Addr>() else { return wrong(authority) };
        return match (after, after.strip_prefix(':')) {
            ("", _) => Ok((address.to_string(), None)),
            (_, Some(port)) => Ok((address.to_string(), Some(port))),
            _ => wrong(authority),
        };
    }
    let (host, port) = match authority.split_once(':') {
        Some((_, port)) if port.contains(':') => {
            return refused(format!("{} is no host and port", quoted(authority)), "put an IPv6 address into [ ]");
        }
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if is_name(host) || host.parse::<Ipv4Addr>().is_ok() { Ok((host.to_ascii_lowercase(), port)) } else { wrong(host) }
}

/// Whether a host is a name that no resolver takes for an address: `2852039166` and `0xa9fea9fe` are 169.254.169.254.
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || last.starts_with("0X");
    host.len() <= 253 && !numeric && host.split('.').all(label)
}

/// The one way to write an address: by it duplicates are found and unnamed replicas named.
pub(super) fn canonical(address: &ReplicaAddress) -> String {
    let scheme = if address.tls { "https" } else { "http" };
    format!("{scheme}://{}{}", address.authority(), address.base_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, host: &str, port: u16, base_path: &str, written: &str) {
        let address = address(url, false).unwrap();
        assert_eq!((address.host.as_str(), address.port, address.base_path.as_str()), (host, port, base_path), "{url}");
        assert_eq!(canonical(&address), written);
    }

    #[test]
    fn urls_are_read_and_have_one_canonical_form() {
        check("http://10.0.1.11:8000", "10.0.1.11", 8000, "", "http://10.0.1.11:8000");
        check("http://10.0.1.11:8000/", "10.0.1.11", 8000, "", "http://10.0.1.11:8000");
        check("https://GPU.example.net", "gpu.example.net", 443, "", "https://gpu.example.net");
        check("https://gpu.example.net:443/a/b/", "gpu.example.net", 443, "/a/b", "https://gpu.example.net/a/b");
        check("http://[::1]:8000", "::1", 8000, "", "http://[::1]:8000");
        check("http://[0:0::1]", "::1", 80, "", "http://[::1]");
        check(
            "http://engine-1.ns.svc.cluster.local.:80",
            "engine-1.ns.svc.cluster.local.",
            80,
            "",
            "http://engine-1.ns.svc.cluster.local.",
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for url in [
            "",
            "10.0.1.11:8000",
            "ftp://h",
            "HTTP://h",
            "http://",
            "http:///x",
            "http://:80",
            "http://h:",
            "http://h:0",
            "http://h:65536",
            "http://h:+80",
            "http://u@h",
            "http://u:p@h",
            "http://h?x",
            "http://h#x",
            "http://h/a?b",
            "http://h h",
            "http://h\n",
            "http://é",
            "http://h\\x",
            "http://2852039166",
            "http://0xa9fea9fe",
            "http://1.2.3",
            "http://169.254.43518",
            "http://10.0.0.1.",
            "http://::1:80",
            "http://[::1",
            "http://[::1]x",
            "http://[fe80::1%eth0]",
            "http://-h",
            "http://h..x",
            "http://h/../x",
            "http://h//x",
            "http://h/v1",
            "http://h/v1/",
            "http://h/%2e",
        ] {
            assert!(address(url, false).is_err(), "{url}");
        }
        for url in
            ["http://user:secret@h", "grpc://user:secret@h", "user:secret@h:80", "http://h?key=secret", "h/a#secret"]
        {
            assert!(address(url, false).unwrap_err().secret, "{url}");
        }
    }

    #[test]
    fn a_page_has_a_path() {
        let metrics = page("http://10.0.1.12:9400/a/metrics").unwrap();
        assert_eq!((metrics.port, metrics.base_path.as_str()), (9400, "/a/metrics"));
        assert_eq!(page("https://h/v1").unwrap().base_path, "/v1");
        for (url, hint) in [
            ("10.0.1.12:9400/metrics", PAGE_HINT),
            ("http://10.0.1.12:9400", PAGE_HINT),
            ("http://10.0.1.12:9400/", PAGE_HINT),
            ("http://h/metrics?x", "remove the `?` or `#` and what follows"),
            ("http://u:p@h/metrics", "the page must be readable without credentials"),
        ] {
            assert_eq!(page(url).unwrap_err().hint, hint, "{url}");
        }
    }
}

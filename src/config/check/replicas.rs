//! A pool's `replicas`: a URL each, or a table with a name.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::gpu_metrics;
use super::names;
use super::outside::Outside;
use super::url;
use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Report, Span, Table, Value};
use crate::domain::ids::PoolIx;
use crate::domain::topology::{GpuMetrics, Replica, ReplicaAddress};
use crate::policy::affinity;

/// Most replicas in all: each is checked for health every few seconds and has its own series of metrics.
const REPLICAS_MAX: usize = 10_000;

/// All replicas so far, pool by pool.
pub(super) struct Replicas<'a> {
    list: Vec<Replica>,
    urls: HashMap<String, Span>,
    /// Where the edge itself listens.
    own: &'a [SocketAddr],
}

impl<'a> Replicas<'a> {
    /// None so far.
    pub(super) fn new(own: &'a [SocketAddr]) -> Replicas<'a> {
        Replicas { list: Vec::new(), urls: HashMap::new(), own }
    }

    /// All of them.
    pub(super) fn into_list(self) -> Vec<Replica> {
        self.list
    }

    /// Adds the replicas of one pool; their positions.
    pub(super) fn add(
        &mut self,
        table: &Table<'_>,
        pool: PoolIx,
        pool_name: &str,
        http2: bool,
        outside: &Outside<'_>,
    ) -> Range<usize> {
        let report = table.report();
        let start = self.list.len();
        let value = table.required("replicas", "where they listen, as replicas = [\"http://10.0.1.11:8000\"]");
        if let Some(value) = value.as_ref().filter(|value| value.is_empty_list()) {
            report.error(&value.span(), "the pool has no replica", "write replicas = [\"http://10.0.1.11:8000\"]");
        }
        let mut names: HashMap<String, Span> = HashMap::new();
        for item in value.map(|value| value.items()).unwrap_or_default() {
            if self.list.len() >= REPLICAS_MAX {
                let message = format!("more than {REPLICAS_MAX} replicas");
                report.error(&item.span(), message, "split the fleet among several edges");
                break;
            }
            let Some(Item { name, url, gpu_metrics }) = read(&item, outside) else { continue };
            let Some(address) = self.address(&url, http2, outside, report) else { continue };
            let name = name.unwrap_or_else(|| At {
                value: affinity::replica_name(&url::canonical(&address)),
                span: url.span.clone(),
            });
            match names.get(&name.value) {
                Some(first) => {
                    let message = format!("there is another replica named {} in this pool", quoted(&name.value));
                    report.twice(&name.span, first, message, "give each a name of its own");
                }
                None => drop(names.insert(name.value.clone(), name.span)),
            }
            let key = affinity::replica_key(pool_name, &name.value);
            self.list.push(Replica { name: name.value, key, pool, address, gpu_metrics });
        }
        start..self.list.len()
    }

    /// The address in a URL that no other replica has.
    fn address(
        &mut self,
        url: &At<&str>,
        http2: bool,
        outside: &Outside<'_>,
        report: &Report,
    ) -> Option<ReplicaAddress> {
        let address = match url::address(url.value, http2) {
            Ok(address) => address,
            Err(refusal) => {
                if refusal.secret {
                    report.mask(&url.span);
                }
                report.error(&url.span, refusal.message, refusal.hint);
                return None;
            }
        };
        outside.link_local(&address, url, report);
        if self.own.iter().any(|own| leads_to(&address, *own)) {
            let hint = "write where the replica listens: each call would come back here until nothing is left";
            report.error(&url.span, "this is where the edge itself listens", hint);
        }
        let canonical = url::canonical(&address);
        match self.urls.get(&canonical) {
            Some(first) => {
                let message = format!("another replica has the URL {} already", quoted(&canonical));
                report.twice(
                    &url.span,
                    first,
                    message,
                    "a replica belongs to one pool, once: its load is counted there",
                );
            }
            None => drop(self.urls.insert(canonical, url.span.clone())),
        }
        Some(address)
    }
}

/// Whether a replica's address is that of a listener on this machine, as far as it can be told without asking.
fn leads_to(address: &ReplicaAddress, listener: SocketAddr) -> bool {
    let local = |host: IpAddr| host.is_loopback() || host.is_unspecified();
    let host = match address.host.as_str() {
        "localhost" => Some(IpAddr::from([127, 0, 0, 1])),
        host => host.parse().ok(),
    };
    address.port == listener.port()
        && host
            .map(|host: IpAddr| host.to_canonical())
            .is_some_and(|host| host == listener.ip().to_canonical() || listener.ip().is_unspecified() && local(host))
}

/// One item of the list.
struct Item<'a> {
    name: Option<At<String>>,
    url: At<&'a str>,
    gpu_metrics: Option<GpuMetrics>,
}

fn read<'a>(item: &Value<'a>, outside: &Outside<'_>) -> Option<Item<'a>> {
    if let Some(url) = item.as_text() {
        return Some(Item { name: None, url, gpu_metrics: None });
    }
    let table = item.table_or("a URL or { name = …, url = … }", "write \"http://10.0.1.11:8000\"")?;
    let name = table.text("name");
    let url = table.required("url", "where it listens, as url = \"http://10.0.1.11:8000\"");
    let gpu_metrics = gpu_metrics::check(&table, outside);
    if let Some(name) = &name {
        names::plain("a replica", name, table.report());
    }
    let name = name.map(|name| At { value: name.value.to_owned(), span: name.span });
    Some(Item { name, url: url?.text()?, gpu_metrics })
}

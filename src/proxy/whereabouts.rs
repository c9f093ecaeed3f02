//! Station 2, identify: who and where is the client? Gathers what the connection, the head and the database say; whose
//! word counts is decided in [`policy::client`](crate::policy::client).

use std::net::IpAddr;

use http::HeaderMap;
use pingora::protocols::http::ServerSession;

use super::proxied;
use crate::config::Config;
use crate::domain::whereabouts::{Source, Whereabouts};
use crate::observe::metrics::GeoResult;
use crate::policy::client::{self, Client, Hops};
use crate::roster::Snapshot;
use crate::wire::geoip::{self, GeoError, Located};
use crate::wire::{forwarded, place_headers};

/// Who the client is.
pub(super) fn client(session: &ServerSession, config: &Config) -> Client {
    let headers = &session.req_header().headers;
    let (mut forwarded, mut x_forwarded_for) = (forwarded::forwarded(headers), forwarded::x_forwarded_for(headers));
    client::client(
        peer(session),
        &config.trusted_proxies,
        forwarded.as_mut().map(|hops| hops as Hops<'_>),
        x_forwarded_for.as_mut().map(|hops| hops as Hops<'_>),
    )
}

/// [`Client::trusted_peer`] before anybody asks who the client is: no header is read for it.
pub(super) fn is_peer_trusted(session: &ServerSession, config: &Config) -> bool {
    client::client(peer(session), &config.trusted_proxies, None, None).trusted_peer
}

/// Whom the PROXY header names, else the connection's other end.
pub(super) fn peer(session: &ServerSession) -> Option<(IpAddr, Source)> {
    let socket = || session.client_addr()?.as_inet().map(|address| (address.ip(), Source::Peer));
    let announced = proxied::source(session).map(|address| (address, Source::ProxyProtocol));
    announced.or_else(socket).map(|(address, source)| (address.to_canonical(), source))
}

/// Where it is, and how its address was found in the database if that was asked.
pub(super) fn find(headers: &HeaderMap, client: &Client, snapshot: &Snapshot) -> (Whereabouts, Option<GeoResult>) {
    let told = client.trusted_peer.then(|| place_headers::read(headers, &snapshot.config.geo.headers)).flatten();
    let mut result = None;
    let at = client::whereabouts(client, told, |address| {
        let found = snapshot.geo.lookup(address);
        result = Some(geo_result(address, &found));
        found.ok().flatten().map(|located| located.whereabouts(Whereabouts::unknown(client.address, client.source)))
    });
    (at, result)
}

fn geo_result(address: IpAddr, found: &Result<Option<Located>, GeoError>) -> GeoResult {
    match found {
        Ok(Some(located)) if located.place.is_some() => GeoResult::Found,
        Ok(None) if !client::is_global(geoip::embedded_v4(address)) => GeoResult::Private,
        Ok(_) => GeoResult::Unknown,
        Err(_) => GeoResult::Error,
    }
}

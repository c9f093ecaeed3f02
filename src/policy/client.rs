//! Who and where is the client? Whose word counts, and what follows from it.
//!
//! The address is the peer's. A trusted peer is a proxy, which names the one before it, and so on: the first address that
//! is not trusted is the client's, since everything further left is the client's own invention. Where the chain cannot be
//! followed (a proxy hides the one before it, or two headers contradict each other), the client is hidden: it is known by
//! the last address that could be told, but it is not there, so neither a country nor a place follows from that.
//!
//! `Forwarded` and `X-Forwarded-For` may both be there: a proxy that writes the one passes the other on as it came, so a
//! client can put into it what it likes. Only when both name the same client are they believed.
//!
//! What a trusted peer says of the place itself ([`PlaceHeaders`]) comes before the database.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::domain::whereabouts::{Source, Whereabouts};

/// How many proxies are followed back at most. Chains have two or three; a longer one is no chain but noise, and each hop
/// is compared with every trusted network.
pub const HOPS_MAX: usize = 32;

/// The headers in which one kind of proxy (a CDN, mostly) names the client's place; names in lower case.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct PlaceHeaders {
    /// Two letters; `XX` and `ZZ` where it is not known, `T1` for Tor.
    pub country: Option<String>,
    /// Degrees north.
    pub latitude: Option<String>,
    /// Degrees east.
    pub longitude: Option<String>,
    /// Both, with a comma between: `37.39,-122.08`.
    pub position: Option<String>,
}

impl PlaceHeaders {
    /// Every name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [&self.country, &self.latitude, &self.longitude, &self.position].into_iter().flatten().map(String::as_str)
    }
}

/// What is known of who the client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Client {
    /// Its address, or the last one that could be told.
    pub address: Option<IpAddr>,
    /// Who told it.
    pub source: Source,
    /// Whether the client is somebody behind that address, of whom nothing is known.
    pub hidden: bool,
    /// Whether the connection's peer is trusted, so that its other headers are believed too.
    pub trusted_peer: bool,
}

/// A trusted proxy's word on the ones before it, the nearest first; `None` is one that it hides.
pub type Hops<'a> = &'a mut dyn Iterator<Item = Option<IpAddr>>;

/// Who the client is. `peer` is the connection's other end, or whom the PROXY header named; the hops are what its headers
/// say, where it has them, and are looked at only when it is trusted.
pub fn client(
    peer: Option<(IpAddr, Source)>,
    trusted: &[IpNet],
    forwarded: Option<Hops<'_>>,
    x_forwarded_for: Option<Hops<'_>>,
) -> Client {
    let Some((peer, source)) = peer else {
        return Client { address: None, source: Source::Peer, hidden: false, trusted_peer: false };
    };
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let at_peer = Client { address: Some(peer), source, hidden: false, trusted_peer: is_trusted(&peer) };
    if !at_peer.trusted_peer {
        return at_peer;
    }
    let follow = |hops: Hops<'_>, source: Source| {
        let (address, hidden) = follow(peer, hops, is_trusted);
        Client { address: Some(address), source, hidden, ..at_peer }
    };
    let forwarded = forwarded.map(|hops| follow(hops, Source::Forwarded));
    let x_forwarded_for = x_forwarded_for.map(|hops| follow(hops, Source::ForwardedFor));
    match (forwarded, x_forwarded_for) {
        (Some(one), Some(other)) if (one.address, one.hidden) != (other.address, other.hidden) => {
            Client { hidden: true, ..at_peer }
        }
        (told, other) => told.or(other).unwrap_or(at_peer),
    }
}

/// The first address that is not trusted, else the last one; and whether somebody is hidden behind it.
fn follow(peer: IpAddr, hops: Hops<'_>, is_trusted: impl Fn(&IpAddr) -> bool) -> (IpAddr, bool) {
    let mut address = peer;
    for (position, hop) in hops.enumerate() {
        let Some(hop) = hop.filter(|_| position < HOPS_MAX) else { return (address, true) };
        address = hop;
        if !is_trusted(&hop) {
            break;
        }
    }
    (address, false)
}

/// What a trusted peer says of the client's place.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Told {
    /// The country and, where `accuracy_radius_km` is none, the very place.
    Place(Whereabouts),
    /// That it cannot be known: the client came through Tor.
    Anonymous,
}

/// Where the client is, from what a trusted peer says and from what the database has for its address, which is asked only
/// if need be. A country alone is made finer by the database where that has the same country.
pub fn whereabouts(
    client: &Client,
    told: Option<Told>,
    look_up: impl FnOnce(IpAddr) -> Option<Whereabouts>,
) -> Whereabouts {
    // Who is hidden has no address of its own.
    let address = client.address.filter(|_| !client.hidden);
    let unknown = Whereabouts::unknown(address, client.source);
    match told {
        Some(Told::Anonymous) => Whereabouts { source: Source::PlaceHeader, ..unknown },
        Some(Told::Place(told)) => {
            let finer =
                || address.and_then(look_up).filter(|found| found.country == told.country && found.place.is_some());
            let found = if told.accuracy_radius_km.is_some() || told.place.is_none() { finer() } else { None };
            Whereabouts { address, source: Source::PlaceHeader, ..found.unwrap_or(told) }
        }
        None => {
            address.and_then(look_up).map_or(unknown, |found| Whereabouts { address, source: client.source, ..found })
        }
    }
}

/// Whether an address is one of the open internet's, so that it has a place that a database could know
/// (IANA's special-purpose registries, RFC 6890).
pub fn is_global(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => is_global_v6(v6),
    }
}

fn is_global_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    let shared = a == 100 && b & 0xc0 == 64; // 100.64.0.0/10, carrier-grade NAT (RFC 6598)
    let assignments = (a, b, c) == (192, 0, 0); // 192.0.0.0/24 (RFC 6890)
    let benchmarking = a == 198 && b & 0xfe == 18; // 198.18.0.0/15 (RFC 2544)
    let local = v4.is_private() || v4.is_loopback() || v4.is_link_local() || a == 0;
    // 224.0.0.0/4 is multicast, 240.0.0.0/4 reserved.
    !(local || shared || assignments || benchmarking || v4.is_documentation() || a >= 224)
}

fn is_global_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    let documentation = (first, second) == (0x2001, 0xdb8) || (first == 0x3fff && second < 0x1000); // RFC 3849, RFC 9637
    // Of global unicast, 2000::/3 is all that is given out, and 64:ff9b::/96 leads to IPv4 (RFC 6052).
    let given_out = first & 0xe000 == 0x2000 || v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    given_out && !documentation
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::code::Code;
    use crate::domain::place::Place;

    fn hops(list: &[&str]) -> Vec<Option<IpAddr>> {
        list.iter().map(|hop| hop.parse().ok()).collect()
    }

    /// Who is found, with `?` behind an address that somebody is hidden behind.
    fn find(
        peer: &str,
        trusted: &[&str],
        forwarded: Option<&[&str]>,
        x_forwarded_for: Option<&[&str]>,
    ) -> (String, Source) {
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let peer = peer.parse().ok().map(|peer| (peer, Source::Peer));
        let (mut one, mut other) =
            (forwarded.map(|list| hops(list).into_iter()), x_forwarded_for.map(|list| hops(list).into_iter()));
        let found = client(
            peer,
            &trusted,
            one.as_mut().map(|hops| hops as Hops<'_>),
            other.as_mut().map(|hops| hops as Hops<'_>),
        );
        (format!("{}{}", found.address.unwrap(), if found.hidden { "?" } else { "" }), found.source)
    }

    #[track_caller]
    fn check(x_forwarded_for: &[&str], expected: &str) {
        let expected = (expected.to_owned(), Source::ForwardedFor);
        assert_eq!(find("10.0.0.1", &["10.0.0.0/8"], None, Some(x_forwarded_for)), expected);
        let (address, _) = find("10.0.0.1", &["10.0.0.0/8"], Some(x_forwarded_for), None);
        assert_eq!(address, expected.0);
    }

    #[test]
    fn an_untrusted_peer_is_believed_nothing() {
        let lie: Option<&[&str]> = Some(&["198.51.100.1"]);
        for trusted in [&[][..], &["10.0.0.0/8"]] {
            for (one, other) in [(lie, None), (None, lie), (lie, lie)] {
                assert_eq!(find("203.0.113.9", trusted, one, other), ("203.0.113.9".into(), Source::Peer));
            }
        }
    }

    #[test]
    fn the_rightmost_untrusted_hop_is_the_client() {
        check(&["198.51.100.1"], "198.51.100.1");
        check(&["10.0.0.2", "198.51.100.1", "6.6.6.6"], "198.51.100.1");
        check(&["198.51.100.1", ""], "198.51.100.1");
        check(&["10.0.0.5"], "10.0.0.5");
        check(&[], "10.0.0.1");
        assert_eq!(find("10.0.0.1", &["10.0.0.0/8"], None, None), ("10.0.0.1".into(), Source::Peer));
    }

    #[test]
    fn behind_a_hidden_hop_nobody_is_known() {
        check(&["unknown", "198.51.100.1"], "10.0.0.1?");
        check(&["10.0.0.7", "_x", "198.51.100.1"], "10.0.0.7?");
        let long: Vec<_> = std::iter::repeat_n("10.0.0.9", HOPS_MAX).chain(["198.51.100.1"]).collect();
        check(&long[1..], "198.51.100.1");
        check(&long, "10.0.0.9?");
    }

    #[test]
    fn two_headers_are_believed_only_when_they_agree() {
        let trusted = &["10.0.0.0/8"];
        let find = |one: &[&str], other: &[&str]| find("10.0.0.1", trusted, Some(one), Some(other));
        assert_eq!(find(&["198.51.100.1"], &["10.0.0.2", "198.51.100.1"]), ("198.51.100.1".into(), Source::Forwarded));
        assert_eq!(find(&["198.51.100.1"], &["198.51.100.2"]), ("10.0.0.1?".into(), Source::Peer));
        assert_eq!(find(&["_x"], &["198.51.100.2"]), ("10.0.0.1?".into(), Source::Peer));
        assert_eq!(find(&["10.0.0.1"], &["_x"]), ("10.0.0.1?".into(), Source::Peer));
    }

    fn at(country: &str, accuracy_radius_km: Option<u16>) -> Whereabouts {
        let place = Some(Place { latitude: f64::from(accuracy_radius_km.unwrap_or(0)), longitude: 1.0 });
        let unknown = Whereabouts::unknown(None, Source::Peer);
        Whereabouts { place, country: Code::new(country), accuracy_radius_km, ..unknown }
    }

    const CLIENT: Client = Client {
        address: Some(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1))),
        source: Source::ForwardedFor,
        hidden: false,
        trusted_peer: true,
    };

    #[test]
    fn a_place_that_is_told_goes_before_the_databases() {
        let found = |_| Some(at("US", Some(20)));
        let place = |told| whereabouts(&CLIENT, told, found);
        // Nothing is told.
        let looked_up = Whereabouts { address: CLIENT.address, source: Source::ForwardedFor, ..at("US", Some(20)) };
        assert_eq!(place(None), looked_up);
        // A place.
        let told = Whereabouts { address: CLIENT.address, source: Source::PlaceHeader, ..at("US", None) };
        assert_eq!(place(Some(Told::Place(at("US", None)))), told);
        // A country: the same, and another.
        let country = |code| place(Some(Told::Place(at(code, Some(2302)))));
        assert_eq!(country("US"), Whereabouts { source: Source::PlaceHeader, ..looked_up });
        let other = Whereabouts { address: CLIENT.address, source: Source::PlaceHeader, ..at("DE", Some(2302)) };
        assert_eq!(country("DE"), other);
        // That it cannot be known.
        assert_eq!(place(Some(Told::Anonymous)), Whereabouts::unknown(CLIENT.address, Source::PlaceHeader));
    }

    #[test]
    fn who_is_hidden_is_not_where_its_proxy_is() {
        let hidden = Client { hidden: true, ..CLIENT };
        let place = |told| whereabouts(&hidden, told, |_| panic!("no address of its own"));
        assert_eq!(place(None), Whereabouts::unknown(None, Source::ForwardedFor));
        let told = Whereabouts { source: Source::PlaceHeader, ..at("DE", Some(300)) };
        assert_eq!(place(Some(Told::Place(at("DE", Some(300))))), told);
    }

    #[test]
    fn special_addresses_have_no_place() {
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "169.254.1.1",
            "172.16.0.1",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "198.19.255.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fd00::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "100::1",
            "3fff:fff::1",
            "64:ff9b:1::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_global(special.parse().unwrap()), "{special}");
        }
        for global in [
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700::1",
            "2002:102:304::1",
            "64:ff9b::101:101",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_global(global.parse().unwrap()), "{global}");
        }
    }

    proptest! {
        /// Whatever a client writes to the left of what the trusted proxies added, it is told by its own address.
        #[test]
        fn what_a_client_writes_never_changes_who_it_is(
            theirs in prop::collection::vec(prop::option::of(any::<[u8; 4]>()), 0..40),
            proxies in prop::collection::vec(any::<u8>(), 0..4),
            mine in any::<[u8; 3]>(),
        ) {
            let mine = IpAddr::from([200, mine[0], mine[1], mine[2]]);
            let added = proxies.iter().rev().map(|n| IpAddr::from([10, 0, 0, *n])).chain([mine]).map(Some);
            let mut hops = added.chain(theirs.into_iter().map(|octets| octets.map(IpAddr::from)));
            let peer = Some((IpAddr::from([10, 0, 0, 1]), Source::Peer));
            let found = client(peer, &["10.0.0.0/8".parse().unwrap()], None, Some(&mut hops));
            prop_assert_eq!((found.address, found.hidden), (Some(mine), false));
        }
    }
}

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::domain::code::Code;
use crate::domain::whereabouts::Unions;
use crate::policy::countries;
use crate::wire::geoip::places;

const MINI: &[u8] = include_bytes!("../../../../tests/data/mini-city.mmdb");
const SHIPPED: &[u8] = include_bytes!("../../../../geoip/nearpool.mmdb");

fn overlay(placed: &[(&str, Spot)]) -> Overlay {
    let placed: Vec<_> = placed.iter().map(|(network, spot)| (network.parse().unwrap(), *spot)).collect();
    Overlay { kind: "test", rows: placed.len(), placed, unplaced: BTreeMap::new() }
}

fn over(base: &[u8], overlays: &[Overlay]) -> Result<(Vec<u8>, GeoDb), BuildError> {
    lay_over(Base::Database(base.to_vec()), overlays)
}

fn country(code: &str) -> Spot {
    Spot::Country(Code::new(code).unwrap())
}

fn region(provider: &str, name: &str) -> Spot {
    places::region(provider, name).unwrap()
}

fn country_at(db: &GeoDb, address: &str) -> Option<String> {
    db.lookup(address.parse().unwrap()).unwrap().and_then(|located| located.country).map(|code| code.to_string())
}

#[test]
fn the_later_list_wins_and_within_one_the_smaller_network() {
    let first = overlay(&[("198.51.100.64/26", country("IE")), ("198.51.100.0/24", country("US"))]);
    let second = overlay(&[("198.51.100.0/25", country("DE")), ("198.51.100.0/25", country("FR"))]);
    let (_, db) = over(MINI, &[first, second]).unwrap();
    for (address, code) in [
        ("198.51.100.1", Some("FR")),  // of equal ones the later
        ("198.51.100.65", Some("FR")), // the later list, though its network is larger
        ("198.51.100.128", Some("US")),
        ("198.51.101.0", None),
        ("127.3.0.1", Some("IE")),
    ] {
        assert_eq!(country_at(&db, address).as_deref(), code, "{address}");
    }
}

#[test]
fn a_database_stays_what_it_was_beside_the_networks() {
    let before = GeoDb::from_bytes(MINI).unwrap();
    let (bytes, after) = over(MINI, &[overlay(&[("203.0.113.0/24", region("aws", "eu-west-1"))])]).unwrap();
    let (old, new) = (before.metadata(), after.metadata());
    assert_eq!((old.kind, old.build_epoch_s, old.ip_version), (new.kind, new.build_epoch_s, new.ip_version));
    assert_eq!(new.description, format!("{} Overlaid with files of the operator.", old.description));
    for x in 0..=255 {
        for address in [IpAddr::from([127, x, 3, 1]), IpAddr::from([0x2001, 0xdb8, u16::from(x), 0, 0, 0, 0, 1])] {
            assert_eq!(before.lookup(address).unwrap(), after.lookup(address).unwrap(), "{address}");
        }
    }
    // Laid over once more, with nothing new, only as much is added as was before.
    let (again, _) = over(&bytes, &[]).unwrap();
    assert_eq!(again, bytes, "the same tree, the same records, said once");
}

#[test]
fn an_ipv4_database_becomes_one_of_both() {
    // The IPv4 part of the small one, by its own root.
    let ipv4 = ipv4_only();
    assert_eq!(GeoDb::from_bytes(ipv4.clone()).unwrap().metadata().ip_version, 4);
    let lists = [overlay(&[("2001:db8:a::/48", country("JP")), ("198.51.100.0/24", country("CH"))])];
    let (_, db) = over(&ipv4, &lists).unwrap();
    assert_eq!(db.metadata().ip_version, 6);
    for (address, code) in [
        ("127.3.0.1", Some("IE")),
        ("198.51.100.1", Some("CH")),
        ("2001:db8:a::1", Some("JP")),
        ("2001:db8:b::1", None),
        ("::ffff:198.51.100.1", Some("CH")),
    ] {
        assert_eq!(country_at(&db, address).as_deref(), code, "{address}");
    }
}

/// The small database without its IPv6 networks.
fn ipv4_only() -> Vec<u8> {
    let below = Below::read(MINI.to_vec()).unwrap();
    let tree = below.tree.ipv4_alone().write(below.data.len()).unwrap();
    let mut metadata = encode::metadata(&below.account, tree.node_count, tree.record_size);
    let version = memchr::memmem::find(&metadata, b"ip_version").unwrap() + "ip_version".len() + 1;
    metadata[version] = 4;
    [&tree.bytes, &SEPARATOR[..], &below.data, MARKER, &metadata].concat()
}

#[test]
fn where_ipv6_carries_ipv4_a_second_time_it_still_does() {
    // As MaxMind's own databases do it: mapped, 6to4 and Teredo addresses lead to the IPv4 tree.
    let aliased = {
        let mut below = Below::read(MINI.to_vec()).unwrap();
        below.tree.alias_ipv4();
        below.write(false).unwrap()
    };
    let lists = [overlay(&[
        ("127.3.0.0/16", country("CH")),
        ("198.51.100.0/24", country("SE")),
        // Inside of an alias, and not of what it stands for.
        ("2002:c633:6407::/48", country("NO")),
    ])];
    let (bytes, _) = over(&aliased, &lists).unwrap();
    let reader = maxminddb::Reader::from_source(bytes).unwrap();
    let found = |address: &str| {
        let code = reader.lookup(address.parse().unwrap()).unwrap();
        code.decode_path::<String>(&[maxminddb::PathElement::Key("country"), maxminddb::PathElement::Key("iso_code")])
            .unwrap()
    };
    for (address, code) in [
        ("127.3.0.1", Some("CH")),
        ("::ffff:127.3.0.1", Some("CH")),
        ("2002:7f03:1::", Some("CH")),
        ("2001:0:7f03:1::", Some("CH")),
        ("2002:c633:6401::", Some("SE")),
        ("2002:c633:6407::", Some("NO")),
        ("198.51.100.7", Some("SE")),
    ] {
        assert_eq!(found(address).as_deref(), code, "{address}");
    }
}

/// Both builders place alike: what this one writes of a country or region is what the shipped database says.
#[test]
fn records_are_those_that_the_shipped_database_has() {
    let shipped = GeoDb::from_bytes(SHIPPED).unwrap();
    for (address, spot) in [
        ("141.20.1.1", country("DE")),
        ("128.32.0.1", country("US")),
        ("41.32.0.1", country("EG")),
        ("129.132.1.1", country("CH")),
        ("52.18.0.1", region("aws", "eu-west-1")),
        ("35.228.0.1", region("gcp", "europe-north1")),
        ("3.5.140.1", region("aws", "ap-northeast-2")),
    ] {
        let network = format!("{address}/32");
        let (bytes, db) = over(SHIPPED, &[overlay(&[(&network, spot)])]).unwrap();
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(db.lookup(address).unwrap(), shipped.lookup(address).unwrap(), "{address}");
        // Byte for byte: the record that was added stands in the shipped database already.
        let record = encode::record(spot.fields().unwrap());
        let value = |bytes: Vec<u8>| {
            let reader = maxminddb::Reader::from_source(bytes).unwrap();
            reader.lookup(address).unwrap().decode::<serde_json::Value>().unwrap().unwrap()
        };
        assert_eq!(value(bytes), value(SHIPPED.to_vec()), "{address} {record:?}");
    }
}

#[test]
fn the_registries_statistics_make_a_database_too() {
    let registry = || Registry::read(include_bytes!("../../../../geoip/samples/delegated.txt")).unwrap();
    let (bytes, alone) = lay_over(Base::Registry(registry()), &[]).unwrap();
    let metadata = alone.metadata();
    assert_eq!((metadata.kind.as_str(), metadata.build_epoch_s), (KIND, 1_767_225_600));
    assert_eq!(metadata.description, BY_REGISTRY);
    for (address, code) in
        [("192.0.2.9", Some("CH")), ("2001:db8:1::", Some("JP")), ("203.0.113.1", None), ("::", None)]
    {
        assert_eq!(country_at(&alone, address).as_deref(), code, "{address}");
    }
    let (_, db) = lay_over(Base::Registry(registry()), &[overlay(&[("192.0.2.0/30", country("DE"))])]).unwrap();
    assert_eq!(["192.0.2.3", "192.0.2.4"].map(|at| country_at(&db, at).unwrap()), ["DE", "CH"]);
    // It may lie below in turn.
    assert_eq!(over(&bytes, &[]).unwrap().0, bytes);
}

#[test]
fn antarctica_has_a_record_and_no_place() {
    let (_, db) = over(MINI, &[overlay(&[("192.0.2.0/24", country("AQ"))])]).unwrap();
    let located = db.lookup(IpAddr::from([192, 0, 2, 1])).unwrap().unwrap();
    assert_eq!((located.place, located.continent, located.unions), (None, Code::new("AN"), Unions::default()));
}

#[test]
fn what_cannot_be_the_one_below_is_refused() {
    for base in [&b""[..], b"<html>", &MINI[..MINI.len() / 2]] {
        assert!(matches!(over(base, &[]), Err(BuildError::Base(_))));
    }
}

/// Networks of a few addresses near to each other, so that they overlap.
fn network() -> impl Strategy<Value = IpNet> {
    let ipv4 = (any::<u8>(), 16..=32_u8).prop_map(|(x, bits)| (IpAddr::V4(Ipv4Addr::new(127, 3, x % 4, x)), bits));
    let ipv6 = (any::<u8>(), 30..=128_u8)
        .prop_map(|(x, bits)| (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, u16::from(x % 8), 0, 0, 0, 0, x.into())), bits));
    prop_oneof![ipv4, ipv6].prop_map(|(address, bits)| IpNet::new(address, bits).unwrap().trunc())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Against the rule in plain words, at both ends of each network and beside them.
    #[test]
    fn every_address_has_the_record_that_the_rule_gives_it(
        lists in proptest::collection::vec(proptest::collection::vec((network(), 0..6_usize), 1..12), 1..4),
    ) {
        let codes = ["DE", "FR", "US", "JP", "AQ", "BR"];
        let overlays: Vec<Overlay> = lists.iter().map(|list| {
            let placed: Vec<_> = list.iter().map(|(network, n)| (*network, country(codes[*n]))).collect();
            Overlay { kind: "test", rows: placed.len(), placed, unplaced: BTreeMap::new() }
        }).collect();
        let below = GeoDb::from_bytes(MINI).unwrap();
        let (_, db) = over(MINI, &overlays).unwrap();
        for (network, _) in lists.iter().flatten() {
            for address in around(*network) {
                let over = lists.iter().rev().find_map(|list| {
                    let holding = list.iter().filter(|(network, _)| network.contains(&address));
                    // Of equal lengths `max_by_key` takes the last.
                    holding.max_by_key(|(network, _)| network.prefix_len()).map(|(_, n)| Code::new(codes[*n]))
                });
                let found = db.lookup(address).unwrap();
                match over {
                    Some(code) => prop_assert_eq!(found.and_then(|located| located.country), code, "{}", address),
                    None => prop_assert_eq!(found, below.lookup(address).unwrap(), "{}", address),
                }
            }
        }
    }
}

/// The first and last address, and those before and after.
fn around(network: IpNet) -> [IpAddr; 4] {
    match network {
        IpNet::V4(v4) => {
            let (first, last) = (u32::from(v4.network()), u32::from(v4.broadcast()));
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(|n| IpAddr::V4(n.into()))
        }
        IpNet::V6(v6) => {
            let (first, last) = (u128::from(v6.network()), u128::from(v6.broadcast()));
            [first, last, first - 1, last + 1].map(|n| IpAddr::V6(n.into()))
        }
    }
}

#[test]
fn every_country_of_the_table_has_a_record_that_can_be_read() {
    let text = include_str!("../../../../geoip/country_centroids.csv");
    for code in text.lines().skip(1).filter_map(|row| Code::new(row.split(',').next()?)) {
        let spot = Spot::Country(code);
        let known = countries::of(code).unwrap();
        let (_, db) = over(MINI, &[overlay(&[("192.0.2.0/24", spot)])]).unwrap();
        let located = db.lookup(IpAddr::from([192, 0, 2, 1])).unwrap().unwrap();
        assert_eq!((located.country, located.continent), (Some(code), Some(known.continent)), "{code}");
        assert_eq!(
            (located.place, located.accuracy_radius_km),
            (Some(known.centroid), Some(known.radius_km)),
            "{code}"
        );
    }
}

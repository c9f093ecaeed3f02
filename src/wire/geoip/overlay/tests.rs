use super::*;
use crate::domain::code::Code;

const AWS: &str = include_str!("../../../../geoip/samples/aws.json");
const AZURE: &str = include_str!("../../../../geoip/samples/azure.json");
const GEOFEED: &str = include_str!("../../../../geoip/samples/geofeed.csv");
const GOOGLE: &str = include_str!("../../../../geoip/samples/google.json");
const ORACLE: &str = include_str!("../../../../geoip/samples/oracle.json");

fn region(provider: &str, name: &str) -> Option<Spot> {
    let region = places::region(provider, name);
    assert!(region.is_some(), "{provider} {name}");
    region
}

fn country(code: &str) -> Option<Spot> {
    Code::new(code).map(Spot::Country)
}

/// The list is of this kind, and places these addresses so: by the smallest network, of equal ones by the last.
#[track_caller]
fn check(list: &str, kind: &str, expected: &[(&str, Option<Spot>)]) {
    let overlay = Overlay::read(list.as_bytes()).unwrap();
    assert_eq!(overlay.kind, kind);
    assert_eq!(overlay.rows, overlay.placed.len() + overlay.unplaced.values().sum::<usize>());
    for (address, spot) in expected {
        let at: IpAddr = address.parse().unwrap();
        let over = widest_first(&overlay.placed).into_iter().rev().find(|(network, _)| network.contains(&at));
        assert_eq!(over.map(|(_, spot)| spot), *spot, "{address}");
    }
}

#[test]
fn every_kind_of_list_is_told_by_its_content() {
    check(
        AWS,
        "AWS ip-ranges.json",
        &[
            ("198.51.100.1", region("aws", "us-east-1")),
            ("198.51.100.65", region("aws", "eu-west-1")),
            ("198.51.100.128", region("aws", "us-east-1")),
            ("2001:db8:a::1", region("aws", "ap-southeast-1")),
            ("203.0.113.1", None),
        ],
    );
    check(
        GOOGLE,
        "Google cloud.json",
        &[
            ("192.0.2.1", region("gcp", "europe-north1")),
            ("192.0.2.129", None),
            ("2001:db8:b::1", region("gcp", "asia-northeast1")),
        ],
    );
    check(
        AZURE,
        "Azure service tags",
        &[
            ("198.51.100.1", region("azure", "germanywestcentral")),
            ("198.51.100.129", None),
            ("2001:db8:c::1", region("azure", "germanywc")),
        ],
    );
    check(
        ORACLE,
        "Oracle public_ip_ranges.json",
        &[("203.0.113.1", region("oracle", "uk-london-1")), ("198.51.100.1", region("oracle", "sa-saopaulo-1"))],
    );
    let sao_paulo = places::city("BR", "Sao Paulo").unwrap();
    check(
        GEOFEED,
        "RFC 8805 geofeed",
        &[
            ("192.0.2.1", sao_paulo),
            ("198.51.100.1", country("DE")),
            ("203.0.113.1", None),
            ("2001:db8:d::1", country("CH")),
        ],
    );
}

#[test]
fn networks_are_read_as_people_write_them() {
    for (text, read) in [
        (" 192.0.2.7/24 ", "192.0.2.0/24"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2000::/3", "2000::/3"),
    ] {
        assert_eq!(network(text).unwrap().to_string(), read, "{text}");
    }
    for (text, says) in [
        ("192.0.2.0/33", "no network"),
        ("", "no network"),
        ("localhost", "no network"),
        ("::/0", "covers the IPv4"),
        ("::/96", "covers the IPv4"),
        ("::1.2.3.4/128", "covers the IPv4"),
    ] {
        assert!(network(text).unwrap_err().contains(says), "{text}");
    }
}

#[test]
fn a_geofeed_may_have_quotes_comments_and_windows_lines() {
    let feed = "\u{feff}# feed\r\n\r\n\"192.0.2.0/24\",\"IE\",,\"Dublin\",\r\n198.51.100.0/24,de,\"a, b\",c\r\n";
    check(
        feed,
        "RFC 8805 geofeed",
        &[("192.0.2.1", places::city("IE", "Dublin").unwrap()), ("198.51.100.1", country("DE"))],
    );
}

#[test]
fn what_cannot_be_read_is_told_with_its_place() {
    for (list, says) in [
        ("", "none of 0 rows"),
        ("# nothing\n", "none of 0 rows"),
        ("192.0.2.0/24,,,", "none of 1 rows"),
        ("192.0.2.0/24,DE\n192.0.2.0/24,XX\n", "line 2: 'XX' is no country code"),
        ("\nnot a network,DE", "line 2: 'not a network' is no network"),
        ("\u{1b}[2J,DE", "line 1: ' [2J' is no network"),
        ("192.0.2.0/24,\u{1b}]0", "line 1: ' ]0' is no country code"),
        ("<html>", "line 1: '<html>' is no network"),
        ("{", "line 1 column 1"),
        ("{}", "unknown format"),
        ("[]", "unknown format"),
        (r#"{"prefixes": []}"#, "unknown format"),
        (r#"{"values": []}"#, "none of 0 rows"),
        (r#"{"values": [{"properties": {}}]}"#, "missing field `addressPrefixes`"),
        (r#"{"values": 3}"#, "expected a sequence at line 1 column 12"),
        (r#"{"regions": [{"region": "uk-london-1", "cidrs": [{"cidr": "x"}]}]}"#, "regions[0].cidrs[0].cidr: 'x'"),
        (r#"{"ipv6_prefixes": [{"ipv6_prefix": "2001:db8::/32"}]}"#, "ipv6_prefixes[0]: no ipv6_prefix or no region"),
        (r#"{"ipv6_prefixes": [], "prefixes": [{"ip_prefix": "1/8", "region": ""}]}"#, "prefixes[0].ip_prefix: '1/8'"),
        (r#"{"prefixes": [{"scope": "global"}]}"#, "prefixes[0]: no ipv4Prefix"),
    ] {
        let error = Overlay::read(list.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{list}: {error}");
    }
    let error = Overlay::read(b"192.0.2.0/24,DE\n\xff").unwrap_err().to_string();
    assert_eq!(error, "line 2: not UTF-8");
    assert!(matches!(Overlay::read(&vec![b' '; LIST_BYTES_MAX + 1]), Err(OverlayError::TooLong)));
    let rows = "192.0.2.1,DE\n".repeat(LIST_ROWS_MAX + 1);
    assert!(matches!(Overlay::read(rows.as_bytes()), Err(OverlayError::TooLong)));
}

#[test]
fn names_without_a_place_are_bounded() {
    let region = |n| format!(r#"{{"region": "r{n}", "cidrs": [{{"cidr": "192.0.2.0/24"}}]}}"#);
    let regions: Vec<String> = (0..1000).map(region).collect();
    let list = format!(
        r#"{{"regions": [{}, {{"region": "uk-london-1", "cidrs": [{{"cidr": "192.0.2.0/24"}}]}}]}}"#,
        regions.join(",")
    );
    let unplaced = Overlay::read(list.as_bytes()).unwrap().unplaced;
    assert_eq!((unplaced.len(), unplaced["others"]), (UNPLACED_NAMES_MAX + 1, 1000 - UNPLACED_NAMES_MAX));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = Overlay::read(&bytes);
    }

    #[test]
    fn no_damage_to_a_list_makes_it_panic(which in 0..5_usize, at in 0..400_usize, byte: u8, cut in 0..1000_usize) {
        let mut bytes = [AWS, AZURE, GEOFEED, GOOGLE, ORACLE][which].as_bytes().to_vec();
        let len = bytes.len();
        bytes[at % len] = byte;
        bytes.truncate(cut);
        let _ = Overlay::read(&bytes);
    }
}

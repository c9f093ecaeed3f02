use super::*;

const SAMPLE_DB: &[u8] = include_bytes!("../../../tests/data/mini-city.mmdb");

fn db() -> GeoDb {
    GeoDb::from_bytes(SAMPLE_DB).unwrap()
}

fn lookup(address: &str) -> Option<Located> {
    db().lookup(address.parse().unwrap()).unwrap()
}

#[track_caller]
fn check(address: &str, place: (f64, f64), country: &str, continent: &str, accuracy_radius_km: u16) {
    let expected = Located {
        place: Some(Place { latitude: place.0, longitude: place.1 }),
        country: Code::new(country),
        continent: Code::new(continent),
        unions: Code::new(country).and_then(countries::of).map_or(Unions::default(), |country| country.unions),
        accuracy_radius_km: Some(accuracy_radius_km),
    };
    assert_eq!(lookup(address), Some(expected), "{address}");
}

#[test]
fn a_location_is_taken_as_it_stands() {
    check("127.1.2.3", (37.34, -121.89), "US", "NA", 20);
    check("127.3.255.255", (53.35, -6.26), "IE", "EU", 20);
    check("127.7.0.0", (-23.55, -46.63), "BR", "SA", 20);
    check("2001:db8:4::1", (1.35, 103.82), "SG", "AS", 20);
}

#[test]
fn without_a_location_the_country_stands_in() {
    check("127.20.0.1", (47.3, 2.91), "FR", "EU", 485);
    check("127.22.0.1", (38.79, -93.52), "US", "NA", 2302); // its registered country
    let continent_only = lookup("127.21.0.1").unwrap();
    assert_eq!((continent_only.place, continent_only.country), (None, None));
    assert_eq!(continent_only.continent, Code::new("AF"));
}

#[test]
fn a_location_that_may_be_far_off_stands_for_its_country_alone() {
    check("127.9.0.1", (38.79, -93.52), "US", "NA", 2302);
    let at = |country_code, radius| {
        let point = Location { latitude: Some(61.0), longitude: Some(100.0), accuracy_radius: radius };
        Record { country_code, location: point, ..Record::default() }.located()
    };
    let siberia = Some(Place { latitude: 61.0, longitude: 100.0 });
    for (radius, exact) in [(None, true), (Some(1), true), (Some(499), true), (Some(500), false), (Some(1000), false)] {
        let located = at(Some("RU"), radius);
        assert_eq!(located.place == siberia, exact, "{radius:?}");
        assert_eq!(
            located.accuracy_radius_km,
            if exact { radius } else { country(Code::new("RU").unwrap()).unwrap().accuracy_radius_km }
        );
        assert_eq!(located.country, Code::new("RU"));
    }
    // Without a country to stand for, the point is all there is.
    assert_eq!((at(None, Some(1000)).place, at(Some("ZZ"), Some(1000)).accuracy_radius_km), (siberia, Some(1000)));
}

#[test]
fn the_flat_schema_is_read_too() {
    check("127.23.0.1", (52.09, 5.21), "NL", "EU", 120);
    let flat = Record {
        country_code: Some("de"),
        latitude: Some(50.0),
        longitude: Some(8.5),
        accuracy_radius: Some(5),
        ..Record::default()
    };
    let located = flat.located();
    assert_eq!(located.place, Some(Place { latitude: 50.0, longitude: 8.5 }));
    assert_eq!((located.country, located.accuracy_radius_km), (Code::new("DE"), Some(5)));
}

#[test]
fn a_country_is_read_from_a_map_or_a_text_whatever_else_is_there() {
    for (record, country, continent) in [
        (r#"{"country": {"iso_code": "DE", "names": {"en": "Germany"}}, "continent": {"code": "EU"}}"#, "DE", "EU"),
        (r#"{"country": "DE", "country_name": "Germany", "continent": "EU"}"#, "DE", "EU"),
        (r#"{"country": "Germany", "country_code": "DE", "continent": "Europe", "continent_code": "EU"}"#, "DE", "EU"),
        (r#"{"country": {}, "registered_country": {"iso_code": "DE"}, "as_name": "x"}"#, "DE", "EU"),
        (r#"{"country": "Germany"}"#, "", ""),
    ] {
        let located = serde_json::from_str::<Record<'_>>(record).unwrap().located();
        assert_eq!((located.country, located.continent), (Code::new(country), Code::new(continent)), "{record}");
    }
    assert!(serde_json::from_str::<Record<'_>>(r#"{"country": 7}"#).is_err());
}

#[test]
fn an_address_without_a_record_is_nowhere() {
    for address in ["127.0.0.1", "10.0.0.1", "::1", "2001:db8:6::1", "::", "255.255.255.255"] {
        assert_eq!(lookup(address), None, "{address}");
    }
}

#[test]
fn an_ipv4_address_inside_an_ipv6_one_is_found() {
    for address in ["::ffff:127.3.0.1", "64:ff9b::127.3.0.1", "2002:7f03:1::5"] {
        assert_eq!(lookup(address), lookup("127.3.0.1"), "{address}");
    }
}

#[test]
fn places_off_the_globe_are_none() {
    for (latitude, longitude) in [(91.0, 0.0), (0.0, -181.0), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
        assert_eq!(place(Some(latitude), Some(longitude)), None);
    }
    assert_eq!(place(Some(1.0), None), None);
}

#[test]
fn metadata_is_that_of_the_file() {
    let metadata = db().metadata();
    assert_eq!(metadata.kind, "EdgeRoute-Test-City");
    assert_eq!((metadata.ip_version, metadata.node_count, metadata.bytes), (6, 239, SAMPLE_DB.len()));
    assert_eq!(metadata.build_epoch_s, 1_795_331_665);
}

/// The sample with one string replaced by another of the same length.
fn altered(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = SAMPLE_DB.to_vec();
    let places: Vec<_> = memchr::memmem::find_iter(SAMPLE_DB, from).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|&at| bytes[at..at + to.len()].copy_from_slice(to));
    bytes
}

#[test]
fn what_is_no_database_of_places_is_refused_with_its_reason() {
    let message = |bytes: Vec<u8>| GeoDb::from_bytes(bytes).unwrap_err().to_string();
    assert_eq!(message(vec![]), "the GeoIP database is empty");
    assert_eq!(
        message(b"<html>404</html>".to_vec()),
        "the GeoIP database cannot be used: invalid database: could not find MaxMind DB metadata in file",
    );
    // A place of the wrong type: bytes (4) where a double (3) belongs.
    let mistyped = message(altered(b"latitude\x68", b"latitude\x88"));
    assert!(mistyped.starts_with("the GeoIP record cannot be read: decoding error"), "{mistyped}");
    let mut other = altered(b"iso_code", b"asn_code");
    for (from, to) in [(b"latitude", b"altitude"), (b"ry_code\x42", b"ry_hash\x42")] {
        memchr::memmem::find_iter(&other.clone(), from).for_each(|at| other[at..at + to.len()].copy_from_slice(to));
    }
    assert_eq!(message(other), "the GeoIP database (type \"EdgeRoute-Test-City\") holds neither countries nor places",);
}

#[test]
fn a_truncated_file_is_refused() {
    for len in (0..SAMPLE_DB.len()).step_by(7) {
        assert!(GeoDb::from_bytes(SAMPLE_DB[..len].to_vec()).is_err(), "{len} bytes");
    }
}

/// A generator for tests: the same numbers on every run.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[test]
fn a_damaged_file_is_an_error_or_still_answers_and_never_panics() {
    let mut rng = Xorshift(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    for round in 0..3000 {
        let mut bytes = SAMPLE_DB.to_vec();
        for _ in 0..=rng.below(8) {
            let at = rng.below(bytes.len());
            bytes[at] = rng.below(256) as u8;
        }
        if round % 5 == 0 {
            let at = rng.below(bytes.len());
            bytes.drain(at..(at + 1 + rng.below(40)).min(SAMPLE_DB.len()));
        }
        let Ok(db) = GeoDb::from_bytes(bytes) else {
            refused += 1;
            continue;
        };
        let _ = db.metadata();
        for x in 0..=255u8 {
            let _ = db.lookup(IpAddr::from([127, x, x, 1]));
            let _ = db.lookup(IpAddr::from([x, x, x, x]));
            let _ = db.lookup(IpAddr::from([0x2001, 0xdb8, u16::from(x), 0, 0, 0, 0, 1]));
        }
    }
    assert!((500..3000).contains(&refused), "{refused} refused");
}

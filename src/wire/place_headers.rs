//! The headers in which a CDN or another trusted proxy names the client's place.
//!
//! A set of headers that is there but says nothing (`XX`, `ZZ`, an empty value, the place 0°, 0° that stands for none)
//! is as good as absent, and so is one that cannot be read, or a header that stands twice: a proxy that sets its own does
//! not leave another beside it. Then the next set is looked at.

use http::HeaderMap;

use super::geoip;
use crate::domain::code::Code;
use crate::domain::place::Place;
use crate::domain::whereabouts::{Source, Whereabouts};
use crate::policy::client::{PlaceHeaders, Told};

/// Longest value in bytes: a place has two numbers.
const VALUE_BYTES_MAX: usize = 64;

/// What the first of these sets that says anything says.
pub fn read(headers: &HeaderMap, sets: &[PlaceHeaders]) -> Option<Told> {
    sets.iter().find_map(|set| read_set(headers, set))
}

fn read_set(headers: &HeaderMap, set: &PlaceHeaders) -> Option<Told> {
    let value = |name: &Option<String>| only(headers, name.as_deref()?);
    let country = value(&set.country);
    if country.is_some_and(|country| country.eq_ignore_ascii_case("T1")) {
        return Some(Told::Anonymous);
    }
    let country = country.and_then(country_code);
    let place =
        value(&set.position).and_then(position).or_else(|| place(value(&set.latitude)?, value(&set.longitude)?));
    let unknown = Whereabouts { country, ..Whereabouts::unknown(None, Source::PlaceHeader) };
    let whereabouts = country.and_then(geoip::country).map_or(unknown, |located| located.whereabouts(unknown));
    match place {
        Some(_) => Some(Told::Place(Whereabouts { place, accuracy_radius_km: None, ..whereabouts })),
        None => country.map(|_| Told::Place(whereabouts)),
    }
}

/// The value of a header that stands once.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    value.to_str().ok().map(str::trim).filter(|value| (1..=VALUE_BYTES_MAX).contains(&value.len()))
}

/// A country; `XX` and `ZZ` are nobody's.
fn country_code(text: &str) -> Option<Code> {
    Code::new(text).filter(|code| !["XX", "ZZ"].contains(&code.as_str()))
}

/// `37.39,-122.08`.
fn position(text: &str) -> Option<Place> {
    let (latitude, longitude) = text.split_once(',')?;
    place(latitude.trim(), longitude.trim())
}

fn place(latitude: &str, longitude: &str) -> Option<Place> {
    // Digits, a sign and a point: Rust also reads `inf`, `nan` and `1e5`.
    let degrees = |text: &str| {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.".contains(&byte));
        text.parse().ok().filter(|_| plain)
    };
    geoip::place(degrees(latitude), degrees(longitude)).filter(|place| (place.latitude, place.longitude) != (0.0, 0.0))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn sets() -> Vec<PlaceHeaders> {
        let name = |name: &str| Some(name.to_owned());
        vec![
            PlaceHeaders { country: name("x-country"), ..PlaceHeaders::default() },
            PlaceHeaders {
                country: name("y-country"),
                latitude: name("y-latitude"),
                longitude: name("y-longitude"),
                position: None,
            },
            PlaceHeaders { country: name("z-country"), position: name("z-position"), ..PlaceHeaders::default() },
        ]
    }

    fn told(lines: &[(&'static str, &str)]) -> Option<Told> {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        read(&lines.iter().map(line).collect(), &sets())
    }

    /// The country (`--` for none), and the place to a degree where it is told exactly.
    #[track_caller]
    fn check(lines: &[(&'static str, &str)], country: &str, degrees: Option<(i32, i32)>) {
        let Some(Told::Place(told)) = told(lines) else { panic!("nothing is told by {lines:?}") };
        assert_eq!((told.country, told.source), (Code::new(country), Source::PlaceHeader), "{lines:?}");
        let exact = told.place.filter(|_| told.accuracy_radius_km.is_none());
        assert_eq!(exact.map(|at| (at.latitude as i32, at.longitude as i32)), degrees, "{lines:?}");
    }

    #[test]
    fn a_country_is_its_centre_and_a_place_is_itself() {
        check(&[("x-country", "de")], "DE", None);
        let Some(Told::Place(germany)) = told(&[("x-country", "DE")]) else { panic!() };
        assert!(germany.unions.eu && germany.place.is_some() && germany.accuracy_radius_km.is_some());
        check(&[("y-country", "BR"), ("y-latitude", "-23.55"), ("y-longitude", "-46.63")], "BR", Some((-23, -46)));
        check(&[("y-latitude", "1.35"), ("y-longitude", "103.8")], "--", Some((1, 103)));
        check(&[("z-country", "US"), ("z-position", "37.386051,-122.083851")], "US", Some((37, -122)));
        check(&[("z-country", "US"), ("z-position", "0.000000,0.000000")], "US", None);
        // A country that has no centre is a country all the same.
        check(&[("x-country", "AQ")], "AQ", None);
    }

    #[test]
    fn the_first_set_that_says_anything_counts() {
        check(&[("x-country", "DE"), ("y-country", "FR")], "DE", None);
        check(&[("x-country", "XX"), ("y-country", "FR")], "FR", None);
        check(&[("x-country", "Germany"), ("z-country", "fr")], "FR", None);
        assert_eq!(told(&[("x-country", "T1"), ("y-country", "FR")]), Some(Told::Anonymous));
    }

    #[test]
    fn what_says_nothing_or_stands_twice_is_as_good_as_absent() {
        for lines in [
            &[][..],
            &[("x-country", "XX")],
            &[("x-country", "")],
            &[("x-country", "DE"), ("x-country", "DE")],
            &[("x-country", "DE, FR")],
            &[("z-country", "ZZ")],
            &[("y-latitude", "1")],
            &[("y-latitude", "91"), ("y-longitude", "0")],
            &[("y-latitude", "1"), ("y-longitude", "181")],
            &[("y-latitude", "nan"), ("y-longitude", "inf")],
            &[("y-latitude", "1e1"), ("y-longitude", "1")],
            &[("y-latitude", "1"), ("y-latitude", "2"), ("y-longitude", "1")],
            &[("z-position", "1")],
            &[("z-position", "1,2,3")],
            &[("z-position", "é,1")],
            &[("x-forwarded-country", "DE")],
        ] {
            assert_eq!(told(lines), None, "{lines:?}");
        }
        assert_eq!(told(&[("z-position", &format!("1.{},2", "0".repeat(VALUE_BYTES_MAX)))]), None);
    }

    proptest! {
        #[test]
        fn no_value_panics_and_every_place_is_on_the_globe(values in prop::array::uniform5("\\PC{0,20}|[-0-9.,]{0,12}|[A-Z1]{2}")) {
            let names = ["x-country", "y-country", "y-latitude", "y-longitude", "z-position"];
            let lines: Vec<_> = names.into_iter().zip(values.iter().map(String::as_str)).collect();
            if let Some(Told::Place(Whereabouts { place: Some(place), .. })) = told(&lines) {
                prop_assert!(place.latitude.abs() <= 90.0 && place.longitude.abs() <= 180.0);
            }
        }
    }
}

//! Where an address stands, from a MaxMind database (`.mmdb`), country or city schema.
//!
//! The database is held in memory: a mapped file that changes under its reader is undefined behaviour
//! (RUSTSEC-2025-0132). It is checked whole when it is read, so that a damaged file is refused then, with its reason, and
//! the one in use stays. A record that still cannot be read is an error of that lookup, never a panic.
//!
//! Databases differ in what a record holds. The place is the record's location, else the centroid of its country; the
//! country is the one of the address, else the one where its network is registered. Each may be missing. A location that
//! may be far off ([`COUNTRY_ONLY_KM`]) is the database's way to say that only the country is known: then the centroid is
//! where most of its people are, while the database's point may be the middle of a desert.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use self::lately::DbId;
use crate::domain::code::Code;
use crate::domain::place::Place;
use crate::domain::whereabouts::{Unions, Whereabouts};
use crate::policy::countries;

pub mod build;
pub mod census;
mod encode;
mod lately;
pub mod metadata;
pub mod overlay;
pub mod places;
pub mod registry;
mod tree;

/// Longest database in bytes; the largest city databases have 130 MB.
pub const DATABASE_BYTES_MAX: usize = 512 * 1024 * 1024;
/// From this accuracy radius on, in km, a location only stands for its country. MaxMind's databases know 1, 5, 10, 20, 50,
/// 100, 200, 500 and 1,000 km, and give the last two to the points that stand for large countries; up to 200 km the point
/// tells more than the country does, as regions seldom lie nearer to each other than that.
pub const COUNTRY_ONLY_KM: u16 = 500;

/// Most characters of what a database says of itself that are shown.
const WORDS_MAX: usize = 1000;
/// How many records are looked at to tell whether a database knows places at all.
const SAMPLE: usize = 10_000;

/// Why a database or a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GeoError {
    /// There is nothing in it.
    #[error("the GeoIP database is empty")]
    Empty,
    /// It is longer than [`DATABASE_BYTES_MAX`].
    #[error("the GeoIP database has {bytes} bytes, more than {DATABASE_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is not a MaxMind database, or damaged.
    #[error("the GeoIP database cannot be used: {0}")]
    Invalid(#[source] MaxMindDbError),
    /// None of its first records has a country or a place: it is of another kind (ASN, say).
    #[error("the GeoIP database (type \"{kind}\") holds neither countries nor places")]
    NoPlaces {
        /// Its type by its own account.
        kind: String,
    },
    /// A record cannot be read.
    #[error("the GeoIP record cannot be read: {0}")]
    Record(#[source] MaxMindDbError),
}

/// What is known of an address.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Located {
    /// Where it is. `None` when the record says no more than a continent.
    pub place: Option<Place>,
    /// In which country.
    pub country: Option<Code>,
    /// On which continent.
    pub continent: Option<Code>,
    /// The unions of states that the country is in.
    pub unions: Unions,
    /// How far off the place may be; a large one ([`COUNTRY_ONLY_KM`]) means that only the country is known.
    pub accuracy_radius_km: Option<u16>,
}

impl Located {
    /// Nothing is known.
    const NOWHERE: Located = Located {
        place: None,
        country: None,
        continent: None,
        unions: Unions { eu: false, eea: false },
        accuracy_radius_km: None,
    };

    /// The whereabouts of a client at this address.
    pub fn whereabouts(self, unplaced: Whereabouts) -> Whereabouts {
        let Located { place, country, continent, unions, accuracy_radius_km } = self;
        Whereabouts { place, country, continent, unions, accuracy_radius_km, ..unplaced }
    }
}

/// Where a country is: its population-weighted centroid. `None` for a code that no country with people has.
pub fn country(code: Code) -> Option<Located> {
    let country = countries::of(code)?;
    Some(Located {
        place: Some(country.centroid),
        country: Some(code),
        continent: Some(country.continent),
        unions: country.unions,
        accuracy_radius_km: Some(country.radius_km),
    })
}

/// What a database says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metadata {
    /// Its type, such as `GeoLite2-City`.
    pub kind: String,
    /// What it says of itself in English, or else in the first of its languages.
    pub description: String,
    /// When it was built, in seconds since 1970.
    pub build_epoch_s: u64,
    /// 4 or 6.
    pub ip_version: u16,
    /// Nodes of its search tree.
    pub node_count: u32,
    /// Its size.
    pub bytes: usize,
}

/// A checked database.
pub struct GeoDb {
    id: DbId,
    reader: Reader<Cow<'static, [u8]>>,
    bytes: usize,
}

impl fmt::Debug for GeoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GeoDb").field(&self.metadata()).finish()
    }
}

impl GeoDb {
    /// Takes a database and checks it whole. The time grows with its size (about 1 s for a large city database): not for
    /// a thread that serves.
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<GeoDb, GeoError> {
        let bytes = bytes.into();
        let len = bytes.len();
        match len {
            0 => return Err(GeoError::Empty),
            _ if len > DATABASE_BYTES_MAX => return Err(GeoError::TooLarge { bytes: len }),
            _ => {}
        }
        let reader = Reader::from_source(bytes).map_err(GeoError::Invalid)?;
        reader.verify().map_err(GeoError::Invalid)?;
        let db = GeoDb { id: DbId::new(), reader, bytes: len };
        db.check_places()?;
        Ok(db)
    }

    /// What is known of an address; `None` when there is no record.
    pub fn lookup(&self, address: IpAddr) -> Result<Option<Located>, GeoError> {
        let address = embedded_v4(address);
        if address.is_ipv6() && self.reader.metadata().ip_version == 4 {
            return Ok(None);
        }
        lately::find(self.id, address, || {
            let found = self.reader.lookup(address).map_err(GeoError::Record)?;
            let record = found.decode::<Record<'_>>().map_err(GeoError::Record)?;
            Ok(record.map(|record| record.located()))
        })
    }

    /// What it says of itself.
    pub fn metadata(&self) -> Metadata {
        let metadata = self.reader.metadata();
        let description = metadata.description.get("en").or(metadata.description.values().next());
        Metadata {
            kind: printable(&metadata.database_type, WORDS_MAX),
            description: description.map_or_else(String::new, |text| printable(text, WORDS_MAX)),
            build_epoch_s: metadata.build_epoch,
            ip_version: metadata.ip_version,
            node_count: metadata.node_count,
            bytes: self.bytes,
        }
    }

    /// Whether it is of a kind that tells countries or places, in fields of the right types.
    fn check_places(&self) -> Result<(), GeoError> {
        for network in self.reader.networks(WithinOptions::default()).map_err(GeoError::Invalid)?.take(SAMPLE) {
            let network = network.map_err(GeoError::Invalid)?;
            let record = network.decode::<Record<'_>>().map_err(GeoError::Record)?;
            let located = record.map(|record| record.located());
            if located.is_some_and(|located| located.country.is_some() || located.place.is_some()) {
                return Ok(());
            }
        }
        Err(GeoError::NoPlaces { kind: self.metadata().kind })
    }
}

/// A file's own words as they may stand in a log or on a terminal: bounded, and without control characters.
fn printable(text: &str, chars_max: usize) -> String {
    text.chars().take(chars_max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The IPv4 address that an IPv6 address carries inside (mapped, NAT64, 6to4), since that is where it comes from.
pub fn embedded_v4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address.to_canonical() else { return address.to_canonical() };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match Ipv6Addr::segments(&v6) {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low), // 64:ff9b::/96, RFC 6052
        [0x2002, high, low, ..] => v4(high, low),               // 2002::/16, RFC 3056
        _ => IpAddr::V6(v6),
    }
}

/// The fields that are read, of the nested (MaxMind, DB-IP) and of the flat schemas (ip-location-db, IPinfo).
#[derive(Deserialize, Default)]
#[serde(default)]
struct Record<'a> {
    #[serde(borrow)]
    country: Named<'a>,
    #[serde(borrow)]
    registered_country: Named<'a>,
    #[serde(borrow)]
    continent: Named<'a>,
    location: Location,
    country_code: Option<&'a str>,
    continent_code: Option<&'a str>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    accuracy_radius: Option<u16>,
}

/// A country or a continent: a map with its code (MaxMind, DB-IP), or a text, which is its code or, beside a field of the
/// flat schema that has the code, its name (IPinfo).
#[derive(Default)]
struct Named<'a>(Option<&'a str>);

/// The map.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Coded<'a> {
    iso_code: Option<&'a str>,
    code: Option<&'a str>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextOrMap;
        impl<'de> Visitor<'de> for TextOrMap {
            type Value = Named<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map with a code, or a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Named<'de>, E> {
                Ok(Named(Some(text)))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Named<'de>, A::Error> {
                let coded = Coded::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Named(coded.iso_code.or(coded.code)))
            }
        }
        from.deserialize_any(TextOrMap)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Location {
    latitude: Option<f64>,
    longitude: Option<f64>,
    accuracy_radius: Option<u16>,
}

impl Record<'_> {
    fn located(&self) -> Located {
        let codes = [self.country.0, self.country_code, self.registered_country.0];
        let code = codes.into_iter().flatten().find_map(Code::new);
        let of_country = code.and_then(country);
        let exact = place(self.location.latitude, self.location.longitude).or(place(self.latitude, self.longitude));
        let radius_km = self.location.accuracy_radius.or(self.accuracy_radius);
        let located = match (exact, of_country) {
            // Antarctica and codes that nobody has: the database's point is all there is.
            (Some(_), None) => Located { place: exact, accuracy_radius_km: radius_km, ..Located::NOWHERE },
            (Some(_), Some(known)) if radius_km.is_none_or(|radius_km| radius_km < COUNTRY_ONLY_KM) => {
                Located { place: exact, accuracy_radius_km: radius_km, ..known }
            }
            (_, of_country) => of_country.unwrap_or(Located::NOWHERE),
        };
        let continent = [self.continent.0, self.continent_code].into_iter().flatten().find_map(Code::new);
        Located { country: code, continent: continent.or(located.continent), ..located }
    }
}

/// A place, if it is on the globe.
pub(super) fn place(latitude: Option<f64>, longitude: Option<f64>) -> Option<Place> {
    let place = Place { latitude: latitude?, longitude: longitude? };
    // NaN is in no range.
    ((-90.0..=90.0).contains(&place.latitude) && (-180.0..=180.0).contains(&place.longitude)).then_some(place)
}

#[cfg(test)]
mod tests;

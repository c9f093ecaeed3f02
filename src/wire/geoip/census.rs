//! How finely a database tells places: its networks counted by what they count as.

use std::collections::HashMap;

use maxminddb::WithinOptions;

use super::{GeoDb, GeoError, Located, Record};
use crate::policy::countries;

/// Up to this radius, in km, a place is as good as its city: regions of a cloud lie farther apart.
pub const CITY_KM: u16 = 100;

/// What a record counts as.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Precision {
    /// A place of its own, within [`CITY_KM`].
    City,
    /// A place of its own that may be farther off, or does not say how far.
    Area,
    /// Its country; it stands at the country's centre of population.
    Country,
    /// A country where nobody lives, or a continent: it stands at the edge.
    Continent,
    /// Nothing at all: it stands at the edge.
    Nothing,
}

impl Precision {
    /// Finest first.
    pub const ALL: [Precision; 5] =
        [Precision::City, Precision::Area, Precision::Country, Precision::Continent, Precision::Nothing];

    /// Its word.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::City => "city",
            Precision::Area => "area",
            Precision::Country => "country",
            Precision::Continent => "continent",
            Precision::Nothing => "nothing",
        }
    }

    /// What a client with such a record counts as.
    pub const fn meaning(self) -> &'static str {
        match self {
            Precision::City => "at a place of its own, within 100 km",
            Precision::Area => "at a place of its own, farther off or not said how far",
            Precision::Country => "at the centre of its country's population",
            Precision::Continent => "at the edge: no place in a continent or a country without people",
            Precision::Nothing => "at the edge: nothing known",
        }
    }
}

impl Located {
    /// What it counts as.
    pub fn precision(&self) -> Precision {
        let country = self.country.and_then(countries::of);
        match (self.place, self.accuracy_radius_km) {
            (Some(place), _) if country.is_some_and(|country| country.centroid == place) => Precision::Country,
            (Some(_), Some(0..=CITY_KM)) => Precision::City,
            (Some(_), _) => Precision::Area,
            (None, _) if self.country.is_some() || self.continent.is_some() => Precision::Continent,
            (None, _) => Precision::Nothing,
        }
    }
}

/// So many networks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Count {
    /// Networks of the search tree, neighbours with the same record counted apart.
    pub networks: u64,
    /// IPv4 addresses in them.
    pub ipv4_addresses: u64,
}

/// The networks of a database.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Census {
    /// Those with IPv4 addresses.
    pub ipv4_networks: u64,
    /// All others.
    pub ipv6_networks: u64,
    /// Different records; many networks share one.
    pub records: usize,
    /// Networks whose record has a country.
    pub with_country: u64,
    /// By precision, in the order of [`Precision::ALL`].
    pub by_precision: [Count; 5],
}

impl GeoDb {
    /// Counts its networks: some seconds for a large city database.
    pub fn census(&self) -> Result<Census, GeoError> {
        let mut census = Census::default();
        let mut seen: HashMap<usize, (Precision, bool)> = HashMap::new();
        for found in self.reader.networks(WithinOptions::default()).map_err(GeoError::Invalid)? {
            let found = found.map_err(GeoError::Invalid)?;
            let (Some(offset), network) = (found.offset(), found.network().map_err(GeoError::Invalid)?) else {
                continue;
            };
            let (precision, has_country) = match seen.get(&offset) {
                Some(known) => *known,
                None => {
                    let record = found.decode::<Record<'_>>().map_err(GeoError::Record)?;
                    let located = record.map(|record| record.located());
                    let precision = located.map_or(Precision::Nothing, |located| located.precision());
                    let known = (precision, located.is_some_and(|located| located.country.is_some()));
                    seen.insert(offset, known);
                    known
                }
            };
            let ipv4_addresses = if network.is_ipv4() { 1 << (32 - network.prefix().min(32)) } else { 0 };
            *(if network.is_ipv4() { &mut census.ipv4_networks } else { &mut census.ipv6_networks }) += 1;
            census.with_country += u64::from(has_country);
            let count = &mut census.by_precision[precision as usize];
            count.networks += 1;
            count.ipv4_addresses += ipv4_addresses;
        }
        census.records = seen.len();
        Ok(census)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_counts_is_that_of_the_precisions() {
        for (at, precision) in Precision::ALL.into_iter().enumerate() {
            assert_eq!(precision as usize, at, "{}", precision.name());
        }
        assert!(Precision::City.meaning().contains(&CITY_KM.to_string()));
    }

    #[test]
    fn every_kind_of_record_is_told_apart() {
        let db = GeoDb::from_bytes(include_bytes!("../../../tests/data/mini-city.mmdb").as_slice()).unwrap();
        let precision = |address: &str| db.lookup(address.parse().unwrap()).unwrap().unwrap().precision();
        assert_eq!(precision("127.1.2.3"), Precision::City);
        assert_eq!(precision("127.20.0.1"), Precision::Country, "no location");
        assert_eq!(precision("127.21.0.1"), Precision::Continent);
        let census = db.census().unwrap();
        assert!(census.ipv4_networks > 0 && census.ipv6_networks > 0);
        let networks: u64 = census.by_precision.iter().map(|count| count.networks).sum();
        assert_eq!(networks, census.ipv4_networks + census.ipv6_networks);
        assert!(census.by_precision[Precision::City as usize].ipv4_addresses >= 65_536);
        assert!(census.with_country < networks, "one knows its continent alone");
    }
}

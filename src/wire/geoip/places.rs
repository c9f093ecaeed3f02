//! The places that a network can be put at by a list: countries, and the regions of clouds.
//!
//! The tables are those of `geoip/build`, so that both builders place alike: `country_centroids.csv`, `cloud_regions.csv` and
//! `cloud_region_aliases.csv`.

use std::collections::{HashMap, HashSet};

use once_cell::sync::Lazy;

use crate::domain::code::Code;
use crate::domain::place::Place;
use crate::policy::countries;

/// How far a region's networks may be from the middle of its metro, in km.
const METRO_RADIUS_KM: u16 = 50;

/// Where a network can be put.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Spot {
    /// Somewhere in a country.
    Country(Code),
    /// In a cloud's region, by its row in the table.
    Region(usize),
}

/// What a record says of a spot.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Fields {
    pub(super) country: Code,
    /// Whether the country is a member of the European Union.
    pub(super) is_member: bool,
    pub(super) continent: Code,
    /// The point and its radius in km; a country where nobody lives has none.
    pub(super) location: Option<(Place, u16)>,
}

/// The code is no country's.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("'{0}' is no country code: ISO 3166-1, such as DE, or nothing where the country is not known")]
pub struct NoCountry(String);

/// A row of `cloud_regions.csv`.
struct Region {
    provider: &'static str,
    name: &'static str,
    metro: &'static str,
    country: Code,
    continent: Code,
    place: Place,
}

static REGIONS: Lazy<Vec<Region>> =
    Lazy::new(|| include_str!("../../../geoip/cloud_regions.csv").lines().skip(1).filter_map(region_row).collect());

/// `provider,region,metro,country,continent,lat,lon`; what does not read so is left out (a test counts the rows).
fn region_row(line: &'static str) -> Option<Region> {
    let mut fields = line.split(',');
    let mut next = || fields.next();
    let (provider, name, metro) = (next()?, next()?, next()?);
    let (country, continent) = (Code::new(next()?)?, Code::new(next()?)?);
    let place = Place { latitude: next()?.parse().ok()?, longitude: next()?.parse().ok()? };
    Some(Region { provider, name, metro, country, continent, place })
}

/// The place of a country code; `None` where the list says that it knows none.
pub fn country(code: &str) -> Result<Option<Spot>, NoCountry> {
    let code = code.trim();
    // Nothing; "Asia/Pacific" and "Europe" of old registrations; unknown. EU is a continent and a union, and no country.
    if ["", "AP", "EU", "ZZ"].iter().any(|none| code.eq_ignore_ascii_case(none)) {
        return Ok(None);
    }
    let known = Code::new(code).filter(|code| countries::of(*code).is_some() || is_antarctica(*code));
    known.map(|code| Some(Spot::Country(code))).ok_or_else(|| NoCountry(super::printable(code, 40)))
}

/// The place of a provider's region; `None` when it is unknown, or all the world.
pub fn region(provider: &str, name: &str) -> Option<Spot> {
    static ROWS: Lazy<HashMap<(&str, &str), usize>> =
        Lazy::new(|| REGIONS.iter().enumerate().map(|(at, region)| ((region.provider, region.name), at)).collect());
    static ALIASES: Lazy<HashMap<(&str, &str), &str>> = Lazy::new(|| {
        let rows = include_str!("../../../geoip/cloud_region_aliases.csv").lines().skip(1);
        rows.filter_map(|row| {
            let (provider, names) = row.split_once(',')?;
            let (alias, name) = names.split_once(',')?;
            Some(((provider, alias), name))
        })
        .collect()
    });
    let name = ALIASES.get(&(provider, name)).copied().unwrap_or(name);
    ROWS.get(&(provider, name)).map(|row| Spot::Region(*row))
}

/// The metro of that name in that country where a region stands in it, else the country.
pub fn city(country_code: &str, city: &str) -> Result<Option<Spot>, NoCountry> {
    static METROS: Lazy<HashMap<(Code, String), usize>> = Lazy::new(|| {
        // The first row of a metro stands for it.
        let rows = REGIONS.iter().enumerate().rev();
        rows.map(|(at, region)| ((region.country, plain(region.metro)), at)).collect()
    });
    let metro = Code::new(country_code.trim()).and_then(|country| METROS.get(&(country, plain(city))));
    metro.map_or_else(|| country(country_code), |row| Ok(Some(Spot::Region(*row))))
}

impl Spot {
    /// What its record says.
    pub(super) fn fields(self) -> Option<Fields> {
        let is_member = |country: Code| MEMBERS.contains(&country);
        match self {
            Spot::Region(row) => {
                let Region { country, continent, place, .. } = *REGIONS.get(row)?;
                let location = Some((place, METRO_RADIUS_KM));
                Some(Fields { country, is_member: is_member(country), continent, location })
            }
            Spot::Country(code) if is_antarctica(code) => {
                Some(Fields { country: code, is_member: false, continent: Code::new("AN")?, location: None })
            }
            Spot::Country(code) => {
                let country = countries::of(code)?;
                let location = Some((country.centroid, country.radius_km));
                Some(Fields { country: code, is_member: is_member(code), continent: country.continent, location })
            }
        }
    }
}

/// The members of the European Union, which are fewer than the countries where its law holds.
static MEMBERS: Lazy<HashSet<Code>> = Lazy::new(|| {
    let rows = include_str!("../../../geoip/country_centroids.csv").lines().skip(1);
    rows.filter(|row| row.split(',').nth(6) == Some("1")).filter_map(|row| Code::new(row.split(',').next()?)).collect()
});

/// The country with addresses and no inhabitants.
fn is_antarctica(code: Code) -> bool {
    code.as_str() == "AQ"
}

/// A city's name for comparison: without case and without the accents that names of metros have elsewhere. The table's own
/// names are ASCII.
fn plain(name: &str) -> String {
    let fold = |c: char| match c {
        'á' | 'à' | 'â' | 'ã' | 'ä' | 'å' | 'ā' | 'ă' | 'ą' => 'a',
        'ç' | 'ć' | 'č' | 'ĉ' | 'ċ' => 'c',
        'ď' => 'd',
        'é' | 'è' | 'ê' | 'ë' | 'ē' | 'ė' | 'ę' | 'ě' | 'ĕ' => 'e',
        'ĝ' | 'ğ' | 'ġ' | 'ģ' => 'g',
        'í' | 'ì' | 'î' | 'ï' | 'ī' | 'į' | 'ĭ' | 'ĩ' => 'i',
        'ñ' | 'ń' | 'ň' | 'ņ' => 'n',
        'ó' | 'ò' | 'ô' | 'õ' | 'ö' | 'ō' | 'ő' | 'ŏ' => 'o',
        'ř' | 'ŕ' | 'ŗ' => 'r',
        'ś' | 'š' | 'ş' | 'ŝ' | 'ș' => 's',
        'ť' | 'ţ' | 'ț' => 't',
        'ú' | 'ù' | 'û' | 'ü' | 'ū' | 'ů' | 'ű' | 'ų' | 'ŭ' | 'ũ' => 'u',
        'ý' | 'ÿ' => 'y',
        'ź' | 'ž' | 'ż' => 'z',
        c => c,
    };
    let is_mark = |c: &char| ('\u{300}'..='\u{36f}').contains(c);
    name.trim().chars().flat_map(char::to_lowercase).map(fold).filter(|c| !is_mark(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_tables_is_read() {
        let text = include_str!("../../../geoip/cloud_regions.csv");
        assert!(text.is_ascii(), "`plain` folds the accents of lists only");
        assert_eq!(REGIONS.len(), text.lines().count() - 1);
        for (row, known) in REGIONS.iter().enumerate() {
            assert_eq!(region(known.provider, known.name), Some(Spot::Region(row)), "{}", known.name);
            let fields = Spot::Region(row).fields().unwrap();
            let country = countries::of(known.country).unwrap();
            assert_eq!((fields.country, fields.continent), (known.country, country.continent), "{}", known.name);
            assert!(known.place.latitude.abs() <= 90.0 && known.place.longitude.abs() <= 180.0);
        }
        for row in include_str!("../../../geoip/cloud_region_aliases.csv").lines().skip(1) {
            let [provider, alias, name] = row.split(',').collect::<Vec<_>>().try_into().unwrap();
            assert!(region(provider, alias).is_some(), "{row}");
            assert_eq!(region(provider, alias), region(provider, name));
        }
        assert_eq!(MEMBERS.len(), 27);
    }

    #[test]
    fn a_country_is_known_unknown_or_wrong() {
        let code = |code| Code::new(code).unwrap();
        assert_eq!(country(" de "), Ok(Some(Spot::Country(code("DE")))));
        for none in ["", "EU", "AP", "zz"] {
            assert_eq!(country(none), Ok(None), "{none}");
        }
        for wrong in ["XX", "DEU", "Germany", "1"] {
            assert!(country(wrong).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
        let antarctica = Spot::Country(code("AQ")).fields().unwrap();
        assert_eq!((antarctica.continent, antarctica.location), (code("AN"), None));
    }

    #[test]
    fn a_city_is_the_metro_that_we_know_else_its_country() {
        let code = |code| Code::new(code).unwrap();
        let metro = |country, name| city(country, name).unwrap().unwrap();
        for (country, name) in
            [("BR", "São Paulo"), ("BR", "SAO PAULO "), ("BR", "Sa\u{303}o Paulo"), ("br", "sao paulo")]
        {
            assert!(matches!(metro(country, name), Spot::Region(_)), "{name}");
            assert_eq!(metro(country, name).fields().unwrap().country, code("BR"));
        }
        assert_eq!(metro("DE", "Dublin"), Spot::Country(code("DE")), "a city of another country");
        assert_eq!(city("", ""), Ok(None));
        assert!(city("XX", "Dublin").is_err());
    }
}

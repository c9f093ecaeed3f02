//! The countries: where their people are, for databases that know the country and nothing finer, and which unions they are in.
//!
//! `geoip/country_centroids.csv`: population-weighted centroids, from GeoNames (CC BY 4.0).

use once_cell::sync::Lazy;

use crate::domain::code::Code;
use crate::domain::place::Place;
use crate::domain::whereabouts::Unions;

/// What is known of a country.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Country {
    /// The population-weighted centroid.
    pub centroid: Place,
    /// Its continent.
    pub continent: Code,
    /// The unions whose law holds there.
    pub unions: Unions,
    /// Nine tenths of the people live within so many km of the centroid.
    pub radius_km: u16,
}

/// The country of an ISO code.
pub fn of(country: Code) -> Option<Country> {
    static TABLE: Lazy<Vec<(Code, Country)>> = Lazy::new(|| {
        let rows = include_str!("../../geoip/country_centroids.csv").lines().skip(1);
        let mut table: Vec<_> = rows.filter_map(row).collect();
        table.sort_unstable_by_key(|(code, _)| *code);
        table
    });
    TABLE.binary_search_by_key(&country, |(code, _)| *code).ok().map(|at| TABLE[at].1)
}

/// Whether there is a continent of this code.
pub fn is_continent(code: Code) -> bool {
    ["AF", "AN", "AS", "EU", "NA", "OC", "SA"].contains(&code.as_str())
}

/// `country,continent,lat,lon,radius_p50_km,radius_p90_km,is_eu_member,in_eu_gdpr_territory,in_eea,…`; what does not read so
/// is left out (a test counts the rows).
fn row(line: &str) -> Option<(Code, Country)> {
    let mut fields = line.split(',');
    let mut code = || Code::new(fields.next()?);
    let (country, continent) = (code()?, code()?);
    let mut number = || fields.next()?.parse::<f64>().ok().filter(|number| number.is_finite());
    let place = Place { latitude: number()?, longitude: number()? };
    let (_p50, radius_km, _member) = (number()?, number()? as u16, number()?);
    // Where the union's law holds, overseas parts of its members included, counts more than membership.
    let unions = Unions { eu: number()? != 0.0, eea: number()? != 0.0 };
    Some((country, Country { centroid: place, continent, unions, radius_km }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_read() {
        let text = include_str!("../../geoip/country_centroids.csv");
        let rows: Vec<_> = text.lines().skip(1).map(|line| row(line).unwrap_or_else(|| panic!("{line}"))).collect();
        assert_eq!(rows.len(), 246);
        for (code, country) in rows {
            assert_eq!(of(code), Some(country));
            assert!(is_continent(country.continent), "{code}");
            assert!(!country.unions.eu || country.unions.eea, "{code}: the union is part of the area");
            assert!(country.centroid.latitude.abs() <= 90.0 && country.centroid.longitude.abs() <= 180.0);
            assert_eq!(of(code), Some(country));
            assert!(is_continent(country.continent), "{code}");
        }
        let found = |country: &str| Code::new(country).and_then(of).map(|country| (country.continent, country.unions));
        let (europe, none) = (Code::new("EU").unwrap(), Unions::default());
        assert_eq!(found("DE"), Some((europe, Unions { eu: true, eea: true })));
        assert_eq!(found("NO"), Some((europe, Unions { eu: false, eea: true })));
        assert_eq!(found("GB"), Some((europe, none)));
        assert_eq!(found("GP"), Some((Code::new("NA").unwrap(), Unions { eu: true, eea: true })));
        assert_eq!(found("ZZ"), None);
    }
}

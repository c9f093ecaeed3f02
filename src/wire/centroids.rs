//! Where a country's people are: for databases that know the country and nothing finer.
//!
//! `geoip/country_centroids.csv`: population-weighted centroids, from GeoNames (CC BY 4.0).

use std::collections::HashMap;

use once_cell::sync::Lazy;

use crate::domain::code::Code;
use crate::domain::place::Place;
use crate::domain::whereabouts::Unions;

/// What is known of a country.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Centroid {
    pub(super) place: Place,
    pub(super) continent: Code,
    pub(super) unions: Unions,
    /// Nine tenths of the people live within so many km.
    pub(super) radius_km: u16,
}

/// The centroid of a country by its ISO code.
pub(super) fn of(country: Code) -> Option<Centroid> {
    static TABLE: Lazy<HashMap<Code, Centroid>> =
        Lazy::new(|| include_str!("../../geoip/country_centroids.csv").lines().skip(1).filter_map(row).collect());
    TABLE.get(&country).copied()
}

/// `country,continent,lat,lon,radius_p50_km,radius_p90_km,is_eu_member,in_eu_gdpr_territory,in_eea,…`; what does not read so
/// is left out (a test counts the rows).
fn row(line: &str) -> Option<(Code, Centroid)> {
    let mut fields = line.split(',');
    let mut code = || Code::new(fields.next()?);
    let (country, continent) = (code()?, code()?);
    let mut number = || fields.next()?.parse::<f64>().ok().filter(|number| number.is_finite());
    let place = Place { latitude: number()?, longitude: number()? };
    let (_p50, radius_km, _member) = (number()?, number()? as u16, number()?);
    // Where the union's law holds, overseas parts of its members included, counts more than membership.
    let unions = Unions { eu: number()? != 0.0, eea: number()? != 0.0 };
    Some((country, Centroid { place, continent, unions, radius_km }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_is_read() {
        let text = include_str!("../../geoip/country_centroids.csv");
        let rows: Vec<_> = text.lines().skip(1).map(|line| row(line).unwrap_or_else(|| panic!("{line}"))).collect();
        assert_eq!(rows.len(), 246);
        for (country, centroid) in rows {
            assert_eq!(of(country), Some(centroid));
            assert!(!centroid.unions.eu || centroid.unions.eea, "{country}: the union is part of the area");
            assert!(centroid.place.latitude.abs() <= 90.0 && centroid.place.longitude.abs() <= 180.0);
            assert_eq!(of(country), Some(centroid));
        }
        let found =
            |country: &str| Code::new(country).and_then(of).map(|centroid| (centroid.continent, centroid.unions));
        let (europe, none) = (Code::new("EU").unwrap(), Unions::default());
        assert_eq!(found("DE"), Some((europe, Unions { eu: true, eea: true })));
        assert_eq!(found("NO"), Some((europe, Unions { eu: false, eea: true })));
        assert_eq!(found("GB"), Some((europe, none)));
        assert_eq!(found("GP"), Some((Code::new("NA").unwrap(), Unions { eu: true, eea: true })));
        assert_eq!(found("ZZ"), None);
    }
}

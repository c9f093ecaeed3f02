//! Where a country's people are: for databases that know the country and nothing finer.
//!
//! `geoip/country_centroids.csv`: population-weighted centroids, from GeoNames (CC BY 4.0).

use std::collections::HashMap;

use once_cell::sync::Lazy;

use crate::domain::place::Place;

/// What is known of a country.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Centroid {
    pub(super) place: Place,
    /// ISO code of the continent, upper case.
    pub(super) continent: [u8; 2],
    /// Nine tenths of the people live within so many km.
    pub(super) radius_km: u16,
}

/// The centroid of a country by its ISO code, upper case.
pub(super) fn of(country: [u8; 2]) -> Option<Centroid> {
    static TABLE: Lazy<HashMap<[u8; 2], Centroid>> =
        Lazy::new(|| include_str!("../../geoip/country_centroids.csv").lines().skip(1).filter_map(row).collect());
    TABLE.get(&country).copied()
}

/// `country,continent,lat,lon,radius_p50_km,radius_p90_km,…`; what does not read so is left out (a test counts the rows).
fn row(line: &str) -> Option<([u8; 2], Centroid)> {
    let mut fields = line.split(',');
    let mut code = || fields.next()?.as_bytes().try_into().ok();
    let (country, continent) = (code()?, code()?);
    let mut number = || fields.next()?.parse::<f64>().ok().filter(|number| number.is_finite());
    let place = Place { latitude: number()?, longitude: number()? };
    let _p50 = number()?;
    Some((country, Centroid { place, continent, radius_km: number()? as u16 }))
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
            assert!(country.iter().chain(&centroid.continent).all(u8::is_ascii_uppercase));
            assert!(centroid.place.latitude.abs() <= 90.0 && centroid.place.longitude.abs() <= 180.0);
            assert_eq!(of(country), Some(centroid));
        }
        assert_eq!(of(*b"DE").map(|centroid| centroid.continent), Some(*b"EU"));
        assert_eq!(of(*b"ZZ"), None);
    }
}

//! How long the way between two places takes.
//!
//! Between cloud regions it is published, as it is measured; elsewhere it is estimated by distance, which is 26 ms off on
//! average: cables make detours.

use std::sync::LazyLock;
use std::time::Duration;

use super::places::{Place, RegionSpec, distance_km};

/// Round trips in ms from each region of the table to each. Source and licence: `geoip/NOTICE`.
const TABLE: &str = include_str!("../../../geoip/rtt_azure.csv");

/// Where the table's regions are, in its order: degrees north and east.
const SITES: [(f64, f64); 19] = [
    (37.34, -121.89), // westus
    (47.23, -119.85), // westus2
    (41.59, -93.62),  // centralus
    (37.37, -79.82),  // eastus
    (43.65, -79.38),  // canadacentral
    (-23.55, -46.63), // brazilsouth
    (53.35, -6.26),   // northeurope
    (51.51, -0.13),   // uksouth
    (52.37, 4.90),    // westeurope
    (50.11, 8.68),    // germanywestcentral
    (60.67, 17.14),   // swedencentral
    (25.20, 55.27),   // uaenorth
    (-26.20, 28.05),  // southafricanorth
    (18.52, 73.86),   // centralindia
    (1.35, 103.82),   // southeastasia
    (22.32, 114.17),  // eastasia
    (37.57, 126.98),  // koreacentral
    (35.68, 139.69),  // japaneast
    (-33.87, 151.21), // australiaeast
];

static MEASURED_MS: LazyLock<Vec<Vec<f64>>> = LazyLock::new(|| {
    let row = |line: &str| line.split(',').skip(1).filter_map(|ms| ms.parse().ok()).collect();
    TABLE.lines().skip(1).map(row).collect()
});

/// A place this near to a region of the table, in km, is taken to be there: what is between them takes some 3 ms.
const NEAR_KM: f64 = 300.0;

/// Places this near have no way between them, in km.
const WITHIN_KM: f64 = 100.0;

/// Any round trip between regions that was not measured, and what each km adds, in ms (fitted over 1,199 pairs of cloud
/// regions, r = 0.88).
const ANY_MS: f64 = 26.0;
const KM_MS: f64 = 0.0143;

/// The way of a call from a place to the nearest of these regions, whose edge takes it, and on to the region that serves it,
/// if it is one of them; no way at all without regions.
pub(super) fn of_call(from: &Place, served_in: Option<&str>, regions: &[RegionSpec]) -> Duration {
    let (from, at) = ((from.latitude, from.longitude), |region: &RegionSpec| (region.latitude, region.longitude));
    let km = |region: &&RegionSpec| distance_km(from, at(region));
    let Some(edge) = regions.iter().min_by(|one, other| km(one).total_cmp(&km(other))) else { return Duration::ZERO };
    let served_in = regions.iter().find(|region| Some(region.name) == served_in).unwrap_or(edge);
    round_trip(from, at(edge)) + round_trip(at(edge), at(served_in))
}

/// A round trip between two places.
fn round_trip(from: (f64, f64), to: (f64, f64)) -> Duration {
    let km = distance_km(from, to);
    if km < WITHIN_KM {
        return Duration::ZERO;
    }
    Duration::from_secs_f64(measured_ms(from, to).unwrap_or(ANY_MS + KM_MS * km) / 1e3)
}

/// As it was measured between the regions at which both places are, if they are at two.
fn measured_ms(from: (f64, f64), to: (f64, f64)) -> Option<f64> {
    let (from, to) = (site(from)?, site(to)?);
    if from == to { None } else { MEASURED_MS.get(from)?.get(to).copied() }
}

/// The region of the table that a place is at.
fn site(place: (f64, f64)) -> Option<usize> {
    let km = |site: &usize| distance_km(place, SITES[*site]);
    let nearest = (0..SITES.len()).min_by(|one, other| km(one).total_cmp(&km(other)))?;
    (km(&nearest) <= NEAR_KM).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::super::places::{PLACES, REGIONS};
    use super::*;

    #[test]
    fn the_table_is_whole_and_its_sites_are_where_its_regions_are() {
        let clouds = include_str!("../../../geoip/cloud_regions.csv");
        let header: Vec<&str> = TABLE.lines().next().unwrap().split(',').skip(1).collect();
        assert_eq!((header.len(), MEASURED_MS.len()), (SITES.len(), SITES.len()));
        for (name, site) in header.iter().zip(SITES) {
            let row = clouds.lines().find(|line| line.starts_with(&format!("azure,{name},"))).unwrap();
            let at: Vec<f64> = row.split(',').skip(5).map(|degrees| degrees.parse().unwrap()).collect();
            assert_eq!(at, [site.0, site.1], "{name}");
        }
        for (n, row) in MEASURED_MS.iter().enumerate() {
            assert_eq!((row.len(), row[n]), (SITES.len(), 0.0));
            assert!(row.iter().enumerate().all(|(to, ms)| to == n || *ms > 5.0));
        }
    }

    /// The way from a place by name, in ms.
    #[track_caller]
    fn check(from: &str, served_in: Option<&str>, ms: f64) {
        let from = PLACES.iter().find(|place| place.name == from).unwrap();
        let found = of_call(from, served_in, &REGIONS).as_secs_f64() * 1e3;
        assert!((found - ms).abs() < 1.0, "{found} ms from {} to {served_in:?}, expected {ms}", from.name);
    }

    #[test]
    fn ways_are_as_measured_where_they_were_and_else_by_distance() {
        check("Oregon", Some("us-west"), 0.0);
        check("Oregon", Some("us-east"), 68.0);
        check("London", Some("eu-west"), 13.0);
        check("London", None, 13.0);
        check("London", Some("ap-southeast"), 13.0 + 166.0);
        check("Singapore", Some("eu-west"), 166.0);
        check("São Paulo", Some("us-east"), 118.0);
        check("Sydney", Some("ap-southeast"), 94.0);
        // 797 km: nothing was measured in Montréal.
        check("Montréal", Some("us-east"), 26.0 + 0.0143 * 797.0);
        // 280 km, both at the same region of the table.
        check("Seattle", Some("us-west"), 26.0 + 0.0143 * 280.0);
    }

    #[test]
    fn without_regions_there_is_no_way() {
        assert_eq!(of_call(&PLACES[5], Some("us-west"), &[]), Duration::ZERO);
    }
}

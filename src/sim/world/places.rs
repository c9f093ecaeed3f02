//! Where regions and agents are.

/// A region's name and place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RegionSpec {
    /// Name, as config knows it.
    pub name: &'static str,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// The guide's four regions, at places where clouds have theirs: Oregon, Virginia, Dublin, Singapore.
pub const REGIONS: [RegionSpec; 4] = [
    RegionSpec { name: "us-west", latitude: 45.84, longitude: -119.70 },
    RegionSpec { name: "us-east", latitude: 38.95, longitude: -77.45 },
    RegionSpec { name: "eu-west", latitude: 53.35, longitude: -6.26 },
    RegionSpec { name: "ap-southeast", latitude: 1.35, longitude: 103.82 },
];

/// Where an agent calls from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Place {
    /// What to call it.
    pub name: &'static str,
    /// Where that is.
    pub continent: &'static str,
    /// Its public address, told in `x-forwarded-for`.
    pub address: &'static str,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// Public addresses of large clouds, where agents live. The providers publish where their ranges stand, so a database can
/// tell; one that is made of registries' lists alone knows of a university no more than its country, which is not enough
/// to tell the coasts of a continent apart. Each of [`REGIONS`] is the nearest of as many.
pub const PLACES: [Place; 12] = [
    place("Oregon", "North America", "52.10.0.1", 45.84, -119.70),
    place("Seattle", "North America", "20.190.0.1", 47.61, -122.33),
    place("Virginia", "North America", "3.80.0.1", 38.95, -77.45),
    place("London", "Europe", "3.8.1.1", 51.51, -0.13),
    place("Singapore", "Asia", "13.228.1.1", 1.35, 103.82),
    place("São Paulo", "South America", "18.230.0.1", -23.55, -46.63),
    place("Los Angeles", "North America", "35.236.0.1", 34.05, -118.24),
    place("Frankfurt", "Europe", "3.120.1.1", 50.11, 8.68),
    place("Montréal", "North America", "3.96.1.1", 45.50, -73.57),
    place("Cape Town", "Africa", "13.245.0.1", -33.92, 18.42),
    place("Sydney", "Oceania", "3.104.1.1", -33.87, 151.21),
    place("Paris", "Europe", "35.180.1.1", 48.86, 2.35),
];

const fn place(
    name: &'static str,
    continent: &'static str,
    address: &'static str,
    latitude: f64,
    longitude: f64,
) -> Place {
    Place { name, continent, address, latitude, longitude }
}

/// Great-circle distance, in kilometres.
pub(super) fn distance_km(from: (f64, f64), to: (f64, f64)) -> f64 {
    let ((lat_a, lon_a), (lat_b, lon_b)) = (radians(from), radians(to));
    let half =
        ((lat_b - lat_a) / 2.0).sin().powi(2) + lat_a.cos() * lat_b.cos() * ((lon_b - lon_a) / 2.0).sin().powi(2);
    2.0 * 6_371.0 * half.sqrt().min(1.0).asin()
}

fn radians((latitude, longitude): (f64, f64)) -> (f64, f64) {
    (latitude.to_radians(), longitude.to_radians())
}

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What to call it.
    pub name: String,
    /// Its public address, told in `x-forwarded-for`.
    pub address: String,
}

/// Well-known public addresses of universities, whose place is beyond doubt: name, address.
pub const PLACES: [(&str, &str); 10] = [
    ("Berkeley", "128.32.0.1"),
    ("Boston", "18.9.22.69"),
    ("Toronto", "128.100.1.1"),
    ("São Paulo", "143.107.1.1"),
    ("Oxford", "163.1.0.1"),
    ("Munich", "129.187.0.1"),
    ("Cape Town", "137.158.1.1"),
    ("Singapore", "137.132.0.1"),
    ("Tokyo", "133.11.0.1"),
    ("Melbourne", "128.250.0.1"),
];

impl Place {
    /// All of [`PLACES`].
    pub fn all() -> Vec<Self> {
        PLACES.iter().map(|(name, address)| Self { name: (*name).to_owned(), address: (*address).to_owned() }).collect()
    }
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

//! Places on Earth and how far apart they are.

/// A point on Earth in degrees.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place {
    /// North is positive, −90 to 90.
    pub latitude: f64,
    /// East is positive, −180 to 180.
    pub longitude: f64,
}

/// Mean radius of the Earth in km (IUGG, R1).
const EARTH_RADIUS_KM: f64 = 6371.0088;

impl Place {
    /// The great-circle distance in km (exact to 0.5 %, since the Earth is no sphere).
    pub fn distance_km(self, other: Place) -> f64 {
        self.point().distance_km(other.point())
    }

    /// The same place as a point: for whoever needs many distances.
    pub fn point(self) -> Point {
        let (latitude, longitude) = (self.latitude.to_radians(), self.longitude.to_radians());
        Point([latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()])
    }
}

/// A place as a point on a sphere of radius 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point([f64; 3]);

impl Point {
    /// The great-circle distance in km, by the chord between the two: as exact for neighbours as for antipodes.
    pub fn distance_km(self, other: Point) -> f64 {
        let square: f64 = self.0.iter().zip(other.0).map(|(a, b)| (a - b) * (a - b)).sum();
        2.0 * EARTH_RADIUS_KM * (square.sqrt() / 2.0).min(1.0).asin()
    }
}

/// Places added up, for the point in the middle of them.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Middle([f64; 3]);

impl Middle {
    /// Adds a place.
    pub fn add(&mut self, place: Place) {
        self.merge(Middle(place.point().0));
    }

    /// Adds all that another one has added up.
    pub fn merge(&mut self, other: Middle) {
        self.0.iter_mut().zip(other.0).for_each(|(own, more)| *own += more);
    }

    /// The middle, also of places on both sides of the date line; `None` of none, or where they lie all around the Earth.
    pub fn place(self) -> Option<Place> {
        let [x, y, z] = self.0;
        let length = (x * x + y * y + z * z).sqrt();
        // A millimetre of a radius: less is rounding.
        (length > 1e-9).then(|| Place {
            latitude: (z / length).clamp(-1.0, 1.0).asin().to_degrees(),
            longitude: y.atan2(x).to_degrees(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(a: (f64, f64), b: (f64, f64), km: f64) {
        let place = |(latitude, longitude)| Place { latitude, longitude };
        let there = place(a).distance_km(place(b));
        let back = place(b).distance_km(place(a));
        assert!((there - back).abs() < 1e-6, "{there} there, {back} back");
        assert!((there - km).abs() <= km * 0.005 + 0.001, "{there} km, expected {km}");
    }

    #[test]
    fn distances_match_known_ones() {
        check((0.0, 0.0), (0.0, 0.0), 0.0);
        check((48.8566, 2.3522), (51.5074, -0.1278), 343.5); // Paris to London
        check((40.7128, -74.0060), (1.3521, 103.8198), 15_331.0); // New York to Singapore
        check((-36.85, 174.76), (37.77, -122.42), 10_480.0); // Auckland to San Francisco, over the date line
        check((0.0, 0.0), (0.0, 180.0), 20_015.1); // antipodes
        check((90.0, 0.0), (-90.0, 77.0), 20_015.1); // pole to pole
    }

    #[test]
    fn the_middle_is_between_them_also_over_the_date_line() {
        let middle = |places: &[(f64, f64)]| {
            let mut middle = Middle::default();
            places
                .iter()
                .for_each(|(latitude, longitude)| middle.add(Place { latitude: *latitude, longitude: *longitude }));
            middle.place().map(|place| (place.latitude.round(), place.longitude.round().abs()))
        };
        assert_eq!(middle(&[(48.86, 2.35)]), Some((49.0, 2.0)));
        assert_eq!(middle(&[(0.0, 10.0), (0.0, 30.0)]), Some((0.0, 20.0)));
        assert_eq!(middle(&[(0.0, 170.0), (0.0, -170.0)]), Some((0.0, 180.0)));
        assert_eq!(middle(&[(0.0, 10.0), (0.0, 10.0), (0.0, 40.0)]).map(|at| at.1), Some(20.0));
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[(0.0, 0.0), (0.0, 180.0)]), None);
    }
}

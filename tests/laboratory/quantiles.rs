//! Distributions by their quantiles.

use crate::lab::trace::quantiles::Quantiles;

#[test]
fn quantiles_are_met_and_joined() {
    let quantiles = Quantiles(&[(0.0, 1.0), (0.5, 10.0), (1.0, 1000.0)]);
    let check = |part: f64, value: f64| {
        let found = quantiles.at(part);
        assert!((found - value).abs() < 1e-9 * value, "{part}: {found}, not {value}");
    };
    check(0.0, 1.0);
    check(0.5, 10.0);
    check(0.75, 100.0);
    check(1.0, 1000.0);
}

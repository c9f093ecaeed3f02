//! Every region as it stands to the client: how far, by which measure, and why it was kept or left out.

use serde_json::{Value, json};

use crate::domain::ask::Dialect;
use crate::domain::ids::{ModelIx, RegionIx};
use crate::domain::topology::Topology;
use crate::policy::pool::PoolCandidate;
use crate::policy::region::{Standing, Standings};

/// One region, in the order of choosing.
#[derive(Debug)]
pub struct Row<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it stands to the client.
    pub standing: Standing,
    /// By how many percent it counts as nearer than it is.
    pub bias: i8,
    /// Which in order it is, or why it is left out.
    pub verdict: String,
}

/// The regions in which the model's pools are served, in their order, and then those that are left out.
pub(super) fn rows<'a>(
    topology: &'a Topology,
    standings: &Standings,
    pools: &[PoolCandidate],
    model: ModelIx,
    dialect: Dialect,
) -> Vec<Row<'a>> {
    let mut order: Vec<RegionIx> = Vec::new();
    for pool in pools.iter().filter(|pool| !pool.fallback) {
        if !order.contains(&pool.region) {
            order.push(pool.region);
        }
    }
    let kept = order.len();
    let others: Vec<_> = (0..topology.regions.len()).map(RegionIx).filter(|ix| !order.contains(ix)).collect();
    order.extend(others);
    let row = |(at, ix): (usize, &RegionIx)| {
        let (region, standing) = (topology.region(*ix), standings.of(*ix));
        let verdict = match standing {
            Standing { allowed: false, .. } => "left out: residency".to_owned(),
            _ if at >= kept && topology.pools.iter().any(|pool| (pool.region, pool.model) == (*ix, model)) => {
                format!("left out: no pool of the model serves {}", dialect.name())
            }
            _ if at >= kept => "left out: no pool of the model".to_owned(),
            Standing { listed: Some(listed), .. } => format!("{}, named {} by an override", nth(at), nth(listed)),
            Standing { measured: true, .. } => format!("{}, by round trip", nth(at)),
            _ => nth(at),
        };
        Row { name: &region.name, standing, bias: region.bias, verdict }
    };
    order.iter().enumerate().map(row).collect()
}

/// `1st`, `2nd`, …
fn nth(at: usize) -> String {
    let n = at + 1;
    let suffix = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

impl Row<'_> {
    /// The same for programs.
    pub fn json(&self) -> Value {
        json!({
            "region": self.name,
            "distance_km": self.standing.distance_km.round(),
            "way_ms": (self.standing.way_ms * 10.0).round() / 10.0,
            "measured": self.standing.measured,
            "bias": self.bias,
            "allowed": self.standing.allowed,
            "verdict": self.verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_as_people_do() {
        let said: Vec<_> = [0, 1, 2, 3, 10, 11, 12, 20, 21, 110].into_iter().map(nth).collect();
        assert_eq!(said, ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "111th"]);
    }
}

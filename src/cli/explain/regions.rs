//! Every region as it stands to the client: how far, by which measure, and why it was kept or left out.

use nearpool::domain::ids::RegionIx;
use nearpool::domain::topology::Topology;
use nearpool::policy::pool::PoolCandidate;
use nearpool::policy::region::{Standing, Standings};
use serde_json::{Value, json};

/// One region, in the order of choosing.
pub(super) struct Row<'a> {
    name: &'a str,
    standing: Standing,
    bias: i8,
    verdict: String,
}

/// The regions in which the model's pools are served, in their order, and then those that are left out.
pub(super) fn rows<'a>(topology: &'a Topology, standings: &Standings, pools: &[PoolCandidate]) -> Vec<Row<'a>> {
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
    pub(super) fn print(&self) {
        let Standing { distance_km, way_ms, measured, .. } = self.standing;
        let (how, bias) = (if measured { "measured" } else { "estimated" }, self.bias);
        let bias = if bias == 0 { String::new() } else { format!(", bias {bias:+} %") };
        println!("  {:<16} {distance_km:>7.0} km  {way_ms:>6.1} ms {how:<9}  {}{bias}", self.name, self.verdict);
    }

    pub(super) fn json(&self) -> Value {
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

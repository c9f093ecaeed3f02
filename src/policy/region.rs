//! Which regions may serve a client, and in which order.
//!
//! Where distances are measured from is the operator's choice. From the *client*, every edge picks alike, so that a session
//! stays where its cache is when DNS moves its client. From the *edge*, the fastest region is picked: a client's call comes
//! through this edge in any case. Geography makes the shortlist then, since a measurement can be wrong by a detour of the
//! moment but not by a continent, and among those the measured round trip decides; until it is measured, its estimate does
//! ([`cost::distance_ms`]). Of four cloud regions the nearest by distance is within 2 ms of the fastest in 84.8 % of draws,
//! and the one found so in 99.8 % (`tests/nearest.rs`).
//!
//! An operator's `bias` makes a region count as nearer or farther, and `overrides` name regions that stand before all others.
//! Residency is no preference: what it does not allow is no candidate, and so nothing that comes later can choose it.

use super::client_rule::{Asker, Meant, Selector};
use super::cost;
use super::pool::PoolCandidate;
use crate::domain::ids::RegionIx;
use crate::domain::topology::Topology;

/// The most regions: they fit into one word.
pub const REGIONS_MAX: usize = 128;

/// Beyond so many times the distance of the nearest region, and so many km more, no measurement makes a region the fastest.
const SHORTLIST_TIMES: f64 = 1.5;
const SHORTLIST_KM: f64 = 1_000.0;

/// What a region that an override names stands behind the one before it, in ms: the shortest way between two regions.
const LISTED_STEP_MS: f64 = cost::REGION_MS;

/// A set of regions. A configuration with more than [`REGIONS_MAX`] is refused, but only after its rules were read: those
/// beyond are in no set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegionSet(u128);

impl RegionSet {
    /// Every region.
    pub const ALL: RegionSet = RegionSet(u128::MAX);

    /// Whether the region is in it.
    pub fn contains(self, region: RegionIx) -> bool {
        self.0 & RegionSet::one(region) != 0
    }

    fn one(region: RegionIx) -> u128 {
        u32::try_from(region.0).ok().and_then(|bit| 1u128.checked_shl(bit)).unwrap_or(0)
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: RegionSet) -> RegionSet {
        RegionSet(self.0 & other.0)
    }
}

impl FromIterator<RegionIx> for RegionSet {
    fn from_iter<I: IntoIterator<Item = RegionIx>>(regions: I) -> RegionSet {
        RegionSet(regions.into_iter().fold(0, |set, region| set | RegionSet::one(region)))
    }
}

/// From where distances are measured.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum NearestTo {
    /// The client's place.
    #[default]
    Client,
    /// This edge.
    Edge,
}

/// Which regions may serve a client of whom nobody knows whether a residency rule means it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum ResidencyUnknown {
    /// Only those that each such rule allows.
    #[default]
    Common,
    /// All: who is not known to be meant is not.
    Any,
    /// These.
    Only(RegionSet),
}

/// The rules of `[geo]`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rules {
    /// From where distances are measured.
    pub nearest_to: NearestTo,
    /// Regions that stand before all others, in this order, for some clients. The first rule that means a client holds.
    pub overrides: Vec<(Selector, Vec<RegionIx>)>,
    /// The only regions that may serve some clients. Each rule that means a client holds.
    pub residency: Vec<(Selector, RegionSet)>,
    /// For those of whom nobody knows.
    pub residency_unknown: ResidencyUnknown,
    /// Ways that differ by at most so many ms are equally near; of those the cheapest pool comes first. 0: price is no matter.
    pub cheaper_within_ms: f64,
}

/// How a region stands to a client.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Standing {
    /// From where distances are measured to the region, in km.
    pub distance_km: f64,
    /// As far as that counts, its bias included.
    pub biased_km: f64,
    /// How long the way counts, in ms, its bias included.
    pub way_ms: f64,
    /// Whether the way was measured.
    pub measured: bool,
    /// Whether residency allows the region.
    pub allowed: bool,
    /// At which place an override names it.
    pub listed: Option<usize>,
}

/// How all regions stand to one client.
#[derive(Clone, PartialEq, Debug)]
pub struct Standings {
    regions: Vec<Standing>,
    nearest_to: NearestTo,
    cheaper_within_ms: f64,
}

impl Rules {
    /// Which regions may serve this client.
    pub fn allowed(&self, asker: Asker<'_>) -> RegionSet {
        let unknown = |allowed: RegionSet| match self.residency_unknown {
            ResidencyUnknown::Common => allowed,
            ResidencyUnknown::Any => RegionSet::ALL,
            ResidencyUnknown::Only(regions) => regions,
        };
        self.residency.iter().fold(RegionSet::ALL, |allowed, (selector, regions)| match selector.means(asker) {
            Meant::Yes => allowed.and(*regions),
            Meant::No => allowed,
            Meant::Unknown => allowed.and(unknown(*regions)),
        })
    }

    /// Whether any rule names an API key.
    pub fn names_keys(&self) -> bool {
        let selectors = self.residency.iter().map(|(selector, _)| selector);
        selectors.chain(self.overrides.iter().map(|(selector, _)| selector)).any(|s| matches!(s, Selector::Key(_)))
    }

    /// How every region stands to this client. `rtt_ms` is the measured round trip from this edge to a region.
    pub fn standings(
        &self,
        topology: &Topology,
        asker: Asker<'_>,
        rtt_ms: impl Fn(RegionIx) -> Option<f64>,
    ) -> Standings {
        let allowed = self.allowed(asker);
        let overridden = self.overrides.iter().find(|(selector, _)| selector.means(asker) == Meant::Yes);
        let listed = overridden.map_or(&[][..], |(_, regions)| regions);
        let from = match (self.nearest_to, asker.whereabouts.place) {
            (NearestTo::Client, Some(place)) => place.point(),
            _ => topology.region(topology.home).point(),
        };
        let regions = topology.regions.iter().enumerate().map(|(n, region)| {
            let (ix, distance_km) = (RegionIx(n), from.distance_km(region.point()));
            let rtt_ms = rtt_ms(ix).filter(|_| self.nearest_to == NearestTo::Edge);
            let (bias, biased_km) = (region.bias_factor(), distance_km * region.bias_factor());
            Standing {
                distance_km,
                biased_km,
                way_ms: rtt_ms.map_or_else(|| cost::distance_ms(biased_km), |ms| ms * bias),
                measured: rtt_ms.is_some(),
                allowed: allowed.contains(ix),
                listed: listed.iter().position(|named| *named == ix),
            }
        });
        Standings { regions: regions.collect(), nearest_to: self.nearest_to, cheaper_within_ms: self.cheaper_within_ms }
    }
}

impl Standings {
    /// Whether residency leaves any region out.
    pub fn leave_out(&self) -> bool {
        self.regions.iter().any(|standing| !standing.allowed)
    }

    /// How this region stands.
    pub fn of(&self, region: RegionIx) -> Standing {
        self.regions[region.0]
    }

    /// Up to which distance, in km, one of these regions is among those whose round trips are compared.
    fn shortlist_km(&self, regions: impl Iterator<Item = RegionIx>) -> f64 {
        let nearest_km = regions.map(|ix| self.of(ix).biased_km).fold(f64::INFINITY, f64::min);
        match self.nearest_to {
            NearestTo::Client => f64::INFINITY,
            NearestTo::Edge => nearest_km * SHORTLIST_TIMES + SHORTLIST_KM,
        }
    }

    /// Puts pools into the order in which they are to serve, nearest first; those of one region keep theirs. Their ways
    /// never shrink from one to the next: what stands behind counts as no nearer.
    pub fn sort(&self, topology: &Topology, pools: &mut [PoolCandidate]) {
        let shortlist_km = self.shortlist_km(pools.iter().map(|pool| pool.region));
        // No way is below 0, so that their bits compare as they do, and faster.
        let rank = |pool: &PoolCandidate| {
            let standing = self.of(pool.region);
            let beyond = standing.biased_km > shortlist_km;
            let listed = standing.listed.unwrap_or(REGIONS_MAX);
            (2 * listed + usize::from(beyond), standing.way_ms.to_bits(), standing.biased_km.to_bits())
        };
        pools.sort_by_cached_key(rank);
        let mut least_ms = 0.0_f64;
        for pool in &mut *pools {
            let standing = self.of(pool.region);
            pool.distance_km = standing.distance_km;
            least_ms = least_ms.max(standing.listed.map_or(standing.way_ms, |at| at as f64 * LISTED_STEP_MS));
            pool.way_ms = least_ms;
        }
        self.cheapest_first(topology, pools);
    }

    /// Of those that are equally near the cheapest comes first, those without a price last. All of them count as far as
    /// the farthest, so that ways still never shrink.
    fn cheapest_first(&self, topology: &Topology, pools: &mut [PoolCandidate]) {
        let mut rest = pools;
        while let (Some(first), true) = (rest.first(), self.cheaper_within_ms > 0.0) {
            let until_ms = first.way_ms + self.cheaper_within_ms;
            let equally_near = rest.partition_point(|pool| pool.way_ms <= until_ms);
            let (near, farther) = rest.split_at_mut(equally_near);
            let farthest_ms = near.last().map_or(0.0, |pool| pool.way_ms);
            near.iter_mut().for_each(|pool| pool.way_ms = farthest_ms);
            let price = |pool: &PoolCandidate| topology.pool(pool.pool).cost_per_hour.unwrap_or(f64::INFINITY);
            near.sort_by(|a, b| price(a).total_cmp(&price(b)));
            rest = farther;
        }
    }
}

#[cfg(test)]
mod tests;

//! The policies by name.

use anyhow::Result;

use super::admission::{Admission, Params};
use super::blind::{LeastOutstanding, Random, RoundRobin};
use super::hashed::{BoundedHash, SessionHash};
use super::matched::LongestMatch;
use super::nearpool::Nearpool;
use super::oracle::Oracle;
use super::reading::Reading;
use super::router::Router;
use super::setting::Besides;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Policy {
    /// Nearpool's own.
    Nearpool,
    /// The same, which has to learn what a cache holds.
    NearpoolLearns,
    /// One replica after the other.
    RoundRobin,
    /// Any replica.
    Random,
    /// The fewest unanswered calls.
    LeastOutstanding,
    /// Rendezvous hash of the session.
    SessionHash,
    /// The same, at most 1.25 times the mean of unanswered calls.
    BoundedHash,
    /// The most of the prompt in the engine's cache.
    LongestMatch,
    /// Least cost by the engines' exact state.
    Oracle,
    /// The same, with session admission.
    OracleAdmission,
    /// Least queue over one cache that all share: the bound of the cached share.
    Pooled,
}

/// What policies are given.
#[derive(Clone, Debug)]
pub(crate) struct Tuning {
    /// What an uncached token costs the oracle, beside a queued one.
    pub(crate) weight: f64,
    /// The oracle's session admission.
    pub(crate) admission: Params,
    /// Nearpool's configuration.
    pub(crate) besides: Besides,
}

/// Of [`BoundedHash`].
const BOUNDED_FACTOR: f64 = 1.25;

impl Policy {
    /// A fresh router. What it leaves to chance follows from the seed.
    pub(crate) fn router<'w>(
        self,
        reading: &'w Reading,
        engines: usize,
        tuning: &Tuning,
        seed: u64,
    ) -> Result<Box<dyn Router + 'w>> {
        Ok(match self {
            Policy::Nearpool => Box::new(Nearpool::new(reading, engines, &tuning.besides, seed)?),
            Policy::NearpoolLearns => {
                let untold = Besides { kv_cache_tokens: None, ..tuning.besides.clone() };
                Box::new(Nearpool::new(reading, engines, &untold, seed)?)
            }
            Policy::RoundRobin => Box::new(RoundRobin::default()),
            Policy::Random => Box::new(Random::new(seed)),
            Policy::LeastOutstanding => Box::new(LeastOutstanding::new(seed)),
            Policy::SessionHash => Box::new(SessionHash),
            Policy::BoundedHash => Box::new(BoundedHash { factor: BOUNDED_FACTOR }),
            Policy::LongestMatch => Box::new(LongestMatch::new(seed)),
            Policy::Oracle | Policy::Pooled => Box::new(Oracle::new(tuning.weight, None, seed)),
            Policy::OracleAdmission => {
                Box::new(Oracle::new(tuning.weight, Some(Admission::new(&tuning.admission)), seed))
            }
        })
    }

    /// Whether it is one that others use: neither Nearpool's own nor a bound.
    pub(crate) fn is_others(self) -> bool {
        !matches!(
            self,
            Policy::Nearpool | Policy::NearpoolLearns | Policy::Oracle | Policy::OracleAdmission | Policy::Pooled
        )
    }

    /// Whether its replicas share one cache.
    pub(crate) fn pooled(self) -> bool {
        self == Policy::Pooled
    }
}

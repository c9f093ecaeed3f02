//! What must hold of a table, line by line.

use std::fmt;

use super::policies::Policy;
use super::report::Figures;

/// What was played, as far as it tells what must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// Agents' sessions whose contexts fit the caches.
    Sessions,
    /// More of them than fit.
    Overload {
        /// The seconds after which a session that waits to be taken on is told to come again.
        wait_max: f64,
    },
    /// Calls that come when they come.
    Arrivals,
}

/// All figures.
pub(crate) struct Table {
    pub(crate) kind: Kind,
    pub(crate) lines: Vec<(Policy, Figures)>,
    /// Nearpool's cached share with named sessions, and with messages alone.
    pub(crate) shares: [f64; 2],
}

/// One thing that must hold, with its figures.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) holds: bool,
    pub(crate) says: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "- {}: {}", if self.holds { "holds" } else { "FAILS" }, self.says)
    }
}

/// A point of cached share.
const POINT: f64 = 0.01;

/// Beside the oracle's TTFT: the mean, and the 99th percentile of arrivals.
const MEAN_TTFT: f64 = 1.1;
const P99_TTFT: f64 = 1.05;

/// The most that the busiest replica prefills, beside the mean.
const IMBALANCE: f64 = 1.2;

/// Answers in overload, beside the best policy without admission.
const ANSWERS: f64 = 1.8;

/// Part of the pooled bound that must be reached.
const OF_POOLED: f64 = 0.975;

/// Those who wait are looked at each second.
const TICK_S: f64 = 1.0;

impl Table {
    /// What must hold of it, and whether it does.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let mut all = match self.kind {
            Kind::Sessions => self.of_sessions(),
            Kind::Overload { wait_max } => self.of_overload(wait_max),
            Kind::Arrivals => self.of_arrivals(),
        };
        let [named, messages] = self.shares.map(|share| share * 100.0);
        all.push(Verdict {
            holds: messages >= named - 1.0,
            says: format!("share by messages alone {messages:.2} % ≥ by names {named:.2} % − 1"),
        });
        all
    }

    fn of_sessions(&self) -> Vec<Verdict> {
        let (own, oracle) = (self.own(), self.of(Policy::OracleAdmission));
        let best = |policy: Policy| if policy == Policy::LongestMatch { POINT } else { 0.0 };
        vec![
            at_least("share, %", own.share * 100.0, "the oracle's − 1", oracle.share * 100.0 - 1.0),
            at_most("mean TTFT, s", own.ttft_mean, "1.1 × the oracle's", MEAN_TTFT * oracle.ttft_mean),
            at_most("mean TTFT, s", own.ttft_mean, "every other policy's", self.least(|_, other| other.ttft_mean)),
            at_least(
                "share, %",
                own.share * 100.0,
                "every other policy's (longest match − 1)",
                -self.least(|policy, other| -(other.share - best(policy))) * 100.0,
            ),
            at_most("imbalance", own.imbalance, "what is even", IMBALANCE),
        ]
    }

    fn of_overload(&self, wait_max: f64) -> Vec<Verdict> {
        let own = self.own();
        let most = self.of(Policy::Oracle).answered.max(-self.least(|_, other| -other.answered));
        vec![
            at_least("answers", own.answered, "1.8 × the best policy's without admission", ANSWERS * most),
            at_most("p99 of a request's wait, s", own.stood, "the stated wait and a tick", wait_max + TICK_S),
            Verdict { holds: true, says: format!("{} refusals are told, to come again", own.refused) },
        ]
    }

    fn of_arrivals(&self) -> Vec<Verdict> {
        let (own, p99) = (self.own(), self.own().ttft[2]);
        let pooled = OF_POOLED * self.of(Policy::Pooled).share * 100.0;
        vec![
            at_least("share, %", own.share * 100.0, "97.5 % of the pooled bound", pooled),
            at_most("TTFT p99, s", p99, "every other policy's", self.least(|_, other| other.ttft[2])),
            at_most("TTFT p99, s", p99, "1.05 × the oracle's", P99_TTFT * self.of(Policy::Oracle).ttft[2]),
        ]
    }

    fn own(&self) -> Figures {
        self.of(Policy::Nearpool)
    }

    /// NaN, which nothing is at least nor at most, of what was not played.
    fn of(&self, policy: Policy) -> Figures {
        let line = self.lines.iter().find(|(other, _)| *other == policy);
        line.map_or_else(|| Figures::median(&[]), |(_, figures)| figures.clone())
    }

    /// The least of a figure among the policies that others use.
    fn least(&self, figure: impl Fn(Policy, &Figures) -> f64) -> f64 {
        let others = self.lines.iter().filter(|(policy, _)| policy.is_others());
        others.map(|(policy, figures)| figure(*policy, figures)).fold(f64::NAN, f64::min)
    }
}

fn at_least(what: &str, found: f64, bound: &str, least: f64) -> Verdict {
    Verdict { holds: found >= least, says: format!("{what}: {found:.2} ≥ {least:.2}, {bound}") }
}

fn at_most(what: &str, found: f64, bound: &str, most: f64) -> Verdict {
    Verdict { holds: found <= most, says: format!("{what}: {found:.2} ≤ {most:.2}, {bound}") }
}

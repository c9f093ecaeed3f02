//! What the edge says of itself, asked as any monitoring would: `GET /metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::cli::page::{self, label};

/// The edge's own time per request, its retries and its resumes, as they stood at one moment.
#[derive(Clone, Default, Debug)]
pub(super) struct Scrape {
    /// Upper bound in seconds as it is written, and the requests at or below it.
    buckets: Vec<(String, f64)>,
    retries: BTreeMap<String, f64>,
    /// Streams that went on at another replica, or whose end was made up.
    resumes: f64,
}

impl Scrape {
    pub(super) async fn take(admin: SocketAddr) -> anyhow::Result<Scrape> {
        Ok(Scrape::read(&page::get(admin, "/metrics").await?))
    }

    fn read(text: &str) -> Scrape {
        let mut scrape = Scrape::default();
        for (series, value) in page::series(text) {
            if let Some(bound) = label(series, "nearpool_overhead_seconds_bucket{le=\"") {
                scrape.buckets.push((bound.to_owned(), value));
            } else if let Some(reason) = label(series, "nearpool_retries_total{reason=\"") {
                scrape.retries.insert(reason.to_owned(), value);
            } else if let Some("ok" | "ended") = label(series, "nearpool_resumes_total{result=\"") {
                scrape.resumes += value;
            }
        }
        scrape
    }

    /// What was counted after `before`.
    pub(super) fn since(mut self, before: &Scrape) -> Scrape {
        for ((_, now), (_, then)) in self.buckets.iter_mut().zip(&before.buckets) {
            *now -= then;
        }
        for (reason, now) in &mut self.retries {
            *now -= before.retries.get(reason).unwrap_or(&0.0);
        }
        self.retries.retain(|_, count| *count > 0.0);
        self.resumes -= before.resumes;
        self
    }

    /// The least bucket bound, in seconds, that so large a share of the requests kept to; infinite when they were above
    /// the last, `None` without any request.
    pub(super) fn overhead_at_most(&self, share: f64) -> Option<f64> {
        let (_, total) = self.buckets.last().filter(|(_, total)| *total > 0.0)?;
        let (bound, _) = self.buckets.iter().find(|(_, count)| *count >= share * total)?;
        Some(bound.parse().unwrap_or(f64::INFINITY))
    }

    /// Streams whose replica died and that went on.
    pub(super) fn resumes(&self) -> u64 {
        self.resumes as u64
    }

    /// Further attempts by what caused them, most frequent first.
    pub(super) fn retries(&self) -> Vec<(&str, u64)> {
        let mut retries: Vec<_> = self.retries.iter().map(|(reason, count)| (reason.as_str(), *count as u64)).collect();
        retries.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        retries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(low: u64, middle: u64, total: u64, retries: u64) -> Scrape {
        Scrape::read(&format!(
            "# TYPE nearpool_overhead_seconds histogram\n\
             nearpool_overhead_seconds_bucket{{le=\"0.0001\"}} {low}\n\
             nearpool_overhead_seconds_bucket{{le=\"0.001\"}} {middle}\n\
             nearpool_overhead_seconds_bucket{{le=\"+Inf\"}} {total}\n\
             nearpool_overhead_seconds_sum 1.5\n\
             nearpool_retries_total{{reason=\"reset\"}} {retries}\n\
             nearpool_resumes_total{{result=\"ended\"}} 1\n\
             nearpool_resumes_total{{result=\"ok\"}} {retries}\n\
             nearpool_resumes_total{{result=\"unsafe\"}} 40\n"
        ))
    }

    #[test]
    fn a_quantile_is_the_bucket_that_holds_it() {
        let scrape = scrape(60, 99, 100, 0);
        assert_eq!(scrape.overhead_at_most(0.5), Some(0.0001));
        assert_eq!(scrape.overhead_at_most(0.99), Some(0.001));
        assert_eq!(scrape.overhead_at_most(1.0), Some(f64::INFINITY));
        assert_eq!(Scrape::default().overhead_at_most(0.5), None);
    }

    #[test]
    fn a_phase_is_what_was_counted_in_it() {
        let phase = scrape(60, 199, 200, 7).since(&scrape(60, 99, 100, 5));
        assert_eq!(phase.overhead_at_most(0.5), Some(0.001));
        assert_eq!(phase.retries(), [("reset", 2)]);
        assert_eq!((phase.resumes(), scrape(0, 0, 0, 7).resumes()), (2, 8));
        assert!(scrape(1, 1, 1, 5).since(&scrape(1, 1, 1, 5)).retries().is_empty());
    }
}

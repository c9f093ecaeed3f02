//! The metrics and labels that there are: the README's table, which `tests/readme.rs` holds against the source, and what
//! Prometheus adds.

use std::collections::{BTreeMap, BTreeSet};

use nearpool::domain::outcome::{Blame, Outcome};
use nearpool::observe::metrics::{
    AdmissionResult, CacheState, GeoResult, HedgeResult, ReloadSource, ResidencyResult, SpanResult,
};
use nearpool::policy::resume::Resumed;
use nearpool::policy::select::Reason;

use super::tools::read;

/// Labels that a target has: set in `prometheus.yml`, or by Prometheus itself.
const TARGET_LABELS: [&str; 3] = ["edge", "instance", "job"];
/// Labels of NVIDIA's exporter.
const GPU_LABELS: [&str; 5] = ["gpu", "UUID", "device", "modelName", "Hostname"];
const GPU_METRICS: [&str; 6] = ["GPU_UTIL", "GPU_TEMP", "POWER_USAGE", "FB_USED", "FB_FREE", "XID_ERRORS"];

/// Every series' name with its labels.
#[derive(Debug, Default)]
pub(crate) struct Known(BTreeMap<String, BTreeSet<String>>);

impl Known {
    /// The product's, the GPU exporter's, and Prometheus' own.
    pub(crate) fn metrics() -> Known {
        let mut known = Known::default();
        for row in
            read("README.md").lines().filter(|row| row.starts_with("| `nearpool_") || row.starts_with("| `agent_"))
        {
            let mut cells = row.split('|').skip(1);
            let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
            let name = quoted(cells.next().unwrap()).remove(0);
            let labels = quoted(cells.next().unwrap());
            if cells.next().unwrap().trim().starts_with("histogram") {
                known.add(&format!("{name}_sum"), &labels);
                known.add(&format!("{name}_count"), &labels);
                known.add(&format!("{name}_bucket"), &[labels, vec!["le".to_owned()]].concat());
            } else {
                known.add(&name, &labels);
            }
        }
        assert!(known.0.len() > 30, "the README's table was not found: {known:?}");
        known.add("up", &[]);
        known.add("ALERTS", &["alertname".to_owned(), "alertstate".to_owned()]);
        let labels = GPU_LABELS.map(str::to_owned);
        GPU_METRICS.iter().for_each(|name| known.add(&format!("DCGM_FI_DEV_{name}"), &labels));
        known
    }

    /// Adds a recording rule: its name begins with its labels, `pool_model:…`; `fleet:…` has none.
    pub(crate) fn record(&mut self, name: &str) {
        let level = name.split(':').next().unwrap_or_default();
        let labels: Vec<String> = level.split('_').filter(|label| *label != "fleet").map(str::to_owned).collect();
        self.0.insert(name.to_owned(), labels.into_iter().collect());
    }

    fn add(&mut self, name: &str, labels: &[String]) {
        let target = TARGET_LABELS.map(str::to_owned);
        self.0.insert(name.to_owned(), labels.iter().chain(&target).cloned().collect());
    }

    pub(crate) fn labels(&self, metric: &str) -> Option<&BTreeSet<String>> {
        self.0.get(metric)
    }
}

/// The values that a label of a closed set can have; `None` for one that configuration names.
pub(crate) fn values(metric: &str, label: &str) -> Option<Vec<&'static str>> {
    let outcomes = || Outcome::ALL.iter().map(|outcome| outcome.label()).collect();
    Some(match (metric, label) {
        (_, "outcome") => outcomes(),
        ("nearpool_retries_total", "reason") => outcomes(),
        ("nearpool_affinity_total", "reason") => Reason::ALL.iter().map(|reason| reason.name()).collect(),
        ("nearpool_resumes_total", "result") => Resumed::ALL.iter().map(|result| result.name()).collect(),
        ("nearpool_hedges_total", "result") => HedgeResult::ALL.iter().map(|result| result.name()).collect(),
        ("nearpool_geo_lookups_total", "result") => GeoResult::ALL.iter().map(|result| result.name()).collect(),
        ("nearpool_residency_total", "result") => ResidencyResult::ALL.iter().map(|result| result.name()).collect(),
        ("nearpool_admissions_total", "result") => AdmissionResult::ALL.iter().map(|result| result.name()).collect(),
        ("nearpool_trace_spans_total", "result") => SpanResult::ALL.iter().map(|result| result.name()).collect(),
        ("nearpool_config_reloads_total", "result") => vec!["ok", "refused"],
        (_, "source") => ReloadSource::ALL.iter().map(|source| source.name()).collect(),
        (_, "cache") => CacheState::ALL.iter().map(|state| state.name()).collect(),
        (_, "kind") => vec!["cached", "computed"],
        ("up", "job") => vec!["nearpool", "dcgm"],
        _ => return None,
    })
}

/// The outcomes that are the client's own doing.
pub(crate) fn clients_outcomes() -> BTreeSet<&'static str> {
    let own = Outcome::ALL.iter().filter(|outcome| outcome.facts().blame == Blame::Client);
    own.map(|outcome| outcome.label()).collect()
}

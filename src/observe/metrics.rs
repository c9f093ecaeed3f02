//! Every metric, with its name, its labels and its buckets.
//!
//! Label values are names from the configuration or members of closed enums, so the number of series is bounded by what
//! the operator wrote. A client's own words (a model that nobody serves, a session, an address) never become a label.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use interactions::Interactions;
use outlets::Outlets;
pub use outlets::SpanResult;
use pools::Pools;
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::domain::code::Code;
use crate::domain::ids::PoolIx;
use crate::domain::outcome::Outcome;
use crate::policy::breaker::{Breaker, Gate};
use crate::policy::countries;
use crate::policy::engine_load::LoadReport;
use crate::policy::interaction::Interaction;
use crate::policy::resume::Resumed;
use crate::policy::select::Reason;
use crate::roster::{Roster, Snapshot};

/// The guide's buckets for an agent's step, in seconds.
const STEP_BUCKETS: &[f64] = &[0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
/// From a warm 8B replica (18 ms at 2K tokens) to a long cold prompt, with the guide's targets (0.1, 0.2, 0.5, 1) as edges.
const TTFT_BUCKETS: &[f64] = &[0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];
/// From 500 tokens/s to a stall.
const ITL_BUCKETS: &[f64] = &[0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];
/// The edge costs microseconds; whatever reaches the last buckets is a fault.
const OVERHEAD_BUCKETS: &[f64] = &[0.000_025, 0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1];
/// Observations that a stream keeps to itself before it hands them on, so that a scrape in mid-stream sees most of them.
const ITL_BATCH: usize = 32;

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $label:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every member.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The label's value.
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $label,)* }
            }
        }
    )*};
}

mod interactions;
mod outlets;
mod pools;

labels! {
    /// How an address was found in the GeoIP database.
    GeoResult {
        /// With a place.
        Found = "found",
        /// The database has no place for it.
        Unknown = "unknown",
        /// A private or otherwise not public address.
        Private = "private",
        /// The database could not be read there.
        Error = "error",
    }

    /// What residency made of a call that a rule speaks of.
    ResidencyResult {
        /// Some regions were left out.
        Kept = "kept",
        /// None was left, or none that is left could serve.
        Refused = "refused",
    }

    /// Why a connection that was to begin with a PROXY header was closed.
    ProxyHeaderFault {
        /// It began with something else.
        Malformed = "malformed",
        /// The header did not come in time.
        Late = "late",
        /// The connection ended in the middle of it.
        Cut = "cut",
    }

    /// What became of a session that no pool took on at once.
    AdmissionResult {
        /// One did after a while, or its client went away.
        Waited = "waited",
        /// It was told to come again.
        SentAway = "sent_away",
    }

    /// What became of a second attempt beside one that was late.
    HedgeResult {
        /// It had something to show first.
        Won = "won",
        /// The first one did after all, or neither.
        Lost = "lost",
        /// There was none: the budget did not allow it.
        Denied = "denied",
    }

    /// Whether the replica had the prompt in its KV cache, as its usage report tells.
    CacheState {
        /// Most of the prompt was cached.
        Warm = "warm",
        /// Most of it was computed.
        Cold = "cold",
        /// The replica does not tell.
        Unknown = "unknown",
    }

    /// What brought a configuration, a GeoIP database or a certificate.
    ReloadSource {
        /// The file watcher saw the config file change.
        File = "file",
        /// The file watcher saw the GeoIP database change.
        Geo = "geo",
        /// The file watcher saw the certificate or its key change.
        Tls = "tls",
        /// SIGHUP.
        Signal = "signal",
        /// `POST /reload`.
        Post = "post",
        /// `PUT /config`.
        Push = "push",
    }
}

/// How one request ended. Strings are configured names, or empty where none was chosen.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd<'a> {
    /// The region that answered.
    pub region: &'a str,
    /// The pool that answered.
    pub pool: &'a str,
    /// The model that was asked for, by its configured name.
    pub model: &'a str,
    /// The step, a configured one or `other`.
    pub step: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it went where it went; `None` when it went nowhere.
    pub reason: Option<Reason>,
    /// From the request's first byte to its end.
    pub seconds: f64,
    /// What it cost in USD; `None` where no price is known.
    pub cost_dollars: Option<f64>,
}

/// Handles of all metrics.
#[derive(Debug)]
pub struct Metrics {
    step_latency: HistogramVec,
    llm_calls: IntCounterVec,
    step_errors: IntCounterVec,
    requests: IntCounterVec,
    attempts: IntCounterVec,
    retries: IntCounterVec,
    hedges: IntCounterVec,
    retries_denied: IntCounter,
    resumes: IntCounterVec,
    ttft: HistogramVec,
    itl: HistogramVec,
    overhead: Histogram,
    affinity: IntCounterVec,
    prompt_tokens: IntCounterVec,
    completion_tokens: IntCounterVec,
    geo_lookups: IntCounterVec,
    residency: IntCounterVec,
    region_rtt: GaugeVec,
    misdirected: IntCounterVec,
    proxy_header_faults: IntCounterVec,
    reloads: IntCounterVec,
    config_info: IntGaugeVec,
    sessions: IntGauge,
    draining: IntGauge,
    replica_up: IntGaugeVec,
    replica_in_flight: IntGaugeVec,
    breaker_state: IntGaugeVec,
    replica_running: IntGaugeVec,
    replica_waiting: IntGaugeVec,
    replica_kv_usage: GaugeVec,
    gpu_utilization: GaugeVec,
    queued: IntGaugeVec,
    pools: Pools,
    outlets: Outlets,
    interactions: Interactions,
    // Std mutex, for scrapes and reloads only; never held across an `.await`.
    series: Mutex<Series>,
}

/// The series that must go when what they name goes.
#[derive(Debug, Default)]
struct Series {
    replicas: HashSet<(String, String)>,
    pools: HashSet<String>,
    regions: HashSet<String>,
    config: Option<String>,
}

impl Metrics {
    /// Registers every metric. Fails only if one of the names is taken in this registry.
    #[rustfmt::skip] // one metric, one line: this is the table that people search
    pub fn new(registry: &Registry) -> Result<Metrics, prometheus::Error> {
        let new = Maker { registry };
        let metrics = Metrics {
            step_latency: new.histograms("agent_step_latency_seconds", "Time of an agent's LLM call, first byte in to last byte out, whatever its outcome.", &["step_type", "model"], STEP_BUCKETS)?,
            llm_calls: new.counters("agent_llm_calls_total", "LLM calls of agents that named a configured model.", &["model", "step_type"])?,
            step_errors: new.counters("agent_step_errors_total", "Those of the calls that did not end with a whole answer.", &["model", "step_type", "outcome"])?,
            requests: new.counters("nearpool_requests_total", "Requests by how they ended; empty labels where nothing was chosen.", &["region", "pool", "model", "outcome"])?,
            attempts: new.counters("nearpool_attempts_total", "Attempts at replicas by how they ended.", &["pool", "replica", "outcome"])?,
            retries: new.counters("nearpool_retries_total", "Further attempts by the outcome that caused them.", &["reason"])?,
            retries_denied: new.counter("nearpool_retries_denied_total", "Further attempts that the retry budget did not allow.")?,
            resumes: new.counters("nearpool_resumes_total", "Streams that broke off, by what became of them.", &["result"])?,
            hedges: new.counters("nearpool_hedges_total", "Second attempts beside one whose first event was late; result: won, lost, denied.", &["result"])?,
            ttft: new.histograms("nearpool_ttft_seconds", "Whole request received to first content event.", &["pool", "model", "cache"], TTFT_BUCKETS)?,
            itl: new.histograms("nearpool_itl_seconds", "Time between two events of a stream.", &["pool", "model"], ITL_BUCKETS)?,
            overhead: new.histogram("nearpool_overhead_seconds", "Time that the edge itself added before the upstream request left.", OVERHEAD_BUCKETS)?,
            affinity: new.counters("nearpool_affinity_total", "Requests by the reason of their replica.", &["reason"])?,
            prompt_tokens: new.counters("nearpool_prompt_tokens_total", "Prompt tokens as replicas report them; kind: cached, computed.", &["pool", "kind"])?,
            completion_tokens: new.counters("nearpool_completion_tokens_total", "Completion tokens as replicas report them.", &["pool"])?,
            geo_lookups: new.counters("nearpool_geo_lookups_total", "Look-ups of clients' addresses.", &["result"])?,
            residency: new.counters("nearpool_residency_total", "Calls that residency keeps in some regions.", &["result"])?,
            region_rtt: new.float_gauges("nearpool_region_rtt_seconds", "Measured round trip to a region.", &["region"])?,
            misdirected: new.counters("nearpool_misdirected_total", "Requests whose client is nearer to another edge, by its country.", &["country"])?,
            proxy_header_faults: new.counters("nearpool_proxy_header_faults_total", "Connections closed for want of a PROXY header; reason: malformed, late, cut.", &["reason"])?,
            reloads: new.counters("nearpool_config_reloads_total", "Verdicts on new configurations, databases and certificates; result: ok, refused.", &["source", "result"])?,
            config_info: new.gauges("nearpool_config_info", "1 for the configuration in force, by the SHA-256 of its file.", &["hash"])?,
            sessions: new.gauge("nearpool_sessions", "Sessions that the edge remembers.")?,
            draining: new.gauge("nearpool_draining", "1 while the edge is about to end.")?,
            replica_up: new.gauges("nearpool_replica_up", "1 while a replica's health checks pass.", &["pool", "replica"])?,
            replica_in_flight: new.gauges("nearpool_replica_in_flight", "Requests in flight from this edge.", &["pool", "replica"])?,
            breaker_state: new.gauges("nearpool_breaker_state", "Circuit breaker: 0 closed, 1 half-open (a probe is due or under way), 2 open.", &["pool", "replica"])?,
            replica_running: new.gauges("nearpool_replica_running", "Requests in the engine's batch, whoever sent them, as it says; absent while it does not.", &["pool", "replica"])?,
            replica_waiting: new.gauges("nearpool_replica_waiting", "Requests in the engine's queue, whoever sent them, as it says; absent while it does not.", &["pool", "replica"])?,
            replica_kv_usage: new.float_gauges("nearpool_replica_kv_usage_ratio", "Share of the engine's KV cache in use, as it says; absent while it does not.", &["pool", "replica"])?,
            gpu_utilization: new.float_gauges("nearpool_gpu_utilization_ratio", "Share of time in which a replica's GPUs are busy, as their exporter says; absent while it does not.", &["pool", "replica"])?,
            pools: Pools::new(&new)?,
            outlets: Outlets::new(&new)?,
            interactions: Interactions::new(&new)?,
            queued: new.gauges("nearpool_queued", "Calls that wait for a place because every replica is at its cap.", &["pool"])?,
            series: Mutex::default(),
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    /// Makes the series whose labels are all closed enums, so that a rate sees their first increment.
    fn start_at_zero(&self) {
        for reason in Reason::ALL {
            self.affinity.with_label_values(&[reason.name()]);
        }
        for result in HedgeResult::ALL {
            self.hedges.with_label_values(&[result.name()]);
        }
        for result in GeoResult::ALL {
            self.geo_lookups.with_label_values(&[result.name()]);
        }
        for result in ResidencyResult::ALL {
            self.residency.with_label_values(&[result.name()]);
        }
        for fault in ProxyHeaderFault::ALL {
            self.proxy_header_faults.with_label_values(&[fault.name()]);
        }
        for result in Resumed::ALL {
            self.resumes.with_label_values(&[result.name()]);
        }
        for source in ReloadSource::ALL {
            self.reloads.with_label_values(&[source.name(), "ok"]);
            self.reloads.with_label_values(&[source.name(), "refused"]);
        }
    }

    /// Counts a request that ended. The agents' metrics count it only if it named a configured model: what never
    /// became a call is no step of an agent.
    pub fn request(&self, end: &RequestEnd<'_>) {
        let outcome = end.outcome.label();
        self.requests.with_label_values(&[end.region, end.pool, end.model, outcome]).inc();
        if let Some(reason) = end.reason {
            self.affinity.with_label_values(&[reason.name()]).inc();
        }
        if end.model.is_empty() {
            return;
        }
        self.step_latency.with_label_values(&[end.step, end.model]).observe(end.seconds);
        self.llm_calls.with_label_values(&[end.model, end.step]).inc();
        if let Some(dollars) = end.cost_dollars {
            self.interactions.cost(end.model, end.step, dollars);
        }
        if end.outcome != Outcome::Ok {
            self.step_errors.with_label_values(&[end.model, end.step, outcome]).inc();
        }
    }

    /// Counts an attempt that ended.
    pub fn attempt(&self, pool: &str, replica: &str, outcome: Outcome) {
        self.attempts.with_label_values(&[pool, replica, outcome.label()]).inc();
    }

    /// Counts a further attempt; `reason` is the outcome of the one before.
    pub fn retry(&self, reason: Outcome) {
        self.retries.with_label_values(&[reason.label()]).inc();
    }

    /// Counts a further attempt that was not made, since the retry budget was used up.
    pub fn retry_denied(&self) {
        self.retries_denied.inc();
    }

    /// Counts a stream that broke off.
    pub fn resume(&self, result: Resumed) {
        self.resumes.with_label_values(&[result.name()]).inc();
    }

    /// Where lines of the access log that are not written are counted.
    pub fn log_dropped(&self) -> IntCounter {
        self.outlets.log_dropped()
    }

    /// Where spans are counted that ended so.
    pub fn spans(&self, result: SpanResult) -> IntCounter {
        self.outlets.spans(result)
    }

    /// Counts a session that no pool took on at once.
    pub fn admission(&self, pool: &str, result: AdmissionResult) {
        self.pools.admission(pool, result);
    }

    /// Counts an interaction that is over.
    pub fn interaction(&self, interaction: &Interaction) {
        self.interactions.closed(interaction);
    }

    /// Counts a second attempt beside one that was late.
    pub fn hedge(&self, result: HedgeResult) {
        self.hedges.with_label_values(&[result.name()]).inc();
    }

    /// Notes the time that the edge itself added to a request, in seconds.
    pub fn overhead(&self, seconds: f64) {
        self.overhead.observe(seconds);
    }

    /// Counts a look-up of a client's address.
    pub fn geo_lookup(&self, result: GeoResult) {
        self.geo_lookups.with_label_values(&[result.name()]).inc();
    }

    /// Counts a call that residency keeps in some regions, or out of all.
    pub fn residency(&self, result: ResidencyResult) {
        self.residency.with_label_values(&[result.name()]).inc();
    }

    /// Counts a request whose client is nearer to another edge. Of codes that no country has there could be any number:
    /// they count as `other`.
    pub fn misdirected(&self, country: Option<Code>) {
        let country = country.filter(|country| countries::of(*country).is_some());
        let country = country.as_ref().map_or("other", Code::as_str);
        self.misdirected.with_label_values(&[country]).inc();
    }

    /// Counts a connection that was closed for want of a PROXY header.
    pub fn proxy_header_fault(&self, fault: ProxyHeaderFault) {
        self.proxy_header_faults.with_label_values(&[fault.name()]).inc();
    }

    /// What one stream notes of itself.
    pub fn stream_metrics(&self, pool: &str, model: &str) -> StreamMetrics {
        StreamMetrics { itl: self.itl.with_label_values(&[pool, model]), gaps: [0.0; ITL_BATCH], noted: 0 }
    }

    /// Notes a time to first token, in seconds.
    pub fn ttft(&self, pool: &str, model: &str, cache: CacheState, seconds: f64) {
        self.ttft.with_label_values(&[pool, model, cache.name()]).observe(seconds);
    }

    /// Counts the tokens of one answer. Of a prompt without a word on the cache, all tokens count as computed.
    pub fn tokens(&self, pool: &str, prompt: Option<u64>, cached: Option<u64>, completion: Option<u64>) {
        if let Some(prompt) = prompt {
            let cached = cached.unwrap_or(0).min(prompt);
            self.prompt_tokens.with_label_values(&[pool, "cached"]).inc_by(cached);
            self.prompt_tokens.with_label_values(&[pool, "computed"]).inc_by(prompt - cached);
        }
        if let Some(completion) = completion {
            self.completion_tokens.with_label_values(&[pool]).inc_by(completion);
        }
    }

    /// Counts a verdict on something new from this source.
    pub fn reload(&self, source: ReloadSource, ok: bool) {
        self.reloads.with_label_values(&[source.name(), if ok { "ok" } else { "refused" }]).inc();
    }

    /// Notes the hash of the configuration now in force.
    pub fn config(&self, hash: &str) {
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        self.config_info.with_label_values(&[hash]).set(1);
        if let Some(before) = series.config.replace(hash.to_owned()).filter(|before| before != hash) {
            let _gone = self.config_info.remove_label_values(&[&before]);
        }
    }

    /// Reads off what is a state and not an event. Called at each scrape.
    pub fn refresh(&self, snapshot: &Snapshot, roster: &Roster, now: Instant) {
        let topology = &snapshot.config.topology;
        let mut present = HashSet::new();
        for (ix, live) in snapshot.replicas() {
            let replica = topology.replica(ix);
            let labels = [topology.pool(replica.pool).name.as_str(), replica.name.as_str()];
            let reading = live.reading();
            let breaker = match (reading.breaker, reading.breaker.gate(snapshot.config.circuit_breaker, now)) {
                (Breaker::Closed { .. }, _) => 0,
                (Breaker::HalfOpen { .. }, _) | (Breaker::Open { .. }, Gate::Probe) => 1,
                (Breaker::Open { .. }, _) => 2,
            };
            self.replica_up.with_label_values(&labels).set(reading.healthy.into());
            self.replica_in_flight.with_label_values(&labels).set(reading.in_flight.into());
            self.breaker_state.with_label_values(&labels).set(breaker);
            self.refresh_engine(labels, live.engine().filter(|report| report.tells(now)), now);
            told(&self.gpu_utilization, labels, live.gpu_utilization(now));
            present.insert((labels[0].to_owned(), labels[1].to_owned()));
        }
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        for (pool, replica) in series.replicas.difference(&present) {
            for gauge in [&self.replica_up, &self.replica_in_flight, &self.breaker_state] {
                let _gone = gauge.remove_label_values(&[pool, replica]);
            }
            self.refresh_engine([pool, replica], None, now);
            told(&self.gpu_utilization, [pool, replica], None);
        }
        series.replicas = present;
        let pools: HashSet<_> = topology.pools.iter().map(|pool| pool.name.clone()).collect();
        for pool in series.pools.difference(&pools) {
            let _gone = self.queued.remove_label_values(&[pool]);
            self.pools.remove(pool);
        }
        for (ix, pool) in topology.pools.iter().enumerate() {
            let waiting = snapshot.pool(PoolIx(ix)).waiting();
            self.queued.with_label_values(&[pool.name.as_str()]).set(i64::try_from(waiting).unwrap_or(i64::MAX));
        }
        series.pools = pools;
        self.pools.set(snapshot, now);
        series.regions = self.refresh_regions(snapshot, &series.regions);
        let sessions = roster.sessions.sweep(snapshot.config.sessions.idle, now);
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        self.draining.set(roster.is_draining().into());
    }

    /// Reads off the round trips to regions that have one; those that are gone leave no series.
    fn refresh_regions(&self, snapshot: &Snapshot, before: &HashSet<String>) -> HashSet<String> {
        let measured: HashMap<&str, f64> = snapshot.round_trips().collect();
        for gone in before.iter().filter(|region| !measured.contains_key(region.as_str())) {
            let _gone = self.region_rtt.remove_label_values(&[gone]);
        }
        for (region, ms) in &measured {
            self.region_rtt.with_label_values(&[*region]).set(ms / 1_000.0);
        }
        measured.into_keys().map(str::to_owned).collect()
    }

    /// Reads off what an engine says of itself. Without a word of it there is no series: 0 would be a claim.
    fn refresh_engine(&self, labels: [&str; 2], report: Option<LoadReport>, now: Instant) {
        for (gauge, count) in [
            (&self.replica_running, report.map(|report| report.load.running)),
            (&self.replica_waiting, report.map(|report| report.load.waiting)),
        ] {
            match count {
                Some(count) => gauge.with_label_values(&labels).set(count.into()),
                // It fails when there is none.
                None => drop(gauge.remove_label_values(&labels)),
            }
        }
        told(&self.replica_kv_usage, labels, report.and_then(|report| report.kv_usage(now)));
    }

    /// Everything in this registry in Prometheus' text format ([`prometheus::TEXT_FORMAT`]).
    pub fn render(&self, registry: &Registry) -> String {
        // It fails only for a family without a name or without series, and `gather` yields neither.
        TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default()
    }
}

/// Shows what somebody else tells of a replica, while he does.
fn told(gauge: &GaugeVec, labels: [&str; 2], value: Option<f64>) {
    match value {
        Some(value) => gauge.with_label_values(&labels).set(value),
        // It fails when there is none.
        None => drop(gauge.remove_label_values(&labels)),
    }
}

/// What one stream notes of itself. Kept to the stream and handed on in batches and at its end, so that an event costs
/// a few instructions and one cache line that nobody shares.
#[derive(Debug)]
#[repr(C)]
pub struct StreamMetrics {
    itl: Histogram,
    noted: usize,
    /// Seconds; the first `noted` of them.
    gaps: [f32; ITL_BATCH],
}

impl StreamMetrics {
    /// Notes the time since the event before, in seconds.
    pub fn gap(&mut self, seconds: f32) {
        self.gaps[self.noted] = seconds;
        self.noted += 1;
        if self.noted == ITL_BATCH {
            self.hand_on();
        }
    }

    fn hand_on(&mut self) {
        let batch = self.itl.local();
        self.gaps[..self.noted].iter().for_each(|gap| batch.observe((*gap).into()));
        batch.flush();
        self.noted = 0;
    }
}

impl Drop for StreamMetrics {
    fn drop(&mut self) {
        self.hand_on();
    }
}

/// Makes metrics and registers them at once.
struct Maker<'a> {
    registry: &'a Registry,
}

impl Maker<'_> {
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn float_counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<CounterVec, prometheus::Error> {
        self.register(CounterVec::new(Opts::new(name, help), labels)?)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.register(IntCounter::new(name, help)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.register(IntGauge::new(name, help)?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, prometheus::Error> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, prometheus::Error> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    fn register<C: prometheus::core::Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

#[cfg(test)]
mod tests;

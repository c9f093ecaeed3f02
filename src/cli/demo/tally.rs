//! What the agents saw, added up.

use std::collections::BTreeMap;
use std::time::Duration;

use nearpool::sim::world::{CallReport, PLACES, Step};

/// Times to first token kept of each kind: an hour's worth of calls. Those beyond are not looked at.
const SAMPLES_MAX: usize = 500_000;
/// Errors kept for the end; all are counted.
const MESSAGES_MAX: usize = 3;

/// How a call ended, to an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// With a whole answer.
    Whole,
    /// With an error event in mid-answer, because its replica was killed just then.
    Cut,
    /// With anything else.
    Error,
}

/// The calls of one phase.
#[derive(Clone, Default, Debug)]
pub(super) struct Tally {
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) cuts: u64,
    /// Sessions that came to the end of their chain.
    pub(super) sessions: u64,
    /// The first errors, as the agents saw them.
    pub(super) messages: Vec<String>,
    /// Calls by `x-nearpool-reason`.
    pub(super) reasons: BTreeMap<String, u64>,
    /// Calls by the agent's continent and the region that answered.
    pub(super) served: BTreeMap<(&'static str, String), u64>,
    /// Times to first token in ms by model, without its organisation, and whether most of the prompt was cached.
    ttft_ms: BTreeMap<(String, Warmth), Vec<f64>>,
    /// What whole answers told of their prompts, by the call's place in its session.
    prompts: [Prompts; Step::CHAIN.len()],
}

/// Prompts added up.
#[derive(Clone, Copy, Default, Debug)]
struct Prompts {
    calls: u64,
    tokens: u64,
    cached: u64,
}

/// Whether most of a prompt was found in the KV cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Warmth {
    Warm,
    Cold,
}

impl Warmth {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Warmth::Warm => "warm",
            Warmth::Cold => "cold",
        }
    }
}

impl Tally {
    /// Adds a call. `killed` tells whether this replica was killed within the time before now.
    pub(super) fn take(&mut self, report: &CallReport, killed: impl FnOnce(&str, Duration) -> bool) {
        self.calls += 1;
        let receipt = &report.receipt;
        if let Some(reason) = &receipt.reason {
            *self.reasons.entry(reason.clone()).or_default() += 1;
        }
        if let Some(region) = &receipt.region {
            *self.served.entry((continent(&report.place), region.clone())).or_default() += 1;
        }
        match end(report, killed) {
            End::Whole => self.take_whole(report),
            End::Cut => self.cuts += 1,
            End::Error => {
                self.errors += 1;
                if self.messages.len() < MESSAGES_MAX {
                    let message = report.error.as_deref().unwrap_or_default();
                    let replica = receipt.replica.as_deref().unwrap_or("no replica");
                    self.messages.push(format!("{} at {replica}: {message}", report.step.name()));
                }
            }
        }
    }

    fn take_whole(&mut self, report: &CallReport) {
        self.sessions += u64::from(report.call + 1 == Step::CHAIN.len());
        let (Some(prompt), Some(cached)) = (report.prompt_tokens, report.cached_tokens) else { return };
        if let Some(prompts) = self.prompts.get_mut(report.call) {
            prompts.calls += 1;
            prompts.tokens += prompt;
            prompts.cached += cached.min(prompt);
        }
        let (Some(model), Some(ttft)) = (&report.model, report.ttft) else { return };
        let warmth = if cached * 2 > prompt { Warmth::Warm } else { Warmth::Cold };
        // Engines call a model `ORGANISATION/NAME`.
        let model = model.rsplit('/').next().unwrap_or(model).to_owned();
        let samples = self.ttft_ms.entry((model, warmth)).or_default();
        if samples.len() < SAMPLES_MAX {
            samples.push(ttft.as_secs_f64() * 1e3);
        }
    }

    /// The share of a session's prompt tokens that replicas had in their KV cache, 0 to 1.
    pub(super) fn cached_share(&self) -> Option<f64> {
        let (tokens, cached) = self.mean_prompt()?;
        Some(cached / tokens)
    }

    /// Tokens that replicas had to compute for the average call of a session, since no KV cache had them.
    pub(super) fn computed_per_call(&self) -> Option<f64> {
        let (tokens, cached) = self.mean_prompt()?;
        Some(tokens - cached)
    }

    /// Tokens of the average prompt, and how many of them were cached. Each of a session's calls counts alike, however
    /// often it was made: a phase that ends early has more first calls than last ones, and first calls are cold.
    fn mean_prompt(&self) -> Option<(f64, f64)> {
        let made = self.prompts.iter().filter(|prompts| prompts.calls > 0 && prompts.tokens > 0);
        let means = made.map(|sum| (sum.tokens as f64 / sum.calls as f64, sum.cached as f64 / sum.calls as f64));
        let (count, tokens, cached) = means
            .fold((0.0, 0.0, 0.0), |(count, all_tokens, all_cached), (tokens, cached)| {
                (count + 1.0, all_tokens + tokens, all_cached + cached)
            });
        (count > 0.0).then(|| (tokens / count, cached / count))
    }

    /// Calls with this reason.
    pub(super) fn reason(&self, reason: &str) -> u64 {
        self.reasons.get(reason).copied().unwrap_or_default()
    }

    /// The models that answered.
    pub(super) fn models(&self) -> impl Iterator<Item = &str> {
        self.ttft_ms.keys().map(|(model, _)| model.as_str())
    }

    /// Median and 99th percentile of the time to first token, in ms.
    pub(super) fn ttft_ms(&self, model: &str, warmth: Warmth) -> Option<(f64, f64)> {
        quantiles(self.ttft_ms.get(&(model.to_owned(), warmth))?.clone())
    }

    /// The same of all calls together.
    pub(super) fn ttft_ms_all(&self) -> Option<(f64, f64)> {
        quantiles(self.ttft_ms.values().flatten().copied().collect())
    }
}

fn end(report: &CallReport, killed: impl FnOnce(&str, Duration) -> bool) -> End {
    if report.ok() {
        return End::Whole;
    }
    // A cut is excused only by the death of its own replica while the call was under way.
    let replica = report.receipt.replica.as_deref().unwrap_or_default();
    if report.cut() && killed(replica, report.total) { End::Cut } else { End::Error }
}

fn continent(place: &str) -> &'static str {
    PLACES.iter().find(|known| known.name == place).map_or("elsewhere", |known| known.continent)
}

/// Median and 99th percentile.
fn quantiles(mut samples: Vec<f64>) -> Option<(f64, f64)> {
    samples.sort_by(f64::total_cmp);
    Some((quantile(&samples, 0.5)?, quantile(&samples, 0.99)?))
}

/// The sample that this share of the sorted samples does not exceed.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use nearpool::sim::world::Receipt;

    use super::*;

    fn report(error: Option<&str>, cached_tokens: u64) -> CallReport {
        let text = |text: &str| Some(text.to_owned());
        CallReport {
            agent: 0,
            session: "s".into(),
            call: 5,
            step: Step::Synthesizer,
            place: "Singapore".into(),
            started: Duration::ZERO,
            status: Some(200),
            error: error.map(str::to_owned),
            ttft: Some(Duration::from_millis(40)),
            total: Duration::from_millis(300),
            prompt_tokens: Some(1_000),
            cached_tokens: Some(cached_tokens),
            completion_tokens: Some(10),
            model: text("of/m"),
            receipt: Receipt {
                region: text("ap-southeast"),
                replica: text("r"),
                reason: text("session"),
                ..Receipt::default()
            },
        }
    }

    #[test]
    fn whole_answers_count_by_warmth() {
        let mut tally = Tally::default();
        for cached in [900, 800, 100] {
            tally.take(&report(None, cached), |_, _| false);
        }
        assert_eq!((tally.calls, tally.errors, tally.cuts, tally.sessions), (3, 0, 0, 3));
        assert_eq!((tally.cached_share(), tally.computed_per_call()), (Some(0.6), Some(400.0)));
        assert_eq!(tally.ttft_ms("m", Warmth::Warm), Some((40.0, 40.0)));
        assert_eq!(tally.ttft_ms_all(), tally.ttft_ms("m", Warmth::Cold));
        assert_eq!(tally.reason("session"), 3);
        assert_eq!(tally.served.get(&("Asia", "ap-southeast".to_owned())), Some(&3));
    }

    #[test]
    fn a_sessions_calls_count_alike_however_often_they_were_made() {
        let mut tally = Tally::default();
        for _ in 0..9 {
            tally.take(&CallReport { call: 0, ..report(None, 0) }, |_, _| false);
        }
        tally.take(&report(None, 900), |_, _| false);
        assert_eq!((tally.cached_share(), tally.computed_per_call()), (Some(0.45), Some(550.0)));
        assert_eq!((Tally::default().cached_share(), Tally::default().computed_per_call()), (None, None));
    }

    #[test]
    fn a_cut_is_excused_only_by_the_death_of_its_replica() {
        let cut = report(Some("error event: the answer broke off before its end"), 0);
        let mut tally = Tally::default();
        tally.take(&cut, |replica, _| replica == "r");
        assert_eq!((tally.errors, tally.cuts), (0, 1));
        tally.take(&cut, |_, _| false);
        assert_eq!((tally.errors, tally.cuts), (1, 1));
        // A stream that ends as if it were whole is never excused.
        tally.take(&report(Some("the stream ended without [DONE]"), 0), |_, _| true);
        assert_eq!((tally.errors, tally.cuts, tally.messages.len()), (2, 1, 2));
    }

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!((quantile(&samples, 0.5), quantile(&samples, 0.99)), (Some(50.0), Some(99.0)));
        assert_eq!((quantile(&[7.0], 0.99), quantile(&[], 0.5)), (Some(7.0), None));
    }
}

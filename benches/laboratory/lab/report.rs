//! What a run counts, and the table of it.

use super::time::{Micros, in_seconds};

/// What happened in one run.
#[derive(Default)]
pub(crate) struct Tally {
    /// Calls answered whole.
    pub(crate) answered: u64,
    /// Refusals; a call may be refused more than once.
    pub(crate) refused: u64,
    /// Of the calls that had to wait before they were sent, or wait still: how long, refusals included.
    pub(crate) waits: Vec<Micros>,
    /// Of every request that was told to wait: how long until it was sent or refused. A call that was refused and came
    /// again is two.
    pub(crate) stood: Vec<Micros>,
    /// Tokens that each replica prefilled.
    pub(crate) computed: Vec<u64>,
    prompt_tokens: u64,
    cached_tokens: u64,
    /// From when each call was first asked to its first token, or to the end.
    ttft: Vec<Micros>,
}

impl Tally {
    /// A call was sent, so long after it was first asked.
    pub(crate) fn sent(&mut self, waited: Micros) {
        if waited > 0 {
            self.waits.push(waited);
        }
    }

    /// A prompt was prefilled, of which so much was cached.
    pub(crate) fn prefilled(&mut self, input: u32, cached: u32) {
        self.prompt_tokens += u64::from(input);
        self.cached_tokens += u64::from(cached);
    }

    /// A first token came so long after the call was first asked, or has not come for so long.
    pub(crate) fn first_token(&mut self, ttft: Micros) {
        self.ttft.push(ttft);
    }

    /// The figures of the table.
    pub(crate) fn figures(mut self) -> Figures {
        self.ttft.sort_unstable();
        self.waits.sort_unstable();
        self.stood.sort_unstable();
        let all: u64 = self.computed.iter().sum();
        let most = self.computed.iter().max().copied().unwrap_or(0);
        Figures {
            share: ratio(self.cached_tokens as f64, self.prompt_tokens as f64),
            ttft_mean: ratio(self.ttft.iter().map(|time| in_seconds(*time)).sum(), self.ttft.len() as f64),
            ttft: [0.5, 0.9, 0.99].map(|part| quantile(&self.ttft, part)),
            answered: self.answered as f64,
            imbalance: ratio((most * self.computed.len() as u64) as f64, all as f64),
            waited: self.waits.len() as f64,
            wait: [0.5, 0.99].map(|part| quantile(&self.waits, part)),
            stood: quantile(&self.stood, 0.99),
            refused: self.refused as f64,
        }
    }
}

/// One line of the table. Times are in seconds.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Cached part of all prompts' tokens.
    pub(crate) share: f64,
    pub(crate) ttft_mean: f64,
    /// Median, 90th and 99th percentile.
    pub(crate) ttft: [f64; 3],
    pub(crate) answered: f64,
    /// Prefilled tokens of the replica with the most, over their mean.
    pub(crate) imbalance: f64,
    /// Calls that had to wait before they were sent.
    pub(crate) waited: f64,
    /// Of those, median and 99th percentile, from when each was first asked, refusals included.
    pub(crate) wait: [f64; 2],
    /// Of single requests that waited, the 99th percentile.
    pub(crate) stood: f64,
    pub(crate) refused: f64,
}

impl Figures {
    /// Of each figure the median over the runs.
    pub(crate) fn median(runs: &[Figures]) -> Figures {
        let of = |figure: &dyn Fn(&Figures) -> f64| {
            let mut values: Vec<f64> = runs.iter().map(figure).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            match values.len() {
                0 => f64::NAN,
                count if count % 2 == 1 => values[middle],
                _ => f64::midpoint(values[middle - 1], values[middle]),
            }
        };
        Figures {
            share: of(&|run| run.share),
            ttft_mean: of(&|run| run.ttft_mean),
            ttft: [0, 1, 2].map(|at| of(&move |run| run.ttft[at])),
            answered: of(&|run| run.answered),
            imbalance: of(&|run| run.imbalance),
            waited: of(&|run| run.waited),
            wait: [0, 1].map(|at| of(&move |run| run.wait[at])),
            stood: of(&|run| run.stood),
            refused: of(&|run| run.refused),
        }
    }
}

/// The table's head.
pub(crate) const HEAD: &str = "\
| policy | cached | TTFT mean s | p50 | p90 | p99 | answered | imbalance | waited | wait p50 s | p99 | of one request p99 | refusals |
|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// One line of the table.
pub(crate) fn line(name: &str, figures: &Figures) -> String {
    let Figures { share, ttft_mean, ttft: [p50, p90, p99], answered, imbalance, waited, wait, stood, refused } =
        figures;
    format!(
        "| {name} | {:.2} % | {ttft_mean:.2} | {p50:.2} | {p90:.2} | {p99:.2} | {answered:.0} | {imbalance:.2} | {waited:.0} | {:.1} | {:.1} | {stood:.1} | {refused:.0} |",
        share * 100.0,
        wait[0],
        wait[1],
    )
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

/// The value below which this part of the sorted ones lies, in seconds; 0 of none.
fn quantile(sorted: &[Micros], part: f64) -> f64 {
    let at = ((sorted.len() as f64 * part) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(0.0, |time| in_seconds(*time))
}

//! Figures, their units and their budgets.

use std::time::Duration;

/// What was measured. Printed as it is found, and again as one table.
#[derive(Default)]
pub(crate) struct Report {
    lines: Vec<Line>,
}

struct Line {
    what: String,
    value: f64,
    unit: &'static str,
    /// The most that the value may be.
    budget: Option<f64>,
}

impl Line {
    fn fails(&self) -> bool {
        self.budget.is_some_and(|budget| self.value.is_nan() || self.value > budget)
    }
}

impl Report {
    /// A figure for information.
    pub(crate) fn note(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.push(Line { what: what.into(), value, unit, budget: None });
    }

    /// A figure that must not be above its budget.
    pub(crate) fn judge(&mut self, what: impl Into<String>, value: f64, unit: &'static str, budget: f64) {
        self.push(Line { what: what.into(), value, unit, budget: Some(budget) });
    }

    fn push(&mut self, line: Line) {
        let budget = match (line.budget, line.fails()) {
            (None, _) => String::new(),
            (Some(budget), false) => format!("≤ {budget}"),
            (Some(budget), true) => format!("≤ {budget}  FAILS"),
        };
        println!("{:<58} {:>10.3} {:<9} {budget}", line.what, line.value, line.unit);
        self.lines.push(line);
    }

    /// Says which budgets failed; true if none did.
    pub(crate) fn conclude(&self) -> bool {
        let judged = self.lines.iter().filter(|line| line.budget.is_some()).count();
        let failed: Vec<_> = self.lines.iter().filter(|line| line.fails()).map(|line| line.what.as_str()).collect();
        println!(
            "\n{judged} budgets, {} failed{}{}",
            failed.len(),
            if failed.is_empty() { "" } else { ": " },
            failed.join("; ")
        );
        failed.is_empty()
    }
}

/// The middle value; 0 of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this share of the values lies; 0 of nothing.
pub(crate) fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values.get(at.min(values.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

pub(crate) fn millis(time: &Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(crate) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

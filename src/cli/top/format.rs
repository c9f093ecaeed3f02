//! Numbers in few characters, and colours.

use ratatui::style::{Color, Modifier, Style};

use super::super::numbers::thousands;

/// From one bar to the next an eighth.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A time, at most five characters.
pub(super) fn ms(ms: f64) -> String {
    match ms {
        ..9.95 => format!("{ms:.1}"),
        ..999.5 => format!("{ms:.0}"),
        ..9_950.0 => format!("{:.1}s", ms / 1_000.0),
        _ => format!("{:.0}s", ms / 1_000.0),
    }
}

/// A part of 1; nothing of what is not known.
pub(super) fn percent(part: Option<f64>) -> String {
    part.map_or_else(String::new, |part| format!("{:.0}%", part * 100.0))
}

/// A part of a whole; `None` of nothing.
pub(super) fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// A rate, at most six characters.
pub(super) fn rate(per_s: f64) -> String {
    match per_s {
        0.0 => String::new(),
        ..9.95 => format!("{per_s:.1}"),
        ..99_999.5 => thousands(per_s.round() as u64),
        _ => format!("{:.0}k", per_s / 1_000.0),
    }
}

/// How long something lasts: its two largest units.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// The time of day of an RFC 3339 moment.
pub(super) fn time_of_day(moment: &str) -> &str {
    moment.get(11..19).unwrap_or(moment)
}

/// Values as bars, the newest at the right end, several in one where there are more than `width`: the greatest counts. A step
/// without a value is a gap. The greatest of all fills the line.
pub(super) fn bars(values: &[Option<f64>], width: usize) -> String {
    let per_bar = values.len().div_ceil(width.max(1)).max(1);
    let top = values.iter().flatten().copied().fold(0.0, f64::max);
    let bar = |values: &[Option<f64>]| {
        let value = values.iter().flatten().copied().reduce(f64::max);
        value.map_or(' ', |value| BARS[((value / top * 8.0).ceil() as usize).clamp(1, 8) - 1])
    };
    let bars: Vec<char> = values.rchunks(per_bar).map(bar).collect();
    bars.into_iter().rev().collect()
}

/// Colours, or, where none are wanted, weight alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(pub(super) bool);

impl Paint {
    fn with(self, colour: Color, otherwise: Style) -> Style {
        if self.0 { Style::new().fg(colour) } else { otherwise }
    }

    /// As it should be.
    pub(super) fn good(self) -> Style {
        self.with(Color::Green, Style::new())
    }

    /// To be looked at.
    pub(super) fn warn(self) -> Style {
        self.with(Color::Yellow, Style::new().add_modifier(Modifier::BOLD))
    }

    /// Wrong.
    pub(super) fn bad(self) -> Style {
        self.with(Color::Red, Style::new()).add_modifier(Modifier::BOLD)
    }

    /// Wrong, and nobody must miss it.
    pub(super) fn alarm(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.0 { style.fg(Color::White).bg(Color::Red) } else { style.add_modifier(Modifier::REVERSED) }
    }

    /// By the way.
    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What names the rest.
    pub(super) fn bold(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    /// Where the cursor is.
    pub(super) fn cursor(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [(0.27, "0.3"), (9.96, "10"), (123.4, "123"), (999.6, "1.0s"), (61_000.0, "61s")] {
            assert_eq!(ms(value), text);
        }
        for (value, text) in [(0.0, ""), (2.34, "2.3"), (1_234.0, "1,234"), (250_000.0, "250k")] {
            assert_eq!(rate(value), text);
        }
        for (seconds, text) in [(7, "7s"), (61, "1m01s"), (3_660, "1h01m"), (90_000, "1d01h")] {
            assert_eq!(duration(seconds), text);
        }
        assert_eq!((percent(Some(0.875)), percent(None)), ("88%".into(), String::new()));
        assert_eq!((time_of_day("2026-11-23T01:02:03.004Z"), time_of_day("soon")), ("01:02:03", "soon"));
    }

    #[test]
    fn bars_keep_the_newest_at_the_right_and_the_greatest_of_each() {
        assert_eq!(bars(&[Some(1.0), Some(4.0), None, Some(8.0)], 4), "▁▄ █");
        assert_eq!(bars(&[Some(1.0), Some(4.0), None, Some(8.0)], 9), "▁▄ █");
        assert_eq!(bars(&[Some(8.0), Some(1.0), Some(4.0), None, Some(8.0)], 3), "█▄█");
        assert_eq!(bars(&[None, None], 2), "  ");
        assert_eq!((bars(&[], 5), bars(&[Some(0.0)], 5)), (String::new(), "▁".into()));
    }
}

//! Which columns there is room for.

use ratatui::layout::Constraint;

/// The columns of the table, in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Column {
    Name,
    State,
    InFlight,
    Errors,
    Warm,
    Cold,
    Cached,
    Tokens,
    Gpu,
    Trend,
}

/// The narrowest that a name is shown.
const NAME_MIN: u16 = 12;
/// The widest that a trend is shown: two steps in a bar.
const TREND_MAX: u16 = 45;

impl Column {
    const ALL: [Column; 10] = [
        Column::Name,
        Column::State,
        Column::InFlight,
        Column::Errors,
        Column::Warm,
        Column::Cold,
        Column::Cached,
        Column::Tokens,
        Column::Gpu,
        Column::Trend,
    ];

    /// From which width of the screen on it is there: what matters most first.
    const fn from(self) -> u16 {
        match self {
            Column::Name | Column::State => 0,
            Column::InFlight => 32,
            Column::Warm => 44,
            Column::Cold => 56,
            Column::Errors => 64,
            Column::Cached => 72,
            Column::Gpu => 80,
            Column::Tokens => 88,
            Column::Trend => 100,
        }
    }

    const fn width(self) -> u16 {
        match self {
            Column::Name => NAME_MIN,
            Column::State => 9,
            Column::InFlight => 6,
            Column::Errors => 5,
            Column::Warm | Column::Cold => 11,
            Column::Cached | Column::Tokens => 6,
            Column::Gpu => 4,
            Column::Trend => 12,
        }
    }

    /// Whether pools alone have something to show there.
    pub(super) const fn is_of_pools(self) -> bool {
        matches!(self, Column::Errors | Column::Warm | Column::Cold | Column::Cached | Column::Tokens)
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Column::Name => "",
            Column::State => "state",
            Column::InFlight => "active",
            Column::Errors => "err",
            Column::Warm => "warm ms",
            Column::Cold => "cold ms",
            Column::Cached => "cached",
            Column::Tokens => "tok/s",
            Column::Gpu => "GPU",
            Column::Trend => "TTFT p50, 15 min",
        }
    }
}

/// Those that a screen of this width has room for, and how wide they are.
pub(super) fn fitting(width: u16) -> (Vec<Column>, Vec<Constraint>) {
    let columns: Vec<_> = Column::ALL.into_iter().filter(|column| column.from() <= width).collect();
    let taken: u16 = columns.iter().map(|column| column.width() + 1).sum();
    let spare = width.saturating_sub(taken);
    let constraint = |column: &Column| match column {
        Column::Name => Constraint::Fill(1),
        // Half of what is left, the names have the rest.
        Column::Trend => Constraint::Length((column.width() + spare / 2).min(TREND_MAX)),
        other => Constraint::Length(other.width()),
    };
    let constraints = columns.iter().map(constraint).collect();
    (columns, constraints)
}

/// How wide the trend is then; 0 where there is none.
pub(super) fn trend_width(columns: &[Column], constraints: &[Constraint]) -> usize {
    match (columns.last(), constraints.last()) {
        (Some(Column::Trend), Some(Constraint::Length(width))) => usize::from(*width),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_a_name_at_every_width() {
        for width in 22..400 {
            let (columns, constraints) = fitting(width);
            let others: u16 = constraints
                .iter()
                .map(|constraint| match constraint {
                    Constraint::Length(length) => length + 1,
                    _ => 0,
                })
                .sum();
            assert!(others + NAME_MIN <= width, "{width}: {columns:?}");
        }
        let at = |width| {
            let (columns, constraints) = fitting(width);
            (columns.len(), trend_width(&columns, &constraints))
        };
        assert_eq!((at(80), at(120), at(400)), ((8, 0), (10, 26), (10, 45)));
    }
}

//! The last failovers and the last reloads, a line each.

use nearpool::wire::status::{At, Failover, Reload};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, List, ListItem, ListState};

use super::format::{Paint, time_of_day};
use super::model::{Model, Pane};

/// Characters of a configuration's hash that are shown.
const HASH: usize = 8;

pub(super) fn failovers(frame: &mut Frame<'_>, area: Rect, model: &Model, block: Block<'_>) {
    let paint = Paint(model.colours);
    let all = model.status.iter().flat_map(|status| &status.failovers);
    let lines = all.map(|failover| of_failover(failover, paint)).collect();
    draw(frame, area, model, Pane::Failovers, lines, block);
}

pub(super) fn reloads(frame: &mut Frame<'_>, area: Rect, model: &Model, block: Block<'_>) {
    let paint = Paint(model.colours);
    let all = model.status.iter().flat_map(|status| &status.reloads);
    let lines = all.map(|reload| of_reload(reload, paint)).collect();
    draw(frame, area, model, Pane::Reloads, lines, block);
}

fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, pane: Pane, mut lines: Vec<Line<'_>>, block: Block<'_>) {
    let paint = Paint(model.colours);
    if lines.is_empty() {
        lines.push(Line::styled("none", paint.dim()));
    }
    let mut list = List::new(lines.into_iter().map(ListItem::new)).block(block);
    let mut state = ListState::default();
    if model.pane == pane && !model.whole {
        list = list.highlight_style(paint.cursor());
        state.select(Some(model.cursor(pane)));
    }
    frame.render_stateful_widget(list, area, &mut state);
}

fn of_failover(failover: &Failover, paint: Paint) -> Line<'_> {
    let at = |at: &At| format!("{}/{}", at.pool, at.replica);
    let to = failover.to.as_ref().map_or_else(|| Span::styled("nowhere", paint.bad()), |to| Span::raw(at(to)));
    Line::from(vec![
        Span::styled(time_of_day(&failover.ts), paint.dim()),
        Span::raw(format!(" {:<6} ", failover.kind)),
        Span::styled(failover.cause.as_str(), paint.warn()),
        Span::raw(format!("  {} → ", at(&failover.from))),
        to,
        Span::styled(format!("  {}", failover.model), paint.dim()),
    ])
}

fn of_reload(reload: &Reload, paint: Paint) -> Line<'_> {
    let hash = reload.hash.get(..HASH).unwrap_or(&reload.hash);
    let what = match (&reload.error, reload.changed) {
        (Some(error), _) => Span::styled(format!("refused: {error}"), paint.bad()),
        (None, true) => Span::styled(format!("ok, now {hash}"), paint.good()),
        (None, false) => Span::raw("ok, nothing changed"),
    };
    let source = Span::raw(format!(" {:<6} ", reload.source));
    Line::from(vec![Span::styled(time_of_day(&reload.ts), paint.dim()), source, what])
}

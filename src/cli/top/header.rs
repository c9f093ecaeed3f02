//! The lines above and below: which edge it is and how it is, and what keys do.

use nearpool::wire::status::{Recent, Status};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};

use super::super::numbers::thousands;
use super::format::{Paint, duration, share};
use super::model::{Connection, Item, Model, Pane};

/// Characters of the configuration's hash that are shown.
const HASH: usize = 8;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let paint = Paint(model.colours);
    let [first, second] = Layout::vertical([Constraint::Length(1), Constraint::Length(1)]).areas(area);
    let right = match &model.connection {
        Connection::Live if model.whole => Line::default(),
        Connection::Live => Line::styled(" live ", paint.good()),
        Connection::Opening => Line::styled(format!("asking {} ", model.admin), paint.dim()),
        Connection::Gone(_) => Line::styled(" EDGE GONE ", paint.alarm()),
    };
    let width = u16::try_from(right.width()).unwrap_or(u16::MAX);
    let [left, corner] = Layout::horizontal([Constraint::Fill(1), Constraint::Length(width)]).areas(first);
    frame.render_widget(title(model, paint), left);
    frame.render_widget(right, corner);
    frame.render_widget(counts(model, paint), second);
}

/// Which edge, and whether it serves.
fn title(model: &Model, paint: Paint) -> Line<'_> {
    let Some(status) = &model.status else { return Line::styled("nearpool top", paint.bold()) };
    let hash = status.config_hash.get(..HASH).unwrap_or(&status.config_hash);
    let mut spans = vec![
        Span::styled(status.edge.as_str(), paint.bold()),
        Span::raw("  "),
        verdict(status, paint),
        Span::raw(format!("  up {}", duration(status.uptime_s))),
        Span::raw(format!("  nearpool {}", status.version)),
    ];
    if !hash.is_empty() {
        spans.push(Span::raw(format!("  config {hash}")));
    }
    Line::from(spans)
}

fn verdict(status: &Status, paint: Paint) -> Span<'_> {
    match &status.unready {
        _ if status.draining => Span::styled(" DRAINING ", paint.alarm()),
        Some(why) => Span::styled(format!(" UNREADY: {why} "), paint.alarm()),
        None => Span::styled("ready", paint.good()),
    }
}

/// How much it serves; where it is gone, why.
fn counts(model: &Model, paint: Paint) -> Line<'_> {
    if let Connection::Gone(why) = &model.connection {
        return Line::styled(format!("trying again: {why}"), paint.bad());
    }
    let Some(status) = &model.status else { return Line::default() };
    let totals = &status.totals;
    let per_s = |recent: &Recent| recent.calls as f64 / recent.seconds.max(1) as f64;
    // An older edge tells it of its pools alone.
    let of_pools = || status.regions.iter().flat_map(|region| &region.pools).map(|pool| per_s(&pool.last_minute)).sum();
    let calls_per_s: f64 = status.last_minute.as_ref().map_or_else(of_pools, per_s);
    let errors = share(totals.errors, totals.calls).map_or_else(String::new, |part| format!(" ({:.2}%)", part * 100.0));
    Line::from(format!(
        "in flight {}  sessions {}  calls/s {:.1}  calls {}  errors {}{errors}",
        thousands(totals.in_flight),
        thousands(status.sessions),
        calls_per_s,
        thousands(totals.calls),
        thousands(totals.errors),
    ))
}

/// What is wrong with the replica at the cursor; else what keys do.
pub(super) fn footer(model: &Model) -> Line<'_> {
    let paint = Paint(model.colours);
    let items = model.items();
    let failing = match items.get(model.cursor(Pane::Pools)) {
        Some(Item::Replica(_, replica)) if model.pane == Pane::Pools => replica.failing.as_ref(),
        _ => None,
    };
    match failing {
        Some(failing) => Line::styled(failing.why.as_str(), paint.warn()),
        None => Line::styled("q quit  ↑↓ move  ⏎ fold  Tab next pane  ? help", paint.dim()),
    }
}

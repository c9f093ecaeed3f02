//! Where everything stands on the screen. A function of the model, so that tests see what a viewer sees.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::format::Paint;
use super::model::{Model, Pane};
use super::{header, lists, table};

/// From this height of what lies between header and footer on, all panes are shown; below it the one in use.
const ALL_PANES_HEIGHT: u16 = 12;
/// From this width on, failovers and reloads stand beside each other.
const BESIDE_WIDTH: u16 = 120;
/// Lines of header and footer.
const HEADER: u16 = 2;
const FOOTER: u16 = 1;
/// Lines of a pane that are not its content: its title, and of the table the columns' too.
const TITLE: u16 = 1;
const TABLE_TITLES: u16 = 2;

const HELP: [&str; 10] = [
    "↑ ↓, j k          move",
    "PgUp PgDn, g G    move far",
    "Enter, Space      fold a pool, or unfold it",
    "Tab, Shift-Tab    next pane, the one before",
    "?                 this",
    "q, Esc, Ctrl-C    quit",
    "",
    "Times are TTFT in ms, p50/p99 of the last minute.",
    "active: calls in flight, and behind + those that wait.",
    "cached: share of the prompts' tokens.",
];

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model) {
    let lengths = [Constraint::Length(HEADER), Constraint::Fill(1), Constraint::Length(FOOTER)];
    let [top, body, bottom] = Layout::vertical(lengths).areas(frame.area());
    header::draw(frame, top, model);
    if model.whole {
        whole(frame, body, model);
    } else {
        panes(frame, body, model);
        frame.render_widget(header::footer(model), bottom);
    }
    if model.help {
        help(frame, model);
    }
}

/// Lines of a screen on which everything has room.
pub(super) fn whole_height(model: &Model) -> u16 {
    let lines = whole_heights(model).into_iter().fold(0, u16::saturating_add);
    lines.saturating_add(HEADER + FOOTER)
}

/// What each pane takes to be shown whole. One without a line says so in one.
fn whole_heights(model: &Model) -> [u16; 3] {
    let height = |lines: usize, titles| u16::try_from(lines.max(1)).unwrap_or(u16::MAX).saturating_add(titles);
    let lists = model.status.as_ref().map_or((0, 0), |status| (status.failovers.len(), status.reloads.len()));
    [height(model.items().len(), TABLE_TITLES), height(lists.0, TITLE), height(lists.1, TITLE)]
}

fn whole(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let [pools, failovers, reloads] = Layout::vertical(whole_heights(model).map(Constraint::Length)).areas(area);
    pane(frame, pools, model, Pane::Pools);
    pane(frame, failovers, model, Pane::Failovers);
    pane(frame, reloads, model, Pane::Reloads);
}

fn panes(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    if area.height < ALL_PANES_HEIGHT {
        return pane(frame, area, model, model.pane);
    }
    let [_, failovers, reloads] = whole_heights(model);
    // The lists take a third, or, while one of them is in use, half.
    let most = if model.pane == Pane::Pools { area.height / 3 } else { area.height / 2 };
    if area.width >= BESIDE_WIDTH {
        let lists = Constraint::Length(failovers.max(reloads).min(most));
        let [pools, lists] = Layout::vertical([Constraint::Fill(1), lists]).areas(area);
        let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).spacing(1).areas(lists);
        pane(frame, pools, model, Pane::Pools);
        pane(frame, left, model, Pane::Failovers);
        pane(frame, right, model, Pane::Reloads);
    } else {
        let reloads = reloads.min(if model.pane == Pane::Reloads { most.saturating_sub(2) } else { 2 });
        let failovers = failovers.min(most.saturating_sub(reloads)).max(2);
        let lengths = [Constraint::Fill(1), Constraint::Length(failovers), Constraint::Length(reloads)];
        let [pools, middle, low] = Layout::vertical(lengths).areas(area);
        pane(frame, pools, model, Pane::Pools);
        pane(frame, middle, model, Pane::Failovers);
        pane(frame, low, model, Pane::Reloads);
    }
}

fn pane(frame: &mut Frame<'_>, area: Rect, model: &Model, pane: Pane) {
    let name = match pane {
        Pane::Pools => "Pools, last minute",
        Pane::Failovers => "Last failovers",
        Pane::Reloads => "Last reloads",
    };
    let paint = Paint(model.colours);
    let in_use = model.pane == pane && !model.whole;
    let title =
        if in_use { Line::styled(format!("▶ {name} "), paint.bold()) } else { Line::from(format!("{name} ")) };
    let block = Block::new().borders(Borders::TOP).border_style(paint.dim()).title(title);
    match pane {
        Pane::Pools => table::draw(frame, area, model, block),
        Pane::Failovers => lists::failovers(frame, area, model, block),
        Pane::Reloads => lists::reloads(frame, area, model, block),
    }
}

fn help(frame: &mut Frame<'_>, model: &Model) {
    let width = HELP.iter().map(|line| line.chars().count()).max().unwrap_or_default() + 4;
    let (width, height) = (u16::try_from(width).unwrap_or(u16::MAX), HELP.len() as u16 + 2);
    let [area] = Layout::vertical([Constraint::Length(height)]).flex(Flex::Center).areas(frame.area());
    let [area] = Layout::horizontal([Constraint::Length(width)]).flex(Flex::Center).areas(area);
    let block = Block::bordered().title(Line::styled(" Keys ", Paint(model.colours).bold()));
    frame.render_widget(Clear, area);
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::from(format!(" {line}"))).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

//! Regions, their pools, and the pools' replicas, a line each.

use nearpool::wire::status::{Pool, Quantiles, Recent, Region, Replica};
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Row, Table, TableState};

use super::columns::{Column, fitting, trend_width};
use super::format::{Paint, bars, ms, percent, rate, share};
use super::model::{Folded, Item, Model, Pane};

/// The guide's targets and alerts of TTFT, in ms.
const P50_TARGET_MS: f64 = 100.0;
const P50_ALERT_MS: f64 = 200.0;
const P99_TARGET_MS: f64 = 500.0;
const P99_ALERT_MS: f64 = 1_000.0;
/// The guide's alert of calls that fail.
const ERRORS_ALERT: f64 = 0.01;
/// The guide's alert of GPUs that idle.
const GPU_ALERT: f64 = 0.4;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, model: &Model, block: Block<'_>) {
    let paint = Paint(model.colours);
    let (columns, constraints) = fitting(area.width);
    let trend_width = trend_width(&columns, &constraints);
    let items = model.items();
    // They stand together.
    let first_of_pools = columns.iter().position(|column| column.is_of_pools());
    let of_pools = columns.iter().filter(|column| column.is_of_pools()).count() as u16;
    let rows = items.iter().map(|item| {
        let failing = if let Item::Replica(_, replica) = item { replica.failing.as_ref() } else { None };
        let cells = columns.iter().enumerate().filter_map(|(at, column)| match failing {
            // A replica has nothing else to show there.
            Some(failing) if column.is_of_pools() => (Some(at) == first_of_pools).then(|| {
                let why = Line::styled(format!(" {}", failing.why), paint.dim());
                Cell::from(why).column_span(of_pools)
            }),
            _ => Some(Cell::from(cell(*item, *column, model, trend_width, paint))),
        });
        Row::new(cells)
    });
    let titles = columns.iter().map(|column| match column {
        Column::Name | Column::State | Column::Trend => Line::from(column.title()),
        _ => Line::from(column.title()).right_aligned(),
    });
    let header = Row::new(titles.collect::<Vec<_>>()).style(paint.dim());
    let mut table = Table::new(rows, constraints).header(header).block(block);
    if model.pane == Pane::Pools && !model.whole {
        table = table.row_highlight_style(paint.cursor());
    }
    let mut state = TableState::new().with_selected(Some(model.cursor(Pane::Pools)));
    frame.render_stateful_widget(table, area, &mut state);
}

fn cell<'a>(item: Item<'a>, column: Column, model: &'a Model, trend_width: usize, paint: Paint) -> Line<'a> {
    let line = match item {
        Item::Region(region) => of_region(region, column, paint),
        Item::Pool(pool, folded) => of_pool(pool, folded, column, model, trend_width, paint),
        Item::Replica(pool, replica) => of_replica(pool, replica, column, trend_width > 0, paint),
    };
    match column {
        Column::Name | Column::State | Column::Trend => line,
        _ => line.right_aligned(),
    }
}

fn of_region<'a>(region: &'a Region, column: Column, paint: Paint) -> Line<'a> {
    let pools = || region.pools.iter();
    match column {
        Column::Name => {
            let rtt = region.rtt_ms.map_or_else(String::new, |rtt| format!(" {} ms", ms(rtt)));
            let home = if region.home { " home" } else { "" };
            let aside = Span::styled(format!("{rtt}{home}"), paint.dim());
            Line::from(vec![Span::styled(region.name.as_str(), paint.bold()), aside])
        }
        Column::State => usable(pools().flat_map(|pool| &pool.replicas), paint),
        Column::InFlight => Line::from(pools().map(in_flight).sum::<u64>().to_string()),
        Column::Tokens => Line::from(rate(pools().map(tokens_per_s).sum())),
        _ => Line::default(),
    }
}

fn of_pool<'a>(
    pool: &'a Pool,
    folded: Folded,
    column: Column,
    model: &'a Model,
    trend_width: usize,
    paint: Paint,
) -> Line<'a> {
    let recent = &pool.last_minute;
    match column {
        Column::Name => {
            let mark = if folded { " ▸ " } else { " ▾ " };
            // Where there is room for a trend there is room for names.
            let model = if trend_width > 0 { format!("  {}", pool.model) } else { String::new() };
            Line::from(vec![Span::raw(mark), Span::raw(pool.name.as_str()), Span::styled(model, paint.dim())])
        }
        Column::State => usable(pool.replicas.iter(), paint),
        Column::InFlight => {
            // Calls that wait stand behind those that run.
            let waiting = pool.queued + pool.sessions_waiting;
            let waiting = if waiting > 0 { format!("+{waiting}") } else { String::new() };
            Line::from(vec![Span::raw(in_flight(pool).to_string()), Span::styled(waiting, paint.warn())])
        }
        Column::Errors => {
            let errors = share(recent.errors, recent.calls);
            let style = if errors > Some(ERRORS_ALERT) { paint.bad() } else { Style::new() };
            Line::styled(errors.filter(|errors| *errors > 0.0).map(errors_text).unwrap_or_default(), style)
        }
        Column::Warm => times(warm(recent), true, paint),
        Column::Cold => times(&recent.ttft_ms.cold, false, paint),
        Column::Cached => {
            let tokens = &recent.prompt_tokens;
            Line::from(percent(share(tokens.cached, tokens.cached.saturating_add(tokens.computed))))
        }
        Column::Tokens => Line::from(rate(tokens_per_s(pool))),
        Column::Gpu => {
            let known: Vec<f64> = pool.replicas.iter().filter_map(|replica| replica.gpu_utilization_ratio).collect();
            gpu((!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64), paint)
        }
        Column::Trend => {
            Line::from(model.trends.get(&pool.name).map_or_else(String::new, |trend| bars(trend, trend_width)))
        }
    }
}

fn of_replica<'a>(pool: &'a Pool, replica: &'a Replica, column: Column, wide: bool, paint: Paint) -> Line<'a> {
    match column {
        Column::Name => {
            // Many are called as their pool and a number: the end tells them apart, and must be seen.
            let end = replica.name.strip_prefix(pool.name.as_str()).filter(|end| !wide && !end.is_empty());
            Line::from(end.map_or_else(|| format!("     {}", replica.name), |end| format!("     …{end}")))
        }
        Column::State => state(replica, paint),
        Column::InFlight => Line::from(replica.in_flight.to_string()),
        Column::Gpu => gpu(replica.gpu_utilization_ratio, paint),
        _ => Line::default(),
    }
}

/// How many of these replicas may be used.
fn usable<'a>(replicas: impl Iterator<Item = &'a Replica>, paint: Paint) -> Line<'a> {
    let (up, all) = replicas.fold((0, 0), |(up, all), one| (up + usize::from(one.standing == "usable"), all + 1));
    let style = match up {
        _ if up == all => paint.good(),
        0 => paint.bad(),
        _ => paint.warn(),
    };
    Line::styled(format!("{up}/{all} up"), style)
}

fn state(replica: &Replica, paint: Paint) -> Line<'_> {
    match (replica.standing.as_str(), replica.breaker.as_str()) {
        ("usable", _) if replica.failing.is_some() => Line::styled("failing", paint.warn()),
        ("usable", _) => Line::styled("up", paint.good()),
        ("unhealthy", _) => Line::styled("down", paint.bad()),
        ("breaker_open", _) => Line::styled("open", paint.bad()),
        ("probe", _) => Line::styled("probing", paint.warn()),
        (other, _) => Line::styled(other, paint.warn()),
    }
}

fn in_flight(pool: &Pool) -> u64 {
    pool.replicas.iter().map(|replica| replica.in_flight).fold(0, u64::saturating_add)
}

fn tokens_per_s(pool: &Pool) -> f64 {
    pool.last_minute.completion_tokens as f64 / pool.last_minute.seconds.max(1) as f64
}

/// Where an engine does not tell what it had cached, its times stand in the first column.
fn warm(recent: &Recent) -> &Quantiles {
    let times = &recent.ttft_ms;
    if times.warm.count == 0 && times.cold.count == 0 { &times.unknown } else { &times.warm }
}

/// The median and the 99th percentile; judged by the guide's targets, which are for prompts that are cached.
fn times(times: &Quantiles, judged: bool, paint: Paint) -> Line<'static> {
    let (Some(p50), Some(p99)) = (times.p50, times.p99) else { return Line::default() };
    let style = match judged {
        true if p50 > P50_ALERT_MS || p99 > P99_ALERT_MS => paint.bad(),
        true if p50 > P50_TARGET_MS || p99 > P99_TARGET_MS => paint.warn(),
        _ => Style::new(),
    };
    Line::styled(format!("{}/{}", ms(p50), ms(p99)), style)
}

fn errors_text(part: f64) -> String {
    if part < 0.0995 { format!("{:.1}%", part * 100.0) } else { percent(Some(part)) }
}

fn gpu(busy: Option<f64>, paint: Paint) -> Line<'static> {
    let style = if busy.is_some_and(|busy| busy < GPU_ALERT) { paint.warn() } else { Style::new() };
    Line::styled(percent(busy), style)
}

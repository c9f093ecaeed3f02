use nearpool::wire::status::Told;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Modifier;
use serde_json::{Value, json};

use super::model::{Connection, Pane};
use super::*;

/// A replica of this standing.
fn replica(name: &str, standing: &str, in_flight: u64) -> Value {
    json!({
        "name": name, "standing": standing, "breaker": "closed", "in_flight": in_flight,
        "gpu_utilization_ratio": if standing == "usable" { json!(0.82) } else { Value::Null },
        "failing": if standing == "unhealthy" { json!({ "cause": "connect", "why": "no connection: refused" }) } else { Value::Null },
    })
}

fn page() -> Value {
    let times = |count: u64, p50: f64, p99: f64| json!({ "count": count, "p50": p50, "p99": p99 });
    let recent = |warm: Value| {
        json!({
            "seconds": 60, "calls": 120, "errors": 3,
            "ttft_ms": { "warm": warm, "cold": times(20, 812.0, 2_400.0), "unknown": { "count": 0, "p50": null, "p99": null } },
            "prompt_tokens": { "cached": 900, "computed": 100 }, "completion_tokens": 6_000,
        })
    };
    let pool = |name: &str, warm: Value, replicas: Vec<Value>| {
        json!({
            "name": name, "model": "llama-3.1-8b", "queued": 2, "sessions_waiting": 1, "last_minute": recent(warm),
            "replicas": replicas,
        })
    };
    let at = |pool: &str, replica: &str| json!({ "region": "r", "pool": pool, "replica": replica });
    json!({
        "edge": "usw-1", "version": "0.1.0", "uptime_s": 3_725, "draining": false, "unready": null,
        "config_hash": "0123456789abcdef", "sessions": 1_234,
        "totals": { "calls": 12_345, "errors": 12, "in_flight": 7 },
        "regions": [
            { "name": "us-west", "home": true, "rtt_ms": 0.4, "pools": [
                pool("usw-8b", times(100, 42.0, 180.0), vec![replica("usw-8b-0", "usable", 4), replica("spare", "unhealthy", 0)]),
            ]},
            { "name": "eu-west", "home": false, "rtt_ms": 131.0, "pools": [
                pool("euw-8b", times(100, 142.0, 1_180.0), vec![replica("euw-8b-0", "breaker_open", 3)]),
            ]},
        ],
        "failovers": [
            { "ts": "2026-11-23T01:02:03.004Z", "model": "llama-3.1-8b", "kind": "retry", "cause": "reset",
              "from": at("usw-8b", "spare"), "to": at("euw-8b", "euw-8b-0") },
            { "ts": "2026-11-23T01:02:02.004Z", "model": "llama-3.1-8b", "kind": "resume", "cause": "cut",
              "from": at("usw-8b", "spare"), "to": null },
        ],
        "reloads": [
            { "ts": "2026-11-23T00:00:01.000Z", "source": "file", "hash": "0123456789abcdef", "changed": true, "error": null },
        ],
    })
}

fn model_of(page: &Value) -> Model {
    let mut model = Model::new("127.0.0.1:9901".into(), false);
    model.status(Status::read(page.to_string().as_bytes()).unwrap());
    let point = |p50: f64| json!({ "warm": { "count": 1, "p50": p50, "p99": p50 }, "cold": null });
    let history = json!({ "pools": [{ "name": "usw-8b", "points": [point(20.0), {}, point(40.0), point(80.0)] }] });
    model.history(&History::read(history.to_string().as_bytes()).unwrap());
    model
}

fn model() -> Model {
    model_of(&page())
}

fn frame(model: &Model, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw::draw(frame, model)).unwrap();
    terminal.backend().buffer().clone()
}

fn shown(model: &Model, width: u16, height: u16) -> String {
    text(&frame(model, width, height))
}

fn press(model: &mut Model, keys: &[KeyCode]) {
    for key in keys {
        assert!(!model.key(KeyEvent::from(*key)), "{key:?} ends it");
    }
}

#[test]
fn a_terminal_of_80_by_24_shows_everything_that_matters() {
    let expected = "\
usw-1  ready  up 1h02m  nearpool 0.1.0  config 01234567                    live
in flight 7  sessions 1,234  calls/s 4.0  calls 12,345  errors 12 (0.10%)
▶ Pools, last minute ───────────────────────────────────────────────────────────
                      state     active   err     warm ms     cold ms cached  GPU
us-west 0.4 ms home   1/2 up         4
 ▾ usw-8b             1/2 up       4+3  2.5%      42/180    812/2.4s    90%  82%
     …-0              up             4                                       82%
     spare            down           0  no connection: refused
eu-west 131 ms        0/1 up         3
 ▾ euw-8b             0/1 up       3+3  2.5%    142/1.2s    812/2.4s    90%
     …-0              open           3





Last failovers ─────────────────────────────────────────────────────────────────
01:02:03 retry  reset  usw-8b/spare → euw-8b/euw-8b-0  llama-3.1-8b
01:02:02 resume cut  usw-8b/spare → nowhere  llama-3.1-8b
Last reloads ───────────────────────────────────────────────────────────────────
00:00:01 file   ok, now 01234567

q quit  ↑↓ move  ⏎ fold  Tab next pane  ? help
";
    let shown = shown(&model(), 80, 24);
    // Blank lines are as many as the layout leaves.
    let lines = |text: &str| text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&shown), lines(expected), "\n{shown}");
    assert_eq!(shown.lines().count(), 24);
}

#[test]
fn a_wide_terminal_shows_whole_names_and_the_trend_and_a_narrow_one_what_matters_most() {
    let wide = shown(&model(), 140, 30);
    for text in ["TTFT p50, 15 min", "usw-8b-0", "usw-8b  llama-3.1-8b", "▂ ▄█", "2.5%", "131 ms"] {
        assert!(wide.contains(text), "{text}\n{wide}");
    }
    let line = wide.lines().find(|line| line.contains("Last failovers")).unwrap();
    assert!(line.contains("Last reloads"), "beside each other: {line}");
    let narrow = shown(&model(), 40, 10);
    for text in ["usw-1", "usw-8b", "1/2 up", "down", "Pools"] {
        assert!(narrow.contains(text), "{text}\n{narrow}");
    }
    // As much of what is wrong as there is room for, and behind it what stands there else.
    let mut failing = page();
    failing["regions"][0]["pools"][0]["replicas"][0]["failing"] = json!({ "cause": "status", "why": "status 500" });
    for (width, line) in [
        (80, "     …-0              failing        4  status 500                           82%"),
        (50, "     …-0              failing        4  status 500"),
        (44, "     …-0        failing        4  status 500"),
        (43, "     …-0                   failing        4"),
    ] {
        let shown = shown(&model_of(&failing), width, 24);
        assert!(shown.lines().any(|shown| shown == line), "{width}\n{shown}");
    }
    assert!(!narrow.contains("warm ms") && !narrow.contains("Last"), "{narrow}");
}

#[test]
fn no_size_is_too_small_and_no_page_too_odd() {
    for model in [model(), model_of(&json!({})), Model::new("here".into(), true)] {
        for width in [1, 2, 9, 21, 22, 33, 45, 57, 79, 80, 101, 119, 120, 300] {
            for height in [1, 2, 3, 4, 5, 14, 15, 16, 17, 24, 60] {
                shown(&model, width, height);
            }
        }
    }
    let mut odd = page();
    odd["regions"][0]["pools"][0]["last_minute"] = json!({ "seconds": 0, "completion_tokens": u64::MAX,
        "ttft_ms": { "warm": { "count": 1, "p50": 1e300, "p99": 1e308 } }, "prompt_tokens": { "cached": u64::MAX, "computed": 9 } });
    odd["regions"][0]["name"] = "a\u{1b}[2Jb\u{7}\u{202e}字".into();
    odd["config_hash"] = "é".repeat(5).into();
    let shown = shown(&model_of(&odd), 80, 24);
    assert!(!shown.contains(['\u{1b}', '\u{7}']), "what a page says drives no terminal: {shown:?}");
}

#[test]
fn an_edge_that_is_gone_is_said_so_and_what_it_told_last_stays() {
    let mut model = model();
    model.gone("no edge at 127.0.0.1:9901: Connection refused".into());
    let gone = shown(&model, 80, 24);
    assert!(gone.contains("EDGE GONE") && gone.contains("trying again: no edge at 127.0.0.1:9901"), "{gone}");
    assert!(gone.contains("usw-8b") && !gone.contains("live"), "{gone}");
    let mut page = page();
    page["last_minute"] = json!({ "seconds": 50, "calls": 450 });
    model.status(Status::read(page.to_string().as_bytes()).unwrap());
    assert_eq!(model.connection, Connection::Live);
    assert!(shown(&model, 80, 24).contains("calls/s 9.0"), "of the whole edge, where that is told");
    let opening = shown(&Model::new("127.0.0.1:1".into(), false), 80, 24);
    assert!(opening.contains("asking 127.0.0.1:1"), "{opening}");
}

#[test]
fn an_edge_that_takes_no_calls_says_so_also_without_colours() {
    for (key, value, says) in [
        ("draining", json!(true), " DRAINING "),
        ("unready", json!("no replica can serve"), " UNREADY: no replica can serve "),
    ] {
        let mut page = page();
        page[key] = value;
        for colours in [false, true] {
            let mut model = model_of(&page);
            model.colours = colours;
            let buffer = frame(&model, 80, 24);
            assert!(text(&buffer).lines().next().unwrap().contains(says), "{}", text(&buffer));
            let cell = &buffer[(8, 0)];
            assert!(cell.modifier.contains(Modifier::BOLD));
            assert_eq!(cell.bg == ratatui::style::Color::Red, colours, "{cell:?}");
            assert_eq!(cell.modifier.contains(Modifier::REVERSED), !colours, "{cell:?}");
        }
    }
}

#[test]
fn without_colours_there_is_none() {
    let colourful = |colours: bool| {
        let mut model = model();
        model.colours = colours;
        let buffer = frame(&model, 120, 30);
        let plain = ratatui::style::Color::Reset;
        buffer.content().iter().any(|cell| cell.fg != plain || cell.bg != plain)
    };
    assert!(colourful(true) && !colourful(false));
}

#[test]
fn keys_move_fold_and_switch() {
    let mut model = model();
    press(&mut model, &[KeyCode::Down, KeyCode::Char('j'), KeyCode::Down]);
    assert_eq!(model.cursor(Pane::Pools), 3, "at the replica that is down");
    assert!(shown(&model, 80, 24).lines().last().unwrap().contains("no connection: refused"));
    press(&mut model, &[KeyCode::Enter]);
    let folded = shown(&model, 80, 24);
    assert!(folded.contains("▸ usw-8b") && !folded.contains("spare   ") && folded.contains("▾ euw-8b"), "{folded}");
    assert_eq!(model.cursor(Pane::Pools), 1, "at the pool that was folded");
    press(&mut model, &[KeyCode::Char(' ')]);
    assert_eq!(model.items().len(), 7);
    press(&mut model, &[KeyCode::Home, KeyCode::Enter, KeyCode::Char('k'), KeyCode::PageUp]);
    assert_eq!((model.items().len(), model.cursor(Pane::Pools)), (7, 0), "a region does not fold");
    press(&mut model, &[KeyCode::PageDown]);
    assert_eq!(model.cursor(Pane::Pools), 6);
    press(&mut model, &[KeyCode::Tab, KeyCode::End]);
    assert_eq!((model.pane, model.cursor(Pane::Failovers)), (Pane::Failovers, 1));
    press(&mut model, &[KeyCode::Tab, KeyCode::Tab, KeyCode::BackTab]);
    assert_eq!(model.pane, Pane::Reloads);
    assert!(shown(&model, 80, 24).contains("▶ Last reloads"));
    // Fewer lines than there were.
    model.status(Status::default());
    assert_eq!(model.cursor(Pane::Pools), 0);
}

#[test]
fn help_is_shown_until_the_next_key_and_q_quits() {
    let mut model = model();
    press(&mut model, &[KeyCode::Char('?')]);
    assert!(shown(&model, 80, 24).contains("fold a pool, or unfold it"));
    press(&mut model, &[KeyCode::Char('q')]);
    assert!(!shown(&model, 80, 24).contains("fold a pool, or unfold it"));
    assert!(model.key(KeyCode::Char('q').into()) && model.key(KeyCode::Esc.into()));
    assert!(model.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(!model.key(KeyCode::Char('c').into()));
}

#[test]
fn one_frame_has_every_line_of_every_pane() {
    let mut page = page();
    let failovers: Vec<Value> = vec![page["failovers"][0].clone(); 50];
    page["failovers"] = failovers.into();
    let mut model = model_of(&page);
    model.whole = true;
    let plain = plain(&model);
    assert_eq!(plain.matches("retry  reset").count(), 50, "{plain}");
    for text in ["usw-1  ready", "euw-8b-0", "ok, now 01234567", "Last reloads"] {
        assert!(plain.contains(text), "{text}\n{plain}");
    }
    assert!(!plain.contains("q quit") && !plain.contains('▶'), "{plain}");
}

#[test]
fn events_are_what_the_model_takes() {
    let event = format!("event: status\ndata: {}\n\n", page());
    let Ok(Some(Told::Status(status))) = nearpool::wire::status::told(event.as_bytes()) else { panic!("no status") };
    assert_eq!(*status, Status::read(page().to_string().as_bytes()).unwrap());
}

use std::path::Path;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::failovers::FAILOVERS_MAX;
use super::*;
use crate::config::{self, Config};
use crate::observe::testing;

/// An edge that started at `start`, with the pool `pool` and another one.
struct Edge {
    feed: Feed,
    start: Instant,
    config: Config,
}

const CALL: Call<'_> = Call { pool: Some("pool"), ok: true, country: None, place: None, ttft: None, tokens: None };

impl Edge {
    fn new(second_pool: &str) -> Edge {
        let start = Instant::now();
        Edge { feed: Feed::new(start), start, config: config(second_pool) }
    }

    fn call(&self, at_s: u64, call: Call<'_>) {
        self.feed.began();
        self.feed.ended(&call, self.at(at_s));
    }

    fn at(&self, at_s: u64) -> Instant {
        self.start + Duration::from_secs(at_s)
    }

    /// The last minute and the last quarter of an hour.
    fn recent(&self, pool: &str, at_s: u64) -> [Value; 2] {
        self.feed.recent(pool, self.at(at_s)).map(|recent| serde_json::to_value(recent).unwrap())
    }

    fn calls(&self, pool: &str, at_s: u64) -> [u64; 2] {
        self.recent(pool, at_s).map(|recent| recent["calls"].as_u64().unwrap())
    }

    fn flows(&self, at_s: u64) -> Value {
        serde_json::to_value(self.feed.flows(&self.config.topology, self.at(at_s))).unwrap()
    }

    fn history(&self, at_s: u64) -> Value {
        let end = Timestamp(SystemTime::UNIX_EPOCH);
        serde_json::to_value(self.feed.history(&self.config.topology, self.at(at_s), end)).unwrap()
    }
}

fn config(second_pool: &str) -> Config {
    let second = format!(
        "[[pools]]\nname = \"{second_pool}\"\nregion = \"here\"\nmodel = \"small\"\nengine = \"vllm\"\n\
         replicas = [\"http://127.0.0.1:9\"]\n"
    );
    let text = testing::text(&[1], "") + &second;
    config::parse("test.toml", &text, Path::new(""), &|_| None).unwrap_or_else(|errors| panic!("{errors}"))
}

fn code(code: &str) -> Option<Code> {
    Code::new(code)
}

fn ttft(cache: CacheState, ms: u64) -> Call<'static> {
    Call { ttft: Some((cache, Duration::from_millis(ms))), ..CALL }
}

#[test]
fn a_call_is_seen_for_a_minute_and_for_a_quarter_of_an_hour() {
    let edge = Edge::new("other");
    edge.call(5, CALL);
    for (at_s, seen) in [(5, [1, 1]), (59, [1, 1]), (60, [0, 1]), (899, [0, 1]), (900, [0, 0]), (9_000, [0, 0])] {
        assert_eq!(edge.calls("pool", at_s), seen, "at {at_s} s");
    }
    assert_eq!(edge.calls("other", 5), [0, 0]);
    assert_eq!(edge.calls("unheard-of", 5), [0, 0]);
}

#[test]
fn the_edge_as_a_whole_counts_also_what_no_pool_got() {
    let edge = Edge::new("other");
    edge.call(1, ttft(CacheState::Warm, 10));
    edge.call(2, Call { pool: Some("other"), ..ttft(CacheState::Cold, 1_000) });
    edge.call(3, Call { pool: None, ok: false, ..CALL });
    let told = |at_s| serde_json::to_value(edge.feed.last_minute(edge.at(at_s))).unwrap();
    let now = told(3);
    assert_eq!((&now["calls"], &now["errors"], &now["seconds"]), (&json!(3), &json!(1), &json!(3)));
    let all = &now["ttft_ms"]["all"];
    assert_eq!(all["count"], 2);
    assert_eq!((&all["p50"], &all["p99"]), (&now["ttft_ms"]["warm"]["p50"], &now["ttft_ms"]["cold"]["p99"]));
    assert_eq!(told(63)["calls"], 0);
    assert_eq!(edge.flows(3).as_array().unwrap().len(), 2, "no flow to nowhere");
}

#[test]
fn sums_tell_how_long_they_are() {
    let edge = Edge::new("other");
    for (at_s, seconds) in [(0, [1, 1]), (7, [7, 7]), (59, [59, 59]), (60, [50, 60]), (905, [55, 895])] {
        for pool in ["pool", "other"] {
            assert_eq!(edge.recent(pool, at_s).map(|recent| recent["seconds"].as_u64().unwrap()), seconds, "{at_s}");
        }
        edge.call(at_s, CALL);
    }
}

#[test]
fn times_are_told_by_cache_and_tokens_are_added_up() {
    let edge = Edge::new("other");
    for n in 1..=100 {
        edge.call(n % 30, ttft(CacheState::Warm, n));
    }
    edge.call(30, Call { ok: false, ..ttft(CacheState::Cold, 4_000) });
    edge.call(31, Call { tokens: Some((100, Some(90), 7)), ..CALL });
    edge.call(31, Call { tokens: Some((2, None, 3)), ..CALL });
    edge.call(31, Call { tokens: Some((5, Some(6), u64::MAX)), ..CALL });
    let [minute, quarter] = edge.recent("pool", 35);
    assert_eq!(minute, quarter);
    assert_eq!((&minute["calls"], &minute["errors"]), (&json!(104), &json!(1)));
    let close = |told: &Value, ms: f64| assert!((told.as_f64().unwrap() / ms - 1.0).abs() < 0.092, "{told} of {ms}");
    let times = &minute["ttft_ms"];
    assert_eq!(times["warm"]["count"], 100);
    close(&times["warm"]["p50"], 50.0);
    close(&times["warm"]["p99"], 99.0);
    assert_eq!(times["cold"]["count"], 1);
    close(&times["cold"]["p50"], 4_000.0);
    assert_eq!(times["unknown"], json!({ "count": 0, "p50": null, "p99": null }));
    assert_eq!(minute["prompt_tokens"], json!({ "cached": 95, "computed": 12 }));
    assert_eq!(minute["completion_tokens"], u64::MAX);
}

#[test]
fn history_has_each_slot_in_its_place() {
    let edge = Edge::new("other");
    edge.call(0, ttft(CacheState::Warm, 10));
    edge.call(890, Call { ok: false, ..CALL });
    edge.call(899, CALL);
    let history = edge.history(899);
    assert_eq!((&history["step_s"], &history["end"]), (&json!(10), &json!("1970-01-01T00:00:00.000Z")));
    assert_eq!((&history["pools"][0]["name"], &history["pools"][1]["name"]), (&json!("pool"), &json!("other")));
    for pool in [0, 1] {
        assert_eq!(history["pools"][pool]["points"].as_array().unwrap().len(), SLOTS);
    }
    let points = &history["pools"][0]["points"];
    assert_eq!((&points[0]["calls"], &points[0]["warm"]["count"]), (&json!(1), &json!(1)));
    assert_eq!((&points[89]["calls"], &points[89]["errors"]), (&json!(2), &json!(1)));
    assert!(points[0]["cold"].is_null() && points[89]["warm"].is_null() && points[50]["calls"] == 0);
    let later = edge.history(905);
    assert_eq!(
        (&later["pools"][0]["points"][0]["calls"], &later["pools"][0]["points"][88]["calls"]),
        (&json!(0), &json!(2))
    );
}

#[test]
fn flows_are_by_country_and_pool_most_calls_first() {
    let edge = Edge::new("other");
    let from = |country, place: Option<(f64, f64)>, pool| Call {
        country: code(country),
        place: place.map(|(latitude, longitude)| Place { latitude, longitude }),
        pool: Some(pool),
        ..CALL
    };
    edge.call(1, from("DE", Some((52.0, 10.0)), "other"));
    edge.call(12, Call { ok: false, ..from("DE", Some((48.0, 10.0)), "other") });
    edge.call(13, from("FR", None, "pool"));
    // Codes of no country, as a proxy may send them, are one flow without a place.
    for country in ["QQ", "T1", "ZZ"] {
        edge.call(14, from(country, Some((1.0, 1.0)), "pool"));
    }
    let flows = edge.flows(30);
    assert_eq!(
        flows[0],
        json!({ "country": null, "latitude": null, "longitude": null, "pool": "pool", "region": "here", "calls": 3, "errors": 0 })
    );
    assert_eq!(
        flows[1],
        json!({ "country": "DE", "latitude": 50.0, "longitude": 10.0, "pool": "other", "region": "here", "calls": 2, "errors": 1 })
    );
    let france = countries::of(code("FR").unwrap()).unwrap().centroid;
    assert_eq!(flows[2]["country"], "FR");
    assert!((flows[2]["latitude"].as_f64().unwrap() - france.latitude).abs() < 0.01, "{flows}");
    assert_eq!(edge.flows(65)[0]["calls"], 3, "the first slot is gone: {}", edge.flows(65));
    assert_eq!(edge.flows(65).as_array().unwrap().iter().find(|flow| flow["country"] == "DE").unwrap()["calls"], 1);
    assert_eq!(edge.flows(80), json!([]));
}

#[test]
fn flows_are_bounded_by_the_countries_and_told_to_a_bound() {
    let edge = Edge::new("other");
    let letters = || (b'A'..=b'Z').map(char::from);
    for country in letters().flat_map(|one| letters().map(move |other| format!("{one}{other}"))) {
        for pool in ["pool", "other"] {
            edge.call(1, Call { country: code(&country), pool: Some(pool), ..CALL });
        }
    }
    let flows = lock(&edge.feed.pools)["pool"].flows(0);
    assert_eq!(flows.len(), 247);
    let told = edge.flows(1);
    assert_eq!(told.as_array().unwrap().len(), FLOWS_MAX);
    assert_eq!(told[0]["calls"], 676 - 246);
}

#[test]
fn a_pool_that_a_reload_removes_goes_and_one_that_returns_has_its_past() {
    let mut edge = Edge::new("old");
    edge.call(1, Call { country: code("DE"), pool: Some("old"), ..CALL });
    edge.config = config("new");
    edge.call(2, Call { country: code("DE"), pool: Some("new"), ..CALL });
    let names = |value: &Value| value.as_array().unwrap().iter().map(|pool| pool["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&edge.history(3)["pools"]), ["pool", "new"]);
    assert_eq!(edge.flows(3).as_array().unwrap().len(), 1);
    edge.config = config("old");
    assert_eq!(edge.flows(3)[0]["pool"], "old");
    // Names that come and go with reloads do not pile up.
    for n in 0..1_000 {
        edge.call(1_000 + n * 10, Call { pool: Some(&format!("renamed-{n}")), ..CALL });
        assert!(lock(&edge.feed.pools).len() <= SLOTS + 1);
    }
}

#[test]
fn totals_count_every_call_and_calls_of_no_pool_are_in_no_pool() {
    let edge = Edge::new("other");
    edge.feed.began();
    edge.call(1, CALL);
    edge.call(1, Call { pool: None, ok: false, ..CALL });
    assert_eq!(edge.feed.totals(), Totals { calls: 2, errors: 1, in_flight: 1 });
    assert_eq!((edge.calls("pool", 1), edge.calls("other", 1)), ([1, 1], [0, 0]));
}

#[test]
fn the_last_failovers_are_told_newest_first() {
    let edge = Edge::new("other");
    let at = |replica: &str| At { region: "here".into(), pool: "pool".into(), replica: replica.into() };
    for n in 0..2 * FAILOVERS_MAX {
        edge.feed.failed_over(Failover {
            ts: Timestamp(SystemTime::UNIX_EPOCH),
            request_id: format!("request-{n}"),
            model: "small".into(),
            kind: Kind::Retry,
            from: at("r0"),
            to: Some(at("r1")).filter(|_| n % 2 == 0),
            cause: "reset",
        });
    }
    let told = serde_json::to_value(edge.feed.failovers()).unwrap();
    assert_eq!(told.as_array().unwrap().len(), FAILOVERS_MAX);
    assert_eq!(
        told[1],
        json!({
            "ts": "1970-01-01T00:00:00.000Z", "request_id": "request-98", "model": "small", "kind": "retry",
            "from": { "region": "here", "pool": "pool", "replica": "r0" },
            "to": { "region": "here", "pool": "pool", "replica": "r1" }, "cause": "reset",
        })
    );
    assert_eq!((&told[0]["request_id"], &told[0]["to"]), (&json!("request-99"), &Value::Null));
}

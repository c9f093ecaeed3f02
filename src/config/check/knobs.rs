//! The sections of knobs: sessions, health, engines' metrics, circuit breaker, retry, timeouts, limits.
//!
//! Defaults, bounds and reasons stand here and, for people, beside the keys in `conf/edge.toml`; a test compares the two.

use std::time::Duration;

use http::HeaderName;

use crate::config::diagnostic::quoted;
use crate::config::raw::{At, Bytes, Knob, Report, Set, Table};
use crate::config::values::{EngineMetrics, Health, Hedging, Sessions, Timeouts};
use crate::policy::{breaker, budget, engine_load, health, limits, retry};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const SECOND: Duration = secs(1);
const MINUTE: Duration = secs(60);
const HOUR: Duration = secs(3_600);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;

macro_rules! knobs {
    ($($name:ident: $of:ty = $key:literal, $default:expr, $min:expr, $max:expr, $why:literal;)*) => {$(
        const $name: Knob<$of> = Knob { key: $key, default: $default, min: $min, max: $max, why: $why };
    )*};
}

knobs! {
    SESSIONS_IDLE: Duration = "idle", HOUR, SECOND, secs(7 * 86_400),
        "agents pause for minutes; what idles for days has lost its KV cache long ago";
    SESSIONS_CAPACITY: usize = "capacity", 1_000_000, 1, 50_000_000,
        "each remembered session costs about 160 bytes of memory";
    SESSIONS_INTERACTION_IDLE: Duration = "interaction_idle", secs(180), SECOND, HOUR,
        "of agents' pauses nine in ten are shorter than two minutes; a longer one is a person's";
    SESSIONS_ACTIVE: Duration = "active", MINUTE, SECOND, HOUR,
        "of agents' pauses four in five are shorter than a minute";
    ADMISSION_SHARE: f64 = "admission_share", 1.0, 0.01, 1.0,
        "it is the part of the caches that this edge fills; the others' parts are for them";
    ADMISSION_WAIT: Duration = "admission_wait", secs(30), Duration::ZERO, secs(120),
        "who waits longer has given up; it is better to be told to come again";

    HEALTH_INTERVAL: Duration = "interval", secs(2), ms(10), secs(600),
        "shorter checks are load of their own, longer ones find out too late";
    HEALTH_TIMEOUT: Duration = "timeout", SECOND, ms(10), MINUTE,
        "a replica that takes longer than a minute to say that it is well is not";
    GENERATION_INTERVAL: Duration = "generation_interval", MINUTE, SECOND, secs(86_400),
        "each call costs tokens and a place in the batch; what is asked once a day shows nothing in time";
    GENERATION_TIMEOUT: Duration = "generation_timeout", secs(30), ms(10), secs(600),
        "an engine's first call may compile kernels, and a busy one queues; after ten minutes it is stuck";
    UNHEALTHY_AFTER: u32 = "unhealthy_after", 3, 1, 100,
        "checks in a row; one lost packet should not empty a pool";
    HEALTHY_AFTER: u32 = "healthy_after", 2, 1, 100,
        "checks in a row; one lucky answer should not fill a sick replica";

    ENGINE_METRICS_INTERVAL: Duration = "interval", secs(2), Duration::ZERO, engine_load::STALE,
        "what an engine said ten seconds ago counts for nothing; 0s asks none";
    ENGINE_METRICS_TIMEOUT: Duration = "timeout", SECOND, ms(10), engine_load::STALE,
        "what comes later is old when it comes";

    CHEAPER_WITHIN: Duration = "cheaper_within", Duration::ZERO, Duration::ZERO, SECOND,
        "ways that differ by less are equally near, and then the price decides; 0s: it never does";

    FAILURE_THRESHOLD: u32 = "failure_threshold", 5, 1, 1_000,
        "failures in a row; more than a thousand is no protection";
    SUCCESS_RATE: f64 = "success_rate", 0.5, 0.0, 1.0,
        "the share of attempts that must go well; 0 turns this off";
    WINDOW: Duration = "window", secs(30), SECOND, secs(600),
        "the time over which the success rate is measured; the longer, the later it speaks and forgets";
    MIN_REQUESTS: u32 = "min_requests", 20, 1, 10_000,
        "attempts within the window; of fewer a rate says little";
    SLOW_START: Duration = "slow_start", secs(30), Duration::ZERO, HOUR,
        "how long a replica that comes back takes to its whole share; 0s turns this off";
    RESET_TIMEOUT: Duration = "reset_timeout", MINUTE, ms(10), HOUR,
        "how long a broken replica rests before one call probes it";

    ATTEMPTS: u32 = "attempts", 4, 1, 16,
        "attempts that sent the body, the first one included; more only multiply the load of an outage";
    ATTEMPTS_PER_POOL: u32 = "attempts_per_pool", 2, 1, 16,
        "attempts in one pool, so that a sick pool costs a bounded part of the client's patience";
    BACKOFF: Duration = "backoff", ms(25), Duration::ZERO, secs(10),
        "the first pause; the client is waiting meanwhile";
    BACKOFF_MAX: Duration = "backoff_max", SECOND, Duration::ZERO, MINUTE,
        "the longest pause; the client is waiting meanwhile";
    BUDGET: f64 = "budget", 0.2, 0.0, 1.0,
        "retries for each request of a client; 1 would let an outage double the load";
    BUDGET_FLOOR_PER_S: u32 = "budget_floor_per_s", 10, 0, 1_000,
        "retries a second for clients with too few requests to have earned one; beyond a thousand it bounds nothing";

    HEDGING_BUDGET: f64 = "budget", 0.05, 0.0, 0.5,
        "hedges for each request; they stand for the slowest twentieth, and cost a prefill each";

    CONNECT: Duration = "connect", SECOND, ms(1), MINUTE,
        "the farthest region answers within half a second; a longer wait is a lost packet or a dead host";
    FIRST_BYTE: Duration = "first_byte", secs(30), ms(10), HOUR,
        "a cold prompt of 100K tokens takes about 9 seconds, and may have to queue";
    ANSWER: Duration = "answer", secs(600), ms(10), secs(86_400),
        "a whole answer that is not streamed; the SDKs themselves give up after 600 seconds";
    IDLE: Duration = "idle", MINUTE, ms(10), HOUR,
        "the pause between two events of a stream; engines stall for seconds when they swap";
    TOTAL: Duration = "total", secs(1_800), ms(10), secs(86_400),
        "the whole request with all its attempts";
    KEEP_ALIVE_COMMENT: Duration = "keep_alive_comment", secs(10), Duration::ZERO, HOUR,
        "load balancers cut a silent connection after 60 seconds or so; 0s sends none";
    DRAIN_DELAY: Duration = "drain_delay", secs(30), Duration::ZERO, secs(600),
        "how long DNS goes on sending clients here after /readyz says 503";
    DRAIN: Duration = "drain", secs(600), Duration::ZERO, secs(86_400),
        "how long calls under way may take to end before the process does";

    BODY: Bytes = "body", Bytes(32 * MIB), Bytes(KIB), Bytes(GIB),
        "agents send 0.1 to 2 MiB, images more; each body is held until its answer begins";
    HEADERS: Bytes = "headers", Bytes(64 * KIB), Bytes(KIB), Bytes(MIB),
        "headers are held for every request; proxies before this one allow 8 to 64 KiB";
    HEADER_COUNT: usize = "header_count", 100, 8, 256,
        "SDKs send about 25 headers, proxies add some; a head of more than 256 lines is not read";
    CONNECTIONS: usize = "connections", 20_000, 1, 1_000_000,
        "each idle connection costs about 60 KiB and a file descriptor";
    BUFFERED: Bytes = "buffered", Bytes(GIB), Bytes(KIB), Bytes(1_024 * GIB),
        "all request bodies held at a time; keep it below the machine's free memory";
    HEADER_TIMEOUT: Duration = "header_timeout", secs(10), ms(10), secs(300),
        "the time for a whole request head; slow ones are attacks or broken links";
    BODY_IDLE: Duration = "body_idle", secs(30), ms(10), secs(600),
        "the longest pause in a request body";
    BODY_TIMEOUT: Duration = "body_timeout", secs(300), ms(10), HOUR,
        "the time for a whole request body: 32 MiB in 5 minutes are 0.9 Mbit/s";
    KEEPALIVE: Duration = "keepalive", MINUTE, ms(10), HOUR,
        "how long a client's connection may idle; each costs memory";
}

/// Hedges a second that nobody need have earned: a fleet with few requests may hedge, too.
const HEDGES_FLOOR_PER_S: u32 = 1;

/// Headers that name a request and not a session: each call would be a session of its own, and none would be warm.
const REQUEST_IDS: [&str; 6] =
    ["x-request-id", "x-client-request-id", "request-id", "traceparent", "idempotency-key", "x-stainless-retry-count"];

/// Headers that carry credentials or belong to the connection: the same for many sessions, or for none.
const NO_SESSIONS: [&str; 12] = [
    "authorization",
    "x-api-key",
    "cookie",
    "host",
    "content-length",
    "content-type",
    "user-agent",
    "accept",
    "connection",
    "transfer-encoding",
    "x-forwarded-for",
    "x-agent-step",
];

/// Shortest pause between two questions for an engine's metrics: each answer has some 100 KiB.
const ENGINE_METRICS_INTERVAL_MIN: Duration = ms(100);

/// Most session headers: each is looked for in every request.
const SESSION_HEADERS_MAX: usize = 32;

/// Up to which difference of their ways regions are equally near.
pub(super) fn cheaper_within(geo: &Table<'_>) -> Duration {
    geo.knob(&CHEAPER_WITHIN).value
}

/// Checks `[sessions]`.
pub(super) fn sessions(root: &Table<'_>) -> Sessions {
    let (section, report) = (root.section("sessions"), root.report());
    let headers = match section.texts("headers") {
        None => vec![HeaderName::from_static("x-session-id")],
        Some(names) => session_headers(&names, report),
    };
    let idle = section.knob(&SESSIONS_IDLE);
    Sessions {
        headers,
        interaction_idle: section.knob(&SESSIONS_INTERACTION_IDLE).at_most(&idle, report),
        capacity: section.knob(&SESSIONS_CAPACITY).value,
        admission: section.flag("admission", true),
        admission_share: section.knob(&ADMISSION_SHARE).value,
        admission_wait: section.knob(&ADMISSION_WAIT).value,
        active: section.knob(&SESSIONS_ACTIVE).at_most(&idle, report),
        idle: idle.value,
    }
}

fn session_headers(names: &[At<&str>], report: &Report) -> Vec<HeaderName> {
    let mut headers: Vec<HeaderName> = Vec::new();
    for name in names {
        let error = |message: String, hint: &str| report.error(&name.span, message, hint);
        let header = HeaderName::from_bytes(name.value.as_bytes()).ok().filter(|header| header.as_str().len() <= 128);
        let Some(header) = header else {
            error(format!("{} is no name of a header", quoted(name.value)), "use letters, digits and `-`");
            continue;
        };
        if REQUEST_IDS.contains(&header.as_str()) {
            let hint = "it differs from call to call, so no call would find its session; name a header that stays";
            error(format!("{} names a request, not a session", quoted(name.value)), hint);
        } else if NO_SESSIONS.contains(&header.as_str()) || header.as_str().starts_with("x-nearpool-") {
            let hint = "name a header that agents set once for each run, as x-session-id";
            error(format!("{} does not tell sessions apart", quoted(name.value)), hint);
        } else if headers.contains(&header) {
            error(format!("{} is named twice", quoted(name.value)), "upper and lower case are the same in headers");
        } else if headers.len() == SESSION_HEADERS_MAX {
            error(format!("more than {SESSION_HEADERS_MAX} session headers"), "keep those that agents send");
        } else {
            headers.push(header);
        }
    }
    headers
}

/// Checks `[health]`.
pub(super) fn health(root: &Table<'_>) -> Health {
    let (section, report) = (root.section("health"), root.report());
    let path = section.text("path");
    if let Some(path) = &path {
        let clean = |b: u8| b.is_ascii_graphic() && b != b'#' && b != b'\\';
        if !path.value.starts_with('/') || path.value.len() > 256 || !path.value.bytes().all(clean) {
            let hint = "write it as \"/health\", or leave it out: each engine has its own";
            report.error(&path.span, format!("{} is no path", quoted(path.value)), hint);
        }
    }
    let interval = section.knob(&HEALTH_INTERVAL);
    Health {
        path: path.map(|path| path.value.to_owned()),
        timeout: section.knob(&HEALTH_TIMEOUT).at_most(&interval, report),
        interval: interval.value,
        check_model: section.flag("check_model", true),
        warm_up: section.flag("warm_up", true),
        generation_interval: section.knob(&GENERATION_INTERVAL).as_written(),
        generation_timeout: section.knob(&GENERATION_TIMEOUT).value,
        thresholds: health::Params {
            unhealthy_after: section.knob(&UNHEALTHY_AFTER).value,
            healthy_after: section.knob(&HEALTHY_AFTER).value,
        },
    }
}

/// Checks `[engine_metrics]`.
pub(super) fn engine_metrics(root: &Table<'_>) -> EngineMetrics {
    let (section, report) = (root.section("engine_metrics"), root.report());
    let (interval, timeout) = (section.knob(&ENGINE_METRICS_INTERVAL), section.knob(&ENGINE_METRICS_TIMEOUT));
    if interval.value.is_zero() {
        return EngineMetrics { interval: None, timeout: timeout.value };
    }
    if interval.value < ENGINE_METRICS_INTERVAL_MIN
        && let Some(value) = section.get("interval")
    {
        let hint = "each answer has some 100 KiB, and engines have better to do; 0s asks none";
        report.error(&value.span(), "`engine_metrics.interval` must be 0s or at least 100ms", hint);
    }
    EngineMetrics { timeout: timeout.at_most(&interval, report), interval: Some(interval.value) }
}

/// Checks `[circuit_breaker]`.
pub(super) fn circuit_breaker(root: &Table<'_>) -> breaker::Params {
    let section = root.section("circuit_breaker");
    breaker::Params {
        failure_threshold: section.knob(&FAILURE_THRESHOLD).value,
        success_rate: section.knob(&SUCCESS_RATE).value,
        window: section.knob(&WINDOW).value,
        min_requests: section.knob(&MIN_REQUESTS).value,
        slow_start: section.knob(&SLOW_START).value,
        reset_timeout: section.knob(&RESET_TIMEOUT).value,
    }
}

/// Checks `[retry]`.
pub(super) fn retry(root: &Table<'_>) -> (retry::Params, budget::Params) {
    let (section, report) = (root.section("retry"), root.report());
    let (attempts, backoff_max) = (section.knob(&ATTEMPTS), section.knob(&BACKOFF_MAX));
    let bounds = retry::Params {
        attempts_per_pool: section.knob(&ATTEMPTS_PER_POOL).at_most(&attempts, report),
        attempts: attempts.value,
        backoff: section.knob(&BACKOFF).at_most(&backoff_max, report),
        backoff_max: backoff_max.value,
    };
    let share = section.knob(&BUDGET).value;
    (bounds, budget::Params { share, floor_per_s: section.knob(&BUDGET_FLOOR_PER_S).value })
}

/// Checks `[hedging]`.
pub(super) fn hedging(root: &Table<'_>) -> Hedging {
    let section = root.section("hedging");
    let share = section.knob(&HEDGING_BUDGET).value;
    Hedging {
        enabled: section.get("enabled").and_then(|value| value.flag()).unwrap_or_default(),
        budget: budget::Params { share, floor_per_s: HEDGES_FLOOR_PER_S },
    }
}

/// Checks `[timeouts]`.
pub(super) fn timeouts(root: &Table<'_>) -> Timeouts {
    let (section, report) = (root.section("timeouts"), root.report());
    let total = section.knob(&TOTAL);
    let within_total = |knob| -> Duration { Set::at_most(&section.knob(knob), &total, report) };
    Timeouts {
        connect: within_total(&CONNECT),
        first_byte: within_total(&FIRST_BYTE),
        answer: within_total(&ANSWER),
        idle: within_total(&IDLE),
        total: total.value,
        keep_alive_comment: section.knob(&KEEP_ALIVE_COMMENT).value,
        drain_delay: section.knob(&DRAIN_DELAY).value,
        drain: section.knob(&DRAIN).value,
    }
}

/// Checks `[limits]`.
pub(super) fn limits(root: &Table<'_>) -> limits::Params {
    let (section, report) = (root.section("limits"), root.report());
    let (buffered, body_timeout) = (section.knob(&BUFFERED), section.knob(&BODY_TIMEOUT));
    limits::Params {
        body_bytes_max: section.knob(&BODY).at_most(&buffered, report).0,
        header_bytes_max: section.knob(&HEADERS).value.0,
        header_count_max: section.knob(&HEADER_COUNT).value,
        connections_max: section.knob(&CONNECTIONS).value,
        buffered_bytes_max: buffered.value.0,
        header_timeout: section.knob(&HEADER_TIMEOUT).value,
        body_idle_timeout: section.knob(&BODY_IDLE).at_most(&body_timeout, report),
        body_timeout: body_timeout.value,
        keepalive_timeout: section.knob(&KEEPALIVE).value,
    }
}

//! What an edge's admin listener tells, as a viewer reads it: `/status`, `/history`, and both as events.
//!
//! Edge and viewer may be of different versions: what is missing is empty, what is new is passed over.

use serde::Deserialize;

use super::sse::{data_of, name_of};

/// The longest page that is read, in bytes; one of a hundred pools has some hundred KiB.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// A page that is no status.
#[derive(Debug, thiserror::Error)]
pub enum BadPage {
    /// It is longer than may be.
    #[error("it is longer than {PAGE_BYTES_MAX} bytes")]
    TooLong,
    /// It is not what an edge tells.
    #[error("it is not what an edge tells: {0}")]
    Json(#[from] serde_json::Error),
}

macro_rules! pages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Default, Debug, Deserialize)]
        #[serde(default)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    )*};
}

pages! {
    /// How things stand.
    Status {
        /// The edge's name.
        edge: String,
        /// Its version.
        version: String,
        /// Seconds since it started.
        uptime_s: u64,
        /// Whether it is about to end.
        draining: bool,
        /// Why it should get no new requests.
        unready: Option<String>,
        /// The configuration in force.
        config_hash: String,
        /// Sessions that it remembers.
        sessions: u64,
        /// Calls since it started.
        totals: Totals,
        /// The last minute of all pools, and of calls that none of them got; older edges do not tell it.
        last_minute: Option<Recent>,
        /// Every region.
        regions: Vec<Region>,
        /// Newest first.
        failovers: Vec<Failover>,
        /// Newest first.
        reloads: Vec<Reload>,
    }

    /// Agents' calls.
    Totals {
        /// Those that ended.
        calls: u64,
        /// Those that the edge or a replica failed.
        errors: u64,
        /// Those under way.
        in_flight: u64,
    }

    /// A region with its pools.
    Region {
        /// Its name.
        name: String,
        /// Whether the edge stands there.
        home: bool,
        /// The measured round trip, in ms.
        rtt_ms: Option<f64>,
        /// Its pools.
        pools: Vec<Pool>,
    }

    /// A pool with its replicas.
    Pool {
        /// Its name.
        name: String,
        /// What it serves.
        model: String,
        /// Calls that wait for a place.
        queued: u64,
        /// Calls of sessions that wait to be taken on.
        sessions_waiting: u64,
        /// The last minute.
        last_minute: Recent,
        /// Its replicas.
        replicas: Vec<Replica>,
    }

    /// What happened in some time.
    Recent {
        /// How long it is.
        seconds: u64,
        /// Calls that ended.
        calls: u64,
        /// Those that the edge or a replica failed.
        errors: u64,
        /// Times to first token.
        ttft_ms: ByCache,
        /// Tokens of prompts.
        prompt_tokens: PromptTokens,
        /// Tokens of answers.
        completion_tokens: u64,
    }

    /// Times by whether the prompt was cached.
    ByCache {
        /// It was.
        warm: Quantiles,
        /// It was not.
        cold: Quantiles,
        /// Nobody told.
        unknown: Quantiles,
    }

    /// Times in ms.
    Quantiles {
        /// How many.
        count: u64,
        /// Half of them were not longer.
        p50: Option<f64>,
        /// 99 of 100 were not longer.
        p99: Option<f64>,
    }

    /// Tokens of prompts.
    PromptTokens {
        /// Found in a KV cache.
        cached: u64,
        /// Computed.
        computed: u64,
    }

    /// One replica.
    Replica {
        /// Its name.
        name: String,
        /// What it may be used for.
        standing: String,
        /// Its circuit breaker.
        breaker: String,
        /// This edge's calls there.
        in_flight: u64,
        /// What its last health check found wrong.
        failing: Option<Failing>,
        /// The share of time in which its GPUs are busy.
        gpu_utilization_ratio: Option<f64>,
    }

    /// What is wrong with a replica.
    Failing {
        /// In a word.
        cause: String,
        /// For people.
        why: String,
    }

    /// An attempt that failed, and where the call went on.
    Failover {
        /// When, as RFC 3339.
        ts: String,
        /// The model.
        model: String,
        /// `retry`, `hedge` or `resume`.
        kind: String,
        /// Where it failed.
        from: At,
        /// Where it went on.
        to: Option<At>,
        /// How it failed.
        cause: String,
    }

    /// A replica, by names.
    At {
        /// Its region.
        region: String,
        /// Its pool.
        pool: String,
        /// Its own.
        replica: String,
    }

    /// A verdict on a new configuration.
    Reload {
        /// When, as RFC 3339.
        ts: String,
        /// What brought it.
        source: String,
        /// The configuration in force since.
        hash: String,
        /// Whether anything is different since.
        changed: bool,
        /// Why it was refused.
        error: Option<String>,
    }

    /// The last quarter of an hour of every pool.
    History {
        /// By name.
        pools: Vec<PoolHistory>,
    }

    /// That of one.
    PoolHistory {
        /// Its name.
        name: String,
        /// Oldest first.
        points: Vec<Point>,
    }

    /// One step of it.
    Point {
        /// Times to first token of prompts that were cached.
        warm: Option<Quantiles>,
        /// Of those that were not.
        cold: Option<Quantiles>,
        /// Of those of which nobody told.
        unknown: Option<Quantiles>,
    }
}

/// What an event tells.
#[derive(Clone, PartialEq, Debug)]
pub enum Told {
    /// How things stand now.
    Status(Box<Status>),
    /// What was.
    History(History),
}

impl Status {
    /// Reads the page `/status`.
    pub fn read(page: &[u8]) -> Result<Status, BadPage> {
        read(page)
    }
}

impl History {
    /// Reads the page `/history`.
    pub fn read(page: &[u8]) -> Result<History, BadPage> {
        read(page)
    }
}

/// Reads one whole event of `/events`; `None` of one that is neither.
pub fn told(event: &[u8]) -> Result<Option<Told>, BadPage> {
    Ok(match name_of(event) {
        Some(b"status") => Some(Told::Status(Box::new(read(&data_of(event))?))),
        Some(b"history") => Some(Told::History(read(&data_of(event))?)),
        _ => None,
    })
}

fn read<'p, T: Deserialize<'p>>(page: &'p [u8]) -> Result<T, BadPage> {
    if page.len() > PAGE_BYTES_MAX {
        return Err(BadPage::TooLong);
    }
    Ok(serde_json::from_slice(page)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_empty_and_what_is_new_is_passed_over() {
        assert_eq!(Status::read(b"{}").unwrap(), Status::default());
        let page =
            br#"{"edge":"e","unready":null,"next":{"a":[1]},"regions":[{"pools":[{"name":"p","replicas":[{}]}]}]}"#;
        let status = Status::read(page).unwrap();
        assert_eq!((status.edge.as_str(), status.regions[0].pools[0].name.as_str()), ("e", "p"));
        assert_eq!(status.regions[0].pools[0].replicas, [Replica::default()]);
    }

    #[test]
    fn events_are_told_by_their_names() {
        let status = told(b"event: status\ndata: {\"edge\":\"e\"}\n\n").unwrap();
        assert!(matches!(status, Some(Told::Status(status)) if status.edge == "e"));
        let history = told(b"data: {\"pools\":[{\"name\":\"p\"}]}\nevent: history\n\n").unwrap();
        assert!(matches!(history, Some(Told::History(history)) if history.pools[0].name == "p"));
        assert_eq!(told(b"retry: 1000\n\n").unwrap(), None);
        assert_eq!(told(b"event: news\ndata: nothing\n\n").unwrap(), None);
    }

    #[test]
    fn what_is_no_page_is_an_error_and_none_is_read_beyond_the_bound() {
        for page in ["", "7", "[1]", "<html>", "{\"regions\": 1}"] {
            assert!(matches!(Status::read(page.as_bytes()), Err(BadPage::Json(_))), "{page}");
        }
        assert!(matches!(Status::read(&vec![b' '; PAGE_BYTES_MAX + 1]), Err(BadPage::TooLong)));
        assert!(told(b"event: status\ndata: {\n\n").is_err());
    }
}

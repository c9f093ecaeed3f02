//! What a checked configuration is: plain values, no `Option` that means "look it up", nothing left to fail.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use crate::domain::topology::{ReplicaAddress, Topology};
use crate::policy::client::PlaceHeaders;
use crate::policy::{breaker, budget, health, limits, region, retry};

/// A checked configuration: plain values, nothing left to look up or to fail.
#[derive(Clone, Debug)]
pub struct Config {
    /// SHA-256 of the file's bytes, in hex.
    pub hash: String,
    /// What exists.
    pub topology: Topology,
    /// Where agents are served in plain text (HTTP/1.1 and h2c).
    pub listen: Vec<SocketAddr>,
    /// Where agents are served over TLS (HTTP/1.1 and h2 by ALPN).
    pub tls: Option<Tls>,
    /// Which of these addresses take connections that begin with a PROXY header, and no others.
    pub proxy_protocol: Vec<SocketAddr>,
    /// The peers whose word on the client's address and place is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where metrics, health and pushes are served.
    pub admin: Option<SocketAddr>,
    /// What a write on the admin listener must show; without it every write is refused.
    pub admin_token: Option<Secret>,
    /// How a client's place is found.
    pub geo: Geo,
    /// How sessions are named and remembered.
    pub sessions: Sessions,
    /// Active health checks.
    pub health: Health,
    /// Engines' own numbers.
    pub engine_metrics: EngineMetrics,
    /// The circuit breaker of each replica.
    pub circuit_breaker: breaker::Params,
    /// Bounds of retrying.
    pub retry: retry::Params,
    /// How much may be retried, of all requests.
    pub retry_budget: budget::Params,
    /// Second attempts beside slow ones.
    pub hedging: Hedging,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How large things may be.
    pub limits: limits::Params,
    /// Where requests are logged.
    pub access_log: AccessLog,
    /// Where spans are sent; `None` when nothing is traced.
    pub tracing: Option<Tracing>,
    /// What the file refers to outside of itself; a pushed config may refer to nothing else.
    pub references: References,
}

/// What a config refers to outside of itself, each with the key that does so.
///
/// The key counts: an edge that reads a file as its TLS key has not thereby agreed to send that file to a replica as an
/// API key.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct References {
    /// Environment variables, by key (`pools.api_key`).
    pub env: BTreeSet<(&'static str, String)>,
    /// Files, by key, as written in the config.
    pub files: BTreeSet<(&'static str, PathBuf)>,
    /// Files that are written, by key.
    pub written: BTreeSet<(&'static str, PathBuf)>,
    /// Link-local addresses among the replicas' hosts: cloud metadata services live there.
    pub link_local: BTreeSet<IpAddr>,
}

/// The TLS listeners and their certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tls {
    /// Addresses.
    pub listen: Vec<SocketAddr>,
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
}

/// How a client's place is found, and what follows from it.
#[derive(Clone, PartialEq, Debug)]
pub struct Geo {
    /// A MaxMind database; `None` for the one that comes with the binary.
    pub database: Option<PathBuf>,
    /// The headers in which trusted peers name the client's place, the first set that says anything counts.
    pub headers: Vec<PlaceHeaders>,
    /// Those that go no further, whoever sent them.
    pub stripped_headers: Vec<HeaderName>,
    /// Which regions may serve a client, and in which order.
    pub rules: region::Rules,
}

/// How sessions are named and remembered.
#[derive(Clone, PartialEq, Debug)]
pub struct Sessions {
    /// Headers that name the session, the first present one counts; lower case.
    pub headers: Vec<HeaderName>,
    /// How long an idle session is remembered.
    pub idle: Duration,
    /// How long a session makes no call until its interaction is over.
    pub interaction_idle: Duration,
    /// How many sessions are remembered; beyond, the longest idle one is forgotten.
    pub capacity: usize,
    /// Whether a pool takes on only as many sessions as its caches hold.
    pub admission: bool,
    /// The part of the caches that is for this edge's sessions, above 0 to 1.
    pub admission_share: f64,
    /// How long a new session waits to be taken on.
    pub admission_wait: Duration,
    /// How long a session counts as active after its last call.
    pub active: Duration,
}

/// Active health checks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// The path asked, for every engine; `None` for each engine's own.
    pub path: Option<String>,
    /// From one check of a replica to its next.
    pub interval: Duration,
    /// How long each question of a check may take.
    pub timeout: Duration,
    /// Whether `/v1/models` is asked too, and must name the model.
    pub check_model: bool,
    /// Whether a replica gets a call of one token before it comes into use.
    pub warm_up: bool,
    /// From one call of one token to the next, as a check of its own; `None` for none.
    pub generation_interval: Option<Duration>,
    /// How long a call of one token may take.
    pub generation_timeout: Duration,
    /// How many checks change a replica's side.
    pub thresholds: health::Params,
}

/// How engines are asked for their own numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineMetrics {
    /// From one question to a replica to the next; `None` asks none.
    pub interval: Option<Duration>,
    /// How long an answer may take.
    pub timeout: Duration,
}

/// A second attempt beside one whose first event is late.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hedging {
    /// Whether there is any.
    pub enabled: bool,
    /// How many.
    pub budget: budget::Params,
}

/// How long things may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// Connecting to a replica, TLS included.
    pub connect: Duration,
    /// From the whole request sent to a stream's first event.
    pub first_byte: Duration,
    /// From the whole request sent to the whole answer, when it is not streamed.
    pub answer: Duration,
    /// Between two events of a stream.
    pub idle: Duration,
    /// The whole request with all its attempts.
    pub total: Duration,
    /// Between the comments that a stream gets while it waits for its first event; zero for none.
    pub keep_alive_comment: Duration,
    /// How long accepting goes on after SIGTERM, while `/readyz` already says 503.
    pub drain_delay: Duration,
    /// How long requests under way may then take to end.
    pub drain: Duration,
}

/// Where requests are logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessLog {
    /// The file; `None` for standard output.
    pub file: Option<PathBuf>,
    /// Bytes from which on it is set aside and a new one begun.
    pub rotate_at_bytes: u64,
    /// Files set aside that are kept.
    pub keep: u32,
}

/// Where spans of requests are sent.
#[derive(Clone, PartialEq, Debug)]
pub struct Tracing {
    /// Where the collector takes OTLP over HTTP; the base path is what comes before `/v1/traces`.
    pub endpoint: ReplicaAddress,
    /// The share of the requests that are traced if no trusted caller decides, 0 to 1.
    pub sample: f64,
    /// Headers that the collector wants, names in lower case.
    pub headers: Vec<(String, Secret)>,
    /// How long the collector may take for a batch.
    pub timeout: Duration,
    /// Spans that may wait.
    pub queue: usize,
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MASKED")
    }
}

//! How the calls of a matrix go, and what takes a replica out of use meanwhile.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use super::faulty::Fault;
use crate::support::EdgeConfig;

/// Calls of one row and kind.
pub(super) const CALLS: usize = 200;
/// How many of them meet the fault at least. A hundred by the hash; a replica at which calls pile up unanswered is given
/// less, yet never as little as this.
const STRUCK_MIN: usize = 20;

/// How the calls of a matrix go.
#[derive(Clone, Copy)]
pub(super) struct Load {
    /// Clients at a time, for each row and kind. Every fourth of them speaks HTTP/2.
    pub(super) clients: usize,
    /// How long an answer may take to begin, to come, and to go on.
    pub(super) timeout: &'static str,
    /// Where the replicas are.
    pub(super) place: Place,
    /// What takes the faulty one out of use.
    pub(super) breaker: Breaker,
    /// Whether streams can go on at another replica once they have begun.
    pub(super) resumable: bool,
}

/// Where replicas are, and by which name the edge knows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// At an IPv4 address that is theirs alone.
    Own,
    /// `localhost`.
    Name,
    /// `[::1]`.
    Ipv6,
}

/// When a circuit breaker opens, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Breaker {
    /// Never, here.
    Off,
    /// By default: after 5 failures, for longer than this takes.
    Default,
    /// After 5 failures, for a moment: calls are made into probes all the time.
    Quick,
}

impl Breaker {
    pub(super) fn add_to(self, config: EdgeConfig) -> EdgeConfig {
        match self {
            Breaker::Off => {
                let config = config.set("circuit_breaker", "failure_threshold", "1000");
                config.set("circuit_breaker", "success_rate", "0")
            }
            Breaker::Default => config,
            Breaker::Quick => config.set("circuit_breaker", "reset_timeout", "\"10ms\""),
        }
    }

    /// How many calls meet the fault.
    pub(super) fn struck(self, fault: Fault, clients: usize) -> RangeInclusive<usize> {
        match self {
            _ if fault.rests() => 1..=1 + clients,
            // As often as this takes seconds.
            _ if fault.pauses() => 1..=CALLS - STRUCK_MIN,
            Breaker::Off => STRUCK_MIN..=CALLS - STRUCK_MIN,
            // Those under way when it opens go on.
            Breaker::Default => 5..=5 + clients,
            Breaker::Quick => 5..=CALLS - STRUCK_MIN,
        }
    }
}

impl Place {
    /// Two addresses there, which are free.
    pub(super) fn addresses(self, own: Ipv4Addr, port: u16) -> [SocketAddr; 2] {
        match self {
            Place::Own => [(own, port).into(), (own, port + 1).into()],
            Place::Name => [(Ipv4Addr::LOCALHOST, 0).into(); 2],
            Place::Ipv6 => [(Ipv6Addr::LOCALHOST, 0).into(); 2],
        }
    }

    pub(super) fn url(self, at: SocketAddr) -> String {
        match self {
            Place::Name => format!("http://localhost:{}", at.port()),
            Place::Own | Place::Ipv6 => format!("http://{at}"),
        }
    }
}

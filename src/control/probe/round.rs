//! One round of one replica: resolve if that is due, check, perhaps have it generate a token, report.
//!
//! Host names are resolved here, never on a request's way. Of several addresses the one in use is kept while it is still
//! among them: engines behind one name that rotates would otherwise lose their warm connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::health_check::Check;
use crate::control::line::Connections;
use crate::domain::health_check::Failure;
use crate::policy::{breaker, health};
use crate::roster::Live;

/// How long resolving a host name may take; resolvers' own limits are mostly 5 s a server.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// One round.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) live: Arc<Live>,
    pub(super) pool: String,
    pub(super) replica: String,
    pub(super) check: Check,
    pub(super) thresholds: health::Params,
    pub(super) breaker: breaker::Params,
    /// Whether the host name is to be resolved.
    pub(super) resolve: bool,
    /// Whether a cold replica is to be warmed up.
    pub(super) warm_up: bool,
    /// Whether it has to generate a token.
    pub(super) generate: bool,
}

/// A round that has come to a verdict.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) round: Round,
    /// Whether a host name was resolved.
    pub(super) resolved: bool,
    /// Whether a token was generated.
    pub(super) generated: bool,
    /// How soon a passed check was answered.
    pub(super) round_trip: Option<Duration>,
    verdict: Result<(), Failure>,
}

/// A round whose verdict depends on a call of one token.
#[derive(Debug)]
pub(super) struct Call {
    round: Round,
    resolved: bool,
    round_trip: Option<Duration>,
    purpose: Purpose,
}

/// What is to be done with a round that was checked.
#[derive(Debug)]
pub(super) enum Next {
    /// The verdict still depends on this call.
    Call(Call),
    /// The verdict stands.
    Report(Judged),
}

/// What a call of one token is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    WarmUp,
    Generation,
}

impl Round {
    /// Resolves if that is due, and checks.
    pub(super) async fn check(self, connections: &Connections) -> Judged {
        let resolved = self.resolve && self.resolve().await;
        let verdict = match self.live.resolved() {
            Some(at) => self.check.run(connections, at).await,
            None => Err(Failure::Unresolved),
        };
        self.judged(resolved, verdict)
    }

    pub(super) fn judged(self, resolved: bool, verdict: Result<Duration, Failure>) -> Judged {
        let (round_trip, verdict) = (verdict.as_ref().ok().copied(), verdict.map(|_| ()));
        Judged { round: self, resolved, generated: false, round_trip, verdict }
    }

    /// What a passed check is to be followed by. Who would come into use by it is cold.
    fn call(&self) -> Option<Purpose> {
        if !self.check.can_generate() {
            None
        } else if self.warm_up && self.live.rises(self.thresholds) {
            Some(Purpose::WarmUp)
        } else {
            // Who is to be warmed up has to generate soon enough.
            let wanted = self.generate && (self.live.reading().healthy || !self.warm_up);
            wanted.then_some(Purpose::Generation)
        }
    }

    /// Resolves the host name. An address that is known stays when this fails.
    async fn resolve(&self) -> bool {
        let address = self.live.address();
        let lookup = tokio::net::lookup_host((address.host.as_str(), address.port));
        let Ok(Ok(found)) = tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await else {
            log::debug!("host name does not resolve pool={} replica={}", self.pool, self.replica);
            return false;
        };
        let Some(chosen) = keep_or_first(self.live.resolved(), found) else { return false };
        if self.live.resolved() != Some(chosen) {
            self.live.set_resolved(chosen);
        }
        true
    }
}

impl Judged {
    /// What is to be done with a round that was checked.
    pub(super) fn next(self) -> Next {
        match self.round.call() {
            Some(purpose) if self.verdict.is_ok() => {
                let Judged { round, resolved, round_trip, .. } = self;
                Next::Call(Call { round, resolved, round_trip, purpose })
            }
            _ => Next::Report(self),
        }
    }

    /// Tells the roster, and the log when the replica changed sides or is down for another reason than before.
    pub(super) fn report(&self) {
        let Round { live, pool, replica, .. } = &self.round;
        let before = live.failing().map(|failure| failure.label());
        let changed = live.checked(self.verdict.is_ok(), self.round.thresholds, self.round.breaker, Instant::now());
        let Err(why) = &self.verdict else {
            if live.reading().healthy {
                live.set_failing(None);
            }
            if changed == Some(true) {
                log::info!("replica is healthy pool={pool} replica={replica}");
            }
            return;
        };
        live.set_failing(Some(why.clone()));
        let cause = why.label();
        if changed == Some(false) {
            log::warn!("replica is unhealthy pool={pool} replica={replica} cause={cause} why=\"{why}\"");
        } else if !live.reading().healthy && before != Some(cause) {
            log::warn!("replica stays unhealthy pool={pool} replica={replica} cause={cause} why=\"{why}\"");
        } else {
            log::debug!("health check failed pool={pool} replica={replica} cause={cause} why=\"{why}\"");
        }
    }
}

impl Call {
    /// Has a token generated.
    pub(super) async fn make(self, connections: &Connections) -> Judged {
        let Call { round, resolved, round_trip, purpose } = self;
        let verdict = match round.live.resolved() {
            Some(at) => round.check.generate(connections, at).await,
            None => Err(Failure::Unresolved),
        };
        let verdict = verdict.map_err(|failure| match purpose {
            Purpose::WarmUp => Failure::WarmUp(Box::new(failure)),
            Purpose::Generation => Failure::Generation(Box::new(failure)),
        });
        Judged { round, resolved, generated: verdict.is_ok(), round_trip, verdict }
    }
}

/// The address in use if it is still among those found, else the first (the resolver sorts by RFC 6724).
fn keep_or_first(in_use: Option<SocketAddr>, found: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let found: Vec<SocketAddr> = found.collect();
    in_use.filter(|address| found.contains(address)).or_else(|| found.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_in_use_is_kept_while_the_name_still_has_it() {
        let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 80));
        assert_eq!(keep_or_first(None, [at(1), at(2)].into_iter()), Some(at(1)));
        assert_eq!(keep_or_first(Some(at(2)), [at(1), at(2)].into_iter()), Some(at(2)));
        assert_eq!(keep_or_first(Some(at(3)), [at(1), at(2)].into_iter()), Some(at(1)));
        assert_eq!(keep_or_first(Some(at(3)), std::iter::empty()), None);
    }
}

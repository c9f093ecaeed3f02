//! The last attempts that failed, and where the call went on.

use std::collections::VecDeque;

use serde::Serialize;

use crate::observe::timestamp::Timestamp;

/// How many are remembered.
pub(super) const FAILOVERS_MAX: usize = 50;

/// The cause of a hedge: the attempt that it overtook had not failed.
pub const LATE: &str = "late";

/// How a call went on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The whole request went to another replica.
    Retry,
    /// A second attempt beside one that was late answered first.
    Hedge,
    /// Another replica went on with an answer that broke off.
    Resume,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Failover {
    /// When.
    pub ts: Timestamp,
    /// The value of `x-request-id`.
    pub request_id: String,
    /// The model that was asked for.
    pub model: String,
    /// How it went on.
    pub kind: Kind,
    /// Where the attempt failed.
    pub from: At,
    /// Where it went on; `None` when there was nowhere to.
    pub to: Option<At>,
    /// The outcome of the attempt that failed, or [`LATE`] of one that a hedge overtook.
    pub cause: &'static str,
}

/// A replica, by names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct At {
    /// Its region.
    pub region: String,
    /// Its pool.
    pub pool: String,
    /// Its name in the pool.
    pub replica: String,
}

/// The last ones, newest first.
#[derive(Default, Debug)]
pub(super) struct Failovers(VecDeque<Failover>);

impl Failovers {
    pub(super) fn add(&mut self, failover: Failover) {
        self.0.truncate(FAILOVERS_MAX - 1);
        self.0.push_front(failover);
    }

    pub(super) fn all(&self) -> Vec<Failover> {
        self.0.iter().cloned().collect()
    }
}

//! Faults that a replica can be told to show.

use serde::{Deserialize, Serialize};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// One kind of misbehaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// The listener is closed and every connection with it; the engine and its cache live on.
    Refuse,
    /// This status in the dialect's error envelope.
    Status {
        /// The HTTP status.
        status: u16,
        /// `Retry-After`, in seconds.
        #[serde(default)]
        retry_after_s: Option<u32>,
    },
    /// The request is read whole and never answered.
    Stall,
    /// Status 200 and headers at once, then nothing more.
    StallAfterHeaders,
    /// The request is read whole, then the connection is closed (FIN).
    CloseBeforeHeaders,
    /// The request is read whole, then the connection is reset (RST).
    ResetBeforeHeaders,
    /// A stream's connection is closed after so many events, with no end of the chunked body. An answer that is not streamed
    /// behaves as under [`Fault::TruncatedBody`].
    CutMidStream {
        /// SSE events that are still sent, each in its own chunk.
        after_events: u32,
    },
    /// A stream goes silent after so many events. An answer that is not streamed stops after its headers.
    StallMidStream {
        /// SSE events that are still sent.
        after_events: u32,
    },
    /// An answer that is not streamed is closed after half of its `Content-Length`. A stream ends cleanly after half of its
    /// tokens, without finish reason or `[DONE]`: the ending that SDKs take for a whole answer.
    TruncatedBody,
    /// Every prefill takes so much longer, and keeps the engine busy; the answers are as ever.
    SlowPrefill {
        /// Milliseconds more.
        ms: u32,
    },
    /// As llama.cpp while it loads its weights: `/health` and every inference call answer 503 "Loading model".
    Loading,
}

/// What a fault applies to. `/sim/…`, `/metrics` and `/gpu/metrics` are always spared, except by [`Fault::Refuse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// `POST /v1/…` only, so that health checks still pass.
    #[default]
    Inference,
    /// `GET /health` and `GET /v1/models` too.
    All,
}

/// A fault, for how long and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultPlan {
    /// Which.
    #[serde(flatten)]
    pub fault: Fault,
    /// How many requests it befalls; without end when `None`. [`Fault::Refuse`] ignores it.
    #[serde(default)]
    pub remaining: Option<u32>,
    /// Which requests.
    #[serde(default)]
    pub scope: Scope,
}

impl FaultPlan {
    /// The fault befalls only the next `requests`.
    #[must_use]
    pub fn times(mut self, requests: u32) -> Self {
        self.remaining = Some(requests);
        self
    }

    /// The fault befalls health checks too.
    #[must_use]
    pub fn everywhere(mut self) -> Self {
        self.scope = Scope::All;
        self
    }
}

impl From<Fault> for FaultPlan {
    fn from(fault: Fault) -> Self {
        Self { fault, remaining: None, scope: Scope::Inference }
    }
}

/// The body of `POST /sim/fault`: a [`FaultPlan`], or `{"fault":"none"}`.
#[derive(Debug, Deserialize)]
pub(super) struct FaultOrder {
    /// Heals itself after so many milliseconds; the only way back from `refuse` over HTTP.
    #[serde(default)]
    for_ms: Option<u64>,
    #[serde(flatten)]
    plan: PlanOrNone,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum PlanOrNone {
    Plan(FaultPlan),
    None { fault: NoFault },
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NoFault {
    None,
}

impl FaultOrder {
    /// The plan, and for how long.
    pub(super) fn read(body: &[u8]) -> Result<(Option<FaultPlan>, Option<Duration>), String> {
        let order: Self = serde_json::from_slice(body).map_err(|error| {
            // Asked for one alone, the parser says what is missing, or names those that there are.
            let why = serde_json::from_slice::<FaultPlan>(body).err().unwrap_or(error);
            format!("this orders no fault: {why}. {{\"fault\":\"none\"}} ends one")
        })?;
        let plan = match order.plan {
            PlanOrNone::Plan(plan) => Some(plan),
            PlanOrNone::None { fault: NoFault::None } => None,
        };
        Ok((plan, order.for_ms.map(Duration::from_millis)))
    }
}

/// The plan in force.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Option<FaultPlan>>);

impl Faults {
    pub(super) fn set(&self, plan: Option<FaultPlan>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = plan;
    }

    /// The fault that befalls this request; counts it.
    pub(super) fn strike(&self, inference: bool) -> Option<Fault> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let plan = guard.as_mut()?;
        if !inference && plan.scope == Scope::Inference && plan.fault != Fault::Loading {
            return None;
        }
        let fault = plan.fault;
        if let Some(remaining) = &mut plan.remaining {
            *remaining = remaining.saturating_sub(1);
            if *remaining == 0 {
                *guard = None;
            }
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let (plan, heal) = FaultOrder::read(br#"{"fault":"status","status":503,"remaining":2,"for_ms":50}"#).unwrap();
        let fault = Fault::Status { status: 503, retry_after_s: None };
        assert_eq!(plan, Some(FaultPlan::from(fault).times(2)));
        assert_eq!(heal, Some(Duration::from_millis(50)));
        let (plan, _) = FaultOrder::read(br#"{"fault":"cut_mid_stream","after_events":3,"scope":"all"}"#).unwrap();
        assert_eq!(plan, Some(FaultPlan::from(Fault::CutMidStream { after_events: 3 }).everywhere()));
        let (plan, _) = FaultOrder::read(br#"{"fault":"slow_prefill","ms":400}"#).unwrap();
        assert_eq!(plan, Some(FaultPlan::from(Fault::SlowPrefill { ms: 400 })));
        assert_eq!(FaultOrder::read(br#"{"fault":"none"}"#).unwrap().0, None);
        assert!(FaultOrder::read(br#"{"fault":"fire"}"#).is_err());
    }

    #[test]
    fn a_counted_fault_ends_and_spares_health_checks() {
        let faults = Faults::default();
        faults.set(Some(FaultPlan::from(Fault::Stall).times(2)));
        assert_eq!(faults.strike(false), None);
        assert_eq!(faults.strike(true), Some(Fault::Stall));
        assert_eq!(faults.strike(true), Some(Fault::Stall));
        assert_eq!(faults.strike(true), None);
    }
}

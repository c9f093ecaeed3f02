//! One interaction: a session's calls until it idles, from its first request to its last answer.
//!
//! It is what a person waits for, and what is looked at when agents run in circles: how many calls, how long, at what cost.
//! A pause of minutes ends it, while its session lives on for an hour. Calls without a session belong to none: each would be
//! an interaction of one call, and all of them together would hide the others.
//!
//! Times are since any fixed start, in ms: there may be a million of these, so they are kept small.

use std::time::Duration;

use crate::domain::outcome::Outcome;

/// What a session's calls have come to.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Interaction {
    /// When its first request came.
    pub began_ms: u64,
    /// When a call of it last began or ended.
    used_ms: u64,
    /// From its first request to its last answer; at most 49 days.
    pub lasted_ms: u32,
    /// Calls that ended.
    pub calls: u32,
    /// Those of them without a whole answer.
    pub errors: u32,
    /// Calls that have not ended.
    in_flight: u16,
    /// Whether a price is known for any of it.
    priced: bool,
    cost_dollars: f64,
    /// Of prompts, cached ones included, as replicas told.
    pub prompt_tokens: u64,
    /// Of prompts, those found in KV caches.
    pub cached_tokens: u64,
    /// Of answers.
    pub completion_tokens: u64,
}

/// What one call adds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CallEnd {
    /// How it ended.
    pub outcome: Outcome,
    /// USD, where a price is known.
    pub cost_dollars: Option<f64>,
    /// As the replica told: of the prompt, of those cached, of the answer.
    pub tokens: (u64, u64, u64),
}

impl Interaction {
    /// One that a request begins.
    pub fn new(now_ms: u64) -> Interaction {
        Interaction { began_ms: now_ms, used_ms: now_ms, ..Interaction::default() }
    }

    /// One more call begins.
    pub fn begins(&mut self, now_ms: u64) {
        self.in_flight = self.in_flight.saturating_add(1);
        self.touch(now_ms);
    }

    /// A call ends.
    pub fn ends(&mut self, call: &CallEnd, now_ms: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.calls = self.calls.saturating_add(1);
        self.errors = self.errors.saturating_add(u32::from(call.outcome != Outcome::Ok));
        if let Some(dollars) = call.cost_dollars {
            self.priced = true;
            self.cost_dollars += dollars;
        }
        self.prompt_tokens += call.tokens.0;
        self.cached_tokens += call.tokens.1;
        self.completion_tokens += call.tokens.2;
        let lasted_ms = u32::try_from(now_ms.saturating_sub(self.began_ms)).unwrap_or(u32::MAX);
        self.lasted_ms = self.lasted_ms.max(lasted_ms);
        self.touch(now_ms);
    }

    /// It is looked at while a call is in flight, and is not idle.
    pub fn touch(&mut self, now_ms: u64) {
        self.used_ms = self.used_ms.max(now_ms);
    }

    /// Whether a call of it has not ended.
    pub fn is_under_way(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether nothing has happened to it for longer than `idle`.
    pub fn is_quiet(&self, idle: Duration, now_ms: u64) -> bool {
        u128::from(now_ms.saturating_sub(self.used_ms)) > idle.as_millis()
    }

    /// What it cost in USD; `None` where no price is known.
    pub fn cost_dollars(&self) -> Option<f64> {
        self.priced.then_some(self.cost_dollars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(180);

    fn call(outcome: Outcome, cost_dollars: Option<f64>) -> CallEnd {
        CallEnd { outcome, cost_dollars, tokens: (100, 80, 7) }
    }

    #[test]
    fn it_lasts_from_the_first_request_to_the_last_answer() {
        let mut one = Interaction::new(1_000);
        one.begins(1_000);
        one.ends(&call(Outcome::Ok, None), 3_000);
        one.begins(60_000);
        one.begins(61_000);
        one.ends(&call(Outcome::Cut, None), 64_000);
        one.ends(&call(Outcome::Ok, None), 62_000);
        assert_eq!((one.calls, one.errors, one.lasted_ms), (3, 1, 63_000));
        assert_eq!((one.prompt_tokens, one.cached_tokens, one.completion_tokens), (300, 240, 21));
    }

    #[test]
    fn it_is_quiet_only_when_nothing_happened_for_longer_than_it_may() {
        let mut one = Interaction::new(0);
        one.begins(0);
        one.ends(&call(Outcome::Ok, None), 20_000);
        assert!(!one.is_quiet(IDLE, 200_000) && one.is_quiet(IDLE, 200_001));
        one.begins(200_000);
        assert!(one.is_under_way() && !one.is_quiet(IDLE, 200_001));
        one.touch(500_000);
        assert!(!one.is_quiet(IDLE, 680_000));
    }

    #[test]
    fn a_cost_is_told_only_where_a_price_is_known() {
        let mut one = Interaction::new(0);
        one.ends(&call(Outcome::Ok, None), 1);
        assert_eq!(one.cost_dollars(), None);
        one.ends(&call(Outcome::Ok, Some(0.5)), 1);
        one.ends(&call(Outcome::Ok, Some(0.25)), 1);
        assert_eq!(one.cost_dollars(), Some(0.75));
    }
}

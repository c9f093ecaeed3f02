//! What happens to streams besides: a late one has a second attempt, one that breaks off goes on elsewhere.

use std::time::Duration;

use super::world::{Event, Running, World};
use crate::domain::outcome::Outcome;
use crate::policy::blame::Verdict;
use crate::policy::resume::{self, Broken, Rescue};
use crate::policy::retry::{self, Tried};

/// A first event that is later has a second attempt beside it.
const HEDGE_AFTER: Duration = Duration::from_millis(400);

impl World {
    /// A tenth of an answer's time is its prefill; what fails without having begun is silent until then.
    pub(super) fn expect_first_event(&mut self, request: usize, attempt: u32, takes: Duration, outcome: Outcome) {
        let begins = matches!(outcome, Outcome::Ok | Outcome::Cut);
        let silent = if begins { takes / 10 } else { takes };
        if begins {
            self.after(silent, Event::Began { request, attempt });
        }
        if silent > HEDGE_AFTER {
            self.after(HEDGE_AFTER, Event::Late { request, attempt });
        }
    }

    /// The first event wins: the other attempt is cancelled, which speaks neither for nor against its replica.
    pub(super) fn began(&mut self, n: usize, attempt: u32) {
        let running = &mut self.requests[n].running;
        let Some(at) = running.iter().position(|running| running.number == attempt) else { return };
        let winner = Running { began: true, ..running[at] };
        let both = std::mem::replace(running, vec![winner]);
        if both.len() > 1 && at == 1 {
            self.tally.hedges_won += 1;
        }
        for Running { selection, sent, .. } in both.into_iter().filter(|running| running.number != attempt) {
            self.replicas[selection.replica.0].in_flight -= 1;
            let last = Tried { replica: selection.replica, pool: selection.pool.pool, outcome: Outcome::ClientGone };
            self.report(last, sent);
        }
    }

    /// A second attempt beside one that is late, where the edge would make one.
    pub(super) fn hedge(&mut self, n: usize, attempt: u32) {
        let request = &self.requests[n];
        let [Running { selection: first, number, began: false, .. }] = request.running[..] else { return };
        if number != attempt || !retry::may_hedge(&request.tried) || request.resumes > 0 {
            return;
        }
        let Ok(hedge) = self.choose(n) else { return };
        if hedge.last_resort || hedge.probe || hedge.pool.model != first.pool.model {
            return;
        }
        assert_ne!(hedge.replica, first.replica);
        self.requests[n].hedges += 1;
        self.tally.hedges += 1;
        self.send(n, hedge);
    }

    /// An answer that had begun broke off: the rest is asked of another replica of the same served model.
    pub(super) fn broke_off(&mut self, n: usize, last: Tried) {
        let request = &mut self.requests[n];
        assert!(request.running.is_empty(), "the winner runs alone");
        request.failed.push(last.replica);
        request.failed.extend(request.tried.iter().filter(|tried| tried.broke_down()).map(|tried| tried.replica));
        let broke_down = request.tried.iter().filter(|tried| tried.broke_down()).count();
        request.breakdowns += broke_down + usize::from(last.outcome == Outcome::Cut);
        let broken = Broken {
            outcome: last.outcome,
            finished: false,
            obstacle: None,
            resumes: request.resumes,
            breakdowns: request.breakdowns,
        };
        if resume::rescue(&broken) != Rescue::Continue {
            self.tally.failed += 1;
            return self.finish(n, Verdict::of_ending(last.outcome));
        }
        let served_as = |pool| &self.topology.model(self.topology.pool(pool).model).served_as;
        let request = &mut self.requests[n];
        request.pools.retain(|pool| served_as(pool.pool) == served_as(last.pool));
        request.tried.clear();
        request.resumes += 1;
        self.tally.resumes += 1;
        self.attempt(n);
    }
}

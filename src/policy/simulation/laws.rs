//! What must hold at every step of every run.

use std::collections::HashSet;

use super::world::{BUDGET, RETRY, Request, World};
use crate::domain::ids::PoolIx;
use crate::domain::outcome::Outcome;
use crate::policy::replica::{Candidate, NoReplica, Standing};
use crate::policy::retry::{self, Tried};
use crate::policy::select::{Home, Selection};

impl World {
    /// The chosen replica can be used and has room; a session left its home only because it had to.
    pub(super) fn assert_lawful_choice(&self, n: usize, selection: Selection, home: Option<Home>) {
        let request = &self.requests[n];
        let chosen = self.candidate(selection.replica, request);
        assert!(!chosen.tried && chosen.in_flight < chosen.cap, "{chosen:?}");
        assert_eq!(selection.probe, chosen.standing == Standing::Probe);
        assert_eq!(selection.last_resort, !chosen.takes_more(), "{chosen:?}");
        if selection.last_resort {
            assert!(!self.open_to(n).iter().any(Candidate::takes_more), "a better one than {chosen:?} was left");
        }
        assert_eq!(self.topology.replica(selection.replica).pool, selection.pool.pool);
        if let Some(home) = home.filter(|home| home.candidate.replica != selection.replica) {
            let of_fallback = self.topology.pool(home.pool).model != request.model;
            let had_to = !home.candidate.takes_more() || retry::exhausted(&request.tried, home.pool, RETRY);
            // The rest of an answer is for the model that began it.
            let of_another = !request.pools.iter().any(|pool| pool.pool == home.pool);
            assert!(had_to || of_fallback || of_another, "{selection:?} although {home:?}");
        }
    }

    /// No call reaches a region where its client's calls may not go, be it a retry, a fallback, a hedge or the rest of an
    /// answer.
    pub(super) fn assert_allowed(&mut self, n: usize, selection: Selection) {
        let request = &self.requests[n];
        let session = &self.sessions[request.session];
        // By where the replica stands, not by what the order says of it.
        let region = self.pool_of(selection.replica).region;
        assert!(session.allowed.contains(&region), "{selection:?} of a client that may go to {:?}", session.allowed);
        self.tally.kept += u32::from(session.allowed.len() < self.topology.regions.len());
    }

    /// The replicas that a request may still try, as the edge knows them.
    fn open_to(&self, n: usize) -> Vec<Candidate> {
        let request = &self.requests[n];
        let pools = request.pools.iter().filter(|pool| !retry::exhausted(&request.tried, pool.pool, RETRY));
        pools
            .flat_map(|pool| &self.topology.pool(pool.pool).replicas)
            .map(|replica| self.candidate(*replica, request))
            .filter(|candidate| !candidate.tried)
            .collect()
    }

    /// A request is refused only when there is no replica left that it has not tried, or none that has room.
    pub(super) fn assert_lawful_refusal(&self, n: usize, refusal: NoReplica) {
        let open = self.open_to(n);
        match refusal {
            NoReplica::Unusable => assert!(open.is_empty(), "refused although there is {open:?}"),
            NoReplica::Full => {
                assert!(!open.iter().any(Candidate::takes_more), "refused as full although there is {open:?}");
                let usable_is_full = open.iter().any(Candidate::eligible);
                let full = open.iter().all(|candidate| candidate.in_flight >= candidate.cap);
                assert!(usable_is_full || full, "{open:?}");
            }
        }
    }

    /// No replica twice, no more attempts than the bounds allow, and no body that breaks more than two replicas.
    pub(super) fn assert_bounds(&self, n: usize) {
        let Request { tried, hedges, .. } = &self.requests[n];
        let replicas: HashSet<_> = tried.iter().map(|t| t.replica).collect();
        assert_eq!(replicas.len(), tried.len(), "a replica was tried twice");
        // A hedge of the last attempt is one more.
        assert!(counted(tried, |_| true) <= RETRY.attempts + u32::from(*hedges > 0));
        for pool in 0..self.topology.pools.len() {
            assert!(counted(tried, |t| t.pool == PoolIx(pool)) <= RETRY.attempts_per_pool);
        }
        assert!(tried.iter().filter(|t| t.broke_down()).count() <= 2, "{tried:?}");
    }

    /// A request that was tried is given up only at a bound, or when its ending would be the same anywhere.
    pub(super) fn assert_lawful_stop(&self, n: usize, ending: Outcome) {
        let tried = &self.requests[n].tried;
        let breakdowns = tried.iter().filter(|t| t.broke_down()).count();
        let lawful = match ending {
            Outcome::Crashed => breakdowns + self.requests[n].breakdowns >= 2,
            Outcome::ClientGone | Outcome::ClientError => true,
            _ => counted(tried, |_| true) >= RETRY.attempts,
        };
        assert!(lawful, "{ending:?} after {tried:?}");
    }

    /// What was paid for stays within the budget at any time.
    pub(super) fn assert_within_budget(&self) {
        let floor = f64::from(BUDGET.floor_per_s) * (self.now.as_secs() + 1) as f64;
        let most = BUDGET.share * f64::from(self.tally.calls) + floor + 1e-6;
        assert!(f64::from(self.tally.paid) <= most, "{} retries, at most {most}", self.tally.paid);
    }
}

fn counted(tried: &[Tried], which: impl Fn(&Tried) -> bool) -> u32 {
    tried.iter().filter(|t| which(t) && t.counts()).count() as u32
}

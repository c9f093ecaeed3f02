//! Stations 4 and 5 for a call that goes on with a stored response (`previous_response_id`): an engine holds it in its own
//! memory, so that its replica alone can serve the call, and no other is tried.
//!
//! Which replica that is the edge knows from the answers that passed here. Of an id that it does not know, since it has
//! started anew or another edge saw the answer, it asks the replicas in turn for as long as they answer 404. A replica that
//! is no longer configured is none that is known: it may have been given another name. When all have said 404, the last one
//! passes; a replica that does not answer has lost its memory with its process, and does not change that.

use std::time::Instant;

use http::StatusCode;

use super::attempt::{Answer, Began};
use super::body::Received;
use super::dispatch::{Reached, Stopped};
use super::edge::Edge;
use super::reply::Refusal;
use crate::domain::ask::Endpoint;
use crate::domain::ids::{ClientKey, ReplicaIx, ResponseKey};
use crate::domain::outcome::Outcome;
use crate::policy::affinity::response_key;
use crate::policy::pool::PoolCandidate;
use crate::policy::replica::NoReplica;
use crate::policy::retry::{self, Tried};
use crate::roster::Snapshot;
use crate::wire::response_id;

/// Most replicas that are asked for a response which the edge does not know. Each has answered within milliseconds.
const REPLICAS_ASKED_MAX: usize = 64;

/// Characters of an id in a message. Engines' own have fewer.
const ID_SHOWN_MAX: usize = 100;

/// A stored response that a call goes on with.
pub(super) struct Previous {
    id: String,
    key: ResponseKey,
    /// The replica that holds it, if that is known.
    pub(super) owner: Option<ReplicaIx>,
}

/// What a call has to do with stored responses.
pub(super) struct Chain {
    client: ClientKey,
    pub(super) previous: Option<Previous>,
    /// Whether an engine may store the answer.
    stores: bool,
}

impl Chain {
    /// Reads it off a request; `None` where the API knows no stored responses.
    pub(super) fn of(
        edge: &Edge,
        snapshot: &Snapshot,
        client: ClientKey,
        endpoint: Endpoint,
        received: &Received<'_>,
    ) -> Option<Chain> {
        if endpoint != Endpoint::Responses {
            return None;
        }
        let previous = response_id::previous(&received.scan).map(|id| {
            let key = response_key(client, &id);
            let owner = edge.roster.responses.owner(key, snapshot.config.sessions.idle, Instant::now());
            Previous { id, key, owner: owner.and_then(|key| snapshot.by_key(key)) }
        });
        Some(Chain { client, previous, stores: !received.scan.unstored })
    }

    /// Of the allowed pools those that can have the response: where its owner is known, that one's.
    pub(super) fn narrow(
        &self,
        snapshot: &Snapshot,
        mut pools: Vec<PoolCandidate>,
    ) -> Result<Vec<PoolCandidate>, Refusal> {
        if let Some((previous, owner)) = self.previous.as_ref().and_then(|previous| Some((previous, previous.owner?))) {
            let own = snapshot.config.topology.replica(owner).pool;
            pools.retain(|pool| pool.pool == own);
            if pools.is_empty() {
                return Err(previous.unavailable("is none that this request may go to"));
            }
        }
        Ok(pools)
    }

    /// Notes who holds the response that was gone on with, and the one that is about to be given.
    pub(super) fn remember(&self, edge: &Edge, snapshot: &Snapshot, reached: &Reached) {
        if reached.began.outcome() != Outcome::Ok {
            return;
        }
        let given = if self.stores { id_of(&reached.began) } else { None };
        let given = given.map(|id| response_key(self.client, &id));
        let (replica, now) = (snapshot.live(reached.selection.replica).key(), Instant::now());
        for key in self.previous.iter().map(|previous| previous.key).chain(given) {
            edge.roster.responses.remember(key, replica, now);
        }
    }
}

fn id_of(began: &Began) -> Option<String> {
    match began {
        Began::Whole(answer) => match answer.body.as_slice() {
            [whole] => response_id::of_body(whole),
            pieces => response_id::of_body(&pieces.concat()),
        },
        Began::Under(_, under) => match &under.events {
            Some(events) => events.response_id().map(str::to_owned),
            None => under.ready.first().and_then(|beginning| response_id::of_body(beginning)),
        },
    }
}

impl Previous {
    /// The answer of a replica that does not hold the response, when another one may.
    pub(super) fn is_elsewhere(&self, began: Began, tried: &[Tried]) -> Result<Began, Box<Answer>> {
        match began {
            Began::Whole(answer)
                if self.owner.is_none()
                    && answer.head.status == StatusCode::NOT_FOUND
                    && retry::refusals(tried) + 1 < REPLICAS_ASKED_MAX =>
            {
                Err(answer)
            }
            began => Ok(began),
        }
    }

    /// What a client is told when no replica can be asked, or none any more.
    pub(super) fn no_place(&self, no: NoReplica) -> Option<Refusal> {
        self.owner?;
        Some(match no {
            NoReplica::Unusable => self.unavailable("is not usable now"),
            NoReplica::Full => Refusal::new(
                Outcome::AtCapacity,
                format!("the replica that holds the response '{}' is at its capacity", self.shown()),
            ),
        })
    }

    /// What becomes of an end that came about without an answer.
    pub(super) fn ended(&self, stopped: Stopped, elsewhere: Option<Box<Answer>>) -> Stopped {
        let Stopped::Refused(refusal) = &stopped else { return stopped };
        let gone = is_gone(refusal.outcome);
        match elsewhere {
            Some(answer) if gone || matches!(refusal.outcome, Outcome::ClientError | Outcome::NoReplica) => {
                Stopped::Answered(Outcome::ClientError, answer)
            }
            None if gone && self.owner.is_some() => Stopped::Refused(self.unavailable("does not answer")),
            _ => stopped,
        }
    }

    fn unavailable(&self, why: &str) -> Refusal {
        let message = format!(
            "the replica that holds the response '{}' {why}, and no other replica has it; \
             try again later, or send the whole conversation without previous_response_id",
            self.shown()
        );
        Refusal::new(Outcome::ResponseOwnerUnavailable, message).param("previous_response_id").retry_after_s(1)
    }

    fn shown(&self) -> String {
        self.id.chars().take(ID_SHOWN_MAX).filter(|c| !c.is_control()).collect()
    }
}

/// Whether a replica that ended a request so is not there.
fn is_gone(outcome: Outcome) -> bool {
    use Outcome::{ConnectFailed, ConnectTimeout, Crashed, Cut, Reset};
    matches!(outcome, ConnectFailed | ConnectTimeout | Reset | Cut | Crashed)
}

#[cfg(test)]
mod tests {
    use super::super::head;
    use super::*;
    use crate::domain::ids::PoolIx;

    fn previous(owner: Option<usize>) -> Previous {
        Previous { id: "resp_1".into(), key: ResponseKey(1), owner: owner.map(ReplicaIx) }
    }

    fn answer(status: u16) -> Box<Answer> {
        Box::new(Answer { head: Box::new(head::answer(status.try_into().unwrap(), 0)), body: Vec::new() })
    }

    #[test]
    fn only_a_404_of_a_replica_that_is_not_known_as_the_owner_leads_to_the_next_and_not_without_end() {
        let asked = |n: usize| {
            let tried = |n| Tried { replica: ReplicaIx(n), pool: PoolIx(0), outcome: Outcome::ClientError };
            (0..n).map(tried).collect::<Vec<_>>()
        };
        for (owner, status, before, elsewhere) in [
            (None, 404, 0, true),
            (None, 404, REPLICAS_ASKED_MAX - 2, true),
            (None, 404, REPLICAS_ASKED_MAX - 1, false),
            (Some(3), 404, 0, false),
            (None, 200, 0, false),
            (None, 400, 0, false),
        ] {
            let result = previous(owner).is_elsewhere(Began::Whole(answer(status)), &asked(before));
            assert_eq!(result.is_err(), elsewhere, "{owner:?} {status} {before}");
        }
    }

    #[test]
    fn an_end_without_an_answer_speaks_of_the_owner_or_passes_the_last_404_on() {
        use Outcome::*;
        let ended = |owner, with_404: bool, outcome| {
            let stopped = Stopped::Refused(Refusal::new(outcome, "said before"));
            match previous(owner).ended(stopped, with_404.then(|| answer(404))) {
                Stopped::Refused(refusal) => refusal.outcome,
                Stopped::Answered(outcome, _) => outcome,
            }
        };
        for gone in [ConnectFailed, ConnectTimeout, Reset, Cut, Crashed] {
            assert_eq!(ended(Some(3), false, gone), ResponseOwnerUnavailable);
            assert_eq!(ended(None, true, gone), ClientError);
            assert_eq!(ended(None, false, gone), gone, "nobody has answered: nobody knows");
        }
        for lives in [FirstByteTimeout, AnswerTimeout, TotalTimeout, AtCapacity, Busy] {
            assert_eq!(ended(Some(3), false, lives), lives);
            assert_eq!(ended(None, true, lives), lives, "it may hold it");
        }
        assert_eq!(ended(None, true, NoReplica), ClientError);
    }
}

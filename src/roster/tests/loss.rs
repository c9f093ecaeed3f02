//! One replica of eight dies and comes back.

use std::collections::HashSet;
use std::time::Duration;

use super::agents::{INSTRUCTIONS_TOKENS, call, size};
use super::world::World;
use crate::domain::ids::ReplicaIx;
use crate::policy::select::Reason;

/// As many as the caches hold the contexts of.
const SESSIONS: usize = 160;
const REPLICAS: u16 = 8;
const DEAD: ReplicaIx = ReplicaIx(3);
const ADDED_TOKENS: u32 = 700;

/// One call of the pool in so long: those that must be read anew take a twentieth of the others' time.
const EVERY: Duration = Duration::from_secs(2);

struct Sessions {
    world: World,
    answers: usize,
}

impl Sessions {
    /// Every session's next call: where it goes, and why.
    fn round(&mut self) -> Vec<(ReplicaIx, Reason)> {
        let answers = self.answers;
        self.answers += 1;
        let tokens = |n| match answers {
            0 => INSTRUCTIONS_TOKENS + ADDED_TOKENS,
            more => size(n) + more as u32 * ADDED_TOKENS,
        };
        let mut place = |n| {
            self.world.pass(EVERY);
            let selection = self.world.send(0, &call(n, answers, tokens(n)), 16 * EVERY);
            (selection.replica, selection.reason)
        };
        (0..SESSIONS).map(&mut place).collect()
    }
}

fn places(round: &[(ReplicaIx, Reason)]) -> Vec<ReplicaIx> {
    round.iter().map(|(replica, _)| *replica).collect()
}

#[test]
fn a_dead_replica_moves_its_own_sessions_once_and_none_flaps_back() {
    let mut sessions = Sessions { world: World::new(1, REPLICAS), answers: 0 };
    sessions.round();
    let first = places(&sessions.round());
    assert_eq!(places(&sessions.round()), first, "contexts of 22,000 to 100,000 tokens, each at home");
    let edge = |sessions: &Sessions, passed| {
        sessions.world.edges[0].checked(DEAD, passed, sessions.world.now());
    };
    edge(&sessions, false);
    let moved = sessions.round();
    let mut heirs = HashSet::new();
    for (before, (after, reason)) in first.iter().zip(&moved) {
        if *before == DEAD {
            assert!(*after != DEAD && *reason == Reason::Moved, "{after:?} {reason:?}");
            heirs.insert(after.0);
        } else {
            assert_eq!((after, *reason), (before, Reason::Session), "the sessions of others stay");
        }
    }
    assert!(heirs.len() > 3, "they spread over the others: {heirs:?}");
    assert_eq!(places(&sessions.round()), places(&moved), "once");
    edge(&sessions, true);
    for _ in 0..2 {
        let healed = sessions.round();
        assert_eq!(places(&healed), places(&moved), "none goes back to a cache that is empty");
        assert!(healed.iter().all(|(_, reason)| *reason == Reason::Session));
    }
    let fresh = |n| {
        sessions.world.pass(EVERY);
        sessions.world.send(0, &call(n, 0, INSTRUCTIONS_TOKENS + ADDED_TOKENS), EVERY).replica
    };
    let fresh = (SESSIONS..2 * SESSIONS).map(fresh).filter(|replica| *replica == DEAD).count();
    assert!(fresh * 2 > SESSIONS / usize::from(REPLICAS), "{fresh} new sessions of {SESSIONS} start there");
}

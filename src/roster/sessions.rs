//! Which sessions there are, and which replica served each last: a bounded table, the longest idle entry goes first.
//!
//! A session that has a name is found by it. One that has none is found by its conversation: the entry stands under the
//! hash of all messages of an earlier call, and a call whose messages begin with exactly those continues it. The entry then
//! moves on to a longer list, so that each session has one entry however many calls it makes.
//!
//! From the third call on it stands under the list of the last call but one. One call of agents in twenty changes the end of
//! what the one before it said (a reminder goes, a turn is taken back), and still extends that; as a session of its own it
//! would wait to be taken on while its session is under way. After the first call it stands under that one's own list:
//! those that begin alike are told apart as soon as they differ.
//!
//! A session takes 142 bytes, measured with a million of them (`cargo bench --bench decisions`, whose bound is 200): 80 in the
//! list and the rest in the hash table. So the default capacity of a million is bounded by some 145 MB, and an edge with few
//! sessions uses little.

use std::time::{Duration, Instant};

use super::identity::Identity;
use super::idle_table::{IdleTable, Idles};
use crate::domain::ids::{ReplicaKey, SessionKey};
use crate::policy::replica::SessionView;

/// Remembers the home of sessions.
#[derive(Debug)]
pub struct SessionTable(IdleTable<Home>);

#[derive(Clone, Copy, Debug)]
struct Home {
    session: SessionKey,
    replica: ReplicaKey,
    /// What stands for the whole list of its last call.
    last: SessionKey,
    /// Of that call.
    used_s: u32,
    /// Whether that was its first.
    once: bool,
}

impl Idles for Home {
    fn used_s(&mut self) -> &mut u32 {
        &mut self.used_s
    }
}

/// A call's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Session {
    /// What it is known by.
    pub key: SessionKey,
    /// What the choice needs of it.
    pub view: SessionView,
    /// Under which key its entry stands, if it has one, and will stand.
    before: Option<SessionKey>,
    entry: SessionKey,
    /// What stands for the call itself.
    last: SessionKey,
    /// Whether it is the session's first call, or that again.
    once: bool,
}

impl SessionTable {
    /// A table for about `capacity` sessions.
    pub fn new(capacity: usize, start: Instant) -> SessionTable {
        SessionTable(IdleTable::new(capacity, start))
    }

    /// The session of a call, as far as it was seen within the last `idle`.
    pub fn find(&self, identity: &Identity, idle: Duration, now: Instant) -> Option<Session> {
        let fresh = |key: &SessionKey| self.0.get(key.0, idle, now);
        match identity {
            Identity::Named { session, parent } => {
                let (own, parents) = (fresh(session), parent.as_ref().and_then(fresh));
                let home = own.or(parents).map(|home| home.replica);
                let view = SessionView { placement: parent.unwrap_or(*session), home, begun: own.is_some() };
                Some(Session {
                    key: *session,
                    view,
                    before: own.map(|_| *session),
                    entry: *session,
                    last: *session,
                    once: false,
                })
            }
            Identity::Conversation { opening, ends } => {
                let last = *ends.last()?;
                let found = ends.iter().rev().find_map(|end| Some((*end, fresh(end)?)));
                let home = found.map(|(_, home)| home);
                let view =
                    SessionView { placement: *opening, home: home.map(|home| home.replica), begun: home.is_some() };
                // One that is met in the middle is a session of its own: others may have opened alike.
                let key = home.map_or(last, |home| home.session);
                let entry = match found {
                    // The last call's list has not changed, and its own stands one call behind.
                    Some((_, home)) if !home.once && home.last != last && ends.contains(&home.last) => home.last,
                    Some((at, home)) if !home.once => at,
                    _ => last,
                };
                let once = home.is_none_or(|home| home.once && home.last == last);
                Some(Session { key, view, before: found.map(|(end, _)| end), entry, last, once })
            }
        }
    }

    /// Notes that the replica serves the session at `now`.
    pub fn remember(&self, session: Session, replica: ReplicaKey, now: Instant) {
        if let Some(before) = session.before.filter(|before| *before != session.entry) {
            self.0.remove(before.0);
        }
        let home = Home { session: session.key, replica, last: session.last, used_s: 0, once: session.once };
        self.0.put(session.entry.0, home, now);
    }

    /// Forgets the sessions that have been idle for longer than `idle`, and returns how many remain.
    pub fn sweep(&self, idle: Duration, now: Instant) -> usize {
        self.0.sweep(idle, now)
    }

    /// Changes the bound; the longest idle sessions beyond it are forgotten.
    pub fn resize(&self, capacity: usize) {
        self.0.resize(capacity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::idle_table::SHARDS;

    const HOUR: Duration = Duration::from_secs(3600);

    fn key(n: u128) -> SessionKey {
        crate::policy::affinity::session_key(b"client", &n.to_le_bytes())
    }

    fn named(n: u128) -> Identity {
        Identity::Named { session: key(n), parent: None }
    }

    /// A conversation of these messages; the first is its opening.
    fn said(messages: &[u128]) -> Identity {
        let mut sum = 0u128;
        let ends: Vec<_> = messages
            .iter()
            .map(|message| {
                sum = sum.wrapping_mul(31).wrapping_add(*message);
                key(sum)
            })
            .collect();
        Identity::Conversation { opening: ends[0], ends }
    }

    struct Table {
        table: SessionTable,
        start: Instant,
    }

    impl Table {
        fn new(capacity: usize) -> Table {
            let start = Instant::now();
            Table { table: SessionTable::new(capacity, start), start }
        }

        fn find(&self, identity: &Identity, after: Duration) -> Session {
            self.table.find(identity, HOUR, self.start + after).unwrap()
        }

        fn home(&self, identity: &Identity, after: Duration) -> Option<u64> {
            self.find(identity, after).view.home.map(|home| home.0)
        }

        /// A call that is served there. Returns what its session is known by.
        fn call(&self, identity: &Identity, replica: u64, after: Duration) -> SessionKey {
            let session = self.find(identity, after);
            self.table.remember(session, ReplicaKey(replica), self.start + after);
            session.key
        }

        fn len(&self) -> usize {
            self.table.sweep(HOUR, self.start)
        }
    }

    #[test]
    fn a_session_is_remembered_until_it_idles() {
        let table = Table::new(100);
        for identity in [named(1), said(&[2])] {
            assert_eq!(table.home(&identity, Duration::ZERO), None);
            table.call(&identity, 7, Duration::ZERO);
            assert_eq!(table.home(&identity, HOUR), Some(7));
            assert_eq!(table.home(&identity, HOUR + Duration::from_secs(1)), None);
        }
    }

    #[test]
    fn a_call_continues_the_conversation_whose_whole_list_it_extends() {
        let table = Table::new(1_000);
        let first = table.call(&said(&[1, 2]), 7, Duration::ZERO);
        assert_eq!(table.call(&said(&[1, 2, 3, 4]), 7, Duration::ZERO), first);
        assert_eq!(table.call(&said(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), 7, Duration::ZERO), first);
        assert_eq!(table.call(&said(&[1, 2, 3, 4, 5, 6, 7, 8, 9]), 7, Duration::ZERO), first, "a retry");
        assert_eq!(table.len(), 1, "one entry however many calls");
        for other in [&[1, 2][..], &[1, 2, 3], &[1, 2, 9, 9, 9, 9, 9, 9, 9, 9], &[2, 2, 3]] {
            assert_eq!(table.home(&said(other), Duration::ZERO), None, "{other:?}");
        }
    }

    #[test]
    fn a_call_that_changes_the_end_of_the_one_before_it_continues_it_too() {
        let table = Table::new(1_000);
        let call = |messages: &[u128]| table.call(&said(messages), 7, Duration::ZERO);
        let session = call(&[1]);
        assert_eq!((call(&[1, 2, 3]), call(&[1, 2, 3, 4, 5])), (session, session));
        assert_eq!(call(&[1, 2, 3, 4, 6, 7]), session, "5 is gone, and what the call before it said is extended");
        assert_eq!(call(&[1, 2, 3, 4, 6, 7, 8, 9]), session);
        assert_eq!(call(&[1, 2, 3, 4, 6, 7, 10]), session);
        assert_ne!(call(&[1, 2, 3, 11, 12]), session, "two calls are taken back");
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn those_that_open_alike_share_a_start_and_part_when_they_differ() {
        let table = Table::new(1_000);
        let one = table.call(&said(&[1]), 7, Duration::ZERO);
        assert_eq!(table.call(&said(&[1]), 7, Duration::ZERO), one);
        assert_eq!(table.call(&said(&[1, 2, 3]), 7, Duration::ZERO), one);
        let other = table.find(&said(&[1, 4, 5]), Duration::ZERO);
        assert_ne!(other.key, one);
        assert_eq!(other.view.placement, table.find(&said(&[1]), Duration::ZERO).view.placement);
        table.table.remember(other, ReplicaKey(8), table.start);
        assert_eq!(table.home(&said(&[1, 2, 3, 6]), Duration::ZERO), Some(7));
        assert_eq!(table.home(&said(&[1, 4, 5, 6]), Duration::ZERO), Some(8));
    }

    #[test]
    fn a_branch_starts_where_its_parent_is_warm_and_then_has_a_home_of_its_own() {
        let table = Table::new(1_000);
        let branch = Identity::Named { session: key(2), parent: Some(key(1)) };
        assert_eq!(table.find(&branch, Duration::ZERO).view.home, None);
        table.call(&named(1), 7, Duration::ZERO);
        let found = table.find(&branch, Duration::ZERO).view;
        assert_eq!((found.home, found.begun, found.placement), (Some(ReplicaKey(7)), false, key(1)));
        table.call(&branch, 8, Duration::ZERO);
        let found = table.find(&branch, Duration::ZERO).view;
        assert_eq!((found.home, found.begun), (Some(ReplicaKey(8)), true));
        assert_eq!(table.home(&named(1), Duration::ZERO), Some(7));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_longest_idle_first() {
        let table = Table::new(SHARDS); // one place in each shard
        for n in 0..10_000 {
            table.call(&named(n), n as u64, Duration::ZERO);
        }
        assert!(table.len() <= SHARDS);
        assert_eq!(table.home(&named(9_999), Duration::ZERO), Some(9_999));
    }

    #[test]
    fn sweeping_forgets_the_idle_only() {
        let table = Table::new(10_000);
        for n in 0..100 {
            table.call(&named(n), 1, Duration::from_secs(n as u64 * 60));
        }
        let now = table.start + Duration::from_secs(99 * 60);
        assert_eq!(table.table.sweep(HOUR, now), 61);
        table.table.resize(SHARDS);
        assert!(table.table.sweep(HOUR, now) <= SHARDS);
    }
}

//! An edge without sockets: its roster and the policies, put together as the data plane does around a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::domain::ask::{Dialect, Endpoint};
use crate::domain::ids::{ModelIx, ReplicaIx, SessionKey};
use crate::domain::outcome::Outcome;
use crate::domain::prompt::Prompt;
use crate::observe::testing;
use crate::policy::client_rule::Asker;
use crate::policy::pool::{self, PoolCandidate};
use crate::policy::replica;
use crate::policy::select::{Selection, select};
use crate::policy::{affinity, breaker};
use crate::roster::{Identity, InFlight, Prefilling, Roster, Session, Snapshot};
use crate::wire::body::Body;
use crate::wire::prompt;
use crate::wire::scan::Scanner;

const MODEL: &str = "small";
/// The first replica's; the others' follow.
pub(super) const PORT: u16 = 20_000;
const IDLE: Duration = Duration::from_secs(3_600);

/// What the edge reads out of a call.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) identity: Option<Identity>,
    pub(super) prompt: Prompt,
}

impl Call {
    /// A call of this client with this chat body, and with a name if one is told.
    pub(super) fn read(client: &str, name: Option<&str>, body: &str) -> Call {
        let mut scanner = Scanner::new();
        scanner.push(body.as_bytes()).unwrap();
        let scan = scanner.finish().unwrap();
        let mut held = Body::new();
        held.push(Bytes::copy_from_slice(body.as_bytes()));
        let prompt = prompt::read(&scan, &held, Endpoint::Chat);
        let scope = affinity::scope(Some(client.as_bytes()), None);
        let identity = match (name, &prompt.conversation) {
            (Some(name), _) => Some(Identity::Named { session: named(client, name), parent: None }),
            (None, Some(conversation)) => {
                let own = affinity::conversations_of(&scope, None);
                let key = |hash: &u128| affinity::for_model(own.key(*hash), MODEL);
                let ends = conversation.ends.iter().map(key).collect();
                Some(Identity::Conversation { opening: key(&conversation.opening), ends })
            }
            (None, None) => None,
        };
        Call { identity, prompt }
    }

    /// The same of a session that branches off from this one.
    pub(super) fn of_parent(mut self, client: &str, parent: &str) -> Call {
        if let Some(Identity::Named { parent: told, .. }) = &mut self.identity {
            *told = Some(named(client, parent));
        }
        self
    }
}

/// The key of a session that this client calls so.
pub(super) fn named(client: &str, name: &str) -> SessionKey {
    let scope = affinity::scope(Some(client.as_bytes()), None);
    affinity::for_model(affinity::session_key(&scope, name.as_bytes()), MODEL)
}

/// One edge with one pool.
pub(super) struct Edge {
    pub(super) roster: Roster,
    pub(super) snapshot: Arc<Snapshot>,
    pools: Vec<PoolCandidate>,
    rng: SmallRng,
}

/// A call that was sent.
pub(super) struct Placed {
    pub(super) selection: Selection,
    booking: Box<InFlight>,
    prefilling: Option<Prefilling>,
    pub(super) session: Option<Session>,
    at: Instant,
    ttft: Duration,
}

impl Edge {
    /// An edge that has just started, with so many replicas. Its random numbers are its own.
    pub(super) fn start(replicas: u16, seed: u64, now: Instant) -> Edge {
        let ports: Vec<u16> = (0..replicas).map(|n| PORT + n).collect();
        let snapshot = Snapshot::new(Arc::new(testing::config(&ports)), Arc::new(testing::geo()), None);
        let pools =
            pool::order(&snapshot.config.topology, ModelIx(0), Dialect::Chat, &snapshot.standings(Asker::NOBODY))
                .unwrap();
        let roster = Roster::new(snapshot, now);
        Edge { snapshot: roster.snapshot(), roster, pools, rng: SmallRng::seed_from_u64(seed) }
    }

    /// Finds the call's session and sends it to a replica.
    pub(super) fn place(&mut self, call: &Call, now: Instant) -> Placed {
        let snapshot = &self.snapshot;
        let cuts = &call.prompt.cuts;
        let session = call.identity.as_ref().and_then(|identity| self.roster.sessions.find(identity, IDLE, now));
        let view = session.map(|session| session.view);
        let home = view.and_then(|view| view.home).and_then(|home| snapshot.home(home, cuts, |_| false, now));
        let selection = select(
            &self.pools,
            replica::Call { session: view, tokens: call.prompt.tokens, has_answer: call.prompt.has_answer() },
            home,
            |pool, into| snapshot.candidates(pool, cuts, |_| false, now, into),
            |_| false,
            true,
            &mut self.rng,
        )
        .unwrap();
        let live = snapshot.live(selection.replica);
        let cap = snapshot.config.topology.pool(selection.pool.pool).max_in_flight;
        let booking = live.begin(cap, self.breaker(), selection.last_resort, now).unwrap();
        let begins = session.is_none_or(|session| !session.view.begun);
        let booking = booking.reading(snapshot.slot(selection.replica), &call.prompt, begins);
        let prefilling = Some(Prefilling::begin(live, u64::from(selection.uncached_tokens), now));
        Placed { selection, booking, prefilling, session, at: now, ttft: Duration::ZERO }
    }

    /// The first event of its answer comes.
    pub(super) fn first_event(&self, placed: &mut Placed, now: Instant) {
        placed.prefilling = None;
        placed.ttft = now - placed.at;
        placed.booking.first_event(placed.session.is_some_and(|session| session.view.begun), now);
        self.pool(placed).pace().first_event(placed.ttft);
        if let Some(session) = placed.session {
            let key = self.snapshot.live(placed.selection.replica).key();
            self.roster.sessions.remember(session, key, now);
        }
    }

    /// Its answer ends.
    pub(super) fn end(&self, placed: Placed, now: Instant) {
        self.pool(&placed).pace().prefilled(u64::from(placed.selection.uncached_tokens), placed.ttft);
        placed.booking.end(Outcome::Ok, now);
    }

    /// A call whose answer is there at once. Tells its replica.
    pub(super) fn call(&mut self, call: &Call, now: Instant) -> Selection {
        let mut placed = self.place(call, now);
        self.first_event(&mut placed, now);
        let selection = placed.selection;
        placed.booking.end(Outcome::Ok, now);
        selection
    }

    /// It fails before its first event.
    pub(super) fn fail(&self, placed: Placed, outcome: Outcome, now: Instant) {
        placed.booking.end(outcome, now);
    }

    /// What each replica is taken to hold of the call's prompt.
    pub(super) fn cached(&self, call: &Call, now: Instant) -> Vec<u32> {
        let mut seen = Vec::new();
        self.snapshot.candidates(self.pools[0].pool, &call.prompt.cuts, |_| false, now, &mut seen);
        seen.iter().map(|candidate| candidate.cached_tokens).collect()
    }

    /// Other replicas are configured, by their ports. Calls under way keep what they have.
    pub(super) fn reload(&mut self, ports: &[u16]) {
        self.roster.swap(Arc::new(testing::config(ports)), Arc::new(testing::geo()));
        self.snapshot = self.roster.snapshot();
    }

    /// Takes in as many checks of a replica as it takes to change its side.
    pub(super) fn checked(&self, replica: ReplicaIx, passed: bool, now: Instant) {
        let thresholds = self.snapshot.config.health.thresholds;
        for _ in 0..thresholds.unhealthy_after.max(thresholds.healthy_after) {
            self.snapshot.live(replica).checked(passed, thresholds, self.breaker(), now);
        }
    }

    fn breaker(&self) -> breaker::Params {
        self.snapshot.config.circuit_breaker
    }

    fn pool(&self, placed: &Placed) -> &Arc<crate::roster::PoolLive> {
        self.snapshot.pool(placed.selection.pool.pool)
    }
}

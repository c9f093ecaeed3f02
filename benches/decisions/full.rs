//! An edge whose tables are full: 64 replicas, each with as much cached as it holds.

use std::sync::Arc;
use std::time::Instant;

use nearpool::domain::ask::Dialect;
use nearpool::domain::ids::{ModelIx, PoolIx, ReplicaIx, SessionKey};
use nearpool::domain::prompt::{Cut, Prompt};
use nearpool::policy::affinity;
use nearpool::policy::client_rule::Asker;
use nearpool::policy::pool::{self, PoolCandidate};
use nearpool::policy::replica::{Call, SessionView};
use nearpool::policy::select::{Selection, select};
use nearpool::roster::{Prefilling, Roster, Snapshot};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::one_pool;

pub(crate) const REPLICAS: usize = 64;

/// What one replica's cache holds, in tokens.
const CACHE_TOKENS: u32 = 1_500_000;

/// What agents' calls hold at the median.
const PROMPT_TOKENS: u32 = 100_000;

/// From cut to cut: messages of 2 KiB.
const CUT_TOKENS: u32 = 512;

/// The least from cut to cut, and the part of what stands before that it is at least.
const CUT_TOKENS_MIN: u32 = 256;
const CUT_SHARE: u32 = 512;

/// A body of 32 MiB.
const PROMPT_TOKENS_MAX: u32 = 8 << 20;

/// What sessions of one kind of agent begin with: instructions and tools.
const SHARED_TOKENS: u32 = 20_000;

pub(crate) struct Full {
    pub(crate) snapshot: Arc<Snapshot>,
    pools: Vec<PoolCandidate>,
    /// Held by the replica in the middle, its last message apart.
    pub(crate) warm: Prompt,
    /// Of which every other replica holds the instructions.
    pub(crate) shared: Prompt,
    /// The replica in the middle.
    pub(crate) home: ReplicaIx,
    pub(crate) session: SessionKey,
    now: Instant,
}

impl Full {
    pub(crate) fn new() -> Full {
        let (now, home) = (Instant::now(), ReplicaIx(REPLICAS / 2));
        let roster = Roster::new(snapshot(), now);
        let snapshot = roster.snapshot();
        let pools =
            pool::order(&snapshot.config.topology, ModelIx(0), Dialect::Chat, &snapshot.standings(Asker::NOBODY))
                .unwrap_or_default();
        let mut rng = SmallRng::seed_from_u64(1);
        let instructions = prompt(&[], SHARED_TOKENS, &mut rng);
        let cache = &snapshot.pool(PoolIx(0)).cache;
        let read = |replica: usize, prompt: &Prompt| {
            let slot = snapshot.slot(ReplicaIx(replica));
            cache.confirm(slot, &cache.read(slot, &prompt.cuts, true).1);
        };
        for replica in 0..REPLICAS {
            for _ in 0..CACHE_TOKENS.div_ceil(PROMPT_TOKENS) {
                read(replica, &prompt(&[], PROMPT_TOKENS, &mut rng));
            }
            if replica % 2 == 0 {
                read(replica, &instructions);
            }
        }
        let before = prompt(&instructions.cuts, PROMPT_TOKENS, &mut rng);
        read(home.0, &before);
        let warm = prompt(&before.cuts, PROMPT_TOKENS + CUT_TOKENS, &mut rng);
        let shared = prompt(&instructions.cuts, PROMPT_TOKENS, &mut rng);
        Full { snapshot, pools, warm, shared, home, session: affinity::session_key(b"client", b"session"), now }
    }

    /// The home of [`Full::session`] has so many tokens to read.
    pub(crate) fn queue(&self, tokens: u64) -> Prefilling {
        Prefilling::begin(self.snapshot.live(self.home), tokens, self.now)
    }

    /// A choice as the data plane makes it, less booking it: of a call of a session that was last there, of a new one, or
    /// of none.
    pub(crate) fn choose(
        &self,
        prompt: &Prompt,
        session: Option<Option<ReplicaIx>>,
        rng: &mut SmallRng,
    ) -> Option<Selection> {
        let key = |replica| self.snapshot.live(replica).key();
        let view =
            session.map(|home| SessionView { placement: self.session, home: home.map(key), begun: home.is_some() });
        let home = view.and_then(|view| view.home);
        let home = home.and_then(|home| self.snapshot.home(home, &prompt.cuts, |_| false, self.now));
        select(
            &self.pools,
            Call { session: view, tokens: prompt.tokens, has_answer: false },
            home,
            |pool, into| self.snapshot.candidates(pool, &prompt.cuts, |_| false, self.now, into),
            |_| false,
            true,
            rng,
        )
        .ok()
    }

    /// What is noted once a call was sent home: nothing of this prompt is new to the index but its order.
    /// Tells how much of it was held.
    pub(crate) fn read(&self, prompt: &Prompt) -> u32 {
        let (cache, slot) = (&self.snapshot.pool(PoolIx(0)).cache, self.snapshot.slot(self.home));
        let (held, claim) = cache.read(slot, &prompt.cuts, false);
        cache.confirm(slot, &claim);
        held.tokens
    }

    /// How long the index is locked, in µs, to note the longest prompt that there can be, at a replica whose cache is full of
    /// as many cuts as it can hold.
    pub(crate) fn note_longest(&self, rng: &mut SmallRng) -> f64 {
        let (cache, slot) = (&self.snapshot.pool(PoolIx(0)).cache, self.snapshot.slot(self.home));
        for _ in 0..CACHE_TOKENS.div_ceil(PROMPT_TOKENS) {
            let cuts = cuts(PROMPT_TOKENS, |_| CUT_TOKENS_MIN, rng);
            cache.confirm(slot, &cache.read(slot, &cuts, false).1);
        }
        let longest = cuts(PROMPT_TOKENS_MAX, |at| CUT_TOKENS_MIN.max(at / CUT_SHARE), rng);
        let began = Instant::now();
        let (_, claim) = cache.read(slot, &longest, true);
        let took = began.elapsed();
        cache.forget(slot, &claim);
        took.as_secs_f64() * 1e6
    }
}

/// New cuts up to so many tokens, from each to the next what `distance` says of its place.
fn cuts(tokens: u32, distance: impl Fn(u32) -> u32, rng: &mut SmallRng) -> Vec<Cut> {
    let next = |at: &u32| Some(at + distance(*at)).filter(|next| *next <= tokens);
    let places = std::iter::successors(Some(CUT_TOKENS_MIN), next);
    places.map(|tokens| Cut { chain: rng.random(), tokens }).collect()
}

/// A prompt of so many tokens that begins with these cuts.
pub(crate) fn prompt(begins: &[Cut], tokens: u32, rng: &mut SmallRng) -> Prompt {
    let mut cuts = begins.to_vec();
    let from = cuts.last().map_or(0, |cut| cut.tokens);
    cuts.extend((1..=(tokens - from) / CUT_TOKENS).map(|n| Cut { chain: rng.random(), tokens: from + n * CUT_TOKENS }));
    Prompt { cuts, tokens, conversation: None }
}

#[allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]
fn snapshot() -> Snapshot {
    let config = one_pool::config(REPLICAS, "", &format!("kv_cache_tokens = {CACHE_TOKENS}"));
    config.and_then(one_pool::snapshot).expect("valid")
}

//! What the tables take, as the kernel counts it, with the allocator of the edge. Each is measured in a process of its own,
//! since memory that was given back would hide what the next one takes.

use std::process::Command;
use std::time::{Duration, Instant};

use nearpool::domain::ids::{ReplicaKey, SessionKey};
use nearpool::domain::outcome::Outcome;
use nearpool::policy::affinity;
use nearpool::policy::interaction::CallEnd;
use nearpool::policy::prefix_index::PrefixIndex;
use nearpool::roster::{Identity, Interactions, SessionTable};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::full;

const SESSIONS: u64 = 1_000_000;
const IDLE: Duration = Duration::from_secs(3_600);

/// Calls of each conversation: its entry moves on with each.
const CALLS: u64 = 5;

/// Messages that each call adds.
const MESSAGES: u64 = 2;

/// Replicas and tokens of each in the index.
const SLOTS: usize = 64;
const SIZES: [u64; 6] = [1_000_000, 1_200_000, 1_500_000, 1_800_000, 2_000_000, 2_500_000];

/// What is measured.
pub(crate) const NAMED: &str = "sessions-by-name";
/// See [`NAMED`].
pub(crate) const TOLD: &str = "sessions-by-messages";
/// See [`NAMED`].
pub(crate) const INTERACTIONS: &str = "interactions";
/// See [`NAMED`].
pub(crate) const CUTS: &str = "cuts";

/// Bytes of each, measured in a process of its own.
#[allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]
pub(crate) fn bytes(what: &str) -> f64 {
    let this = std::env::current_exe().expect("a path");
    let output = Command::new(this).args(["--memory", what]).output().expect("this program runs");
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().expect("a number")
}

/// The same in this one: of a million sessions, named ones or ones that their messages tell, of interactions, or of the cuts of an index.
pub(crate) fn measure(what: &str) -> f64 {
    let named = |n: u64, _| Identity::Named { session: key(n, 0), parent: None };
    let told = |n: u64, call: u64| {
        let ends: Vec<_> = (0..1 + MESSAGES * call).map(|end| key(n, end)).collect();
        Identity::Conversation { opening: ends[0], ends }
    };
    match what.split_once('=') {
        Some((CUTS, tokens)) => cuts(tokens.parse().unwrap_or(0)),
        _ if what == NAMED => sessions(named),
        _ if what == TOLD => sessions(told),
        _ if what == INTERACTIONS => interactions(),
        _ => f64::NAN,
    }
}

fn key(session: u64, end: u64) -> SessionKey {
    affinity::session_key(&session.to_le_bytes(), &end.to_le_bytes())
}

fn sessions(identity: impl Fn(u64, u64) -> Identity) -> f64 {
    let before = resident();
    let start = Instant::now();
    // A little more room, so that no shard is full before the last session is in.
    let table = SessionTable::new(SESSIONS as usize * 11 / 10, start);
    for call in 0..CALLS {
        for n in 0..SESSIONS {
            if let Some(session) = table.find(&identity(n, call), IDLE, start) {
                table.remember(session, ReplicaKey(n % 64), start);
            }
        }
    }
    let remaining = table.sweep(IDLE, start);
    assert_eq!(remaining as u64, SESSIONS, "one entry each, however many calls");
    (resident() - before) / remaining as f64
}

/// Bytes of each of a million interactions.
fn interactions() -> f64 {
    let (before, start) = (resident(), Instant::now());
    let table = Interactions::new(SESSIONS as usize * 11 / 10, start);
    let call = CallEnd { outcome: Outcome::Ok, cost_dollars: Some(0.001), tokens: (1, 1, 1) };
    for n in 0..SESSIONS {
        let (member, _) = table.begin(key(n, 0), start);
        member.end(&call, start);
    }
    assert_eq!(table.len() as u64, SESSIONS, "none had to make room");
    (resident() - before) / table.len() as f64
}

/// Bytes of each cut at each replica, at the worst of some sizes of caches.
pub(crate) fn of_a_cut() -> f64 {
    SIZES.map(|tokens| bytes(&format!("{CUTS}={tokens}"))).into_iter().fold(0.0, f64::max)
}

fn cuts(tokens: u64) -> f64 {
    let mut rng = SmallRng::seed_from_u64(1);
    let before = resident();
    let mut index = PrefixIndex::new();
    index.open(SLOTS - 1, tokens);
    // Twice what they hold, so that they also forget.
    for _ in 0..2 * tokens / 100_000 {
        for slot in 0..SLOTS {
            let claim = index.read(slot, &full::prompt(&[], 100_000, &mut rng).cuts, true);
            index.confirm(slot, &claim);
        }
    }
    (resident() - before) / index.cuts() as f64
}

/// Bytes of this process that are in memory.
#[allow(clippy::expect_used, reason = "a bench may stop at the first surprise")]
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    1024.0 * kib.unwrap_or(f64::NAN)
}

//! Session admission, as a reference: in overload new sessions wait, so that the running ones keep their caches.
//!
//! A session is active while a call of it is in flight or ended less than some minutes ago. The active sessions' contexts
//! may be at most a factor times what all caches hold; a session that is not active waits until its own fits, behind
//! those that came before it, whatever their sizes.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::super::engine::Engines;
use super::super::time::{Micros, SECOND};
use super::super::workload::Call;
use super::router::{Ask, Decision};

/// When a refused call comes again.
const RETRY_AFTER: Micros = 30 * SECOND;

/// What bounds it.
#[derive(Clone, Debug)]
pub(crate) struct Params {
    /// Contexts of active sessions, at most so many times what the caches hold.
    pub(crate) factor: f64,
    /// How long after its last answer a session is active.
    pub(crate) active: Micros,
    /// The longest wait before a call is refused.
    pub(crate) wait_max: Option<Micros>,
}

/// Who is active, and how much they hold.
pub(crate) struct Admission {
    params: Params,
    active: HashMap<usize, Active>,
    /// Active sessions without a call in flight, by when they cease to be.
    idle: BTreeSet<(Micros, usize)>,
    /// Tokens of all that are active.
    tokens: u64,
    waiting: VecDeque<usize>,
}

/// One active session.
#[derive(Default)]
struct Active {
    in_flight: usize,
    ceases: Micros,
    /// The newest prompt of each of its conversations.
    contexts: HashMap<usize, u64>,
}

impl Admission {
    pub(crate) fn new(params: &Params) -> Admission {
        let (active, idle) = (HashMap::new(), BTreeSet::new());
        Admission { params: params.clone(), active, idle, tokens: 0, waiting: VecDeque::new() }
    }

    /// `None` if the call goes on, and is counted as in flight.
    pub(crate) fn holds_back(&mut self, ask: &Ask<'_>, engines: &Engines<'_>, now: Micros) -> Option<Decision> {
        self.expire(now);
        let waited = ask.waits_since.is_some();
        let (session, input) = (ask.call.session, u64::from(ask.call.input));
        let limit = (engines.cache_tokens() as f64 * self.params.factor) as u64;
        let fits = self.tokens + input <= limit || self.active.is_empty();
        let first = waited || self.waiting.is_empty();
        if self.active.contains_key(&session) || fits && first {
            self.leave(waited);
            self.begin(session, ask.call.conversation, input);
            return None;
        }
        if ask.waits_since.zip(self.params.wait_max).is_some_and(|(since, most)| now - since >= most) {
            self.leave(waited);
            return Some(Decision::Refuse(RETRY_AFTER));
        }
        if !waited {
            self.waiting.push_back(ask.number);
        }
        Some(Decision::Wait)
    }

    /// A call that went on is answered.
    pub(crate) fn answered(&mut self, call: &Call, now: Micros) {
        if let Some(active) = self.active.get_mut(&call.session) {
            active.in_flight -= 1;
            if active.in_flight == 0 {
                active.ceases = now + self.params.active;
                self.idle.insert((active.ceases, call.session));
            }
        }
    }

    /// The first in line. Behind it nobody is asked while it waits.
    pub(crate) fn next_in_line(&self, after: Option<usize>) -> Option<usize> {
        if after.is_some() { None } else { self.waiting.front().copied() }
    }

    /// Only the first in line is asked again, so it is the first who leaves.
    fn leave(&mut self, waited: bool) {
        if waited {
            self.waiting.pop_front();
        }
    }

    fn begin(&mut self, session: usize, conversation: usize, input: u64) {
        let active = self.active.entry(session).or_default();
        if active.in_flight == 0 {
            self.idle.remove(&(active.ceases, session));
        }
        active.in_flight += 1;
        let before = active.contexts.insert(conversation, input).unwrap_or(0);
        self.tokens = self.tokens + input - before;
    }

    fn expire(&mut self, now: Micros) {
        while let Some((_, session)) = self.idle.first().copied().filter(|(ceases, _)| *ceases <= now) {
            self.idle.pop_first();
            let gone = self.active.remove(&session).unwrap_or_default();
            self.tokens -= gone.contexts.values().sum::<u64>();
        }
    }
}

//! Simulated replicas. Each prefills one prompt after another, in the order of their arrival, at a constant speed, and
//! only what its cache does not hold when the prompt's turn comes; the blocks are held once the prefill is done. Answers
//! are decoded beside it.

use std::collections::VecDeque;

use super::cache::Cache;
use super::time::{Micros, SECOND};
use super::workload::{BLOCK_TOKENS, Block, Workload};

/// What all replicas are like.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// How many.
    pub(crate) replicas: usize,
    /// What one of them holds.
    pub(crate) cache_tokens: u64,
    /// Tokens prefilled in a second.
    pub(crate) speed: f64,
    /// One cache, as large as all together, that every replica reads and writes.
    pub(crate) pooled: bool,
}

/// All replicas.
pub(crate) struct Engines<'w> {
    workload: &'w Workload,
    setup: Setup,
    caches: Vec<Cache>,
    replicas: Vec<Replica>,
}

/// One replica, but for its cache.
#[derive(Default)]
struct Replica {
    queue: VecDeque<Job>,
    running: Option<Running>,
    /// Tokens that the queue needs, by the cache as it was when each came.
    queued: u64,
    /// Calls that are not answered yet.
    outstanding: usize,
    /// Tokens prefilled so far.
    computed: u64,
}

struct Job {
    call: usize,
    uncached: u64,
}

struct Running {
    call: usize,
    cached: u32,
    ends: Micros,
}

/// A prefill that is done.
pub(crate) struct Prefilled {
    pub(crate) call: usize,
    /// Tokens of the prompt that were there before.
    pub(crate) cached: u32,
    /// When the replica's next prefill will be done.
    pub(crate) next: Option<Micros>,
}

impl<'w> Engines<'w> {
    /// All idle, all caches empty.
    pub(crate) fn new(workload: &'w Workload, setup: &Setup) -> Engines<'w> {
        let blocks = (setup.cache_tokens / u64::from(BLOCK_TOKENS)) as usize;
        let (caches, each) = if setup.pooled { (1, blocks * setup.replicas) } else { (setup.replicas, blocks) };
        Engines {
            workload,
            setup: setup.clone(),
            caches: (0..caches).map(|_| Cache::new(each, workload.blocks)).collect(),
            replicas: (0..setup.replicas).map(|_| Replica::default()).collect(),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.replicas.len()
    }

    /// Tokens that one of them prefills in a second.
    pub(crate) fn speed(&self) -> f64 {
        self.setup.speed
    }

    /// Tokens that all caches hold together.
    pub(crate) fn cache_tokens(&self) -> u64 {
        self.setup.cache_tokens * self.setup.replicas as u64
    }

    /// Calls sent to it and not answered yet. Any router may know this: it has sent them.
    pub(crate) fn outstanding(&self, replica: usize) -> usize {
        self.replicas[replica].outstanding
    }

    /// Tokens of this prompt that it holds. Only an oracle knows.
    pub(crate) fn held_tokens(&self, replica: usize, prompt: &[Block]) -> u64 {
        self.cache(replica).held(prompt) as u64 * u64::from(BLOCK_TOKENS)
    }

    /// Tokens that it has yet to prefill. Only an oracle knows.
    pub(crate) fn queued_tokens(&self, replica: usize, now: Micros) -> u64 {
        let replica = &self.replicas[replica];
        let running = replica.running.as_ref().map_or(0, |running| running.ends.saturating_sub(now));
        replica.queued + (running as f64 / SECOND as f64 * self.setup.speed) as u64
    }

    /// Tokens prefilled by each so far.
    pub(crate) fn computed(&self) -> impl Iterator<Item = u64> {
        self.replicas.iter().map(|replica| replica.computed)
    }

    /// A call arrives. When its prefill will be done, if it is this one's turn already.
    pub(crate) fn arrive(&mut self, replica: usize, call: usize, now: Micros) -> Option<Micros> {
        let uncached = self.uncached(replica, call);
        let state = &mut self.replicas[replica];
        state.outstanding += 1;
        state.queued += uncached;
        state.queue.push_back(Job { call, uncached });
        if state.running.is_some() { None } else { self.start(replica, now) }
    }

    /// The running prefill is done.
    pub(crate) fn finish(&mut self, replica: usize, now: Micros) -> Option<Prefilled> {
        let Running { call, cached, .. } = self.replicas[replica].running.take()?;
        let workload = self.workload;
        let cache = if self.setup.pooled { 0 } else { replica };
        self.caches[cache].touch(&workload.calls[call].blocks);
        self.replicas[replica].computed += u64::from(workload.calls[call].input - cached);
        Some(Prefilled { call, cached, next: self.start(replica, now) })
    }

    /// A call is answered whole.
    pub(crate) fn answered(&mut self, replica: usize) {
        self.replicas[replica].outstanding -= 1;
    }

    fn start(&mut self, replica: usize, now: Micros) -> Option<Micros> {
        let job = self.replicas[replica].queue.pop_front()?;
        let uncached = self.uncached(replica, job.call);
        let ends = now + (uncached as f64 / self.setup.speed * SECOND as f64) as Micros;
        let cached = self.workload.calls[job.call].input - uncached as u32;
        let state = &mut self.replicas[replica];
        state.queued -= job.uncached;
        state.running = Some(Running { call: job.call, cached, ends });
        Some(ends)
    }

    /// At least one token is always computed: an answer needs the last one's result.
    fn uncached(&self, replica: usize, call: usize) -> u64 {
        let call = &self.workload.calls[call];
        u64::from(call.input).saturating_sub(self.held_tokens(replica, &call.blocks)).max(1)
    }

    fn cache(&self, replica: usize) -> &Cache {
        &self.caches[if self.setup.pooled { 0 } else { replica }]
    }
}

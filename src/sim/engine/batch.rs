//! The engine's state, its queue and the passing of time.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::busy::Busy;
use super::request::{Event, Refused, RequestId, Stats, Submit};
use super::steps::Step;
use crate::sim::kv_cache::KvCache;
use crate::sim::preset::Params;

/// One replica.
#[derive(Debug)]
pub struct Engine {
    pub(super) params: Params,
    pub(super) kv: KvCache,
    /// Nanoseconds; everything due until here has happened.
    pub(super) clock: u64,
    pub(super) seqs: HashMap<RequestId, Seq>,
    pub(super) waiting: VecDeque<RequestId>,
    /// The head of the queue did not fit, and nothing was released since.
    pub(super) blocked: bool,
    pub(super) prefilling: VecDeque<RequestId>,
    /// By the step in which they finish.
    pub(super) decoding: BTreeSet<(u64, RequestId)>,
    /// By the time of their next token.
    pub(super) paced: BTreeSet<(u64, RequestId)>,
    pub(super) steps: u64,
    pub(super) step: Option<Step>,
    pub(super) events: Vec<Event>,
    pub(super) prefix_queries: u64,
    pub(super) prefix_hits: u64,
    pub(super) output_tokens: u64,
    pub(super) busy: Busy,
}

#[derive(Debug)]
pub(super) struct Seq {
    pub(super) submit: Submit,
    pub(super) blocks: Vec<u32>,
    pub(super) cached_blocks: usize,
    /// Prompt tokens still to compute.
    pub(super) prefill_left: u64,
    pub(super) prefill_started: bool,
    /// When a slowed prefill begins.
    pub(super) slow_until: u64,
    /// Answer tokens so far; while decoding, the rest follows from the step counter.
    pub(super) produced: u64,
    pub(super) finish_step: u64,
}

impl Engine {
    /// An idle engine with an empty cache.
    pub fn new(params: Params) -> Self {
        Self {
            kv: KvCache::new(params.kv_blocks),
            params,
            clock: 0,
            seqs: HashMap::new(),
            waiting: VecDeque::new(),
            blocked: false,
            prefilling: VecDeque::new(),
            decoding: BTreeSet::new(),
            paced: BTreeSet::new(),
            steps: 0,
            step: None,
            events: Vec::new(),
            prefix_queries: 0,
            prefix_hits: 0,
            output_tokens: 0,
            busy: Busy::default(),
        }
    }

    /// Queues a request, or says why not. What happened until `now` is kept for the next [`Engine::advance`].
    pub fn submit(&mut self, now: Duration, mut submit: Submit) -> Result<(), Refused> {
        self.run_until(nanos(now));
        submit.output_tokens = submit.output_tokens.max(1);
        submit.prompt_tokens = submit.prompt_tokens.max(1);
        let needed = self.blocks_needed(&submit);
        let total = self.kv.total() as u64;
        if needed > total {
            return Err(Refused::TooLarge { needed, total });
        }
        if self.seqs.contains_key(&submit.id) {
            return Err(Refused::SameId);
        }
        if self.waiting.len() >= self.params.waiting_max {
            return Err(Refused::QueueFull);
        }
        self.waiting.push_back(submit.id);
        self.seqs.insert(submit.id, Seq::new(submit));
        self.cut_run_short();
        self.admit();
        self.begin_step();
        Ok(())
    }

    /// Ends a request at once and frees what it held; no event follows. False when there is no such request.
    pub fn cancel(&mut self, now: Duration, id: RequestId) -> bool {
        self.run_until(nanos(now));
        let known = self.seqs.contains_key(&id);
        if known {
            self.cut_run_short();
            self.waiting.retain(|waiting| *waiting != id);
            self.blocked = false;
            self.forget(id);
            self.admit();
            self.begin_step();
        }
        known
    }

    /// Lets time pass until `now` and appends what happened to `out`, in order for each request.
    pub fn advance(&mut self, now: Duration, out: &mut Vec<Event>) {
        self.run_until(nanos(now));
        out.append(&mut self.events);
    }

    /// When the next event is due, if nothing is submitted or cancelled before; events already kept are due at once.
    pub fn next_event_at(&self) -> Option<Duration> {
        if !self.events.is_empty() {
            return Some(Duration::from_nanos(self.clock));
        }
        self.next_due().map(Duration::from_nanos)
    }

    /// How many tokens of a prompt the cache holds now.
    pub fn cached_tokens(&self, chain: &[u64], prompt_tokens: u64) -> u64 {
        let reusable = self.reusable(chain, prompt_tokens);
        self.kv.matched(reusable) as u64 * self.block_tokens()
    }

    /// Gauges and counters as of the last call.
    pub fn stats(&self) -> Stats {
        Stats {
            running: self.seqs.len() - self.waiting.len(),
            waiting: self.waiting.len(),
            kv_usage_ratio: self.kv.used() as f64 / self.kv.total() as f64,
            prefix_queries: self.prefix_queries,
            prefix_hits: self.prefix_hits,
            output_tokens: self.output_tokens,
            num_gpu_blocks: self.params.kv_blocks,
            block_size: self.params.block_tokens,
        }
    }

    /// The share of the last second in which it computed, 0 to 1: what a GPU's driver calls its utilisation. Requests with a
    /// forced pace take none of it.
    pub fn utilization(&mut self, now: Duration) -> f64 {
        self.run_until(nanos(now));
        // The step in progress is noted when it is over, and has been taking time already.
        let step = self.step.as_ref().map(|step| (step.started + step.each * step.done, self.clock));
        let mut busy = self.busy.clone();
        if let Some((from, to)) = step {
            busy.note(from, to);
        }
        busy.share(self.clock)
    }

    /// What it can do.
    pub fn params(&self) -> &Params {
        &self.params
    }

    fn run_until(&mut self, now: u64) {
        while let Some(due) = self.next_due() {
            if due > now {
                break;
            }
            self.clock = self.clock.max(due);
            self.fire_paced(due);
            self.take_steps(due, now);
            self.admit();
            self.begin_step();
        }
        self.clock = self.clock.max(now);
    }

    fn next_due(&self) -> Option<u64> {
        let step = self.step.as_ref().map(|step| {
            let told = step.done + u64::from(self.params.stream_interval.max(1));
            let upto = if self.params.report_tokens { told.min(step.planned) } else { step.planned };
            step.started + step.each * upto
        });
        let paced = self.paced.first().map(|(at, _)| *at);
        match (step, paced) {
            (Some(step), Some(paced)) => Some(step.min(paced)),
            (step, paced) => step.or(paced),
        }
    }

    /// Admits waiting requests in order while seats and blocks suffice.
    fn admit(&mut self) {
        while !self.blocked && self.seqs.len() - self.waiting.len() < self.params.max_num_seqs {
            let Some(&id) = self.waiting.front() else {
                return;
            };
            let Some(seq) = self.seqs.get(&id) else {
                return;
            };
            let reusable = self.reusable(&seq.submit.chain, seq.submit.prompt_tokens);
            let needed = self.blocks_needed(&seq.submit) as usize;
            let Some((blocks, reused)) = self.kv.take(reusable, needed) else {
                self.blocked = true;
                return;
            };
            self.waiting.pop_front();
            let cached_tokens = reused as u64 * self.block_tokens();
            let clock = self.clock;
            let Some(seq) = self.seqs.get_mut(&id) else {
                return;
            };
            seq.blocks = blocks;
            seq.cached_blocks = reused;
            seq.slow_until = clock + nanos(seq.submit.prefill_extra);
            seq.prefill_left = seq.submit.prompt_tokens - cached_tokens;
            self.prefix_queries += seq.submit.prompt_tokens;
            self.prefix_hits += cached_tokens;
            match seq.submit.pace {
                Some(pace) => {
                    self.paced.insert((clock + nanos(pace.first), id));
                }
                None => self.prefilling.push_back(id),
            }
        }
    }

    fn reusable<'a>(&self, chain: &'a [u64], prompt_tokens: u64) -> &'a [u64] {
        // The last prompt token is always computed: the first answer token comes out of it.
        let most = (prompt_tokens.saturating_sub(1) / self.block_tokens()) as usize;
        &chain[..most.min(chain.len())]
    }

    fn blocks_needed(&self, submit: &Submit) -> u64 {
        (submit.prompt_tokens + submit.output_tokens).div_ceil(self.block_tokens())
    }

    pub(super) fn block_tokens(&self) -> u64 {
        u64::from(self.params.block_tokens)
    }
}

impl Seq {
    fn new(submit: Submit) -> Self {
        Self {
            prefill_left: submit.prompt_tokens,
            submit,
            blocks: Vec::new(),
            cached_blocks: 0,
            prefill_started: false,
            slow_until: 0,
            produced: 0,
            finish_step: 0,
        }
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

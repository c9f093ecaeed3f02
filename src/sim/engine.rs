//! One engine replica as a pure step function: no clock, no I/O, no runtime. Time is an argument and starts anywhere.
//!
//! The model is continuous batching as in vLLM. Requests wait in order of arrival. The first one is admitted when a seat
//! (`max_num_seqs`) and enough KV-cache blocks for its prompt *and* its whole answer are free; so nothing is ever preempted.
//! Then the engine takes steps. A step computes up to `chunk_tokens` uncached prompt tokens, first come first served, and one
//! token for every request that is already decoding; it lasts as long as both together. A prompt's blocks can be reused by
//! others once it is computed, an answer's blocks once the request ends.
//!
//! It errs in that prefill costs the same at every context length, and that the answer's length must be known beforehand.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::kv_cache::KvCache;
use super::preset::Params;

/// What the caller names a request; unique among those not yet finished.
pub type RequestId = u64;

/// One request.
#[derive(Debug, Clone, Default)]
pub struct Submit {
    /// Its name.
    pub id: RequestId,
    /// Chained hashes of the full blocks of the prompt and then, when known, of the answer.
    pub chain: Vec<u64>,
    /// Tokens of the prompt; at least one is always computed.
    pub prompt_tokens: u64,
    /// Tokens of the answer, at least 1.
    pub output_tokens: u64,
    /// A forced pace, for tests: such a request takes a seat and blocks but no share of the engine's time.
    pub pace: Option<Pace>,
}

/// A forced pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From admission to the first token.
    pub first: Duration,
    /// From each token to the next.
    pub each: Duration,
}

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its prompt is computed and token 0 of the answer is there.
    FirstToken {
        /// Which request.
        id: RequestId,
        /// Prompt tokens that were found in the cache.
        cached_tokens: u64,
        /// When.
        at: Duration,
    },
    /// The answer's tokens `index .. index + count` are there.
    Tokens {
        /// Which request.
        id: RequestId,
        /// The first of them, at least 1.
        index: u64,
        /// How many.
        count: u64,
    },
    /// The answer is whole; its blocks are free.
    Finished {
        /// Which request.
        id: RequestId,
        /// When.
        at: Duration,
    },
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Prompt and answer together exceed the whole cache.
    #[error("the request needs {needed} KV-cache blocks and the engine has {total}")]
    TooLarge {
        /// Blocks that it needs.
        needed: u64,
        /// Blocks that there are.
        total: u64,
    },
    /// `waiting_max` requests wait already.
    #[error("too many requests wait")]
    QueueFull,
    /// A request of this name is not finished yet.
    #[error("a request of this name is not finished yet")]
    SameId,
}

/// The engine's gauges and counters, under vLLM's meanings.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stats {
    /// Requests that are admitted and not finished.
    pub running: usize,
    /// Requests that wait for admission.
    pub waiting: usize,
    /// Share of the blocks that running requests hold, 0 to 1.
    pub kv_usage_ratio: f64,
    /// Prompt tokens of all admitted requests so far.
    pub prefix_queries: u64,
    /// Those of them that were found in the cache.
    pub prefix_hits: u64,
    /// Answer tokens so far (of running requests: as far as reported).
    pub output_tokens: u64,
    /// Blocks of the cache.
    pub num_gpu_blocks: u32,
    /// Tokens in one block.
    pub block_size: u32,
}

/// One replica.
#[derive(Debug)]
pub struct Engine {
    params: Params,
    kv: KvCache,
    /// Nanoseconds; everything due until here has happened.
    clock: u64,
    seqs: HashMap<RequestId, Seq>,
    waiting: VecDeque<RequestId>,
    /// The head of the queue did not fit, and nothing was released since.
    blocked: bool,
    prefilling: VecDeque<RequestId>,
    /// By the step in which they finish.
    decoding: BTreeSet<(u64, RequestId)>,
    /// By the time of their next token.
    paced: BTreeSet<(u64, RequestId)>,
    steps: u64,
    step: Option<Step>,
    events: Vec<Event>,
    prefix_queries: u64,
    prefix_hits: u64,
    output_tokens: u64,
}

#[derive(Debug)]
struct Seq {
    submit: Submit,
    blocks: Vec<u32>,
    cached_blocks: usize,
    /// Prompt tokens still to compute.
    prefill_left: u64,
    prefill_started: bool,
    /// Answer tokens so far; while decoding, the rest follows from the step counter.
    produced: u64,
    finish_step: u64,
}

/// The step in progress, or a run of equal decode steps.
#[derive(Debug)]
struct Step {
    started: u64,
    each: u64,
    done: u64,
    planned: u64,
    prefill: Vec<(RequestId, u64)>,
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
            let upto = if self.params.report_tokens {
                step.done + 1
            } else {
                step.planned
            };
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

    /// Starts the next step, if there is work and none is in progress.
    fn begin_step(&mut self) {
        if self.step.is_some() {
            return;
        }
        let mut each = 0;
        if !self.decoding.is_empty() {
            let others = self.decoding.len() as u64 - 1;
            each += nanos(self.params.decode_step)
                + nanos(self.params.decode_step_per_request) * others;
        }
        let mut planned = self
            .decoding
            .first()
            .map_or(1, |(finish, _)| finish - self.steps);
        let mut prefill = Vec::new();
        let mut budget = u64::from(self.params.chunk_tokens.max(1));
        for id in &self.prefilling {
            let Some(seq) = self.seqs.get_mut(id) else {
                continue;
            };
            let tokens = seq.prefill_left.min(budget);
            if tokens == 0 {
                break;
            }
            if !seq.prefill_started {
                seq.prefill_started = true;
                each += nanos(self.params.prefill_overhead);
            }
            each += (tokens as f64 * self.params.prefill_token_ns).round() as u64;
            budget -= tokens;
            prefill.push((*id, tokens));
            planned = 1;
        }
        if self.decoding.is_empty() && prefill.is_empty() {
            return;
        }
        self.step = Some(Step {
            started: self.clock,
            each: each.max(1),
            done: 0,
            planned,
            prefill,
        });
    }

    /// Takes the steps that are over by `now`, if the next is over by `due`.
    fn take_steps(&mut self, due: u64, now: u64) {
        let Some(step) = &mut self.step else { return };
        let over = ((now - step.started) / step.each).min(step.planned);
        if over <= step.done || step.started + step.each * (step.done + 1) > due {
            return;
        }
        let count = over - step.done;
        step.done = over;
        self.clock = self.clock.max(step.started + step.each * over);
        let prefill = if step.done == step.planned {
            self.step
                .take()
                .map(|step| step.prefill)
                .unwrap_or_default()
        } else {
            Vec::new()
        };
        self.decode(count);
        for (id, tokens) in prefill {
            self.prefilled(id, tokens);
        }
    }

    fn decode(&mut self, count: u64) {
        if self.params.report_tokens {
            for (finish, id) in &self.decoding {
                let Some(seq) = self.seqs.get(id) else {
                    continue;
                };
                let index = seq.submit.output_tokens - (finish - self.steps);
                self.events.push(Event::Tokens {
                    id: *id,
                    index,
                    count,
                });
            }
        }
        self.output_tokens += count * self.decoding.len() as u64;
        self.steps += count;
        while let Some(&(finish, id)) = self.decoding.first() {
            if finish > self.steps {
                break;
            }
            self.decoding.pop_first();
            self.finish(id, self.clock);
        }
    }

    fn prefilled(&mut self, id: RequestId, tokens: u64) {
        let Some(seq) = self.seqs.get_mut(&id) else {
            return;
        };
        seq.prefill_left -= tokens;
        if seq.prefill_left > 0 {
            return;
        }
        self.prefilling.retain(|prefilling| *prefilling != id);
        seq.finish_step = self.steps + seq.submit.output_tokens - 1;
        let finish_step = seq.finish_step;
        if self.first_token(id, self.clock) {
            self.decoding.insert((finish_step, id));
        }
    }

    /// Token 0 is there. False when it was the only one.
    fn first_token(&mut self, id: RequestId, at: u64) -> bool {
        let block_tokens = self.block_tokens();
        let Some(seq) = self.seqs.get_mut(&id) else {
            return false;
        };
        let prompt_blocks = (seq.submit.prompt_tokens / block_tokens) as usize;
        for (block, hash) in seq.blocks.iter().zip(&seq.submit.chain).take(prompt_blocks) {
            self.kv.name(*block, *hash);
        }
        seq.produced = 1;
        self.output_tokens += 1;
        let cached_tokens = seq.cached_blocks as u64 * block_tokens;
        let more = seq.submit.output_tokens > 1;
        self.events.push(Event::FirstToken {
            id,
            cached_tokens,
            at: Duration::from_nanos(at),
        });
        if !more {
            self.finish(id, at);
        }
        more
    }

    fn fire_paced(&mut self, now: u64) {
        while let Some(&(at, id)) = self.paced.first() {
            if at > now {
                break;
            }
            self.paced.pop_first();
            let Some(seq) = self.seqs.get_mut(&id) else {
                continue;
            };
            let each = seq.submit.pace.map_or(0, |pace| nanos(pace.each));
            if seq.produced == 0 {
                if self.first_token(id, at) {
                    self.paced.insert((at + each, id));
                }
                continue;
            }
            let index = seq.produced;
            seq.produced += 1;
            let done = seq.produced == seq.submit.output_tokens;
            self.output_tokens += 1;
            if self.params.report_tokens {
                self.events.push(Event::Tokens {
                    id,
                    index,
                    count: 1,
                });
            }
            if done {
                self.finish(id, at);
            } else {
                self.paced.insert((at + each, id));
            }
        }
    }

    fn finish(&mut self, id: RequestId, at: u64) {
        if let Some(seq) = self.seqs.get_mut(&id) {
            // The last token was sampled but never computed, so its keys and values are not there.
            let computed = seq.submit.prompt_tokens + seq.submit.output_tokens - 1;
            let full = (computed / u64::from(self.params.block_tokens)) as usize;
            for (block, hash) in seq.blocks.iter().zip(&seq.submit.chain).take(full) {
                self.kv.name(*block, *hash);
            }
        }
        self.forget(id);
        self.events.push(Event::Finished {
            id,
            at: Duration::from_nanos(at),
        });
    }

    fn forget(&mut self, id: RequestId) {
        let Some(seq) = self.seqs.remove(&id) else {
            return;
        };
        self.blocked = false;
        self.kv.release(&seq.blocks);
        self.prefilling.retain(|prefilling| *prefilling != id);
        self.decoding.remove(&(seq.finish_step, id));
        if seq.submit.pace.is_some() {
            self.paced.retain(|(_, paced)| *paced != id);
        }
    }

    /// A run of decode steps was planned for the requests of that time; now it ends with the step in progress.
    fn cut_run_short(&mut self) {
        let clock = self.clock;
        let Some(step) = &mut self.step else { return };
        let over = ((clock - step.started) / step.each).min(step.planned);
        let count = over - step.done;
        step.done = over;
        step.planned = step.planned.min(over + 1);
        if count > 0 {
            self.decode(count);
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

    fn block_tokens(&self) -> u64 {
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
            produced: 0,
            finish_step: 0,
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;

//! What one step does: prefill, decode, first tokens, endings.

use std::time::Duration;

use super::batch::{Engine, nanos};
use super::request::{Event, RequestId};

/// The step in progress, or a run of equal decode steps.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) started: u64,
    pub(super) each: u64,
    pub(super) done: u64,
    pub(super) planned: u64,
    pub(super) prefill: Vec<(RequestId, u64)>,
}

/// A step in which nothing but a slowed prefill goes on.
const SLOW_STEP_NS: u64 = 10_000_000;

impl Engine {
    /// Starts the next step, if there is work and none is in progress.
    pub(super) fn begin_step(&mut self) {
        if self.step.is_some() {
            return;
        }
        let mut each = 0;
        if !self.decoding.is_empty() {
            let others = self.decoding.len() as u64 - 1;
            each += nanos(self.params.decode_step) + nanos(self.params.decode_step_per_request) * others;
        }
        let mut planned = self.decoding.first().map_or(1, |(finish, _)| finish - self.steps);
        let mut prefill = Vec::new();
        let mut slow = false;
        let mut budget = u64::from(self.params.chunk_tokens.max(1));
        for id in &self.prefilling {
            let Some(seq) = self.seqs.get_mut(id) else {
                continue;
            };
            if seq.slow_until > self.clock {
                slow = true;
                continue;
            }
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
        if slow {
            // Looked at again after this step, as others go on meanwhile; alone it keeps the engine busy.
            planned = 1;
            each = each.max(SLOW_STEP_NS);
        } else if self.decoding.is_empty() && prefill.is_empty() {
            return;
        }
        self.step = Some(Step { started: self.clock, each: each.max(1), done: 0, planned, prefill });
    }

    /// Takes the steps that are over by `now`, if the next is over by `due`.
    pub(super) fn take_steps(&mut self, due: u64, now: u64) {
        let Some(step) = &mut self.step else { return };
        let over = ((now - step.started) / step.each).min(step.planned);
        if over <= step.done || step.started + step.each * (step.done + 1) > due {
            return;
        }
        let count = over - step.done;
        self.busy.note(step.started + step.each * step.done, step.started + step.each * over);
        step.done = over;
        self.clock = self.clock.max(step.started + step.each * over);
        let prefill = if step.done == step.planned {
            self.step.take().map(|step| step.prefill).unwrap_or_default()
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
                self.events.push(Event::Tokens { id: *id, index, count });
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
        self.events.push(Event::FirstToken { id, cached_tokens, at: Duration::from_nanos(at) });
        if !more {
            self.finish(id, at);
        }
        more
    }

    pub(super) fn fire_paced(&mut self, now: u64) {
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
                self.events.push(Event::Tokens { id, index, count: 1 });
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
        self.events.push(Event::Finished { id, at: Duration::from_nanos(at) });
    }

    pub(super) fn forget(&mut self, id: RequestId) {
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
    pub(super) fn cut_run_short(&mut self) {
        let clock = self.clock;
        let Some(step) = &mut self.step else { return };
        let over = ((clock - step.started) / step.each).min(step.planned);
        let count = over - step.done;
        self.busy.note(step.started + step.each * step.done, step.started + step.each * over);
        step.done = over;
        step.planned = step.planned.min(over + 1);
        if count > 0 {
            self.decode(count);
        }
    }
}

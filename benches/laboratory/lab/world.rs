//! The event queue: sessions that call, a router that sends, engines that answer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::engine::{Engines, Prefilled, Setup};
use super::policies::{Ask, Decision, Router};
use super::report::Tally;
use super::time::{Micros, SECOND};
use super::trace::ArrivalRow;
use super::workload::{Pacing, Workload};

/// How a workload is played.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    /// The replicas.
    pub(crate) engines: Setup,
    /// When it ends.
    pub(crate) ends: Micros,
    /// Over how long the sessions begin, evenly.
    pub(crate) ramp: Micros,
    /// From one token of an answer to the next.
    pub(crate) itl: Micros,
    /// Tells the order in which sessions begin, and where in its tick an arrival comes.
    pub(crate) seed: u64,
}

/// What happens. Of equal times the first to be planned comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask(usize),
    Prefilled(usize),
    Answered(usize),
    /// Those who wait are asked again.
    Tick,
}

struct World<'w, 'r> {
    workload: &'w Workload,
    play: &'w Play,
    engines: Engines<'w>,
    router: &'r mut dyn Router,
    now: Micros,
    events: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    planned: u64,
    calls: Vec<State>,
    ticking: bool,
    tally: Tally,
}

/// One call's.
#[derive(Clone, Default)]
struct State {
    first_asked: Option<Micros>,
    waits_since: Option<Micros>,
    replica: usize,
    reached: Reached,
}

/// How far a call came.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    #[default]
    Nothing,
    Replica,
    FirstToken,
}

/// Plays the workload to its end, or to the play's.
pub(crate) fn run(workload: &Workload, router: &mut dyn Router, play: &Play) -> Tally {
    let mut world = World {
        workload,
        play,
        engines: Engines::new(workload, &play.engines),
        router,
        now: 0,
        events: BinaryHeap::new(),
        planned: 0,
        calls: vec![State::default(); workload.calls.len()],
        ticking: false,
        tally: Tally::default(),
    };
    world.begin();
    while let Some(Reverse((at, _, event))) = world.events.pop().filter(|Reverse((at, ..))| *at <= play.ends) {
        world.now = at;
        world.happen(event);
    }
    world.conclude()
}

impl World<'_, '_> {
    fn begin(&mut self) {
        let mut rng = SmallRng::seed_from_u64(self.play.seed);
        match &self.workload.pacing {
            Pacing::Closed { begins, .. } => {
                let mut order: Vec<usize> = (0..begins.len()).collect();
                order.shuffle(&mut rng);
                for (place, session) in order.into_iter().enumerate() {
                    let at = self.play.ramp * place as u64 / begins.len() as u64;
                    begins[session].iter().for_each(|call| self.plan(at, Event::Ask(*call)));
                }
            }
            Pacing::Open(ticks) => {
                for (call, tick) in ticks.iter().enumerate() {
                    let at = tick + rng.random_range(0..ArrivalRow::TICK_MS * 1_000);
                    self.plan(at, Event::Ask(call));
                }
            }
        }
    }

    fn plan(&mut self, at: Micros, event: Event) {
        self.events.push(Reverse((at, self.planned, event)));
        self.planned += 1;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask(call) => {
                self.calls[call].first_asked.get_or_insert(self.now);
                self.ask(call);
            }
            Event::Prefilled(replica) => self.prefilled(replica),
            Event::Answered(call) => self.answered(call),
            Event::Tick => {
                self.ticking = false;
                self.ask_those_who_wait();
            }
        }
    }

    /// Whether the call has left the line, if it stood there.
    fn ask(&mut self, number: usize) -> bool {
        let state = &mut self.calls[number];
        let waits_since = state.waits_since;
        let first_asked = state.first_asked.unwrap_or(self.now);
        let ask = Ask { number, call: &self.workload.calls[number], waits_since };
        let decision = self.router.route(&ask, &self.engines, self.now);
        if decision == Decision::Wait {
            state.waits_since.get_or_insert(self.now);
            self.tick();
            return false;
        }
        self.tally.stood.extend(state.waits_since.take().map(|since| self.now - since));
        match decision {
            Decision::Go(replica) => {
                (state.replica, state.reached) = (replica, Reached::Replica);
                self.tally.sent(self.now - first_asked);
                if let Some(ends) = self.engines.arrive(replica, number, self.now) {
                    self.plan(ends, Event::Prefilled(replica));
                }
            }
            Decision::Refuse(after) => {
                self.tally.refused += 1;
                self.plan(self.now + after, Event::Ask(number));
            }
            Decision::Wait => {}
        }
        true
    }

    fn tick(&mut self) {
        if !self.ticking {
            self.ticking = true;
            self.plan(self.now + SECOND, Event::Tick);
        }
    }

    fn ask_those_who_wait(&mut self) {
        let mut after = None;
        while let Some(next) = self.router.next_in_line(after, self.now) {
            after = if self.ask(next) { None } else { Some(next) };
        }
    }

    fn prefilled(&mut self, replica: usize) {
        let Some(Prefilled { call: number, cached, next }) = self.engines.finish(replica, self.now) else { return };
        if let Some(ends) = next {
            self.plan(ends, Event::Prefilled(replica));
        }
        let call = &self.workload.calls[number];
        let state = &mut self.calls[number];
        state.reached = Reached::FirstToken;
        self.tally.prefilled(call.input, cached);
        self.tally.first_token(self.now - state.first_asked.unwrap_or(self.now));
        self.router.prefilled(number, call, replica, cached, self.now);
        self.plan(self.now + self.play.itl * u64::from(call.output), Event::Answered(number));
    }

    fn answered(&mut self, number: usize) {
        self.tally.answered += 1;
        let replica = self.calls[number].replica;
        self.engines.answered(replica);
        self.router.answered(number, &self.workload.calls[number], replica, self.now);
        if let Pacing::Closed { then, .. } = &self.workload.pacing {
            for next in &then[number] {
                self.plan(self.now + next.after, Event::Ask(next.call));
            }
        }
        self.ask_those_who_wait();
    }

    /// Who waits still has waited so long at least, whatever for: a policy gains nothing by those whom it starves.
    fn conclude(mut self) -> Tally {
        for state in self.calls.iter().filter(|state| state.reached < Reached::FirstToken) {
            self.tally.stood.extend(state.waits_since.map(|since| self.play.ends - since));
            let Some(first_asked) = state.first_asked else { continue };
            let so_far = self.play.ends - first_asked;
            self.tally.first_token(so_far);
            if state.reached < Reached::Replica {
                self.tally.sent(so_far);
            }
        }
        self.tally.computed = self.engines.computed().collect();
        self.tally
    }
}

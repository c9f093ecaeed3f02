//! Edges before the same replicas, in virtual time. A replica reads one prompt after the other, and answers many at once.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use super::edge::{Call, Edge, Placed};
use crate::policy::select::Selection;

/// Tokens of prompt that a replica reads in a second.
const TOKENS_PER_S: f64 = 12_000.0;

/// Edges, replicas, and the calls under way.
pub(super) struct World {
    pub(super) edges: Vec<Edge>,
    start: Instant,
    now: Duration,
    /// Until when each replica reads.
    busy: Vec<Duration>,
    due: BinaryHeap<Reverse<(Duration, usize)>>,
    under_way: BTreeMap<usize, UnderWay>,
    next: usize,
}

struct UnderWay {
    edge: usize,
    placed: Placed,
    answer: Duration,
    begun: bool,
}

impl World {
    pub(super) fn new(edges: usize, replicas: u16) -> World {
        let start = Instant::now();
        World {
            edges: (0..edges).map(|n| Edge::start(replicas, n as u64, start)).collect(),
            start,
            now: Duration::ZERO,
            busy: vec![Duration::ZERO; usize::from(replicas)],
            due: BinaryHeap::new(),
            under_way: BTreeMap::new(),
            next: 0,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.start + self.now
    }

    /// Calls that have not ended.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// In place of an edge that ended comes one that knows nothing. Its calls under way are over.
    pub(super) fn restart(&mut self, edge: usize) {
        self.under_way.retain(|_, under_way| under_way.edge != edge);
        self.edges[edge] = Edge::start(self.busy.len() as u16, 99, self.now());
    }

    /// Sends a call now, the answer of which takes so long from its first event on. Its replica reads what the edge takes
    /// it to lack.
    pub(super) fn send(&mut self, edge: usize, call: &Call, answer: Duration) -> Selection {
        self.sent(edge, call, answer, |selection| selection.uncached_tokens)
    }

    /// The same where the replica lacks so many tokens, whatever the edge knows of it.
    pub(super) fn send_warm(&mut self, edge: usize, call: &Call, uncached: u32, answer: Duration) -> Selection {
        self.sent(edge, call, answer, |_| uncached)
    }

    fn sent(&mut self, edge: usize, call: &Call, answer: Duration, uncached: impl Fn(&Selection) -> u32) -> Selection {
        let now = self.now();
        let placed = self.edges[edge].place(call, now);
        let selection = placed.selection;
        let busy = &mut self.busy[selection.replica.0];
        *busy = (*busy).max(self.now) + Duration::from_secs_f64(f64::from(uncached(&selection)) / TOKENS_PER_S);
        self.due.push(Reverse((*busy, self.next)));
        self.under_way.insert(self.next, UnderWay { edge, placed, answer, begun: false });
        self.next += 1;
        selection
    }

    /// So much time passes: first events come, and answers end.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(Reverse((at, number))) = self.due.peek().copied().filter(|Reverse((at, _))| *at <= until) {
            self.due.pop();
            self.now = at;
            // Those of an edge that ended are no more.
            let Some(mut under_way) = self.under_way.remove(&number) else { continue };
            let (edge, now) = (&self.edges[under_way.edge], self.now());
            if under_way.begun {
                edge.end(under_way.placed, now);
                continue;
            }
            edge.first_event(&mut under_way.placed, now);
            under_way.begun = true;
            self.due.push(Reverse((at + under_way.answer, number)));
            self.under_way.insert(number, under_way);
        }
        self.now = until;
    }
}

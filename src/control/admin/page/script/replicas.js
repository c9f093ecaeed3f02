// The tables inside a pool's card.

const REPLICA_COLUMNS = [
  { head: "Replica", header: true, kind: "wide", cell: (replica) => replica.name },
  { head: "State", kind: "wide", cell: (replica) => stateCell(replica) },
  { head: "Breaker", cell: (replica) => words(replica.breaker) },
  { head: "In flight", kind: "number", cell: (replica) => count(replica.in_flight) },
  { head: "Running", kind: "number", cell: (replica) => count(replica.engine_load?.running) },
  { head: "Waiting", kind: "number", cell: (replica) => count(replica.engine_load?.waiting) },
  { head: "KV cache", kind: "number", cell: (replica) => percent(replica.engine_load?.kv_usage_ratio) },
  { head: "GPU", kind: "number", cell: (replica) => percent(replica.gpu_utilization_ratio) },
];

function stateCell(replica) {
  const { grade, word, why } = replicaState(replica);
  return { text: why ? `${word}: ${why}` : word, grade };
}

function makeReplicasTable() {
  return makeTable({
    caption: "Replicas; running, waiting and KV cache as their engines tell",
    key: (replica) => replica.name,
    empty: "This pool has no replicas.",
    columns: REPLICA_COLUMNS,
  });
}

function makeHistoryTable() {
  const times = (cache) => (point) => `${duration(point[cache]?.p50)} / ${duration(point[cache]?.p99)}`;
  return makeTable({
    caption: "Each ten seconds with calls, the latest first",
    key: (point) => point.time,
    empty: "No calls in the last 15 minutes.",
    columns: [
      { head: "Time", header: true, cell: (point) => clock(point.time) },
      { head: "Calls", kind: "number", cell: (point) => count(point.calls) },
      { head: "Errors", kind: "number", cell: (point) => count(point.errors) },
      { head: "Warm p50 / p99", kind: "number", cell: times("warm") },
      { head: "Cold p50 / p99", kind: "number", cell: times("cold") },
      { head: "Cached", kind: "number", cell: (point) => percent(cachedShare({ prompt_tokens: point })) },
    ],
  });
}

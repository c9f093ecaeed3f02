// The tables inside a pool's card.

const REPLICA_COLUMNS = [
  { head: "Replica", header: true, cell: (replica) => replica.name },
  { head: "State", cell: (replica) => stateCell(replica) },
  { head: "Breaker", cell: (replica) => words(replica.breaker) },
  { head: "In flight", number: true, cell: (replica) => count(replica.in_flight) },
  { head: "Engine runs", number: true, cell: (replica) => count(replica.engine_load?.running) },
  { head: "Engine queue", number: true, cell: (replica) => count(replica.engine_load?.waiting) },
  { head: "KV cache", number: true, cell: (replica) => percent(replica.engine_load?.kv_usage_ratio) },
  { head: "GPU", number: true, cell: (replica) => percent(replica.gpu_utilization_ratio) },
];

function stateCell(replica) {
  const { grade, word, why } = replicaState(replica);
  return { text: why ? `${word}: ${why}` : word, grade };
}

function makeReplicasTable() {
  return makeTable({
    caption: "Replicas",
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
      { head: "Calls", number: true, cell: (point) => count(point.calls) },
      { head: "Errors", number: true, cell: (point) => count(point.errors) },
      { head: "Warm p50 / p99", number: true, cell: times("warm") },
      { head: "Cold p50 / p99", number: true, cell: times("cold") },
      { head: "Cached", number: true, cell: (point) => percent(cachedShare({ prompt_tokens: point })) },
    ],
  });
}

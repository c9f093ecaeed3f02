// The tables beside and below the map.

function makeRegionsTable() {
  return makeTable({
    caption: "Regions, their state and the calls of the last minute",
    unseenCaption: true,
    key: (row) => row.name,
    empty: "There are no regions.",
    columns: [
      { head: "Region", header: true, cell: (row) => (row.home ? `${row.name} (this edge)` : row.name) },
      { head: "State", cell: (row) => ({ text: row.word, grade: row.grade }) },
      {
        head: "Round trip",
        kind: "number",
        cell: (row) => (row.home && !isNumber(row.rtt_ms) ? "here" : duration(row.rtt_ms)),
      },
      { head: "Replicas", kind: "number", cell: (row) => `${row.used}/${row.all}` },
      { head: "Calls", kind: "number", cell: (row) => count(row.calls) },
    ],
  });
}

function regionRows(status) {
  return status.regions.map((region) => {
    const replicas = region.pools.flatMap((pool) => pool.replicas);
    return {
      ...region,
      ...regionState(region),
      used: replicas.filter(isInUse).length,
      all: replicas.length,
      calls: total(region.pools, (pool) => pool.last_minute?.calls),
    };
  });
}

function makeFlowsTable() {
  return makeTable({
    caption: "Calls of the last minute from clients’ places to pools, most calls first",
    key: (flow) => `${flow.country} ${flow.latitude} ${flow.longitude} ${flow.pool}`,
    empty: "No calls in the last minute.",
    columns: [
      { head: "From", header: true, kind: "wide", cell: placeOf },
      { head: "To pool", kind: "wide", cell: (flow) => flow.pool },
      { head: "Region", cell: (flow) => flow.region },
      { head: "Calls", kind: "number", cell: (flow) => count(flow.calls) },
      { head: "Errors", kind: "number", cell: (flow) => count(flow.errors) },
    ],
  });
}

// Failovers, reloads, and the configuration in force.

function makeFailovers() {
  const at = (where) => (where ? `${where.replica} (${where.pool}, ${where.region})` : "nowhere");
  const table = makeTable({
    caption: "Attempts that were repeated elsewhere, the latest first",
    key: (failover) => `${failover.ts} ${failover.request_id} ${failover.kind}`,
    empty: "No call had to go on elsewhere.",
    columns: [
      { head: "Time", header: true, cell: (failover) => clock(failover.ts) },
      { head: "What", cell: (failover) => words(failover.kind) },
      { head: "Why", cell: (failover) => words(failover.cause) },
      { head: "From", kind: "wide", cell: (failover) => at(failover.from) },
      { head: "To", kind: "wide", cell: (failover) => at(failover.to) },
      { head: "Model", cell: (failover) => failover.model ?? UNKNOWN },
      { head: "Request", cell: (failover) => failover.request_id },
    ],
  });
  byId("failovers-table").append(table.node);
  return (status) => table.update(status.failovers ?? []);
}

function makeConfiguration() {
  const reloads = makeTable({
    caption: "New configurations, databases and certificates, the latest first",
    unseenCaption: true,
    key: (reload) => `${reload.ts} ${reload.source}`,
    empty: "None since this edge started.",
    columns: [
      { head: "Time", header: true, cell: (reload) => clock(reload.ts) },
      { head: "Source", cell: (reload) => words(reload.source) },
      { head: "Verdict", kind: "wide", cell: verdictCell },
      { head: "Revision", cell: (reload) => ({ text: reload.hash.slice(0, 12), title: reload.hash }) },
    ],
  });
  byId("reloads").append(reloads.node);
  return (status) => {
    keyed(byId("in-force"), inForce(status), (pair) => pair.name, createPair, updatePair);
    reloads.update(status.reloads ?? []);
  };
}

function verdictCell({ error, changed }) {
  if (error) return { text: `refused: ${error}`, grade: "bad" };
  return { text: changed ? "in force" : "nothing new", grade: "good" };
}

function inForce(status) {
  const { geo } = status;
  return [
    { name: "Revision", value: status.config_hash },
    { name: "GeoIP database", value: `${geo.source}, built ${day(geo.built)}` },
    {
      name: "Its age",
      value: `${plural(geo.age_days, "day")}${geo.stale ? ", too old: replace it" : ""}`,
      grade: geo.stale ? "fair" : "good",
    },
    {
      name: "Access log lines dropped",
      value: count(status.access_log_dropped),
      grade: status.access_log_dropped > 0 ? "fair" : null,
    },
  ];
}

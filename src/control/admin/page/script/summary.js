// The strip of figures at the top, what needs attention, and what is in force.

function makeSummary() {
  const tiles = byId("figures");
  const attention = byId("attention").appendChild(el("ul", { class: "plain" }));
  const well = byId("attention").appendChild(el("p", { class: "quiet" }));

  return function update(status) {
    setText(byId("edge"), status.edge);
    setBadge(byId("readiness"), readiness(status));
    keyed(tiles, figures(status), (figure) => figure.name, createTile, updateTile);
    const found = problems(status);
    keyed(attention, found.slice(0, PROBLEMS_SHOWN), (problem) => problem.key, createProblem, updateProblem);
    const more = found.length - PROBLEMS_SHOWN;
    setText(well, found.length === 0 ? "Nothing." : more > 0 ? `And ${more} more; see the pools.` : "");
    setHidden(well, well.textContent === "");
    const trouble = found.length > 0 ? `${GRADE_MARKS[found[0].grade]} ${plural(found.length, "problem")} · ` : "";
    document.title = `${trouble}${status.edge} · Nearpool`;
    setText(byId("version"), `Nearpool ${status.version}, up for ${ago(status.uptime_s)}`);
  };
}

const PROBLEMS_SHOWN = 8;

function createTile(figure) {
  return el(
    "div",
    { class: "tile" },
    el("dt", {}, figure.name),
    el("dd", { class: "value" }),
    el("dd", { class: "note" }),
  );
}

function updateTile(tile, { value, note, grade = "none" }) {
  setAttributes(tile, { "data-grade": grade });
  setText(tile.children[1], value);
  setText(tile.children[2], note);
}

const createProblem = () => el("li", {}, el("span", { class: "mark", "aria-hidden": "true" }), el("span"));

function updateProblem(node, { grade, text }) {
  setAttributes(node, { "data-grade": grade });
  setText(node.firstChild, GRADE_MARKS[grade]);
  setText(node.lastChild, text);
}

function figures(status) {
  const pools = allPools(status);
  const replicas = pools.flatMap((pool) => pool.replicas);
  const used = replicas.filter(isInUse).length;
  const recent = status.last_minute;
  const sum = (name) => count(total(pools, (pool) => pool[name]));
  const ttft = overallTtft(recent);
  return [
    {
      name: "Replicas in use",
      value: `${count(used)} of ${count(replicas.length)}`,
      note: `${plural(pools.length, "pool")}, ${plural(status.regions.length, "region")}`,
      grade: used === replicas.length ? "good" : used === 0 ? "bad" : "fair",
    },
    { name: "Calls", value: rate(perSecond(recent)), note: `${count(status.totals?.calls)} since start` },
    { name: "Errors", ...targeted(errorRate(recent), TARGETS.errorRate, percent) },
    { name: "TTFT p50", ...targeted(ttft.p50, TARGETS.ttftP50, duration) },
    { name: "TTFT p99", ...targeted(ttft.p99, TARGETS.ttftP99, duration) },
    { name: "Prompt tokens cached", value: percent(cachedShare(recent)), note: "last minute" },
    {
      name: "In flight",
      value: count(status.totals?.in_flight),
      note: `${sum("queued")} queued`,
    },
    {
      name: "Sessions",
      value: count(status.sessions),
      note: `${sum("sessions_active")} active, ${sum("sessions_waiting")} waiting`,
    },
    gpuFigure(replicas),
    { name: "Cost per hour", value: hourly(pools), note: "all replicas" },
  ].filter(Boolean);
}

/** A figure beside the target that is set for it. */
function targeted(value, { target, alert }, format) {
  const grade = graded(value, { target, alert });
  const notes = { fair: `over the target of ${format(target)}`, bad: `alert, over ${format(alert)}` };
  return { value: format(value), note: notes[grade] ?? `target < ${format(target)}`, grade };
}

function gpuFigure(replicas) {
  const told = replicas.map((replica) => replica.gpu_utilization_ratio).filter(isNumber);
  if (told.length === 0) return null;
  const mean = total(told, (ratio) => ratio) / told.length;
  const { target, alert } = TARGETS.gpu;
  const idle = mean < alert;
  const note = idle ? `mean; alert, under ${percent(alert)}` : `mean; target > ${percent(target)}`;
  return {
    name: "GPU utilisation",
    value: percent(mean),
    note,
    grade: idle ? "fair" : mean > target ? "good" : "none",
  };
}

function hourly(pools) {
  const priced = pools.filter((pool) => isNumber(pool.cost_per_hour));
  return priced.length === 0 ? UNKNOWN : money(total(priced, (pool) => pool.cost_per_hour * pool.replicas.length));
}

// A card for each pool: its figures, charts and replicas. There may be many, so all but the head is made when it is opened.

/** With more pools than this the cards start closed, and on a phone, where it is a long way past open ones. */
const OPEN_MAX = 12;
const narrow = matchMedia("(max-width: 48rem)");

function makePools() {
  const cards = byId("cards");
  const made = new Map();
  const [text, trouble] = [byId("filter-text"), byId("filter-trouble")];
  let [status, history] = [null, new Map()];

  const setAll = (open) =>
    made.forEach((card) => {
      card.details.node.open = open;
    });
  byId("open-all").addEventListener("click", () => setAll(true));
  byId("close-all").addEventListener("click", () => setAll(false));
  byId("filter").addEventListener("input", draw);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());

  function draw() {
    if (status === null) return;
    const all = allPools(status);
    const wanted = all.filter(
      (pool) => (!trouble.checked || poolState(pool).grade !== "good") && matches(pool, text.value),
    );
    keyed(
      cards,
      wanted,
      (pool) => pool.name,
      (pool) => {
        const card = made.get(pool.name) ?? makeCard(pool.name, all.length <= OPEN_MAX && !narrow.matches);
        made.set(pool.name, card);
        return card.node;
      },
      (node, pool) => made.get(pool.name).update(pool, history.get(pool.name)),
    );
    for (const name of made.keys()) if (!all.some((pool) => pool.name === name)) made.delete(name);
    setText(
      byId("filter-count"),
      wanted.length === all.length ? plural(all.length, "pool") : `${wanted.length} of ${plural(all.length, "pool")}`,
    );
  }

  return {
    update(latest) {
      status = latest;
      draw();
    },
    updateHistory({ step_s, end, pools }) {
      history = new Map(pools.map((pool) => [pool.name, { points: pool.points, step: step_s, end: Date.parse(end) }]));
      draw();
    },
  };
}

/** Every word of the filter must occur somewhere in what names the pool. */
function matches(pool, filter) {
  const names = [
    pool.name,
    pool.region,
    pool.model,
    pool.engine,
    pool.gpu ?? "",
    ...pool.replicas.map((replica) => replica.name),
  ];
  const all = names.join("\n").toLowerCase();
  return filter
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

let cardsMade = 0;

function makeCard(name, open) {
  const id = `pool-${(cardsMade += 1)}`;
  const badge = el("span", { class: "badge" });
  const kind = el("p", { class: "quiet" });
  const trouble = el("p", { class: "trouble" });
  const pairs = el("dl", { class: "pairs" });
  const details = lazyDetails("Charts and replicas", makeInside, open);
  const head = el("header", {}, el("h3", { id }, name), badge);
  return {
    node: el("article", { class: "card pool", "aria-labelledby": id }, head, kind, trouble, pairs, details.node),
    details,
    update(pool, history) {
      setBadge(badge, poolState(pool));
      setText(kind, [pool.model, pool.region, pool.engine, pool.gpu].filter(Boolean).join(" · "));
      setText(trouble, troubleOf(pool));
      setHidden(trouble, trouble.textContent === "");
      keyed(pairs, pairsOf(pool), (pair) => pair.name, createPair, updatePair);
      details.update({ pool, history }, `Charts and ${plural(pool.replicas.length, "replica")}`);
    },
  };
}

const createPair = (pair) => el("div", {}, el("dt", {}, pair.name), el("dd"));

function updatePair(node, { value, grade }) {
  setAttributes(node, { "data-grade": grade ?? null });
  setText(node.lastChild, value);
}

/** Said on the card also while it is closed. */
function troubleOf(pool) {
  const out = pool.replicas.filter((replica) => replicaState(replica).grade !== "good");
  const said = out.map((replica) => {
    const { word, why } = replicaState(replica);
    return `${replica.name} is ${word}${why ? ` (${why})` : ""}`;
  });
  return listed(said, PROBLEMS_PER_POOL);
}

function pairsOf(pool) {
  const recent = pool.last_minute;
  const room = pool.max_in_flight * pool.replicas.length;
  const failed = errorRate(recent);
  return [
    { name: "Calls", value: rate(perSecond(recent)) },
    { name: "Errors", value: percent(failed), grade: graded(failed, TARGETS.errorRate) },
    { name: "TTFT warm p50", ...warm(recent, "p50", TARGETS.ttftP50) },
    { name: "TTFT warm p99", ...warm(recent, "p99", TARGETS.ttftP99) },
    // A cold prompt takes as long as it is: no target is set for it.
    { name: "TTFT cold p50", value: duration(recent?.ttft_ms?.cold?.p50) },
    { name: "TTFT cold p99", value: duration(recent?.ttft_ms?.cold?.p99) },
    { name: "Tokens cached", value: percent(cachedShare(recent)) },
    {
      name: "In flight",
      value: `${count(total(pool.replicas, (replica) => replica.in_flight))} of ${count(room)}${waiting(pool.queued)}`,
    },
    { name: "Sessions", value: `${count(pool.sessions_active)}${waiting(pool.sessions_waiting)}` },
    { name: "Context tokens", value: fullness(pool) },
    {
      name: "Cost per hour",
      value: isNumber(pool.cost_per_hour) ? money(pool.cost_per_hour * pool.replicas.length) : UNKNOWN,
    },
  ];
}

const waiting = (n) => (n > 0 ? `, ${count(n)} wait` : "");

function warm(recent, name, limits) {
  const ttft = recent?.ttft_ms?.warm;
  return { value: duration(ttft?.[name]), grade: ttft?.count >= CALLS_MIN ? graded(ttft[name], limits) : "none" };
}

/** The sessions' contexts beside what the replicas' caches hold. */
function fullness(pool) {
  const used = isNumber(pool.context_tokens) ? rough.format(pool.context_tokens) : UNKNOWN;
  const room = isNumber(pool.kv_cache_tokens) ? rough.format(pool.kv_cache_tokens * pool.replicas.length) : "?";
  return `${used} / ${room}`;
}

function makeInside() {
  const charts = [makeChart("Calls", rate), makeChart("TTFT warm", duration), makeChart("TTFT cold", duration)];
  const waiting = el("p", { class: "quiet" }, "The charts come with the first ten seconds of history.");
  const row = el("div", { class: "charts" }, ...charts.map((chart) => chart.node));
  const replicas = makeReplicasTable();
  const numbers = lazyDetails("The charts as a table", makeHistoryTable);
  return {
    node: el("div", {}, waiting, row, numbers.node, replicas.node),
    update({ pool, history }) {
      for (const node of [row, numbers.node]) setHidden(node, !history);
      setHidden(waiting, Boolean(history));
      replicas.update(pool.replicas);
      if (!history) return;
      const { points, step, end } = history;
      const timeOf = (ix) => end - (points.length - 1 - ix) * step * 1_000;
      charts[0].update(callsChart(points, pool.last_quarter, timeOf, step));
      charts[1].update(ttftChart(points, "warm", pool.last_quarter, timeOf));
      charts[2].update(ttftChart(points, "cold", pool.last_quarter, timeOf));
      numbers.update(
        points
          .map((point, ix) => ({ ...point, time: timeOf(ix) }))
          .filter((point) => point.calls > 0)
          .reverse(),
      );
    },
  };
}

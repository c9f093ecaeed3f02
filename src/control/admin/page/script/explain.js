// The form that asks where a call would go, and its answer in words.

const REASONS = {
  session: "its session is kept there, where its cache is warm",
  new: "the first call of a session starts there",
  moved: "its session’s replica cannot be used, or is busier than its cache is worth",
  spill: "the nearest region is full, or busier than the next one is far",
  failover: "the nearest region is down",
  fallback: "another model answers",
  none: "no session is known",
};

function makeExplain() {
  const form = byId("explain-form");
  const result = byId("explained");
  const models = byId("models");
  let asked = 0;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const fields = [...new FormData(form)]
      .map(([name, value]) => [name, value.trim()])
      .filter(([, value]) => value !== "");
    asked += 1;
    const mine = asked;
    const answer = await ask(new URLSearchParams(fields));
    // A later question's answer stands.
    if (mine === asked) result.replaceChildren(...shown(answer, Object.fromEntries(fields)));
  });
  return (status) => {
    const names = [...new Set(allPools(status).map((pool) => pool.model))].sort();
    keyed(
      models,
      names,
      (name) => name,
      (name) => el("option", { value: name }),
      () => {},
    );
    if (form.elements.model.value === "" && !form.elements.model.dataset.offered && names.length > 0) {
      form.elements.model.value = names[0];
      form.elements.model.dataset.offered = "";
    }
  };
}

async function ask(query) {
  try {
    const response = await fetch(`/explain?${query}`, { headers: { accept: "application/json" } });
    const body = await response.json();
    return response.ok ? { explanation: body } : { error: body.error?.message ?? `status ${response.status}` };
  } catch {
    return { error: "the edge does not answer" };
  }
}

function shown({ error, explanation }, asked) {
  if (error) return [el("p", { class: "trouble" }, `Cannot tell: ${error}`)];
  const { pick, pools } = explanation;
  const answer = el(
    "p",
    { class: "answer" },
    ...(pick
      ? [
          "To ",
          el("strong", {}, pick.replica),
          " in ",
          el("strong", {}, pick.pool),
          `, reason “${pick.reason}”: ${REASONS[pick.reason] ?? ""}.`,
        ]
      : [
          "Nowhere: ",
          pools.length === 0 ? "no region may serve this client." : "no replica of these pools can serve now.",
        ]),
  );
  const model =
    explanation.model === asked.model
      ? `model ${explanation.model}`
      : `“${asked.model}” is the model ${explanation.model}`;
  const client = `Client ${asked.ip}: ${clientPlace(explanation)}; ${model}, step ${explanation.step}. `;
  const facts = el("p", {}, client, sessionFact(explanation, asked.session));
  return [el("h3", {}, "Answer"), answer, facts, regionsTable(explanation.regions), poolsTable(pools)];
}

function sessionFact({ home, pools }, session) {
  if (home) return `The session’s last call went to ${home.replica} in ${home.pool}.`;
  if (session) return "This edge does not know the session yet.";
  return pools.length > 0 ? "Without a session it is any of the pool’s lighter replicas." : "";
}

function clientPlace({ country: code, place, accuracy_radius_km: radius, source }) {
  if (!place)
    return code
      ? `${country(code)}; its place is not known, so it counts as standing at the edge`
      : "its place is not known, so it counts as standing at the edge";
  const within = isNumber(radius) ? ` within ${count(radius)} km` : "";
  return `${code ? country(code) : "no country known"}, ${coordinates(...place)}${within} (source: ${words(source)})`;
}

function regionsTable(regions) {
  const table = makeTable({
    caption: "Regions in the order of choosing",
    key: (region) => region.region,
    empty: "There are no regions.",
    columns: [
      { head: "Region", header: true, cell: (region) => region.region },
      { head: "Distance", kind: "number", cell: (region) => `${count(region.distance_km)} km` },
      {
        head: "Round trip",
        kind: "number",
        cell: (region) => `${duration(region.way_ms)}, ${region.measured ? "measured" : "estimated"}`,
      },
      {
        head: "Verdict",
        kind: "wide",
        cell: (region) => ({
          text: region.verdict,
          grade: region.allowed && !region.verdict.startsWith("left out") ? "good" : "bad",
        }),
      },
    ],
  });
  table.update(regions);
  return table.node;
}

function poolsTable(pools) {
  const table = makeTable({
    caption: "Pools in the order of trying",
    key: (pool) => pool.pool,
    empty: "No pool may serve this call.",
    columns: [
      { head: "Pool", header: true, cell: (pool) => pool.pool },
      { head: "Region", cell: (pool) => pool.region },
      { head: "Model", cell: (pool) => (pool.fallback ? `${pool.model}, a fallback` : pool.model) },
      { head: "Distance", kind: "number", cell: (pool) => `${count(pool.distance_km)} km` },
      { head: "Replicas", kind: "wide", cell: (pool) => listed(pool.replicas) || "none usable" },
    ],
  });
  table.update(pools);
  return table.node;
}

// The map: land, regions by their state, places that clients call from, and arcs from those to the regions that serve
// them. The regions' table beside it and the flows' table below it say the same in words.

/** The map's edges in degrees; south of it is only Antarctica. */
const NORTH = 84;
const SOUTH = -57;
/** Thin lines cost a browser little, moving ones more: the busiest flows move. */
const MOVING_MAX = 40;
const ARC_WIDTHS = [1.2, 7];

function makeMap() {
  const figure = byId("map");
  const land = svg("path", { class: "land" });
  const [arcs, clients, regions] = ["arcs", "clients", "regions"].map((name) => svg("g", { class: name }));
  const title = svg("title", { id: "map-title" }, "World map of regions and of the calls that reach them");
  const text = svg("desc", { id: "map-text" });
  const picture = svg(
    "svg",
    { role: "img", "aria-labelledby": "map-title", "aria-describedby": "map-text" },
    title,
    text,
    land,
    arcs,
    clients,
    regions,
  );
  const unplaced = el("p", { class: "quiet" });
  const flows = lazyDetails("The flows as a table", makeFlowsTable);
  figure.append(picture, el("figcaption", {}, legend(), unplaced, flows.node));
  const table = makeRegionsTable();
  byId("regions").append(el("h3", {}, "Regions"), table.node);

  let frame = null;
  let status = null;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === 0 || Math.abs(contentRect.width - (frame?.width ?? 0)) < 1) return;
    frame = frameOf(contentRect.width);
    setAttributes(picture, { viewBox: `0 0 ${frame.width} ${frame.height}` });
    setAttributes(land, { d: landPath(frame) });
    if (status) draw();
  }).observe(figure);

  function draw() {
    const roads = roadsOf(status);
    const most = Math.max(1, ...roads.map((road) => road.calls));
    keyed(
      arcs,
      roads,
      (road) => road.key,
      createArc,
      (node, road) => updateArc(node, road, frame, most),
    );
    keyed(
      clients,
      placesOf(roads),
      (place) => place.key,
      createClient,
      (node, place) => updateClient(node, place, frame, most),
    );
    const taken = [];
    keyed(
      regions,
      status.regions,
      (region) => region.name,
      createRegion,
      (node, region) => updateRegion(node, region, frame, taken),
    );
  }

  return function update(latest) {
    status = latest;
    const told = status.flows ?? [];
    if (frame) draw();
    table.update(regionRows(status));
    flows.update(told);
    const nowhere = total(
      told.filter((flow) => !isNumber(flow.latitude)),
      (flow) => flow.calls,
    );
    setText(
      unplaced,
      nowhere > 0
        ? `${plural(nowhere, "call")} from places unknown ${nowhere === 1 ? "is" : "are"} not on the map.`
        : "",
    );
    setText(text, describe(status, told));
  };
}

function frameOf(width) {
  const [right] = projected(180, 0);
  const [, top] = projected(0, NORTH);
  const [, bottom] = projected(0, SOUTH);
  const scale = width / (2 * right);
  const place = ([longitude, latitude]) => {
    const [x, y] = projected(longitude, latitude);
    return [(x + right) * scale, (top - y) * scale];
  };
  return { width, height: (top - bottom) * scale, place };
}

const pathOf = (points) =>
  points.map(([x, y], ix) => `${ix === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function landPath(frame) {
  return LAND.split(";")
    .map((ring) => {
      const steps = ring.split(" ").map(Number);
      const points = [];
      let [x, y] = [0, 0];
      for (let ix = 0; ix < steps.length; ix += 2) {
        [x, y] = [x + steps[ix], y + steps[ix + 1]];
        points.push(frame.place([x / 10, y / 10]));
      }
      return `${pathOf(points)}Z`;
    })
    .join("");
}

/** Flows between the same place and region together, the busiest first. */
function roadsOf(status) {
  const regions = new Map(status.regions.map((region) => [region.name, region]));
  const roads = new Map();
  for (const flow of status.flows ?? []) {
    const region = regions.get(flow.region);
    if (!region || !isNumber(flow.latitude)) continue;
    const key = `${flow.longitude} ${flow.latitude} ${flow.region}`;
    const road = roads.get(key) ?? {
      key,
      from: [flow.longitude, flow.latitude],
      name: placeOf(flow),
      region,
      calls: 0,
      errors: 0,
    };
    road.calls += flow.calls;
    road.errors += flow.errors;
    roads.set(key, road);
  }
  const sorted = [...roads.values()].sort((a, b) => b.calls - a.calls);
  return sorted.map((road, ix) => ({ ...road, moves: ix < MOVING_MAX }));
}

function placesOf(roads) {
  const places = new Map();
  for (const { from, name, calls } of roads) {
    const key = from.join(" ");
    const place = places.get(key) ?? { key, from, name, calls: 0 };
    place.calls += calls;
    places.set(key, place);
  }
  return [...places.values()];
}

const thickness = (calls, most, [least, full]) => least + (full - least) * Math.sqrt(calls / most);

const createArc = () => svg("g", {}, svg("path", { class: "arc" }), svg("path", { class: "moving" }));

function updateArc(node, road, frame, most) {
  const runs = greatCircle(road.from, [road.region.longitude, road.region.latitude]);
  const d = runs.map((run) => pathOf(run.map(frame.place))).join("");
  const width = thickness(road.calls, most, ARC_WIDTHS).toFixed(1);
  setAttributes(node, { "data-grade": road.errors / road.calls > TARGETS.errorRate.alert ? "bad" : "good" });
  setAttributes(node.firstChild, { d, "stroke-width": width });
  setAttributes(node.lastChild, { d: road.moves ? d : "", "stroke-width": Math.min(width, 3) });
}

const createClient = () => svg("circle", {}, svg("title"));

function updateClient(node, place, frame, most) {
  const [cx, cy] = frame.place(place.from);
  setAttributes(node, { cx: cx.toFixed(1), cy: cy.toFixed(1), r: thickness(place.calls, most, [2.5, 6]).toFixed(1) });
  setText(node.firstChild, `${place.name}: ${plural(place.calls, "call")}`);
}

function describe(status, flows) {
  const states = status.regions.map((region) => `${region.name} is ${regionState(region).word}`);
  const calls = total(flows, (flow) => flow.calls);
  return `${listed(states, 8)}. ${plural(calls, "call")} in the last minute. The tables of regions and flows have the figures.`;
}

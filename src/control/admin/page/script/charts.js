// Charts of the last 15 minutes, drawn as SVG. The picture is stretched to its frame, so its texts stand beside it in HTML.

const [CHART_WIDTH, CHART_HEIGHT] = [300, 70];

/** A chart with its name, a line that reads its figures out, and a scale. */
function makeChart(name, unit) {
  const readout = el("p", { class: "readout" });
  const top = el("span", { class: "scale", "aria-hidden": "true" });
  const picture = svg("svg", {
    role: "img",
    viewBox: `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`,
    preserveAspectRatio: "none",
  });
  const cursor = svg("line", { class: "cursor", y1: 0, y2: CHART_HEIGHT, visibility: "hidden" });
  const node = el(
    "div",
    { class: "chart" },
    el("h4", {}, name),
    readout,
    el("div", { class: "plot" }, picture, top),
    el("p", { class: "axis", "aria-hidden": "true" }, el("span", {}, "15 min ago"), el("span", {}, "now")),
  );
  let shown = null;

  const read = (ix) => setText(readout, ix === null ? shown.now : `${clock(shown.timeOf(ix))}: ${shown.read(ix)}`);
  picture.addEventListener("pointermove", (event) => {
    if (!shown) return;
    const ix = Math.min(shown.length - 1, Math.floor((event.offsetX / picture.clientWidth) * shown.length));
    const x = xOf(ix, shown.length);
    setAttributes(cursor, { x1: x, x2: x, visibility: "visible" });
    read(Math.max(0, ix));
  });
  picture.addEventListener("pointerleave", () => {
    setAttributes(cursor, { visibility: "hidden" });
    if (shown) read(null);
  });

  return {
    node,
    /** `lines`: `{ class, d }` each; `most`: what the top of the scale stands for. */
    update(latest) {
      const reading = cursor.getAttribute("visibility") === "visible";
      shown = latest;
      keyed(
        picture,
        [...latest.lines, { class: "cursor" }],
        (line) => line.class,
        (line) => (line.class === "cursor" ? cursor : svg("path", { class: line.class })),
        (path, line) => setAttributes(path, { d: line.d ?? null }),
      );
      setText(top, latest.most > 0 ? unit(latest.most) : "");
      setAttributes(picture, { "aria-label": `${name}, last 15 minutes. ${latest.summary}` });
      if (!reading) read(null);
    },
  };
}

const xOf = (ix, length) => ((ix + 0.5) / length) * CHART_WIDTH;

/** The next of 1, 2, 5, 10, … times a power of ten: a scale that does not jump with each point. */
function niceCeiling(value) {
  if (!(value > 0)) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value);
}

/** A line through the values, broken where there are none; a lone value shows as a dot. */
function linePath(values, most) {
  let pen = false;
  let path = "";
  values.forEach((value, ix) => {
    if (!isNumber(value)) {
      pen = false;
      return;
    }
    const [x, y] = [
      xOf(ix, values.length).toFixed(1),
      (CHART_HEIGHT - 1 - (value / most) * (CHART_HEIGHT - 3)).toFixed(1),
    ];
    path += pen ? `L${x} ${y}` : `M${x} ${y}h.01`;
    pen = true;
  });
  return path;
}

function barsPath(values, most) {
  const width = CHART_WIDTH / values.length;
  return values
    .map((value, ix) => {
      const height = value > 0 ? (value / most) * (CHART_HEIGHT - 2) : 0;
      return height > 0
        ? `M${(ix * width + 0.3).toFixed(1)} ${CHART_HEIGHT}v${(-Math.max(1, height)).toFixed(1)}h${(width - 0.6).toFixed(1)}V${CHART_HEIGHT}Z`
        : "";
    })
    .join("");
}

const range = (values) => {
  const told = values.filter(isNumber);
  return told.length === 0 ? "no calls" : `between ${duration(Math.min(...told))} and ${duration(Math.max(...told))}`;
};

/** TTFT p50 and p99 of one cache state. */
function ttftChart(points, cache, recent, timeOf) {
  const values = (name) => points.map((point) => point[cache]?.[name] ?? null);
  const [p50, p99] = [values("p50"), values("p99")];
  const most = niceCeiling(Math.max(...p99.map(Number), ...p50.map(Number)));
  const both = (a, b) => `p50 ${duration(a)}, p99 ${duration(b)}`;
  const quarter = recent?.ttft_ms?.[cache];
  return {
    most,
    length: points.length,
    timeOf,
    lines: [
      { class: `p99 ${cache}`, d: linePath(p99, most) },
      { class: `p50 ${cache}`, d: linePath(p50, most) },
    ],
    now: both(quarter?.p50, quarter?.p99),
    read: (ix) => both(p50[ix], p99[ix]),
    summary: `Over all, ${both(quarter?.p50, quarter?.p99)}. By 10 seconds, p50 ${range(p50)}, p99 ${range(p99)}.`,
  };
}

function callsChart(points, recent, timeOf, step) {
  const calls = points.map((point) => point.calls);
  const errors = points.map((point) => point.errors);
  const most = niceCeiling(Math.max(...calls));
  const failed = (n) => (n > 0 ? `, ${plural(n, "error")}` : "");
  const said = `${rate(perSecond(recent))}${failed(recent?.errors)}`;
  return {
    most: most / step,
    length: points.length,
    timeOf,
    lines: [
      { class: "bars", d: barsPath(calls, most) },
      { class: "bars failed", d: barsPath(errors, most) },
    ],
    now: said,
    read: (ix) => `${rate(calls[ix] / step)}${failed(errors[ix])}`,
    summary: `${plural(
      total(calls, (n) => n),
      "call",
    )}${failed(total(errors, (n) => n))}; ${said} on average.`,
  };
}

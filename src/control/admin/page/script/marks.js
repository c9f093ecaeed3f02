// The regions' marks on the map, their labels, and the legend.

const LABEL_PX = 12;
const LABEL_CHARS_MAX = 20;

/** A region's mark has a shape for each state; the edge's own region has a ring. */
const REGION_SHAPES = {
  good: "M-5-5H5V5H-5Z",
  fair: "M0-7L7 6H-7Z",
  bad: "M-6-3L-3-6 0-3 3-6 6-3 3 0 6 3 3 6 0 3-3 6-6 3-3 0Z",
  none: "M0-6L6 0 0 6-6 0Z",
};

function createRegion(region) {
  return svg(
    "g",
    {},
    svg("circle", { r: 11, class: "ring" }),
    svg("path", { class: "shape" }),
    svg("text", { "font-size": LABEL_PX }),
    svg("title", {}, region.name),
  );
}

/** A long name would cover half the world; the table has all of it. */
const shortened = (name) => (name.length > LABEL_CHARS_MAX ? `${name.slice(0, LABEL_CHARS_MAX - 1)}…` : name);

function updateRegion(node, region, frame, taken) {
  const [x, y] = frame.place([region.longitude, region.latitude]);
  const { grade, word } = regionState(region);
  const [ring, shape, label, title] = node.children;
  setAttributes(node, { transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`, "data-grade": grade });
  setAttributes(ring, { visibility: region.home ? "visible" : "hidden" });
  setAttributes(shape, { d: REGION_SHAPES[grade] });
  const place = labelPlace(x, y, shortened(region.name), frame, taken);
  setAttributes(label, place ?? { x: 0 });
  setText(label, place ? shortened(region.name) : "");
  setText(title, `${region.name}: ${word}${region.home ? ", this edge’s region" : ""}`);
}

/** The first side of the mark where a label overlaps no other and stays on the map; none when it is too crowded. */
function labelPlace(x, y, name, frame, taken) {
  const [width, height] = [name.length * LABEL_PX * 0.56 + 4, LABEL_PX + 4];
  const sides = [
    [14, 4, "start", 14, -height / 2],
    [-14, 4, "end", -14 - width, -height / 2],
    [0, 24, "middle", -width / 2, 14],
    [0, -15, "middle", -width / 2, -14 - height],
  ];
  for (const [dx, dy, anchor, left, top] of sides) {
    const box = { left: x + left, right: x + left + width, top: y + top, bottom: y + top + height };
    const clear = taken.every(
      (other) => box.right < other.left || box.left > other.right || box.bottom < other.top || box.top > other.bottom,
    );
    if (clear && box.left >= 0 && box.right <= frame.width) {
      taken.push(box);
      return { x: dx, y: dy, "text-anchor": anchor };
    }
  }
  return null;
}

function legend() {
  const item = (grade, shape, text) =>
    el(
      "li",
      { "data-grade": grade },
      svg("svg", { viewBox: "-12 -12 24 24", width: 18, height: 18, "aria-hidden": "true", class: "regions" }, shape),
      text,
    );
  const mark = (grade) => svg("path", { class: "shape", d: REGION_SHAPES[grade] });
  return el(
    "ul",
    { class: "legend", "aria-label": "Legend" },
    item("good", mark("good"), "region up"),
    item("fair", mark("fair"), "partly up"),
    item("bad", mark("bad"), "down"),
    item("none", svg("circle", { r: 10, class: "ring" }), "this edge’s region"),
    item("none", svg("circle", { r: 5, class: "client" }), "clients; the thicker a line, the more calls"),
  );
}

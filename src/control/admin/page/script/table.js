// Tables with a caption, headings and rows that are changed in place. A wide one scrolls in its own frame, never the page.

/** Frames with more inside than they show can be reached, and then scrolled, by keyboard. What is inside is watched, too. */
const overflowing = new ResizeObserver((entries) => {
  const frames = new Set(entries.map(({ target }) => target.closest(".frame, [role=log]")));
  for (const target of frames) {
    if (target === null) continue;
    const scrolls = target.scrollWidth > target.clientWidth || target.scrollHeight > target.clientHeight;
    setAttributes(target, { tabindex: scrolls ? "0" : null });
  }
});

/**
 * A table of `columns`: `{ head, cell: (item) => text or { text, grade, title }, header, kind }`. The cells of the column
 * with `header` name their rows; `kind` is "number", or "wide" for what is not to be squeezed. Returns its node, and
 * `update(items)`; `empty` is said when there are none.
 */
function makeTable({ caption, unseenCaption = false, columns, key, empty = "Nothing yet." }) {
  const heads = columns.map(({ head, kind }) => el("th", { scope: "col", class: kind ?? null }, head));
  const body = el("tbody");
  const table = el(
    "table",
    {},
    el("caption", { class: unseenCaption ? "unseen" : null }, caption),
    el("thead", {}, el("tr", {}, ...heads)),
    body,
  );
  const frame = el("div", { class: "frame", role: "group", "aria-label": caption }, table);
  const nothing = el("p", { class: "quiet" }, empty);
  overflowing.observe(frame);
  overflowing.observe(table);

  const create = () =>
    el(
      "tr",
      {},
      ...columns.map(({ header, kind }) =>
        el(header ? "th" : "td", { scope: header ? "row" : null, class: kind ?? null }),
      ),
    );
  const update = (row, item) => columns.forEach(({ cell }, ix) => setCell(row.children[ix], cell(item)));
  return {
    node: el("div", {}, frame, nothing),
    update(items) {
      setHidden(frame, items.length === 0);
      setHidden(nothing, items.length > 0);
      keyed(body, items, key, create, update);
    },
  };
}

function setCell(node, content) {
  if (typeof content !== "object") {
    setText(node, content);
  } else if (content.grade) {
    const badge = node.firstElementChild ?? node.appendChild(el("span", { class: "badge" }));
    setBadge(badge, { grade: content.grade, word: content.text });
  } else {
    setText(node, content.text);
  }
  setAttributes(node, { title: content.title ?? null });
}

/** A `<details>` whose inside is made when it is first opened, and updated only while it is open. */
function lazyDetails(summary, make, open = false) {
  const label = el("summary", {}, summary);
  const node = el("details", { open }, label);
  let inside = null;
  let latest = null;
  const refresh = () => {
    if (!node.open || latest === null) return;
    if (inside === null) {
      inside = make();
      node.append(inside.node);
    }
    inside.update(latest);
  };
  node.addEventListener("toggle", refresh);
  return {
    node,
    update(value, text = null) {
      latest = value;
      if (text !== null) setText(label, text);
      refresh();
    },
  };
}

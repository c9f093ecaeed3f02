// Small helpers over the DOM. Everything shown is set as text, never as markup: names come from configurations, request ids
// from clients. What is there already is changed in place, so that focus, selection and scrolling stay.

const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);

/** A new element: `el("th", { scope: "row" }, "text", child)`. */
function el(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
function svg(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  setAttributes(node, attributes);
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** Attributes as told; `null` removes one. Those that stay as they are cost nothing. */
function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) {
      if (node.hasAttribute(name)) node.removeAttribute(name);
    } else {
      const text = value === true ? "" : String(value);
      if (node.getAttribute(name) !== text) node.setAttribute(name, text);
    }
  }
}

function setText(node, text) {
  const wanted = String(text);
  if (node.textContent !== wanted) node.textContent = wanted;
}

function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

const keptNodes = new WeakMap();

/**
 * Makes the children of `parent`, which has no others, those of `items`, in order: new ones by `create(item)`, each then
 * told `update(node, item)`. A child is moved only if it stands in the wrong place, since moving loses the focus.
 */
function keyed(parent, items, keyOf, create, update) {
  const before = keptNodes.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (after.has(key)) continue;
    const node = before.get(key) ?? create(item);
    update(node, item);
    after.set(key, node);
  }
  for (const [key, node] of before) if (!after.has(key)) node.remove();
  let at = parent.firstChild;
  for (const node of after.values()) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  keptNodes.set(parent, after);
}

/** A mark and a word; the mark's shape says the same as its colour, for those who do not see it. */
function setBadge(node, { grade, word }) {
  setAttributes(node, { "data-grade": grade });
  if (node.childElementCount !== 2)
    node.replaceChildren(el("span", { class: "mark", "aria-hidden": "true" }), el("span"));
  setText(node.firstChild, GRADE_MARKS[grade]);
  setText(node.lastChild, word);
}

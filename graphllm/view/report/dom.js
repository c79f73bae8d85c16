// Elements. Text goes in as text, never as markup: no string of a plan is ever parsed as HTML.

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    else if (name === "style") Object.assign(node.style, value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const put = (node, ...children) => fill(node, {}, children);
const byId = (id) => document.getElementById(id);
const link = (text, go, title) => el("button", { class: "link", type: "button", title, on: { click: (event) => { event.stopPropagation(); go(); } } }, text);

// A table whose columns are {name, cell(row), number, key(row)}; a key makes a column sortable.
function table(columns, rows, options = {}) {
  const body = el("tbody");
  const state = { column: options.sort ?? -1, down: true };
  const fillBody = () => {
    const column = columns[state.column];
    const sorted = column && column.key ? [...rows].sort((a, b) => order(column.key(a), column.key(b)) * (state.down ? -1 : 1)) : rows;
    body.replaceChildren(...sorted.map((row) => el("tr", {
      class: [options.go ? "go" : "", options.chosen && options.chosen(row) ? "chosen" : ""].join(" ").trim() || null,
      tabindex: options.go ? 0 : null,
      on: options.go ? { click: () => options.go(row), keydown: (e) => { if (e.key === "Enter") options.go(row); } } : {},
    }, columns.map((c) => el("td", { class: c.number ? "number" : c.line ? "line" : null }, c.cell(row))))));
  };
  const sortBy = (i) => { state.down = state.column === i ? !state.down : true; state.column = i; fillBody(); };
  const head = el("tr", {}, columns.map((c, i) => el("th", {
    class: [c.number ? "number" : "", c.key ? "sortable" : ""].join(" ").trim() || null, title: c.title,
    tabindex: c.key ? 0 : null, on: c.key ? { click: () => sortBy(i), keydown: (e) => { if (e.key === "Enter") sortBy(i); } } : {},
  }, c.name)));
  fillBody();
  return el("table", { class: options.wide ? "wide" : null }, el("thead", {}, head), body);
}

function order(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

const facts = (pairs) => el("dl", { class: "facts" }, pairs.filter((p) => p).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

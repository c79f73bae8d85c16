// Two plans against each other: what the second has otherwise.

const Differences = { section: null, onlyChanges: true };

function differencesView(panel) {
  const d = DATA.differences, [a, b] = PLANS, sections = Object.keys(d.sections);
  const show = (value, unit) => (value === null || value === undefined ? "–" : unit === "bytes" ? bytesText(value) : unit === "seconds" ? secondsText(value) : typeof value === "number" ? wholeText(value) : String(value));
  const change = (r) => (typeof r.first !== "number" || typeof r.second !== "number" || r.first === r.second ? (r.first === r.second ? "=" : "≠") : r.first ? `× ${Number((r.second / r.first).toPrecision(3))}` : "new");
  const section = sections.includes(Differences.section) ? Differences.section : sections.includes(State.function) ? State.function : sections[0];
  const redraw = () => State.tell({ view: "differences" });
  put(panel, el("h2", {}, `${a.name} against ${b.name}`),
    table([{ name: "", cell: (r) => r.what }, { name: a.name, number: true, cell: (r) => show(r.first, r.unit) }, { name: b.name, number: true, cell: (r) => show(r.second, r.unit) }, { name: "second over first", number: true, cell: change }], d.figures),
    el("h2", {}, "Options and configuration"), d.options.length ? table([{ name: "", cell: (r) => r.name }, { name: a.name, cell: (r) => plainText(r.first) }, { name: b.name, cell: (r) => plainText(r.second) }], d.options) : el("p", {}, "The same."),
    el("h2", {}, "What runs"), el("p", {}, el("label", {}, "text of ", el("select", { on: { change: (e) => { Differences.section = e.target.value; redraw(); } } }, sections.map((s) => el("option", { value: s, selected: s === section }, `@${s}`)))), " ",
      el("label", {}, el("input", { type: "checkbox", checked: Differences.onlyChanges, on: { change: (e) => { Differences.onlyChanges = e.target.checked; redraw(); } } }), " only what differs")),
    el("div", { style: { overflow: "auto" } }, diffText(d.sections[section], Differences.onlyChanges)),
    el("h2", {}, "Weights"), d.weights.length ? table([{ name: "weight", cell: (w) => `@${w.name}`, key: (w) => w.name }, ...["first", "second"].map((side, i) => ({ name: PLANS[i].name, cell: (w) => (w[side] ? `${w[side].dtype}[${w[side].shape.join(",")}]` : "–") })),
      { name: "bytes", number: true, cell: (w) => `${bytesText((w.first || {}).bytes)} → ${bytesText((w.second || {}).bytes)}`, key: (w) => ((w.second || {}).bytes || 0) - ((w.first || {}).bytes || 0) }], d.weights) : el("p", {}, "The same names and types."));
}

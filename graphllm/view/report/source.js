// Generated code, and the IR it was printed from, line by line; both lead to what they speak of.

function sourceSnippet(plan, name) {
  const place = plan.source.places[name];
  if (!place) return el("p", { class: "faint" }, "not in the text");
  return el("pre", { class: "ir" }, plan.lines.slice(place[0], Math.min(place[1], place[0] + 80)).join("\n"), place[1] - place[0] > 80 ? "\n…" : "");
}

function sourceView(panel) {
  const plan = State.model, fn = State.fn, c = State.chosen;
  const name = c && c.kernel !== undefined ? fn.kernels[c.kernel].source : "", place = plan.source.places[name];
  const owner = new Map(); // line -> kernel name
  for (const [kernel, [first, end]] of Object.entries(plan.source.places)) for (let i = first; i < end; i += 1) owner.set(i, kernel);
  const choose = (kernel) => { const index = fn.sources.indexOf(kernel); if (index >= 0) State.choose({ kernel: index }); };
  const inside = (i) => place && i >= place[0] && i < place[1];
  const text = el("div", { class: "ir" }, plan.lines.map((line, i) => el("span", {
    class: `row${inside(i) ? " chosen" : ""}${owner.has(i) && fn.sources.includes(owner.get(i)) ? " go" : ""}`, "data-line": i + 1,
    on: owner.has(i) ? { click: () => choose(owner.get(i)) } : {},
  }, el("span", { class: "n" }, i + 1), line || " ")));
  const area = el("div", { class: "scroll" }, text);
  put(panel, el("div", { class: "tools" }, el("b", {}, plan.source.language), el("span", { class: "faint" }, `${plan.lines.length} lines, ${Object.keys(plan.source.places).length} kernels`),
    el("label", {}, "kernel ", el("select", { on: { change: (e) => choose(e.target.value) } }, el("option", { value: "" }, "–"),
      [...new Set(fn.sources.filter((s) => s))].map((s) => el("option", { value: s, selected: s === name }, s))))), area);
  if (place) requestAnimationFrame(() => { area.scrollTop = text.children[place[0]].offsetTop - text.offsetTop - 40; });
}

function irView(panel) {
  const fn = State.fn, c = State.chosen, rows = [];
  let chosenRow = null;
  const row = (kernel, op, pieces, indent) => {
    const chosen = c && c.kernel === kernel.index && (c.op === undefined || op === undefined || c.op === op);
    const line = el("span", { class: `row go${chosen ? " chosen" : ""}`, on: { click: () => State.choose({ kernel: kernel.index, ...(op !== undefined ? { op } : {}) }) } },
      el("span", { class: "n" }, op === undefined || !kernel.fused ? kernel.index : ""), indent, irText(pieces));
    if (chosen && (!chosenRow || c.op === op)) chosenRow = line;
    rows.push(line);
  };
  const inputs = fn.record.inputs.map((v) => `%${v.name}: ${typeText(v.type)}`).join(", ");
  rows.push(el("span", { class: "row" }, el("span", { class: "n" }), `func @${fn.name}(${inputs})${fn.record.rows === "consecutive" ? " consecutive" : ""}${fn.record.arena === undefined ? "" : ` arena ${fn.record.arena}`} {`));
  for (const kernel of fn.kernels) {
    if (!kernel.fused) { row(kernel, 0, operationPieces(kernel.ops[0]), "  "); continue; }
    row(kernel, undefined, kernelHeadPieces(kernel), "  ");
    for (const op of kernel.ops) row(kernel, op.index, operationPieces(op), "    ");
    rows.push(el("span", { class: "row" }, el("span", { class: "n" }), "  }"));
  }
  const results = [...fn.record.results, ...fn.record.updates.map((u) => `${u.state} = ${u.value}`)].join(", ");
  rows.push(el("span", { class: "row" }, el("span", { class: "n" }), `  return ${results}`), el("span", { class: "row" }, el("span", { class: "n" }), "}"));
  const area = el("div", { class: "scroll" }, el("div", { class: "ir" }, rows));
  put(panel, el("div", { class: "tools" }, el("b", {}, `@${fn.name}, lowered`), el("span", { class: "faint" }, "numbers are kernels; click a line or a name")), area);
  if (chosenRow) requestAnimationFrame(() => { area.scrollTop = chosenRow.offsetTop - area.offsetTop - area.clientHeight / 3; });
}

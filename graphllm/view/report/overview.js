// The first page: what it is, what it weighs, what a step costs and needs at least.

function overviewView(panel) {
  const plan = State.model, o = plan.overview, decode = o.steps.find((s) => s.function === "decode") || o.steps[0];
  const card = (big, small) => el("div", { class: "card" }, el("b", {}, big), el("span", {}, small));
  const least = decode.seconds_empty;
  put(panel, 
    el("div", { class: "cards" },
      card(countText(o.parameters), "parameters"),
      card(bytesText(o.weights.bytes), "weights"),
      card(bytesText(o.cache.bytes), `KV cache, ${o.cache.context} positions × ${o.cache.slots}`),
      card(bytesText(o.arena), "arena"),
      card(bytesText(decode.bytes_empty), "moved a token"),
      card(`${countText(decode.flops_full)}flop`, "a token, cache full"),
      card(String(decode.kernels), `kernels a token, ${decode.distinct} distinct`),
      least ? card(`${Number((1 / least).toPrecision(3))} /s`, "tokens at most, by the roofline") : null,
    ),
    plan.notes.map((note) => el("p", { class: "note" }, note)),
    warningsLine(plan),
    el("h2", {}, "Memory"), memoryBar(o),
    el("h2", {}, "Steps"), stepsTable(plan),
    o.rates.bytes_per_second
      ? el("p", { class: "faint" }, `Least time: bytes at ${bytesText(o.rates.bytes_per_second)}/s`,
          o.rates.flops_per_second ? ` or operations at ${countText(o.rates.flops_per_second)}flop/s, whichever takes longer` : "", `; ${o.rates.how}.`)
      : el("p", { class: "faint" }, "No rates of a machine were given: --bandwidth 40GB/s (or measure) adds the least time of each step."),
    el("h2", {}, "Model"), facts(Object.entries(plan.config).filter(([, v]) => v !== null && v !== "" && v !== false && !(Array.isArray(v) && !v.length)).map(([k, v]) => [k, plainText(v)])),
    plan.text_cost ? [el("h2", {}, "What rounding cost, on a text"), facts(Object.entries(plan.text_cost).map(([k, v]) => [k.replace(/_/g, " "), plainText(v)]))] : null,
    el("h2", {}, "Where it comes from"), provenance(plan),
    el("h2", {}, "Options"), facts(Object.entries(plan.options).map(([k, v]) => [k, plainText(v)])),
  );
}

function warningsLine(plan) {
  const warnings = plan.findings.filter((f) => f.level === "warning").length;
  if (!plan.findings.length) return el("p", {}, "No findings: nothing unfused, no casts that cancel, no slack in the arena.");
  return el("p", {}, warnings ? `${warnings} warning${warnings > 1 ? "s" : ""}, ` : "No warnings, ",
    link(`${plan.findings.length} finding${plan.findings.length > 1 ? "s" : ""} in all`, () => State.set({ view: "findings" })));
}

function memoryBar(o) {
  const parts = [["weights", o.weights.bytes, "var(--weight)"], ["KV cache", o.cache.bytes, "var(--state)"], ["arena", o.arena, "var(--between)"]];
  const total = parts.reduce((sum, p) => sum + p[1], 0) || 1;
  const slots = el("input", { type: "number", min: 1, max: 1024, value: o.cache.slots || 1, style: { width: "70px" }, "aria-label": "sequences" });
  const context = el("input", { type: "number", min: 1, max: 16777216, value: o.cache.context || 1, style: { width: "100px" }, "aria-label": "positions" });
  const answer = el("b");
  const compute = () => {
    const cache = o.cache.bytes_per_position * Math.max(1, Number(context.value) || 1) * Math.max(1, Number(slots.value) || 1);
    answer.textContent = `${bytesText(o.weights.bytes + o.arena + cache)}, of it ${bytesText(cache)} cache`;
  };
  for (const input of [slots, context]) input.addEventListener("input", compute);
  compute();
  return [
    el("div", { class: "stack", role: "img", "aria-label": parts.map((p) => `${p[0]} ${bytesText(p[1])}`).join(", ") },
      parts.map(([name, bytes, fill]) => el("div", { style: { flex: `${bytes / total} 0 auto`, background: fill, width: "0" }, title: `${name} ${bytesText(bytes)}` }, bytes / total > 0.12 ? name : ""))),
    el("p", {}, parts.map(([name, bytes]) => `${name} ${bytesText(bytes)}`).join(" · "), ` · together ${bytesText(total)}. By dtype: `,
      Object.entries(o.weights.by_dtype).map(([d, b]) => `${d} ${bytesText(b)}`).join(", "), "."),
    el("p", {}, "What if: ", slots, " sequences of ", context, " positions take ", answer, el("span", { class: "faint" }, " (the arena as it is)")),
  ];
}

function stepsTable(plan) {
  const has = plan.overview.steps.some((s) => s.seconds_empty);
  return table([
    { name: "function", cell: (s) => link(`@${s.function}`, () => State.set({ function: s.function, view: "graph", chosen: null })) },
    { name: "rows", number: true, cell: (s) => s.rows }, { name: "operations", number: true, cell: (s) => s.operations },
    { name: "kernels", number: true, cell: (s) => s.kernels }, { name: "distinct", number: true, cell: (s) => s.distinct },
    { name: "bytes, cache empty", number: true, cell: (s) => bytesText(s.bytes_empty) }, { name: "cache full", number: true, cell: (s) => bytesText(s.bytes_full) },
    { name: "flop", number: true, cell: (s) => countText(s.flops_full) }, { name: "arena", number: true, cell: (s) => bytesText(s.arena) },
    ...(has ? [{ name: "least time", number: true, cell: (s) => secondsText(s.seconds_empty) }, { name: "cache full", number: true, cell: (s) => secondsText(s.seconds_full) }] : []),
  ], plan.overview.steps);
}

function provenance(plan) {
  const p = plan.provenance;
  const rows = Object.entries(p).filter(([k]) => k !== "files" && k !== "notes").map(([k, v]) => [k, plainText(v)]);
  return [
    facts([["target", plan.target], ...rows, ...(p.notes || []).map((note) => ["note", note])]),
    (p.files || []).length ? table([{ name: "file", cell: (f) => f.name }, { name: "bytes", number: true, cell: (f) => bytesText(f.bytes) },
      { name: "sha256", cell: (f) => el("code", {}, f.sha256 ? clipped(f.sha256, 24) : "not read") }], p.files) : null,
  ];
}

// What a reader would want to be told.

function findingsView(panel) {
  const plan = State.model;
  put(panel, el("h2", {}, "Findings"), el("p", { class: "faint" }, "Looked for: elementwise work that was not fused, casts that cancel, kernels too small to be worth their call, rows and heads that are padded, slack in the arena, tensors stored twice or wider than need be."),
    plan.findings.length ? null : el("p", {}, "None."));
  for (const f of plan.findings) {
    const places = f.operations.slice(0, 12).map((i) => link(String(i), () => { State.set({ function: f.function }); State.choose({ kernel: i }, "graph"); }));
    put(panel, el("div", { class: `finding ${f.level}` }, el("b", {}, `${f.level === "warning" ? "⚠ " : ""}${f.kind}`), f.function ? el("span", { class: "faint" }, `@${f.function}  `) : "",
      f.bytes ? el("span", { class: "chip" }, bytesText(f.bytes)) : "", el("div", {}, f.what),
      places.length ? el("div", {}, "kernels: ", places.map((p, i) => [i ? ", " : "", p]), f.operations.length > 12 ? ` and ${f.operations.length - 12} more` : "") : null,
      f.advice ? el("div", { class: "faint" }, f.advice) : null));
  }
}

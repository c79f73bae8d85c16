// Every stored weight: what it was made from, what it takes, what rounding cost.

const Weights = { filter: "" };

function weightsView(panel) {
  const plan = State.model, all = plan.weights, largest = Math.max(...all.map((w) => w.bytes), 1);
  const errors = all.some((w) => w.error !== undefined), worst = Math.max(...all.map((w) => w.error || 0), 1e-12);
  const area = el("div", {});
  const before = (w) => w.from.reduce((sum, t) => sum + t.shape.reduce((a, b) => a * b, 1) * (WIDTHS[t.dtype] || 0), 0);
  const fillArea = () => {
    const words = Weights.filter.toLowerCase().split(/\s+/).filter((w) => w);
    const rows = all.filter((w) => { const text = [w.name, w.dtype, ...w.from.map((t) => t.source || t.name)].join(" ").toLowerCase(); return words.every((word) => text.includes(word)); });
    area.replaceChildren(el("p", { class: "faint" }, `${rows.length} of ${all.length} tensors, ${bytesText(rows.reduce((s, w) => s + w.bytes, 0))}`), table([
      { name: "weight", cell: (w) => link(`@${w.name}`, () => State.set({ chosen: { value: `@${w.name}` } })), key: (w) => w.name },
      { name: "layer", number: true, cell: (w) => (w.layer < 0 ? "" : w.layer), key: (w) => w.layer },
      { name: "shape", cell: (w) => `[${w.shape.join(",")}]`, key: (w) => w.shape.reduce((a, b) => a * b, 1) },
      { name: "dtype", line: true, cell: (w) => dtypes(w), key: (w) => w.dtype },
      { name: "bytes", number: true, cell: (w) => bytesText(w.bytes), key: (w) => w.bytes },
      { name: "", cell: (w) => el("span", { class: "bar", style: { width: `${(60 * w.bytes) / largest}px` } }) },
      { name: "was", number: true, cell: (w) => (w.from.length ? bytesText(before(w)) : ""), key: before },
      ...(errors ? [{ name: "error", number: true, title: "root mean square of rounding over that of the matrix", cell: (w) => (w.error === undefined ? "" : `${Number((100 * w.error).toPrecision(3))} %`), key: (w) => w.error || 0 },
        { name: "", cell: (w) => (w.error === undefined ? "" : el("span", { class: "bar second", style: { width: `${(50 * w.error) / worst}px` } })) },
        { name: "largest", number: true, cell: (w) => (w.largest_error === undefined ? "" : Number(w.largest_error.toPrecision(3))), key: (w) => w.largest_error || 0 }] : []),
      { name: "checkpoint tensor", line: true, cell: (w) => clipped(w.from.map((t) => t.source || t.name).join(", "), 90), key: (w) => w.from.map((t) => t.source || t.name).join() },
    ], rows, { wide: true, sort: errors ? 7 : 4, chosen: (w) => State.chosen && State.chosen.value === `@${w.name}` }));
  };
  fillArea();
  put(panel, el("h2", {}, "Weights"), el("p", {}, el("input", { type: "search", placeholder: "filter by name or dtype", value: Weights.filter, "aria-label": "filter", on: { input: (e) => { Weights.filter = e.target.value; fillArea(); } } }),
    errors ? "" : el("span", { class: "faint" }, "  Errors of rounding are kept by graphllm compile --quantize int8 --measure.")), area);
}

const WIDTHS = { f32: 4, f16: 2, bf16: 2, i8: 1, i32: 4 };

function dtypes(w) {
  const before = [...new Set(w.from.map((t) => t.dtype))].join("+");
  return before && before !== w.dtype ? `${before} → ${w.dtype}` : w.dtype;
}

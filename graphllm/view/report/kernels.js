// Distinct kernels of a function: how often each runs, what it moves and computes against the least that takes.

const RESOURCES = [["registers", "registers", wholeText], ["spilled", "spilled", (n) => (n ? bytesText(n) : "0")], ["shared", "shared", (n) => (n ? bytesText(n) : "0")], ["blocks an SM", "resident", wholeText]];

const ratioText = (moved) => (moved && moved[1] ? (moved[0] / moved[1]).toFixed(3) : "");

function kernelsView(panel) {
  const plan = State.model, fn = State.fn, times = plan.times(fn.name), groups = new Map();
  for (const kernel of fn.kernels) {
    if (!groups.has(kernel.like)) groups.set(kernel.like, { first: kernel, all: [] });
    groups.get(kernel.like).all.push(kernel);
  }
  const rows = [...groups.values()].map((g) => ({
    ...g, bytes: g.all.reduce((s, k) => s + k.bytes, 0), flops: g.all.reduce((s, k) => s + k.flops, 0), floor: g.all.reduce((s, k) => s + plan.floor(k), 0),
    ns: times ? g.all.reduce((s, k) => s + (times.get(k.index) || { ns: 0 }).ns, 0) : 0,
  }));
  const most = Math.max(...rows.map((r) => r.bytes), 1), slowest = Math.max(...rows.map((r) => r.ns), 1), timed = rows.some((r) => r.ns), floors = rows.some((r) => r.floor);
  const scratch = (k) => [k.record, ...k.ops].map((o) => (o.scratch ? o.scratch.bytes : 0)).reduce((a, b) => Math.max(a, b), 0);
  put(panel, el("h2", {}, `Distinct kernels of @${fn.name}`), el("p", { class: "faint" }, `${fn.kernels.length} calls of ${rows.length} kernels a step; ${fn.record.rows === "consecutive" ? "rows are successive positions" : "rows are independent"}. Bytes with an empty cache: weights once, inputs and results once.${rows.some((r) => r.first.moved) ? " Of the floor: what launches move over the least that they could." : ""}${plan.source.arch ? ` Registers, spills and shared memory on ${plan.source.arch}, by the assembler.` : ""}`),
    table([
      { name: "kernel", cell: (r) => link(r.first.name, () => State.choose({ kernel: r.first.index })), key: (r) => r.first.name },
      { name: "code", cell: (r) => (r.first.source ? link(r.first.source, () => State.choose({ kernel: r.first.index }, "source")) : ""), key: (r) => r.first.source },
      { name: "calls", number: true, cell: (r) => r.all.length, key: (r) => r.all.length },
      { name: "operations", cell: (r) => clipped(r.first.ops.map((o) => o.op).join(" "), 56) },
      { name: "bytes a call", number: true, cell: (r) => bytesText(r.first.bytes), key: (r) => r.first.bytes },
      { name: "a step", number: true, cell: (r) => bytesText(r.bytes), key: (r) => r.bytes },
      { name: "", cell: (r) => el("span", { class: "bar", style: { width: `${(110 * r.bytes) / most}px` }, title: percent(r.bytes / (fn.bytes || 1)) }) },
      ...(rows.some((r) => r.first.moved) ? [{ name: "of the floor", number: true, cell: (r) => ratioText(r.first.moved), key: (r) => (r.first.moved ? r.first.moved[0] / (r.first.moved[1] || 1) : 0) }] : []),
      ...(rows.some((r) => r.first.resources) ? RESOURCES.map(([name, key, unit]) => ({ name, number: true, cell: (r) => (r.first.resources ? unit(r.first.resources[key]) : ""), key: (r) => (r.first.resources || {})[key] || 0 })) : []),
      { name: "flop a step", number: true, cell: (r) => countText(r.flops), key: (r) => r.flops },
      { name: "scratch", number: true, cell: (r) => (scratch(r.first) ? bytesText(scratch(r.first)) : ""), key: (r) => scratch(r.first) },
      ...(floors ? [{ name: "least time", number: true, cell: (r) => secondsText(r.floor), key: (r) => r.floor }] : []),
      ...(timed ? [{ name: "took", number: true, cell: (r) => nanosText(r.ns), key: (r) => r.ns }, { name: "", cell: (r) => el("span", { class: "bar second", style: { width: `${(90 * r.ns) / slowest}px` } }) },
        ...(floors ? [{ name: "of roofline", number: true, cell: (r) => (r.ns ? percent((r.floor * 1e9) / r.ns) : "–"), key: (r) => (r.ns ? r.floor / r.ns : 0) }] : [])] : []),
      ...(rows.some((r) => r.first.launch) ? [{ name: "launches", cell: (r) => r.first.launch.split(", ").map((one) => el("div", { class: "line" }, one)) }] : []),
    ], rows, { wide: true, go: (r) => State.choose({ kernel: r.first.index }), chosen: (r) => State.chosen && r.all.some((k) => k.index === State.chosen.kernel) }));
}

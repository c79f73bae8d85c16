// Beside every view: the chosen kernel, operation, value or weight, and the way from it to all that belongs to it.

function showDetails() {
  const box = byId("details"), c = State.chosen, fn = State.fn;
  const parts = !c ? detailsHint() : c.value && (c.value.startsWith("@") || c.kernel === undefined) ? valueDetails(fn, c.value) : kernelDetails(fn, c);
  box.replaceChildren(...[parts].flat(Infinity).filter((p) => p));
}

function detailsHint() {
  const plan = State.model;
  return [el("h2", {}, "Nothing chosen"), el("p", { class: "faint" }, "Click a box, a line or a value: here is what it reads and gives, where it lies in memory, its text and its code."),
    el("p", { class: "faint" }, "Keys: / searches, ? tells them all."), facts([["plan", plan.name], ["target", plan.target], ["function", `@${State.function}`]])];
}

function goto(fn, kernel, op) {
  const views = [["graph", "graph"], ["ir", "IR"], ["memory", "memory"], ...(kernel.source ? [["source", "source"]] : [])];
  return el("p", {}, "see it in: ", views.map(([view, name], i) => [i ? " · " : "", link(name, () => State.choose({ kernel: kernel.index, ...(op !== undefined ? { op } : {}) }, view))]));
}

function kernelDetails(fn, c) {
  const plan = State.model, kernel = fn.kernels[c.kernel], time = (plan.times(fn.name) || new Map()).get(kernel.index), op = c.op !== undefined ? kernel.ops[c.op] : null;
  const same = fn.structure.like.filter((like) => like === kernel.like).length, floor = plan.floor(kernel);
  return [
    op ? [el("h2", {}, `${op.op}`), el("p", { class: "faint" }, "operation ", String(op.step), " of the schedule, in ", link(`kernel ${kernel.index}, ${kernel.name}`, () => State.choose({ kernel: kernel.index })))] :
      [el("h2", {}, `kernel ${kernel.index}: ${kernel.name}`), el("p", { class: "faint" }, kernel.ops.length > 1 ? `${kernel.ops.length} operations fused` : "an operation by itself")],
    goto(fn, kernel, c.op),
    facts([
      ["layer", kernel.layer < 0 ? "outside all layers" : kernel.layer],
      ["like it", same > 1 ? `${same} of ${fn.kernels.length} kernels of @${fn.name}` : "no other"],
      ["moves", op && kernel.fused ? "nothing by itself: inner values stay in the kernel" : `${bytesText(kernel.bytes)}, ${percent(kernel.bytes / (fn.bytes || 1))} of the step`],
      ["computes", `${countText(op ? op.flops : kernel.flops)} flop`],
      floor && !op ? ["least time", secondsText(floor)] : null,
      time ? ["took", `${nanosText(time.ns)} ± ${nanosText(time.spread_ns)}${time.ns && floor ? `, ${percent(Math.min(9.99, floor * 1e9 / time.ns))} of the roofline` : ""}`] : null,
      kernel.launch ? ["launch", kernel.launch] : null,
      kernel.moved && !op ? ["launches move", `${bytesText(kernel.moved[0])}${kernel.moved[1] ? `, ${ratioText(kernel.moved)} of the floor` : ""}`] : null,
      kernel.resources && !op ? [plan.source.arch, RESOURCES.map(([name, key, unit]) => `${name} ${unit(kernel.resources[key])}`).join(" · ")] : null,
      kernel.source ? ["code", link(kernel.source, () => State.choose({ kernel: kernel.index }, "source"))] : null,
    ]),
    el("h3", {}, "Text"), el("pre", { class: "ir" }, op ? irText(operationPieces(op)) : kernelText(kernel)),
    el("h3", {}, "Gives"), valueTable(fn, (op || { results: kernel.gives.map((r) => ({ name: r.slice(1) })) }).results.map((v) => `%${v.name}`)),
    el("h3", {}, "Reads"), valueTable(fn, op ? op.operands : [...kernel.record.operands, ...kernel.constants].filter((r, i, all) => all.indexOf(r) === i)),
    kernel.source && !op ? [el("h3", {}, "Code"), sourceSnippet(plan, kernel.source)] : null,
  ];
}

function kernelText(kernel) {
  if (!kernel.fused) return irText(operationPieces(kernel.ops[0]));
  return [irText(kernelHeadPieces(kernel)), "\n", kernel.ops.map((op) => ["  ", irText(operationPieces(op)), "\n"]), "}"];
}

function valueTable(fn, refs) {
  if (!refs.length) return el("p", { class: "faint" }, "nothing");
  const about = (ref) => State.model.constants.get(ref) || fn.values.get(ref);
  return table([
    { name: "value", cell: (r) => link(r, () => State.set({ chosen: { value: r } })) }, { name: "type", cell: (r) => (about(r) ? about(r).text || about(r).type : "") },
    { name: "place", cell: (r) => placeText(fn, r) },
  ], refs);
}

function placeText(fn, ref) {
  if (ref.startsWith("@")) return (State.model.constants.get(ref) || {}).kind || "";
  const v = fn.values.get(ref);
  if (!v) return "";
  const update = fn.record.updates.find((u) => u.value === ref);
  if (update) return `in ${update.state}`;
  return v.arena === undefined ? (v.maker ? "register or window" : "input") : `arena+${v.arena}`;
}

function valueDetails(fn, ref) {
  const constant = State.model.constants.get(ref);
  if (constant) return constantDetails(fn, ref, constant);
  const v = fn.values.get(ref);
  if (!v) return detailsHint();
  const stretch = fn.stretch(ref);
  return [
    el("h2", {}, ref), el("p", { class: "faint" }, "a value of @", fn.name),
    facts([["type", v.type], ["bytes", bytesText(v.bytes)], ["place", placeText(fn, ref)],
      v.lifetime ? ["lives", `steps ${v.lifetime.first} to ${v.lifetime.last}`] : null,
      stretch ? ["role", link(roleText(stretch.role), () => State.set({ chosen: { value: ref }, view: "memory" }))] : null,
      stretch && stretch.heir_of >= 0 ? ["in place of", fn.memory.stretches[stretch.heir_of].name] : null]),
    el("h3", {}, "Made by"), v.maker ? placeLink(fn, v.maker) : el("p", {}, "an input of the step"),
    el("h3", {}, "Read by"), v.readers.length ? v.readers.map((r) => el("div", {}, placeLink(fn, r))) : el("p", { class: "faint" }, "nobody in this step"),
  ];
}

function placeLink(fn, [kernel, op]) {
  const k = fn.kernels[kernel];
  return link(`${k.ops[op].op} in kernel ${kernel}, ${k.name}`, () => State.choose({ kernel, op }));
}

function constantDetails(fn, ref, constant) {
  const stored = State.model.stored.get(ref);
  const readers = fn.kernels.flatMap((k) => k.ops.filter((op) => op.operands.includes(ref)).map((op) => [k.index, op.index]));
  return [
    el("h2", {}, ref), el("p", { class: "faint" }, constant.kind === "weight" ? (stored ? "a weight that the plan holds" : "a weight that others are made of") : "a state: it outlives the step"),
    facts([["type", constant.text], ["bytes", bytesText(constant.bytes)], constant.source ? ["called", constant.source] : null,
      stored && stored.made_by.length ? ["made by", stored.made_by.join(" of ")] : null,
      stored && stored.error !== undefined ? ["rounding", `${Number((100 * stored.error).toPrecision(3))} % of its size, at most ${stored.largest_error} an element`] : null]),
    constant.definition ? [el("h3", {}, "Definition"), el("pre", { class: "ir" }, `${constant.definition.op} ${constant.definition.operands.join(", ")} ${Object.entries(constant.definition.attrs).map(([k, v]) => `${k}=${attributeText(v)}`).join(" ")}`)] : null,
    stored && stored.from.length ? [el("h3", {}, "From the checkpoint"), table([{ name: "tensor", cell: (t) => t.source || t.name }, { name: "type", cell: (t) => `${t.dtype}[${t.shape.join(",")}]` }], stored.from)] : null,
    el("h3", {}, `Read in @${fn.name} by`), readers.length ? readers.map((r) => el("div", {}, placeLink(fn, r))) : el("p", { class: "faint" }, "nobody"),
    stored ? el("p", {}, link("in the table of weights", () => State.set({ chosen: { value: ref }, view: "weights" }))) : null,
  ];
}

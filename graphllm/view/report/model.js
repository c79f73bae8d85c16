// The data, indexed: who makes and who reads each value, and what each kernel is.

const DATA = unpacked(JSON.parse(byId("data").textContent));

class FunctionModel {
  constructor(plan, record) {
    this.plan = plan;
    this.name = record.name;
    this.record = record;
    this.structure = plan.structure[record.name];
    this.memory = plan.memory[record.name];
    this.sources = plan.source.kernels[record.name] || [];
    this.values = new Map(); // ref -> {ref, type, bytes, arena, lifetime, maker, readers}
    for (const v of record.inputs) this.add(v, null);
    this.kernels = record.ops.map((op, index) => this.kernel(op, index));
    for (const kernel of this.kernels) {
      for (const op of kernel.ops) {
        for (const ref of op.operands) {
          const value = this.values.get(ref);
          if (value) value.readers.push([kernel.index, op.index]);
        }
      }
    }
    this.bytes = this.kernels.reduce((sum, k) => sum + k.bytes, 0);
  }

  kernel(record, index) {
    const inner = record.kind === "kernel" ? record.ops : [record];
    const kernel = {
      index, record, fused: record.kind === "kernel",
      name: record.kind === "kernel" ? record.template : record.op,
      layer: this.structure.layer[index], like: this.structure.like[index],
      source: this.sources[index] || "",
      launch: (this.plan.source.launches[this.name] || [])[index] || "",
      moved: (this.plan.source.moved[this.name] || [])[index] || null, // by its launches, and the least
      resources: this.plan.source.resources[this.sources[index]] || null,
      bytes: record.bytes || 0, flops: record.flops,
      gives: record.kind === "kernel" ? record.results : record.results.map((v) => `%${v.name}`),
    };
    kernel.ops = inner.map((op, i) => {
      for (const v of op.results) this.add(v, [index, i]);
      return { ...op, index: i, kernel: index, defaults: op };
    });
    kernel.constants = [...new Set(kernel.ops.flatMap((op) => op.operands.filter((r) => r.startsWith("@"))))];
    return kernel;
  }

  add(v, maker) {
    const ref = `%${v.name}`;
    this.values.set(ref, { ref, type: typeText(v.type), bytes: v.bytes, arena: v.arena, lifetime: v.lifetime, maker, readers: [] });
  }

  stretch(ref) {
    return this.memory.stretches.find((s) => s.name === ref);
  }
}

class PlanModel {
  constructor(record) {
    Object.assign(this, record);
    this.functions = new Map(record.module.functions.map((f) => [f.name, null]));
    this.records = new Map(record.module.functions.map((f) => [f.name, f]));
    this.constants = new Map();
    for (const w of record.module.weights) this.constants.set(`@${w.name}`, { ...w, kind: "weight", text: typeText(w.type) });
    for (const s of record.module.states) this.constants.set(`@${s.name}`, { ...s, kind: "state", text: typeText(s.type) });
    this.stored = new Map(record.weights.map((w) => [`@${w.name}`, w]));
    this.lines = record.source.text.split("\n");
  }

  fn(name) { // made when it is first looked at
    if (!this.functions.get(name)) this.functions.set(name, new FunctionModel(this, this.records.get(name)));
    return this.functions.get(name);
  }

  times(name) { // kernel index -> {ns, spread_ns} of all its launches, where this function was profiled
    if (!this.profile || this.profile.function !== name) return null;
    const times = new Map();
    this.profile.kernels.forEach((k) => {
      const before = times.get(k.index) || { ns: 0, spread_ns: 0 };
      times.set(k.index, { ns: before.ns + k.ns, spread_ns: before.spread_ns + k.spread_ns });
    });
    return times;
  }

  floor(kernel) { // seconds by the roofline
    const { bytes_per_second: b, flops_per_second: f } = this.overview.rates;
    return Math.max(b ? kernel.bytes / b : 0, f ? kernel.flops / f : 0);
  }
}

const PLANS = DATA.plans.map((record) => new PlanModel(record));

// Text IR of an operation as the printer writes it, in pieces: text, or {ref}.
function operationPieces(op) {
  const pieces = [];
  const refs = (list) => list.forEach((ref, i) => { if (i) pieces.push(", "); pieces.push({ ref }); });
  refs(op.results.map((v) => `%${v.name}`));
  pieces.push(` = ${op.op}`);
  if (op.operands.length) { pieces.push(" "); refs(op.operands); }
  const known = DATA.ops[op.op] || {}, same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  const attributes = Object.entries(op.attrs).filter(([k, v]) => !known[k] || !same(v, known[k].default));
  if (attributes.length) pieces.push(` {${attributes.map(([k, v]) => `${k}=${attributeText(v, (known[k] || {}).kind)}`).join(", ")}}`);
  pieces.push(" : " + op.results.map((v) => typeText(v.type) + (v.arena === undefined ? "" : ` in arena+${v.arena}`)).join(", "));
  if (op.scratch) pieces.push(` scratch arena+${op.scratch.offset}:${op.scratch.bytes}`);
  return pieces;
}

function kernelHeadPieces(kernel) {
  const pieces = [`kernel ${JSON.stringify(kernel.name)} (`];
  kernel.record.operands.forEach((ref, i) => { if (i) pieces.push(", "); pieces.push({ ref }); });
  pieces.push(") -> ");
  kernel.gives.forEach((ref, i) => { if (i) pieces.push(", "); pieces.push({ ref }); });
  if (kernel.record.scratch) pieces.push(` scratch arena+${kernel.record.scratch.offset}:${kernel.record.scratch.bytes}`);
  pieces.push(" {");
  return pieces;
}

const irText = (pieces) => pieces.map((p) => (typeof p === "string" ? p : el("span", { class: "ref", on: { click: (e) => { e.stopPropagation(); State.choose({ value: p.ref }); } } }, p.ref)));

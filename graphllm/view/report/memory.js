// The memory map: addresses downwards, steps of the schedule to the right, the peak marked and told.

const ROLES = { result: "result of the function", between: "goes from kernel to kernel", inner: "inside one kernel", scratch: "scratch of one operation" };
const roleText = (role) => ROLES[role] || role;
const Memory = { trueScale: false };

function memoryView(panel) {
  const fn = State.fn, m = fn.memory, steps = fn.record.steps + 1;
  const width = Math.max(260, panel.clientWidth - 124, steps * 1.2), height = Math.max(300, panel.clientHeight - 400), left = 84, top = 30;
  const y = addressScale(m, height), x = (step) => left + (step / steps) * width;
  const drawing = svg("svg", {});
  const zoom = new Zoom(drawing, left + width + 30, top + height + 74);
  Memory.zoom = zoom;
  const heirs = new Set(m.stretches.map((s) => s.heir_of));
  const peak = new Set(m.peak.stretches);
  drawing.append(svg("defs", {}, svg("pattern", { id: "hatch", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("path", { d: "M0 0 V6", style: { stroke: "var(--strong)", strokeWidth: "1.4" } }))));
  let last = -99;
  for (const address of y.marks) {
    const at = top + y.of(address);
    drawing.append(svg("path", { class: "axis", d: `M${left - 4} ${at} H${left + width}` }));
    if (at - last >= 11) { drawing.append(svg("text", { class: "faint", x: left - 8, y: at + 4, "text-anchor": "end" }, bytesText(address))); last = at; }
  }
  const labels = [];
  m.stretches.forEach((s, i) => {
    const x0 = x(s.first + (s.heir_of >= 0 ? 0.5 : 0)), x1 = x(s.last + (heirs.has(i) ? 0.5 : 1)), y0 = top + y.of(s.offset), y1 = top + y.of(s.offset + s.bytes);
    const chosen = State.chosen && State.chosen.value === s.name || (State.chosen && State.chosen.kernel !== undefined && fn.values.get(s.name) && (fn.values.get(s.name).maker || [])[0] === State.chosen.kernel);
    const rect = svg("rect", { class: `stretch ${s.role}${chosen ? " chosen" : ""}`, x: x0, y: y0, width: Math.max(1.5, x1 - x0), height: Math.max(1.5, y1 - y0), "data-name": s.name,
      on: { click: () => State.choose({ value: s.name }) } },
      svg("title", {}, `${s.name} ${s.type}\n${roleText(s.role)}, ${s.bytes} bytes at arena+${s.offset}, steps ${s.first} to ${s.last}${s.heir_of >= 0 ? `\nin place of ${m.stretches[s.heir_of].name}` : ""}${peak.has(i) ? "\npart of the peak" : ""}`));
    drawing.append(rect);
    if (s.role === "scratch") drawing.append(svg("rect", { x: x0, y: y0, width: Math.max(1.5, x1 - x0), height: Math.max(1.5, y1 - y0), style: { fill: "url(#hatch)", pointerEvents: "none" } }));
    const room = Math.floor((x1 - x0 - 6) / 6.7);
    if (room >= 4 && y1 - y0 >= 11) labels.push(svg("text", { x: x0 + 4, y: Math.min(y1 - 3, (y0 + y1) / 2 + 4), style: { pointerEvents: "none" } }, clipped(s.name.replace(/^%/, ""), room)));
  });
  drawing.append(...labels);
  const px = x(m.peak.step);
  drawing.append(svg("rect", { class: "peakline", x: px, y: top - 4, width: Math.max(3, width / steps), height: height + 8 }),
    svg("text", { class: "bold", x: Math.min(px, left + width - 120), y: top - 12, style: { fill: "var(--removed-ink)" } }, `peak ${bytesText(m.peak.bytes)}`));
  layerTicks(drawing, fn, x, top + height + 8);
  put(panel, 
    el("div", { class: "tools" },
      el("b", {}, `arena ${bytesText(m.arena)}`), el("span", {}, `at most ${bytesText(m.peak.bytes)} in use${m.lower_bound ? `, no plan needs less than ${bytesText(m.lower_bound)}` : ""}`),
      Object.entries(ROLES).map(([role, text]) => el("span", {}, svg("svg", { width: 18, height: 12 }, svg("rect", { class: `stretch ${role}`, width: 18, height: 12 }), role === "scratch" ? svg("rect", { width: 18, height: 12, style: { fill: "none", stroke: "var(--strong)", strokeDasharray: "2 2" } }) : null), " ", text)),
      el("label", {}, el("input", { type: "checkbox", checked: Memory.trueScale, on: { change: (e) => { Memory.trueScale = e.target.checked; State.tell({ view: "memory" }); } } }), " true scale"), zoom.buttons()),
    zoom.area, peakTable(fn, m));
}

// Heights of addresses: to scale, or each band between two edges at least as high as a line of text.
function addressScale(m, height) {
  const marks = [...new Set([0, m.arena, ...m.stretches.flatMap((s) => [s.offset, s.offset + s.bytes])])].sort((a, b) => a - b);
  const all = Math.max(1, m.arena);
  if (Memory.trueScale) return { marks, of: (a) => (a / all) * height };
  const least = Math.min(22, (height * 0.8) / Math.max(1, marks.length - 1)), rest = height - least * (marks.length - 1), at = new Map();
  marks.forEach((a, i) => at.set(a, i * least + (a / all) * rest));
  return { marks, of: (a) => at.get(a) };
}

function layerTicks(drawing, fn, x, y) {
  const spans = new Map();
  let step = 0;
  for (const kernel of fn.kernels) {
    const first = step;
    step += kernel.ops.length;
    drawing.append(svg("path", { class: "axis", d: `M${x(first)} ${y} V${y + 5}` }, svg("title", {}, `kernel ${kernel.index} ${kernel.name}`)));
    if (kernel.layer >= 0) spans.set(kernel.layer, [(spans.get(kernel.layer) || [first])[0], step]);
  }
  for (const [layer, [first, end]] of spans) {
    const a = x(first) + 1, b = x(end) - 1;
    drawing.append(svg("path", { class: "edge", d: `M${a} ${y + 10} V${y + 14} H${b} V${y + 10}` }));
    if (b - a > 14) drawing.append(svg("text", { class: "faint", x: (a + b) / 2, y: y + 27, "text-anchor": "middle" }, b - a > 56 ? `layer ${layer}` : layer));
  }
  drawing.append(svg("text", { class: "faint", x: x(0), y: y + 46 }, "steps of the schedule →, a tick where a kernel begins"));
}

function peakTable(fn, m) {
  const rows = m.peak.stretches.map((i) => m.stretches[i]);
  return el("div", { style: { padding: "6px 14px", maxHeight: "32%", overflow: "auto", borderTop: "1px solid var(--line)" } },
    el("h3", { style: { marginTop: "4px" } }, `What makes the peak, at step ${m.peak.step}`),
    table([
      { name: "value", cell: (s) => link(s.name, () => State.choose({ value: s.name })) }, { name: "type", cell: (s) => s.type }, { name: "bytes", number: true, cell: (s) => bytesText(s.bytes) },
      { name: "", cell: (s) => el("span", { class: "bar", style: { width: `${(140 * s.bytes) / Math.max(1, m.peak.bytes)}px` } }) }, { name: "role", cell: (s) => roleText(s.role) }, { name: "steps", cell: (s) => `${s.first} to ${s.last}` },
    ], rows));
}

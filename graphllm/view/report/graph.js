// The graph of a function: kernels as boxes, open to their operations on request, equal layers folded.

const Graph = { open: new Map(), measure: "bytes" };

function graphState(fn) {
  const key = `${State.plan} ${fn.name}`;
  if (!Graph.open.has(key)) Graph.open.set(key, { unfolded: new Set(), expanded: new Set() });
  return Graph.open.get(key);
}

function graphView(panel) {
  const fn = State.fn, open = graphState(fn);
  reveal(fn, open);
  const layout = layOutGraph(fn, open.unfolded, open.expanded);
  const drawing = svg("svg", {});
  const zoom = new Zoom(drawing, layout.width, layout.height);
  Graph.zoom = zoom;
  const largest = Math.max(...fn.kernels.map((k) => measureOf(fn, k)), 1e-12);
  drawing.append(arrowHead());
  for (const frame of layout.frames) drawing.append(frameShape(frame, layout, fn, open));
  const edges = svg("g", {});
  layout.nets.forEach((net, i) => edges.append(netShape(net, layout, i)));
  drawing.append(edges);
  for (const box of layout.boxes) drawing.append(box.kind === "kernel" ? kernelShape(box, fn, open, largest) : endShape(box));
  const foldable = fn.structure.segments.map((s, i) => [s, i]).filter(([s]) => s.units.length > 1).map(([, i]) => i);
  const allOpen = fn.kernels.length > 0 && fn.kernels.every((k) => open.expanded.has(k.index));
  const redraw = () => State.tell({ view: "graph" });
  put(panel, el("div", { class: "tools" },
    foldable.length ? el("button", { type: "button", "aria-pressed": String(open.unfolded.size > 0), title: "layers one by one, or equal ones once (l)", id: "unfold",
      on: { click: () => { if (open.unfolded.size) open.unfolded.clear(); else foldable.forEach((i) => open.unfolded.add(i)); redraw(); } } }, open.unfolded.size ? "fold layers" : "unfold layers") : null,
    el("button", { type: "button", "aria-pressed": String(allOpen), title: "kernels open to their operations (e)", id: "expand",
      on: { click: () => { if (allOpen) open.expanded.clear(); else fn.kernels.forEach((k) => open.expanded.add(k.index)); redraw(); } } }, allOpen ? "close kernels" : "open kernels"),
    el("label", {}, "bars: ", el("select", { on: { change: (e) => { Graph.measure = e.target.value; redraw(); } } },
      ["bytes", "flops", ...(State.model.times(fn.name) ? ["time"] : [])].map((m) => el("option", { value: m, selected: m === Graph.measure }, m)))),
    zoom.buttons(),
    el("span", { class: "faint" }, `@${fn.name}: ${fn.record.steps} operations in ${fn.kernels.length} kernels, ${new Set(fn.structure.like).size} distinct · ${bytesText(fn.record.bytes)} a step`),
  ), zoom.area);
  const chosen = State.chosen && State.chosen.kernel !== undefined ? layout.home.get(State.chosen.kernel) : null;
  requestAnimationFrame(() => { if (chosen) zoom.show(chosen.x, chosen.y, BOX.width, chosen.height); });
}

// The chosen operation is to be seen: its kernel open, its layer drawn for itself where it is not the one drawn for all.
function reveal(fn, open) {
  const c = State.chosen;
  if (!c || c.kernel === undefined) return;
  if (c.op !== undefined && fn.kernels[c.kernel].ops.length > 1) open.expanded.add(c.kernel);
  fn.structure.segments.forEach((segment, i) => {
    if (segment.units.slice(1).some((unit) => unit.includes(c.kernel))) open.unfolded.add(i);
  });
}

function measureOf(fn, kernel) {
  if (Graph.measure === "time") { const t = (State.model.times(fn.name) || new Map()).get(kernel.index); return t ? t.ns : 0; }
  return Graph.measure === "flops" ? kernel.flops : kernel.bytes;
}

function measureText(fn, kernel) {
  if (Graph.measure === "time") return nanosText(measureOf(fn, kernel));
  return Graph.measure === "flops" ? `${countText(kernel.flops)}flop` : bytesText(kernel.bytes);
}

function arrowHead() {
  return svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 8, markerHeight: 8, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" },
    svg("path", { d: "M0 0 L8 4 L0 8 z", style: { fill: "var(--strong)" } })));
}

function frameShape(frame, layout, fn, open) {
  const x = layout.left - 14, toggle = () => {
    if (open.unfolded.has(frame.segment)) open.unfolded.delete(frame.segment); else open.unfolded.add(frame.segment);
    State.set({ chosen: null, view: "graph" });
  };
  return svg("g", frame.foldable ? { on: { click: toggle }, style: { cursor: "pointer" } } : {},
    svg("rect", { class: "frame", x, y: frame.top, width: BOX.width + BOX.chip + 26, height: frame.bottom - frame.top, rx: 8 }),
    svg("text", { class: "bold", x: x + BOX.width, y: frame.top + 17, "text-anchor": "end" }, `${frame.foldable ? (frame.folded ? "▸ " : "▾ ") : ""}${frame.title}`));
}

function kernelShape(box, fn, open, largest) {
  const { kernel, x, y } = box, c = State.chosen;
  const chosen = c && c.kernel === kernel.index;
  const group = svg("g", { class: chosen ? "chosen" : null, "data-kernel": kernel.index });
  const toggle = (event) => {
    event.stopPropagation();
    if (open.expanded.has(kernel.index)) open.expanded.delete(kernel.index); else open.expanded.add(kernel.index);
    State.tell({ view: "graph" });
  };
  const cost = `${measureText(fn, kernel)}${box.times > 1 ? ` × ${box.times}` : ""}`;
  const names = kernel.ops.map((op) => op.op).join(" ");
  const room = Math.floor((BOX.width - 60 - (kernel.name.length + cost.length + 4) * 6.8) / 6.7);
  put(group, 
    svg("rect", { class: kernel.fused ? "box" : "box lone", x, y, width: BOX.width, height: box.height, rx: 5, on: { click: () => State.choose({ kernel: kernel.index }) } },
      svg("title", {}, `${kernel.name}, kernel ${kernel.index} of @${fn.name}\n${kernel.ops.map((op) => op.op).join(", ")}`)),
    svg("rect", { class: "meter", x: x + 1, y: y + BOX.head - 4, width: Math.max(1, (BOX.width - 2) * measureOf(fn, kernel) / largest), height: 3 }),
    svg("text", { x: x + 9, y: y + 18, style: { cursor: "pointer" }, on: { click: toggle } }, box.lines.length ? "▾" : "▸"),
    svg("text", { class: "bold", x: x + 26, y: y + 18, style: { pointerEvents: "none" } }, kernel.name),
    names !== kernel.name ? svg("text", { class: "faint", x: x + 38 + kernel.name.length * 6.8, y: y + 18, style: { pointerEvents: "none" } }, clipped(names, Math.max(4, room))) : null,
    svg("text", { class: "faint", x: x + BOX.width - 10, y: y + 18, "text-anchor": "end", style: { pointerEvents: "none" } }, cost));
  box.lines.forEach((line, i) => put(group, operationLine(line.op, kernel, x, y + BOX.head + i * BOX.line)));
  if (!box.lines.length) chips(group, kernel.constants, x + BOX.width, y + 15);
  return group;
}

function operationLine(op, kernel, x, y) {
  const c = State.chosen, chosen = c && c.kernel === kernel.index && c.op === op.index;
  const gives = op.results.map((v) => `%${v.name}`).join(", ");
  const line = svg("g", { class: chosen ? "opline chosen" : "opline", "data-op": op.index, on: { click: () => State.choose({ kernel: kernel.index, op: op.index }) } },
    svg("title", {}, operationPieces(op).map((p) => p.ref || p).join("")),
    svg("rect", { x: x + 2, y: y + 1, width: BOX.width - 4, height: BOX.line }),
    svg("text", { class: "bold", x: x + 26, y: y + 13 }, op.op),
    svg("text", { x: x + 150, y: y + 13 }, clipped(gives, 28)),
    svg("text", { class: "faint", x: x + BOX.width - 10, y: y + 13, "text-anchor": "end" }, clipped(op.results.map((v) => typeText(v.type)).join(" "), 30)));
  chips(line, op.operands.filter((r) => r.startsWith("@")), x + BOX.width, y + 9);
  return line;
}

// Weights and states, right of who reads them: as many as there is room for.
function chips(group, refs, x, y) {
  let at = x + 10, shown = 0;
  for (const ref of refs) {
    const constant = State.model.constants.get(ref), text = constant ? `${clipped(ref, 24)} ${constant.text}` : ref, width = text.length * 6.1 + 10;
    if (at + width > x + BOX.chip - 24 && shown) break;
    put(group, svg("g", { style: { cursor: "pointer" }, on: { click: (e) => { e.stopPropagation(); State.choose({ value: ref }); } } },
      svg("title", {}, `${ref} : ${constant ? constant.text : ""}`),
      svg("rect", { class: constant && constant.kind === "state" ? "chiprect state" : "chiprect", x: at, y: y - 7, width, height: 14, rx: constant && constant.kind === "state" ? 7 : 2 }),
      svg("text", { x: at + 5, y: y + 4, style: { fontSize: "10px" } }, clipped(text, Math.floor((BOX.chip - 30) / 6.1)))));
    at += width + 5;
    shown += 1;
  }
  if (shown < refs.length) put(group, svg("text", { class: "faint", x: at, y: y + 4 }, `+${refs.length - shown}`));
}

function endShape(box) {
  return svg("g", {}, svg("rect", { class: "pill", x: box.x, y: box.y, width: BOX.width, height: box.height, rx: 12 }),
    svg("text", { class: "bold", x: box.x + 26, y: box.y + 18 }, box.title),
    box.lines.map((line, i) => svg("g", { class: "opline", on: { click: () => State.choose({ value: line.ref }) } },
      svg("rect", { x: box.x + 2, y: box.y + BOX.head + i * BOX.line, width: BOX.width - 4, height: BOX.line }),
      svg("text", { x: box.x + 26, y: box.y + BOX.head + i * BOX.line + 12 }, line.text),
      svg("text", { class: "faint", x: box.x + BOX.width - 10, y: box.y + BOX.head + i * BOX.line + 12, "text-anchor": "end" }, line.type))));
}

function netShape(net, layout, number) {
  const { from } = net, bottom = from.y + from.height, chosen = State.chosen;
  const lit = chosen && (chosen.value === net.ref || (chosen.value === undefined && chosen.kernel !== undefined && from.kernel && from.kernel.index === chosen.kernel));
  const group = svg("g", { on: { mouseenter: () => group.firstElementChild && group.querySelectorAll(".edge").forEach((e) => e.classList.add("pointed")),
    mouseleave: () => group.querySelectorAll(".edge").forEach((e) => e.classList.remove("pointed")), click: () => State.choose({ value: net.ref }) } },
    svg("title", {}, `${net.ref} : ${net.type}`));
  const draw = (d, loop) => put(group, svg("path", { class: `edge${loop ? " loop" : ""}${lit ? " lit" : ""}`, d, "marker-end": "url(#arrow)" }), svg("path", { class: "edge-hit", d }));
  if (net.near) {
    const slot = (net.from.ports = (net.from.ports || 0) + 1) - 1, x = layout.left + 34 + (slot % 3) * 176;
    draw(`M${x} ${bottom} V${net.near.y}`);
    put(group, svg("text", { class: "faint", x: x + 6, y: bottom + 14 + Math.floor(slot / 3) * 11, style: { fontSize: "10px" } }, clipped(`${net.ref.slice(1)} ${net.type}`, 27)));
  }
  if (net.far.length) {
    const lane = layout.left - 24 - net.lane * 9, out = from.kind === "inputs" ? from.y + BOX.head + from.lines.findIndex((l) => l.ref === net.ref) * BOX.line + 8 : bottom - 6 - (number % 3) * 3;
    for (const to of net.far) draw(`M${layout.left} ${out} H${lane} V${to.y + 10 + (net.lane % 4) * 3} H${layout.left}`);
  }
  for (const to of net.back) { // to the next repetition of the layers
    const side = layout.left - 9;
    draw(`M${layout.left} ${bottom - 4} H${side} V${to.y + 6} H${layout.left}`, true);
  }
  return group;
}

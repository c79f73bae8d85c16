// One measured step: what every thread did when, and the kernels by the time they took.

function timelineView(panel) {
  const plan = State.model, p = plan.profile;
  if (!p) {
    put(panel, el("h2", {}, "Timeline"), el("p", {}, "No profile was given. ", el("code", {}, "graphllm report PLAN --profile FILE"), " shows the times that profiling a step left as JSON: what each thread did when, and every kernel against the roofline."));
    return;
  }
  const fn = plan.fn(p.function), threads = Math.max(1, ...p.spans.map((s) => s.thread + 1)), width = Math.max(600, panel.clientWidth - 130), left = 70, high = 26;
  const x = (ns) => left + (ns / Math.max(1, p.step_ns)) * width, drawing = svg("svg", {}), zoom = new Zoom(drawing, left + width + 20, threads * (high + 8) + 46);
  const key = (index, part) => `${index}.${part}`, kernels = new Map(p.kernels.map((k) => [key(k.index, k.part), k]));
  const choose = (index) => { if (State.function !== p.function) State.set({ function: p.function }); State.choose({ kernel: index }); };
  for (let t = 0; t < threads; t += 1) drawing.append(svg("text", { class: "faint", x: 6, y: 20 + t * (high + 8) + 17 }, `thread ${t}`), svg("path", { class: "axis", d: `M${left} ${20 + t * (high + 8) + high} H${left + width}` }));
  const spans = p.spans.length ? p.spans : p.kernels.map((k) => ({ kernel: k.index, part: k.part, thread: 0, start_ns: k.start_ns, ns: k.ns }));
  spans.forEach((s) => {
    const k = kernels.get(key(s.kernel, s.part)), chosen = State.chosen && State.chosen.kernel === s.kernel && State.function === p.function, wide = Math.max(0.6, x(s.start_ns + s.ns) - x(s.start_ns)), y = 20 + s.thread * (high + 8);
    drawing.append(svg("rect", { class: `span${s.kernel % 2 ? " odd" : ""}${chosen ? " chosen" : ""}`, x: x(s.start_ns), y, width: wide, height: high, on: { click: () => choose(s.kernel) } },
      svg("title", {}, `${k ? `${k.template} ${k.name}\n${k.ops.join(", ")}${k.code ? `\n${k.code}` : ""}` : s.kernel}\n${nanosText(s.ns)} from ${nanosText(s.start_ns)}`)));
    if (k && wide > 50) drawing.append(svg("text", { x: x(s.start_ns) + 4, y: y + 17, style: { pointerEvents: "none" } }, clipped(k.template, Math.floor((wide - 6) / 6.7))));
  });
  for (let i = 0; i <= 10; i += 1) drawing.append(svg("text", { class: "faint", x: x((p.step_ns * i) / 10), y: 13, "text-anchor": i ? (i === 10 ? "end" : "middle") : "start" }, i ? nanosText((p.step_ns * i) / 10) : "0"));
  const inside = p.kernels.reduce((sum, k) => sum + k.ns, 0), slowest = Math.max(...p.kernels.map((k) => k.ns), 1);
  const floor = (k) => 1e9 * Math.max(p.read_rate ? k.bytes / p.read_rate : 0, p.flop_rate ? k.flops / p.flop_rate : 0);
  const outside = Math.max(0, p.step_ns - inside), plain = p.plain_ns ? ` · nothing timed inside: ${nanosText(p.plain_ns)}` : "";
  put(panel, el("div", { class: "tools" }, el("b", {}, `@${p.function} on ${p.device}: ${nanosText(p.step_ns)}`), el("span", { class: "faint" }, `${p.threads} thread${p.threads === 1 ? "" : "s"} · ${p.rows} row${p.rows === 1 ? "" : "s"} at position ${p.position} · ${p.steps === 1 ? "one step" : `median of ${p.steps} steps`} · outside kernels ${outside ? nanosText(outside) : "nothing"}${plain}${p.note ? ` · ${p.note}` : ""}`), zoom.buttons()), 
    el("div", { style: { flex: "none", overflow: "auto", maxHeight: "45%", display: "flex" } }, zoom.area),
    el("div", { class: "scroll", style: { padding: "4px 14px" } }, table([
      { name: "kernel", line: true, cell: (k) => link(`${k.index} ${k.template}`, () => choose(k.index)), key: (k) => k.index }, { name: "layer", number: true, cell: (k) => (k.layer < 0 ? "" : k.layer), key: (k) => k.layer },
      { name: "operations", cell: (k) => clipped(k.ops.join(" "), 60) }, { name: "took", number: true, cell: (k) => nanosText(k.ns), key: (k) => k.ns },
      { name: "", cell: (k) => el("span", { class: "bar", style: { width: `${(120 * k.ns) / slowest}px` } }) }, { name: "of the step", number: true, cell: (k) => percent(k.ns / Math.max(1, p.step_ns)), key: (k) => k.ns },
      { name: "bytes/s", number: true, cell: (k) => (k.ns && !p.note ? `${bytesText((k.bytes / k.ns) * 1e9)}/s` : "–"), key: (k) => k.bytes / Math.max(1, k.ns) },
      ...(p.read_rate || p.flop_rate ? [{ name: "of roofline", number: true, cell: (k) => (k.ns ? percent(floor(k) / k.ns) : "–"), key: (k) => floor(k) / Math.max(1, k.ns) }] : []),
    ], p.kernels, { sort: 3, wide: true, chosen: (k) => State.chosen && State.chosen.kernel === k.index && State.function === p.function })));
  void fn;
  requestAnimationFrame(() => zoom.fit(false));
}

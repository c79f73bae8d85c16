// Where the boxes of a function stand: one below the other in program order, equal layers once. A value goes straight
// down to the next box, and to boxes further on through a lane left of all boxes, which it shares with its other readers.

const BOX = { width: 560, head: 30, line: 17, gap: 34, chip: 300, frame: 26 };

function layOutGraph(fn, unfolded, expanded) {
  const boxes = [], frames = [], home = new Map();
  let y = 14;
  const place = (box) => {
    box.y = y;
    box.height = BOX.head + (box.lines.length ? box.lines.length * BOX.line + 6 : 0);
    boxes.push(box);
    y += box.height + BOX.gap;
    return box;
  };
  const inputs = place({ kind: "inputs", title: "inputs", lines: fn.record.inputs.map((v) => ({ ref: `%${v.name}`, text: `%${v.name}`, type: typeText(v.type) })) });
  fn.structure.segments.forEach((segment, number) => {
    const folded = segment.units.length > 1 && !unfolded.has(number);
    const units = folded ? segment.units.slice(0, 1) : segment.units;
    units.forEach((unit, u) => {
      const layers = segment.layers[u] || [];
      const frame = layers.length ? { segment: number, top: y, folded, foldable: segment.units.length > 1, title: frameTitle(segment, u, folded) } : null;
      if (frame) y += BOX.frame;
      for (const index of unit) {
        const kernel = fn.kernels[index];
        const open = expanded.has(index) || (folded && unit.some((i) => i === index && expanded.has(i)));
        home.set(index, place({ kind: "kernel", kernel, times: folded ? segment.units.length : 1, lines: open ? kernel.ops.map((op) => ({ op })) : [] }));
      }
      if (frame) { frame.bottom = y - BOX.gap + 20; frames.push(frame); y += 8; }
    });
    if (folded) segment.units.slice(1).forEach((unit) => unit.forEach((index, i) => home.set(index, home.get(segment.units[0][i]))));
  });
  const results = place({ kind: "results", title: "results", lines: fn.record.results.map((ref) => ({ ref, text: ref, type: (fn.values.get(ref) || {}).type || "" })) });
  boxes.forEach((box, i) => { box.row = i; });
  const nets = netsOf(fn, home, inputs, results);
  const lanes = lanesOf(nets.filter((net) => net.far.length));
  const left = 24 + lanes * 9 + 20;
  for (const box of boxes) box.x = left;
  return { boxes, frames, nets, home, left, width: left + BOX.width + BOX.chip + 30, height: y + 10 };
}

function frameTitle(segment, unit, folded) {
  const all = segment.layers, first = all[0][0], last = all[all.length - 1].slice(-1)[0];
  if (!folded) return all[unit].length > 1 ? `layers ${all[unit].join(", ")}` : `layer ${all[unit][0]}`;
  const period = all[0].length;
  return period === 1 ? `× ${all.length} equal layers, ${first} to ${last}` : `× ${all.length}, every ${period} layers from ${first} to ${last}`;
}

// One net for each value that leaves a box: its source, and the boxes that read it, near (the next one), far or before.
function netsOf(fn, home, inputs, results) {
  const nets = new Map();
  const enter = (from, ref, type, to) => {
    if (from === to && !(ref.startsWith("%") && from.times > 1)) return;
    const key = `${from.row} ${withoutLayer(ref)}`;
    if (!nets.has(key)) nets.set(key, { from, ref, type, near: null, far: [], back: [] });
    const net = nets.get(key);
    if (to.row > from.row + 1) { if (!net.far.includes(to)) net.far.push(to); }
    else if (to.row === from.row + 1) net.near = to;
    else if (!net.back.includes(to)) net.back.push(to);
  };
  for (const value of fn.values.values()) {
    const from = value.maker ? home.get(value.maker[0]) : inputs;
    for (const [kernel] of value.readers) {
      if (value.maker && value.maker[0] === kernel) continue; // inside one kernel
      enter(from, value.ref, value.type, home.get(kernel));
    }
    if (fn.record.results.includes(value.ref)) enter(from, value.ref, value.type, results);
  }
  return [...nets.values()];
}

const withoutLayer = (ref) => ref.replace(/^%l\d+\./, "%l.");

// Lanes so that no two nets that are beside each other share one; the shortest lie next to the boxes.
function lanesOf(nets) {
  const taken = [];
  const span = (net) => [net.from.row, Math.max(...net.far.map((box) => box.row))];
  for (const net of [...nets].sort((a, b) => span(a)[1] - span(a)[0] - (span(b)[1] - span(b)[0]))) {
    const [first, last] = span(net);
    let lane = 0;
    while (taken[lane] && taken[lane].some(([a, b]) => first <= b && a <= last)) lane += 1;
    (taken[lane] ||= []).push([first, last]);
    net.lane = lane;
  }
  return taken.length;
}

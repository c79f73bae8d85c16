// The slider: the module after each pass, against what it was before.

const MARKS = {
  "+": ["added", "+", "added"], "-": ["removed", "−", "removed"], ">": ["fused", "⇥", "now inside a kernel"], "~": ["moved", "↕", "moved"], "@": ["placed", "▣", "given a place in memory"], " ": ["", "", ""],
};
const Passes = { onlyChanges: true, section: null };

function passesView(panel) {
  const plan = State.model, pass = plan.passes[State.pass];
  const sections = Object.keys(pass.sections);
  const section = Passes.section !== null && sections.includes(Passes.section) ? Passes.section : sections.includes(State.function) ? State.function : sections[0];
  const go = (number) => State.set({ pass: Math.max(0, Math.min(plan.passes.length - 1, number)) });
  const slider = el("input", { id: "slider", type: "range", min: 0, max: plan.passes.length - 1, value: State.pass, "aria-label": "pass", "aria-valuetext": pass.name, on: { input: (e) => go(Number(e.target.value)) } });
  let stage = "";
  const buttons = plan.passes.map((p, i) => {
    const before = p.stage !== stage && p.stage !== "traced" ? el("span", { class: "stage" }, p.stage === "lowering" ? `for ${plan.target}:` : "for every target:") : null;
    stage = p.stage;
    const changed = Object.keys(p.lines).length > 0;
    return [before, el("button", { type: "button", "aria-current": String(i === State.pass), on: { click: () => go(i) } }, p.name, el("small", {}, i === 0 ? "the start" : changed ? summaryOf(p) : "no change"))];
  });
  put(panel, 
    el("div", { class: "tools", style: { display: "block" } }, slider, el("div", { class: "passes" }, buttons)),
    el("div", { class: "tools" },
      el("b", {}, pass.name), Object.entries(pass.lines).map(([mark, n]) => el("span", { class: `chip ${MARKS[mark][0]}` }, `${MARKS[mark][1]} ${n} ${MARKS[mark][2]}`)),
      passFacts(plan, State.pass),
      el("label", {}, "text of ", el("select", { id: "section", on: { change: (e) => { Passes.section = e.target.value; State.tell({ view: "passes" }); } } },
        sections.map((s) => el("option", { value: s, selected: s === section }, s ? `@${s}` : "weights and states")))),
      el("label", {}, el("input", { type: "checkbox", checked: Passes.onlyChanges, on: { change: (e) => { Passes.onlyChanges = e.target.checked; State.tell({ view: "passes" }); } } }), " only what changed"),
    ),
    el("div", { class: "scroll" }, operationCounts(plan, State.pass), diffText(pass.sections[section], Passes.onlyChanges && State.pass > 0)),
  );
  return slider;
}

const summaryOf = (pass) => Object.entries(pass.lines).map(([mark, n]) => `${MARKS[mark][1]}${n}`).join(" ");

function passFacts(plan, number) {
  const pass = plan.passes[number], c = pass.counts, before = plan.passes[number - 1];
  if (!before || !Object.keys(c).length) return el("span", { class: "faint" }, "as the decoder was recorded");
  const parts = [`${c.ops} operations in @decode`, c.kernels ? `${c.kernels} kernels` : null, `${bytesText(c.bytes_per_step)} a step${before.counts.bytes_per_step && before.counts.bytes_per_step !== c.bytes_per_step ? ` (was ${bytesText(before.counts.bytes_per_step)})` : ""}`,
    c.arena ? `arena ${bytesText(c.arena)}` : null, `${Number(pass.milliseconds.toPrecision(3))} ms`];
  return el("span", { class: "faint" }, parts.filter((p) => p).join(" · "));
}

// Operations by name that there are more or fewer of than before.
function operationCounts(plan, number) {
  const now = plan.passes[number].operations, before = number ? plan.passes[number - 1].operations : now;
  const names = [...new Set([...Object.keys(now), ...Object.keys(before)])].filter((n) => (now[n] || 0) !== (before[n] || 0));
  if (!names.length) return null;
  return el("p", { style: { padding: "4px 14px", margin: 0 } }, "operations of @decode: ", names.map((n) => {
    const d = (now[n] || 0) - (before[n] || 0);
    return el("span", { class: `chip ${d > 0 ? "added" : "removed"}` }, `${n} ${before[n] || 0} → ${now[n] || 0}`);
  }));
}

function diffText(rows, onlyChanges) {
  const near = new Set();
  if (onlyChanges) rows.forEach(([mark], i) => { if (mark !== " ") for (let k = i - 2; k <= i + 2; k += 1) near.add(k); });
  const out = [];
  let hidden = 0;
  const gap = () => { if (hidden) out.push(el("span", { class: "row faint" }, el("span", { class: "mark" }), `… ${hidden} lines as before`)); hidden = 0; };
  rows.forEach(([mark, line], i) => {
    if (onlyChanges && !near.has(i)) { hidden += 1; return; }
    gap();
    const [kind, glyph, title] = MARKS[mark];
    out.push(el("span", { class: `row ${kind}`, title: title || null }, el("span", { class: "mark" }, glyph), DATA.lines[line] || " "));
  });
  gap();
  if (onlyChanges && !near.size) out.splice(0, out.length, el("span", { class: "row faint" }, el("span", { class: "mark" }), "nothing changed here"));
  return el("div", { class: "ir diff" }, out);
}

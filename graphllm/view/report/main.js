// Views, the head of the page, and keys.

const VIEWS = [
  { id: "overview", name: "Overview", draw: overviewView, alone: true }, { id: "graph", name: "Graph", draw: graphView, flush: true }, { id: "passes", name: "Passes", draw: passesView, flush: true, alone: true },
  { id: "memory", name: "Memory", draw: memoryView, flush: true }, { id: "weights", name: "Weights", draw: weightsView, rows: true, count: (p) => p.weights.length }, { id: "kernels", name: "Kernels", draw: kernelsView, rows: true },
  { id: "ir", name: "IR", draw: irView, flush: true }, { id: "source", name: "Source", draw: sourceView, flush: true }, { id: "findings", name: "Findings", draw: findingsView, rows: true, count: (p) => p.findings.length },
  { id: "timeline", name: "Timeline", draw: timelineView, flush: true, rows: true, when: () => true }, { id: "differences", name: "Differences", draw: differencesView, alone: true, when: () => DATA.differences !== null },
].filter((v) => !v.when || v.when());

const KEYS = [["1 … 9", "views in their order"], ["/", "search"], ["← →", "the pass before, the next one"], ["[ ]", "the same"], ["j k", "next kernel, the one before"], ["l", "layers folded or one by one"], ["e", "kernels open or closed"],
  ["+ − 0", "zoom the drawing, all of it; Ctrl and the wheel too"], ["f", "the next function"], ["t", "light, dark, as the system"], ["Esc", "nothing chosen"], ["?", "this list"]];

function draw() {
  const view = VIEWS.find((v) => v.id === State.view) || VIEWS[0], panel = byId("panel");
  const focused = document.activeElement && document.activeElement.id;
  const keep = panel.dataset.key === `${view.id} ${State.plan} ${State.function}` ? [...panel.querySelectorAll(".scroll")].map((s) => [s.scrollLeft, s.scrollTop]).concat([[panel.scrollLeft, panel.scrollTop]]) : null;
  const scale = keep && view.id === "graph" && Graph.zoom ? Graph.zoom.scale : 0;
  panel.replaceChildren();
  panel.className = view.flush ? "flush" : "";
  panel.dataset.key = `${view.id} ${State.plan} ${State.function}`;
  byId("body").classList.toggle("alone", Boolean(view.alone || (view.rows && !State.chosen))); // a table has all the room until a row is chosen
  view.draw(panel);
  if (scale) { Graph.zoom.scale = scale; Graph.zoom.apply(); }
  if (keep) {
    [...panel.querySelectorAll(".scroll")].forEach((s, i) => { if (keep[i]) [s.scrollLeft, s.scrollTop] = keep[i]; });
    [panel.scrollLeft, panel.scrollTop] = keep[keep.length - 1];
  }
  if (focused && panel.querySelector(`#${CSS.escape(focused)}`)) panel.querySelector(`#${CSS.escape(focused)}`).focus();
  byId("tabs").replaceChildren(...VIEWS.map((v, i) => el("button", { type: "button", role: "tab", "aria-selected": String(v === view), title: `key ${i + 1}`, on: { click: () => State.set({ view: v.id }) } },
    v.name, v.count ? el("span", { class: "count" }, ` ${v.count(State.model)}`) : "")));
  head();
  showDetails();
}

function head() {
  byId("title").textContent = `${State.model.name} · ${State.model.target}`;
  byId("plan-choice").hidden = PLANS.length < 2;
  byId("plan").replaceChildren(...PLANS.map((p, i) => el("option", { value: i, selected: i === State.plan }, p.name)));
  byId("function").replaceChildren(...[...State.model.records.keys()].map((name) => el("option", { value: name, selected: name === State.function }, `@${name}`)));
}

// Search: kernels, operations and values of the function, then weights.
function found(text) {
  const words = text.toLowerCase().split(/\s+/).filter((w) => w), fn = State.fn, out = [];
  if (!words.length) return out;
  const fits = (s) => words.every((w) => s.toLowerCase().includes(w));
  for (const kernel of fn.kernels) {
    if (fits(`kernel ${kernel.index} ${kernel.name} ${kernel.source}`)) out.push([`kernel ${kernel.index} ${kernel.name}`, { kernel: kernel.index }]);
    for (const op of kernel.ops) {
      const gives = op.results.map((v) => `%${v.name}`).join(", ");
      if (fits(`${op.op} ${gives} ${op.results.map((v) => typeText(v.type)).join(" ")}`)) out.push([`${op.op} ${gives}`, { kernel: kernel.index, op: op.index }]);
    }
    if (out.length > 60) break;
  }
  for (const [ref, c] of State.model.constants) if (out.length < 90 && fits(`${ref} ${c.text} ${c.source || ""}`)) out.push([`${ref} ${c.text}`, { value: ref }]);
  return out.slice(0, 60);
}

function searchBox() {
  const input = byId("search"), list = byId("found");
  let items = [], at = 0;
  const close = () => { list.hidden = true; };
  const take = (i) => {
    if (!items[i]) return;
    close();
    const inPlace = ["graph", "memory", "ir", "source", "kernels"].includes(State.view);
    State.choose(items[i][1], items[i][1].value ? (inPlace ? State.view : "weights") : inPlace ? State.view : "graph");
  };
  const show = () => {
    list.replaceChildren(...items.map(([text], i) => el("li", { "aria-selected": String(i === at), on: { mousedown: (e) => { e.preventDefault(); take(i); } } }, text)));
    if (!items.length) list.replaceChildren(el("li", { class: "faint" }, "nothing of that name here"));
    list.hidden = !input.value.trim();
    if (list.children[at]) list.children[at].scrollIntoView({ block: "nearest" });
  };
  input.addEventListener("input", () => { items = found(input.value); at = 0; show(); });
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown") at = Math.min(items.length - 1, at + 1);
    else if (e.key === "ArrowUp") at = Math.max(0, at - 1);
    else if (e.key === "Enter") { take(at); input.blur(); return; }
    else if (e.key === "Escape") { close(); input.blur(); return; }
    else return;
    e.preventDefault();
    show();
  });
}

function nextTheme() {
  const root = document.documentElement, order = ["", "light", "dark"];
  root.dataset.theme = order[(order.indexOf(root.dataset.theme || "") + 1) % order.length];
  if (!root.dataset.theme) delete root.dataset.theme;
}

function onKey(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.id !== "slider";
  if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
  const zoom = { graph: Graph.zoom, memory: Memory.zoom }[State.view], names = [...State.model.records.keys()], kernels = State.fn.kernels;
  const step = (by) => { const now = State.chosen && State.chosen.kernel !== undefined ? State.chosen.kernel + by : 0; if (kernels[now]) State.choose({ kernel: now }); };
  const pass = (by) => State.set({ view: "passes", pass: Math.max(0, Math.min(State.model.passes.length - 1, State.pass + by)) });
  const press = (id) => { const button = byId(id); if (button) button.click(); };
  const actions = {
    "/": () => byId("search").focus(), "?": () => byId("keys").showModal(), "[": () => pass(-1), "]": () => pass(1), j: () => step(1), k: () => step(-1), t: nextTheme, l: () => press("unfold"), e: () => press("expand"),
    "+": () => zoom && zoom.by(1.25), "=": () => zoom && zoom.by(1.25), "-": () => zoom && zoom.by(0.8), 0: () => zoom && zoom.fit(true), f: () => State.set({ function: names[(names.indexOf(State.function) + 1) % names.length], chosen: null }),
    Escape: () => State.set({ chosen: null }),
  };
  if (State.view === "passes" && event.target.id !== "slider") { actions.ArrowLeft = () => pass(-1); actions.ArrowRight = () => pass(1); }
  const number = Number(event.key);
  const action = number >= 1 && number <= 9 && VIEWS[number - 1] ? () => State.set({ view: VIEWS[number - 1].id }) : actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

byId("plan").addEventListener("change", (e) => State.set({ plan: Number(e.target.value), chosen: null }));
byId("function").addEventListener("change", (e) => State.set({ function: e.target.value, chosen: null }));
byId("theme").addEventListener("click", nextTheme);
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("keys").append(el("h2", {}, "Keys"), table([{ name: "key", cell: ([k]) => el("kbd", {}, k) }, { name: "what", cell: ([, what]) => what }], KEYS), el("p", {}, el("button", { type: "button", on: { click: () => byId("keys").close() } }, "close")));
searchBox();
document.addEventListener("keydown", onKey);
window.addEventListener("popstate", () => { State.read(); draw(); });
State.listeners.push(draw);
State.read();
draw();
document.documentElement.dataset.ready = "yes";

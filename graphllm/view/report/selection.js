// What is looked at: plan, function, view, and the chosen kernel, operation or value. It lives in the address, so that a
// place can be linked to and the browser's back button goes back.

const State = {
  plan: 0, function: "", view: "overview", chosen: null, pass: 0,
  listeners: [],

  get model() { return PLANS[this.plan]; },
  get fn() { return this.model.fn(this.function); },

  // chosen: {kernel, op?} or {value: ref}
  choose(chosen, view) {
    if (chosen && chosen.value && chosen.value.startsWith("%")) {
      const value = this.fn.values.get(chosen.value);
      if (value && value.maker) chosen = { kernel: value.maker[0], op: value.maker[1], value: chosen.value };
    }
    this.set({ chosen, ...(view ? { view } : {}) });
  },

  set(changes) {
    Object.assign(this, changes);
    if (!this.model.records.has(this.function)) Object.assign(this, { function: [...this.model.records.keys()][0], chosen: null });
    this.pass = Math.min(this.pass, this.model.passes.length - 1);
    const address = this.address();
    if (location.hash !== address) history.pushState(null, "", address);
    this.tell(changes);
  },

  tell(changes) { for (const listener of this.listeners) listener(changes); },

  address() {
    const c = this.chosen;
    const parts = [this.view, this.plan, this.function, this.pass, c && c.kernel !== undefined ? c.kernel : "", c && c.op !== undefined ? c.op : "", c && c.value ? c.value : ""];
    return "#" + parts.map((part) => encodeURIComponent(part)).join("/");
  },

  // From an address that anybody may have written: what is not there is left out.
  read() {
    let parts = [];
    try { parts = location.hash.slice(1).split("/").map(decodeURIComponent); } catch { parts = []; }
    const [view, plan, name, pass, kernel, op, value] = parts;
    this.view = VIEWS.some((v) => v.id === view) ? view : "overview";
    this.plan = PLANS[Number(plan)] ? Number(plan) : 0;
    this.function = this.model.records.has(name) ? name : [...this.model.records.keys()][0];
    this.pass = this.model.passes[Number(pass)] && pass !== "" ? Number(pass) : this.model.passes.length - 1;
    this.chosen = null;
    const found = kernel !== undefined && kernel !== "" ? this.fn.kernels[Number(kernel)] : undefined;
    if (found) this.chosen = { kernel: found.index, ...(op && found.ops[Number(op)] ? { op: Number(op) } : {}), ...(value ? { value } : {}) };
    else if (value && (this.fn.values.has(value) || this.model.constants.has(value))) this.chosen = { value };
  },
};

// What the page does in the browser: pictures of all candidates, the table, the hints of a cell.
// Gradio carries a selection to the server; everything else here works on one table of columns.
(() => {
  "use strict";
  const KINDS = ["candidate", "found network", "known network"];
  const count = (v) => {
    if (v == null) return "–";
    for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (v >= size * 0.9995) return +(v / size).toPrecision(3) + unit;
    return "" + +(+v).toPrecision(3);
  };
  const bytes = (v) => {
    if (v == null) return "–";
    for (const [size, unit] of [[1e9, " GB"], [1e6, " MB"], [1e3, " kB"]])
      if (v >= size * 0.9995) return +(v / size).toPrecision(3) + unit;
    return v + " B";
  };
  const ms = (v) => (v == null ? "–" : +v.toPrecision(3) + " ms");
  const percent = (v) => (v == null ? "–" : (100 * v).toFixed(2) + " %");
  const plain = (v) => (v == null ? "–" : "" + v);
  const FIELDS = {
    accuracy: { label: "accuracy", text: percent },
    macs: { label: "multiply-accumulates", short: "MACs", text: count, limit: "macs" },
    params: { label: "parameters", short: "params", text: count, limit: "params" },
    memory: { label: "activation memory", short: "memory", text: bytes, limit: "memory_bytes" },
    latency: { label: "latency", short: "latency", text: ms, limit: "latency_ms" },
    nodes: { label: "nodes", text: plain },
    width: { label: "width", text: plain },
    round: { label: "search round", short: "round", text: plain },
  };
  const COSTS = ["macs", "params", "memory", "latency"];
  const RAMP = ["#5a4bb8", "#3a6fb5", "#1f8a8a", "#3fae6a", "#a9c93e", "#f2d33b"];
  const short = (field) => FIELDS[field].short || FIELDS[field].label;
  const make = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes))
      if (name === "class") node.className = value;
      else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value !== false && value != null) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };
  const mix = (share) => {
    const at = Math.max(0, Math.min(0.9999, share)) * (RAMP.length - 1);
    const i = Math.floor(at), t = at - i;
    const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
    const [a, b] = [rgb(RAMP[i]), rgb(RAMP[i + 1])];
    return `rgb(${a.map((v, k) => Math.round(v + (b[k] - v) * t)).join(",")})`;
  };
  const variable = (element, name, other) =>
    getComputedStyle(element).getPropertyValue(name).trim() || other;

  // ---- what is selected, and the table, both shared by everything on the page
  const address = window.gemkitAddress;
  const shared = { id: null, table: null, listeners: new Set(), tables: new Set(), tell: null };
  function select(id, step = true) {
    if (!id || id === shared.id) return;
    shared.id = id;
    if (step) address.write({ id }, true);
    for (const listener of shared.listeners) listener(id);
    for (const one of hints) one(); // a hint of what is replaced would stay
    tellChosen();
    shared.tell?.picked({ id });
  }
  let asked = 0;
  async function tellChosen() {
    // What the server knows of the chosen one; the answer to an earlier question is left.
    const mine = ++asked, id = shared.id, box = (name) => document.querySelector(`#${name} .gk-told`);
    while (id) {
      try {
        const answer = await fetch(`run/told/${encodeURIComponent(id)}`, { cache: "no-store" });
        const value = await answer.json();
        if (mine !== asked) return;
        for (const name of ["facts", "cell"]) if (box(name)) box(name).innerHTML = value[name];
        return;
      } catch {
        if (mine !== asked) return;
        await pause(2000);
      }
    }
  }
  const fetched = () => fetch("run/table.json", { cache: "no-store" });
  let early = fetched(); // comes while Gradio builds the page
  early.catch(() => {});
  async function load() {
    const answer = await (early || fetched());
    early = null;
    if (!answer.ok) throw new Error(`answer ${answer.status}`);
    const table = await answer.json();
    table.length = table.columns.id.length;
    // A network that was trained fully stands for the candidate that it was, which bears its id.
    table.trained = new Set(table.columns.id.filter((_, i) => table.columns.kind[i] === 1));
    FIELDS.latency.label = table.device ? `latency on ${table.device}, predicted` : "latency";
    shared.table = table;
    for (const listener of shared.tables) listener(table);
    return table;
  }
  const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
  async function loadInTime(away) {
    // Whoever serves the page may be starting it again: that takes seconds, not forever.
    for (;;) {
      try { return await load(); }
      catch (error) { early = null; away(error); await pause(2000); }
    }
  }
  async function look() {
    // What the server wrote into the page is read again with the table, so that all agree.
    const version = await (await fetch("run/version.json", { cache: "no-store" })).json();
    if (!shared.table || version === shared.table.version) return;
    await load();
    shared.tell?.grown();
    tellChosen();
  }
  let watching = false;
  async function watch() {
    // A run that is being written grows under the visitor's eyes; one that is finished is left.
    if (watching) return;
    watching = true;
    for (;;) {
      await pause(shared.table?.writing ? 2000 : 10000);
      if (document.hidden) continue;
      try { await look(); } catch { /* away for a moment; the next round asks again */ }
    }
  }

  // ---- hints go away when the visitor turns to something else
  const hints = new Set();
  const hide = (event) => { if (!event.target.closest?.(".gk-plot canvas, .gk-node")) for (const one of hints) one(); };
  document.addEventListener("pointerdown", hide);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") for (const one of hints) one(); });
  addEventListener("scroll", () => { for (const one of hints) one(); }, { capture: true, passive: true });

  // ---- on a phone what is known of the chosen one lies below: a bar tells it and leads there
  const peek = {
    bar: make("div", { class: "gk-peek", role: "status" }),
    show() {
      const table = shared.table, row = table ? table.columns.id.indexOf(shared.id) : -1;
      if (row < 0 || !matchMedia("(max-width: 900px)").matches) return;
      const c = table.columns;
      this.bar.replaceChildren(
        make("div", {}, make("b", {}, c.id[row]), ` ${percent(c.accuracy[row])}, ${count(c.macs[row])} MACs${c.latency[row] == null ? "" : ", " + ms(c.latency[row])}`),
        make("button", { class: "gk-button gk-primary", onclick: () => { this.bar.hidden = true; document.querySelector("#facts")?.scrollIntoView({ block: "start", behavior: "smooth" }); } }, "Details"),
        make("button", { class: "gk-button", "aria-label": "close", onclick: () => { this.bar.hidden = true; } }, "×"));
      this.bar.hidden = false;
      if (!this.bar.isConnected) document.body.append(this.bar);
    },
  };
  peek.bar.hidden = true;

  // ---- a picture of points: drawn on a canvas, because there may be ten thousand
  class Scatter {
    constructor(holder, label) {
      this.holder = holder;
      this.canvas = make("canvas", { tabindex: "0", role: "img", "aria-label": label });
      this.tip = make("div", { class: "gk-tip-box", role: "status" });
      this.tip.hidden = true;
      holder.append(this.canvas, this.tip);
      this.points = { x: [], y: [], colour: [], kind: [], ids: [] };
      this.axes = null;
      this.hover = -1;
      new ResizeObserver(() => this.draw()).observe(holder);
      new MutationObserver(() => this.draw()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
      this.canvas.addEventListener("pointermove", (event) => this.moved(event));
      this.canvas.addEventListener("pointerleave", () => this.point(-1));
      this.canvas.addEventListener("click", (event) => {
        const found = this.near(event, 24);
        if (found >= 0) { select(this.points.ids[found]); peek.show(); }
        this.point(found); // a finger points at nothing before it taps
      });
      this.canvas.addEventListener("blur", () => this.point(-1));
      hints.add(() => this.point(-1));
      this.canvas.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step || !this.points.ids.length) return;
        event.preventDefault();
        const order = this.points.ids.map((_, i) => i).sort((a, b) => this.points.x[a] - this.points.x[b]);
        const at = order.findIndex((i) => this.points.ids[i] === shared.id);
        const next = order[Math.max(0, Math.min(order.length - 1, at + step))];
        select(this.points.ids[next]);
        this.point(next);
      });
      shared.listeners.add(() => this.draw());
    }
    show(points, axes) {
      this.points = points;
      this.axes = axes;
      this.fronts = [0, 1].map((kind) => (axes.front ? front(points, kind) : []));
      this.hover = -1;
      this.draw();
    }
    draw() {
      if (this.queued) return;
      this.queued = true;
      requestAnimationFrame(() => { this.queued = false; this.paint(); });
    }
    paint() {
      const width = this.holder.clientWidth, height = this.holder.clientHeight;
      if (!width || !height || !this.axes) return;
      const ratio = window.devicePixelRatio || 1;
      this.canvas.width = width * ratio;
      this.canvas.height = height * ratio;
      this.canvas.style.width = width + "px";
      this.canvas.style.height = height + "px";
      const g = this.canvas.getContext("2d");
      g.scale(ratio, ratio);
      const ink = variable(this.holder, "--body-text-color", "#22303c");
      const muted = variable(this.holder, "--gk-quiet", "#5b6672");
      const grid = variable(this.holder, "--border-color-primary", "#e4e8ec");
      const paper = variable(this.holder, "--background-fill-primary", "#fff");
      const red = variable(this.holder, "--gk-red", "#d64537");
      const font = "12px " + (variable(this.holder, "--font", "sans-serif"));
      const { x, y, colour, kind, ids } = this.points;
      const axes = this.axes;
      const room = axes.bare ? { l: 10, r: 10, t: 10, b: 10 } : { l: 58, r: 14, t: axes.limit ? 26 : 12, b: 42 };
      const log = axes.log && x.every((v) => v > 0);
      const f = log ? Math.log10 : (v) => v;
      let [x0, x1] = [Infinity, -Infinity], [y0, y1] = [Infinity, -Infinity];
      for (let i = 0; i < ids.length; i++) {
        x0 = Math.min(x0, x[i]); x1 = Math.max(x1, x[i]);
        y0 = Math.min(y0, y[i]); y1 = Math.max(y1, y[i]);
      }
      const limit = axes.limit;
      if (limit && ids.length) { x0 = Math.min(x0, limit); x1 = Math.max(x1, limit); }
      if (!ids.length) {
        g.fillStyle = muted; g.font = font; g.textAlign = "center";
        g.fillText(axes.empty || "nothing to show", width / 2, height / 2);
        this.px = [];
        return;
      }
      [x0, x1] = [f(x0), f(x1)];
      if (x1 - x0 < 1e-9) { x0 -= log ? 0.1 : Math.abs(x0) * 0.1 || 1; x1 += log ? 0.1 : Math.abs(x1) * 0.1 || 1; }
      if (y1 - y0 < 1e-9) { y0 -= 0.01; y1 += 0.01; }
      const px = (x1 - x0) * 0.05, py = (y1 - y0) * 0.07;
      x0 -= px; x1 += px; y0 -= py; y1 += py;
      const sx = (v) => room.l + ((f(v) - x0) / (x1 - x0)) * (width - room.l - room.r);
      const sy = (v) => height - room.b - ((v - y0) / (y1 - y0)) * (height - room.t - room.b);
      g.font = font;
      g.lineWidth = 1;
      if (!axes.bare) {
        g.textAlign = "right"; g.textBaseline = "middle";
        for (const tick of ticks(y0, y1, 5)) {
          g.strokeStyle = grid; g.beginPath(); g.moveTo(room.l, sy(tick)); g.lineTo(width - room.r, sy(tick)); g.stroke();
          g.fillStyle = muted; g.fillText(+(100 * tick).toFixed(2) + " %", room.l - 7, sy(tick));
        }
        g.textAlign = "center"; g.textBaseline = "top";
        const marks = log ? logTicks(10 ** x0, 10 ** x1) : ticks(x0, x1, width < 500 ? 4 : 7);
        let end = -Infinity;
        for (const tick of marks) {
          const at = sx(tick), text = axes.text(tick), half = g.measureText(text).width / 2;
          if (at < room.l || at > width - room.r) continue;
          g.strokeStyle = grid; g.beginPath(); g.moveTo(at, room.t); g.lineTo(at, height - room.b); g.stroke();
          if (at - half < end + 8 || at + half > width) continue;
          end = at + half;
          g.fillStyle = muted; g.fillText(text, at, height - room.b + 6);
        }
        g.fillStyle = ink;
        g.fillText(axes.label, room.l + (width - room.l - room.r) / 2, height - 17);
        if (limit) {
          g.strokeStyle = g.fillStyle = red; g.setLineDash([6, 4]); g.beginPath(); g.moveTo(sx(limit), room.t); g.lineTo(sx(limit), height - room.b); g.stroke(); g.setLineDash([]);
          g.textAlign = sx(limit) > width / 2 ? "right" : "left";
          g.fillText("limit " + axes.text(limit), sx(limit) + (sx(limit) > width / 2 ? 4 : -4), 6);
        }
      }
      this.px = new Float32Array(ids.length); this.py = new Float32Array(ids.length);
      for (let i = 0; i < ids.length; i++) { this.px[i] = sx(x[i]); this.py[i] = sy(y[i]); }
      for (const [kind, line] of this.fronts.entries()) this.front(g, line, kind ? ink : muted, !kind);
      const many = ids.length > 1500, small = many ? 2.6 : ids.length > 200 ? 3.4 : 4.6;
      for (const level of [0, 1, 2])
        for (let i = 0; i < ids.length; i++) if (kind[i] === level) this.mark(g, i, level, small, colour[i], ink, paper);
      for (const i of [this.hover, ids.indexOf(shared.id)]) {
        if (i < 0) continue;
        for (const [wide, style] of [[5, paper], [2.4, i === this.hover ? muted : red]]) {
          g.lineWidth = wide; g.strokeStyle = style;
          g.beginPath(); g.arc(this.px[i], this.py[i], kind[i] ? 11 : 8.5, 0, 7); g.stroke();
        }
      }
    }
    mark(g, i, level, small, colour, ink, paper) {
      const x = this.px[i], y = this.py[i];
      g.fillStyle = colour; g.lineWidth = 1.5; g.strokeStyle = level ? ink : paper;
      g.beginPath();
      if (level === 2) { const r = 6; g.moveTo(x, y - r); g.lineTo(x + r, y); g.lineTo(x, y + r); g.lineTo(x - r, y); g.closePath(); g.fillStyle = "#8e5ea2"; }
      else g.arc(x, y, level ? 7 : small, 0, 7);
      g.globalAlpha = level ? 1 : 0.85;
      g.fill();
      g.globalAlpha = 1;
      if (level || this.points.ids.length <= 1500) { g.lineWidth = level ? 1.5 : 0.6; g.stroke(); }
    }
    front(g, line, style, dashed) {
      if (!line.length) return;
      g.strokeStyle = style; g.lineWidth = dashed ? 1.4 : 2; g.setLineDash(dashed ? [2, 3] : []); g.beginPath();
      line.forEach((i, n) => { if (n) { g.lineTo(this.px[i], this.py[line[n - 1]]); g.lineTo(this.px[i], this.py[i]); } else g.moveTo(this.px[i], this.py[i]); });
      g.stroke(); g.setLineDash([]);
    }
    near(event, most) {
      const box = this.canvas.getBoundingClientRect();
      const x = event.clientX - box.left, y = event.clientY - box.top;
      let best = most * most, found = -1;
      for (let i = 0; i < (this.px || []).length; i++) {
        const d = (this.px[i] - x) ** 2 + (this.py[i] - y) ** 2 - (this.points.kind[i] ? 30 : 0);
        if (d < best) { best = d; found = i; }
      }
      return found;
    }
    moved(event) { this.point(this.near(event, 16)); }
    point(i) {
      if (i === this.hover) return;
      this.hover = i;
      this.canvas.style.cursor = i >= 0 ? "pointer" : "default";
      this.tip.hidden = i < 0;
      if (i >= 0) {
        this.tip.replaceChildren(...this.axes.tell(this.points.rows[i], this));
        const right = this.px[i] > this.holder.clientWidth / 2;
        this.tip.style.left = right ? "auto" : this.px[i] + 14 + "px";
        this.tip.style.right = right ? this.holder.clientWidth - this.px[i] + 14 + "px" : "auto";
        this.tip.style.top = Math.max(4, Math.min(this.py[i] - 20, this.holder.clientHeight - 150)) + "px";
      }
      this.draw();
    }
    place(id) {
      const i = this.points.ids.indexOf(id);
      return i < 0 || !this.px ? null : { x: this.px[i], y: this.py[i] };
    }
  }
  function front({ x, y, kind }, wanted) {
    // The Pareto front of one kind: those than which none is more accurate for less; [] for one alone.
    const mine = []; for (let i = 0; i < x.length; i++) if (kind[i] === wanted) mine.push(i);
    mine.sort((a, b) => x[a] - x[b] || y[b] - y[a]);
    let best = -Infinity; const line = [];
    for (const i of mine) if (y[i] > best) { best = y[i]; line.push(i); }
    return line.length < 2 ? [] : line;
  }
  function ticks(from, to, wanted) {
    const raw = (to - from) / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((k) => k >= raw);
    const found = [];
    for (let v = Math.ceil(from / step) * step; v <= to; v += step) found.push(+v.toPrecision(12));
    return found;
  }
  function logTicks(from, to) {
    const found = [], wide = to / from;
    if (wide < 4) return ticks(from, to, 5);
    for (let p = Math.floor(Math.log10(from)); 10 ** p <= to; p++)
      for (const k of wide > 300 ? [1] : wide > 30 ? [1, 3] : [1, 2, 3, 5]) if (k * 10 ** p >= from && k * 10 ** p <= to) found.push(k * 10 ** p);
    return found;
  }
  function tell(row) {
    const c = shared.table.columns, accuracy = c.kind[row] ? "test images" : "validation images";
    return [
      make("b", {}, `${c.id[row]} `, make("small", {}, KINDS[c.kind[row]])),
      make("div", {}, `${percent(c.accuracy[row])} of ${accuracy}`),
      make("div", {}, `${count(c.macs[row])} MACs, ${count(c.params[row])} params`),
      make("div", {}, `${bytes(c.memory[row])}${c.latency[row] == null ? "" : ", " + ms(c.latency[row])}`),
      make("div", {}, c.nodes[row] == null ? "" : `${c.nodes[row]} nodes, round ${plain(c.round[row])}`),
    ];
  }
  function colours(values) {
    let least = Infinity, most = -Infinity;
    for (const v of values) if (v != null) { least = Math.min(least, v); most = Math.max(most, v); }
    return { least, most, of: values.map((v) => (v == null ? "#9aa5b1" : most > least ? mix((v - least) / (most - least)) : mix(0.5))) };
  }
  const ramp = (found, field) => isFinite(found.least)
    ? [FIELDS[field].text(found.least), make("i", { class: "gk-ramp" }), FIELDS[field].text(found.most)] : ["–"];
  function choice(label, values, chosen, changed) {
    const box = make("select", { onchange: () => changed(box.value) });
    for (const [value, text] of values) box.append(make("option", { value, ...(value === chosen ? { selected: "" } : {}) }, text));
    return make("label", { class: "gk-choice" }, make("span", {}, label), box);
  }

  // ---- Explore
  function explore(element, settings, tell_) {
    const root = element.querySelector(".gk-explore");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "yes";
    shared.tell = tell_;
    shared.listeners.clear(); shared.tables.clear(); // of a page that Gradio built before
    const defaults = { x: "macs", colour: "round", log: false, what: "all", sort: "rank", down: true };
    const state = { ...defaults, most: 50, limits: {} };
    function remember() {
      const values = {};
      for (const [name, value] of Object.entries(defaults)) values[name] = state[name] === value ? null : String(state[name]);
      for (const field of COSTS) values["max_" + field] = state.limits[field];
      address.write(values);
    }
    function recall(values) {
      for (const name of ["x", "colour", "sort"])
        state[name] = values[name] in FIELDS || (name === "sort" && ["id", "kind"].includes(values[name])) ? values[name] : defaults[name];
      state.what = ["all", "final", "tried"].includes(values.what) ? values.what : defaults.what;
      state.log = values.log === "true"; state.down = values.down !== "false";
      state.limits = {};
      for (const field of COSTS) if (+values["max_" + field] > 0) state.limits[field] = +values["max_" + field];
    }
    recall(address.read());
    const controls = make("div", { class: "gk-controls" });
    const holder = make("div", { class: "gk-plot" });
    const legend = make("p", { class: "gk-legend" });
    const missing = make("p", { class: "gk-note gk-missing", "aria-live": "polite" });
    const sliders = make("div", { class: "gk-sliders" });
    const told = make("p", { class: "gk-count", "aria-live": "polite" });
    const wide = make("div", { class: "gk-wide gk-rows" });
    root.replaceChildren(controls, holder, missing, legend, make("h4", {}, "What may it cost at most?"), sliders);
    const scatter = new Scatter(holder, "accuracy against cost; arrow keys go from point to point");
    explore.scatter = scatter;
    const fields = (wanted) => wanted.filter((f) => shared.table.columns[f].some((v) => v != null)).map((f) => [f, FIELDS[f].label]);

    function build(table) {
      if (!wide.isConnected) document.querySelector(".gk-listing")?.replaceChildren(told, wide);
      const allowed = fields([...COSTS, "nodes", "width"]);
      if (!allowed.some(([f]) => f === state.x)) state.x = allowed.length ? allowed[0][0] : "macs";
      const box = make("input", { type: "checkbox", onchange: () => { state.log = box.checked; remember(); plot(); } });
      box.checked = state.log;
      controls.replaceChildren(
        choice("across", allowed, state.x, (v) => { state.x = v; remember(); rows(); plot(); }),
        choice("colour", fields(["round", "accuracy", "nodes", "width", ...COSTS]), state.colour, (v) => { state.colour = v; remember(); plot(); }),
        choice("show", [["all", "everything"], ["final", "trained networks"], ["tried", "candidates"]], state.what, (v) => { state.what = v; remember(); rows(); plot(); }),
        make("label", { class: "gk-check" }, box, "logarithmic"),
      );
      sliders.replaceChildren();
      for (const field of COSTS) { // the chosen one stands on its slider, if an address named it
        const values = table.columns[field].filter((v) => v > 0);
        if (values.length < 2) continue;
        let least = Infinity, most = 0;
        for (const v of values) { least = Math.min(least, v); most = Math.max(most, v); }
        if (most <= least) continue;
        const output = make("output", {}, "any");
        const input = make("input", { type: "range", min: 0, max: 100, value: 100, "aria-label": "at most, " + FIELDS[field].label });
        const set = () => {
          const share = +input.value / 100;
          const limit = share >= 1 ? null : +(least * (most / least) ** share * 1.0005).toPrecision(3);
          state.limits[field] = limit;
          output.textContent = limit == null ? "any" : "at most " + FIELDS[field].text(limit);
          remember(); rows(); plot();
        };
        if (state.limits[field] != null) { input.value = 100 * Math.log(state.limits[field] / least) / Math.log(most / least); output.textContent = "at most " + FIELDS[field].text(state.limits[field]); }
        input.addEventListener("input", set);
        sliders.append(make("label", {}, make("span", {}, FIELDS[field].label), output, input));
      }
      rows(); plot();
    }
    function meant(i) {
      const c = shared.table.columns;
      if (state.what === "tried") return c.kind[i] === 0;
      return c.kind[i] > 0 || (state.what === "all" && !shared.table.trained.has(c.id[i]));
    }
    function inside(i) {
      const c = shared.table.columns;
      if (!meant(i)) return false;
      for (const field of COSTS) {
        const limit = state.limits[field];
        if (limit != null && c[field][i] != null && c[field][i] > limit) return false;
      }
      return true;
    }
    // What is not known of a network neither keeps a limit nor breaks it: such are shown apart.
    const lacks = (i) => COSTS.filter((field) => state.limits[field] != null && shared.table.columns[field][i] == null);
    function plot() {
      const c = shared.table.columns, kept = [];
      let without = 0;
      for (let i = 0; i < shared.table.length; i++) if (inside(i) && !lacks(i).length && c.accuracy[i] != null) { if (c[state.x][i] == null) without++; else kept.push(i); }
      missing.textContent = without ? `${without.toLocaleString("en")} without a known ${FIELDS[state.x].label} ${without === 1 ? "is" : "are"} not in this picture; the table has ${without === 1 ? "it" : "them"}.` : "";
      const found = colours(kept.map((i) => c[state.colour][i]));
      scatter.show(
        { x: kept.map((i) => c[state.x][i]), y: kept.map((i) => c.accuracy[i]), colour: found.of, kind: kept.map((i) => c.kind[i]), ids: kept.map((i) => c.id[i]), rows: kept },
        { log: state.log, front: COSTS.includes(state.x), label: FIELDS[state.x].label, text: FIELDS[state.x].text, tell, limit: settings.budget[FIELDS[state.x].limit],
          empty: shared.table.length ? "nothing lies within these limits" : "no candidate yet: they appear here as they are trained" });
      const parts = [];
      if (c.kind.includes(1)) parts.push(make("span", {}, make("i", { class: "gk-dot gk-big" }), " found network, trained fully (test images)"));
      if (c.kind.includes(2)) parts.push(make("span", {}, make("i", { class: "gk-dot gk-diamond" }), " known network, trained alike (test images)"));
      if (c.kind.includes(0)) parts.push(make("span", {}, make("i", { class: "gk-dot" }), " candidate, trained briefly (validation images)"));
      for (const [kind, name] of [[1, "the found networks"], [0, "the candidates"]])
        if (scatter.fronts[kind].length) parts.push(make("span", { "data-front": KINDS[kind] }, make("i", { class: `gk-front${kind ? "" : " gk-dashed"}` }), ` Pareto front: of ${name}, none is more accurate for less`));
      legend.replaceChildren(...parts, make("span", { class: "gk-scale" }, `${short(state.colour)}: `, ...ramp(found, state.colour)));
      holder.dataset.points = kept.length;
    }
    function rows(sorted) {
      const c = shared.table.columns, kept = [], unknown = [];
      for (let i = 0; i < shared.table.length; i++) if (inside(i)) (lacks(i).length ? unknown : kept).push(i);
      let all = 0;
      for (let i = 0; i < shared.table.length; i++) all += meant(i);
      const by = state.sort, sign = state.down ? -1 : 1;
      const rank = (i) => (c.kind[i] === 1 ? 0 : c.kind[i] === 2 ? 1 : 2);
      const order = (a, b) => {
        if (by === "rank") return rank(a) - rank(b) || (c.accuracy[b] ?? -1) - (c.accuracy[a] ?? -1);
        const [p, q] = [c[by][a], c[by][b]];
        if (p == null || q == null) return (p == null) - (q == null);
        return sign * (p < q ? -1 : p > q ? 1 : 0);
      };
      kept.sort(order); unknown.sort(order);
      const networks = kept.filter((i) => c.kind[i]).length;
      told.textContent = `${kept.length.toLocaleString("en")} of ${all.toLocaleString("en")} are within these limits` + (networks ? `, ${networks} of them trained fully` : "")
        + (unknown.length ? `; ${unknown.length.toLocaleString("en")} more, of which ${[...new Set(unknown.flatMap(lacks))].map((f) => "no " + FIELDS[f].label).join(" and ")} is known, stand at the end, in italics` : "")
        + (shared.table.states.queued || shared.table.states.running
          ? `; the search ${shared.table.writing ? "goes on" : "was interrupted"} (${Object.entries(shared.table.states).map(([s, n]) => `${n} ${s}`).join(", ")})` : "");
      const heads = ["id", "kind", "accuracy", "macs", "params", "memory", "latency", "nodes", "round"];
      const names = { id: "network", kind: "what", latency: "p50" };
      const header = make("tr", {}, ...heads.map((field) => {
        const active = state.sort === field;
        return make("th", { "aria-sort": active ? (state.down ? "descending" : "ascending") : "none" },
          make("button", { "data-sort": field, onclick: () => { state.down = active ? !state.down : field === "accuracy"; state.sort = field; remember(); rows(field); } },
            names[field] || short(field), active ? (state.down ? " ▾" : " ▴") : ""));
      }));
      const body = make("tbody");
      const all_ = [...kept, ...unknown];
      for (const i of all_.slice(0, state.most)) {
        const row = make("tr", { tabindex: "0", "data-id": c.id[i], class: (c.id[i] === shared.id ? "gk-chosen" : "") + (lacks(i).length ? " gk-unknown" : "") });
        for (const field of heads) {
          const text = field === "id" ? c.id[i] : field === "kind" ? KINDS[c.kind[i]] : FIELDS[field].text(c[field][i]);
          row.append(make("td", {}, text));
        }
        body.append(row);
      }
      const more = all_.length > state.most
        ? make("button", { class: "gk-button", onclick: () => { state.most += 200; rows(); } }, `show more (${(all_.length - state.most).toLocaleString("en")} left)`) : "";
      wide.replaceChildren(make("table", { class: "gk-table gk-list" }, make("thead", {}, header), body), more);
      if (sorted) wide.querySelector(`[data-sort=${sorted}]`).focus(); // whoever sorts by key goes on there
    }
    const chosen = (event) => { const row = event.target.closest("tr[data-id]"); if (row) { select(row.dataset.id); peek.show(); } return row; };
    wide.addEventListener("click", chosen);
    wide.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { if (event.target.matches("tr") && chosen(event)) event.preventDefault(); }
      const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
      if (step && event.target.matches("tr[data-id]")) { event.target[step]?.focus(); event.preventDefault(); }
    });
    shared.listeners.add((id) => { for (const row of wide.querySelectorAll("tr[data-id]")) row.classList.toggle("gk-chosen", row.dataset.id === id); });
    shared.tables.add(build);
    function wanted() {
      const { id } = address.read();
      const ids = shared.table.columns.id;
      return [id, settings.first].find((one) => ids.includes(one)) || ids[0];
    }
    shared.tables.add(() => { if (!shared.id && watching) select(wanted(), false); });
    address.followers.add((values) => {
      if (!root.isConnected || !shared.table) return;
      recall(values); build(shared.table); select(wanted(), false);
    });
    loadInTime((error) => {
      root.querySelector(".gk-legend").textContent = `The candidates could not be loaded (${error.message}); trying again.`;
    }).then(() => {
      shared.id = null;
      if (wanted()) select(wanted(), false);
      else document.querySelector("#facts .gk-told")?.replaceChildren(make("p", { class: "gk-empty" }, "Nothing has been found yet. Candidates appear as they are trained."));
      watch();
    });
  }

  // ---- the map of the embedding
  function map(element) {
    const root = element.querySelector(".gk-map");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "yes";
    const state = { colour: "accuracy" };
    const controls = make("div", { class: "gk-controls" });
    const holder = make("div", { class: "gk-plot gk-square" });
    const legend = make("p", { class: "gk-legend" });
    const pair = make("p", { class: "gk-note gk-pair", "aria-live": "polite" }, "Select a cell, then point at another one to compare the two.");
    root.replaceChildren(controls, holder, legend, pair);
    const scatter = new Scatter(holder, "map of the embedding; arrow keys go from cell to cell");
    map.scatter = scatter;
    let places = null, asked = null;
    async function fetchPlaces() {
      legend.textContent = "computing the map…";
      let value = null;
      while (!value) {
        try { value = await (await fetch("run/map.json", { cache: "no-store" })).json(); }
        catch { await pause(2000); }
      }
      if (value.error) { holder.hidden = true; legend.textContent = value.error; return; }
      holder.hidden = false;
      places = value; plot();
    }
    function plot() {
      if (!places || !shared.table) return;
      const c = shared.table.columns, at = new Map(places.id.map((id, n) => [id, n]));
      const row = new Map();
      for (let i = 0; i < shared.table.length; i++) if (c.kind[i] !== 2 && at.has(c.id[i]) && !(row.has(c.id[i]) && c.kind[i] === 0)) row.set(c.id[i], i);
      const kept = [...row.values()];
      const found = colours(kept.map((i) => c[state.colour][i]));
      scatter.show(
        { x: kept.map((i) => places.x[at.get(c.id[i])]), y: kept.map((i) => places.y[at.get(c.id[i])]), colour: found.of, kind: kept.map((i) => c.kind[i]), ids: kept.map((i) => c.id[i]), rows: kept },
        { bare: true, tell: (i, s) => { compare(c.id[i]); return tell(i); }, empty: "no cell yet" });
      controls.replaceChildren(choice("colour", ["accuracy", "round", "macs", "params", "memory", "latency", "nodes"].filter((f) => c[f].some((v) => v != null)).map((f) => [f, FIELDS[f].label]), state.colour, (v) => { state.colour = v; plot(); }));
      legend.replaceChildren(make("span", { class: "gk-scale" }, `${short(state.colour)}: `, ...ramp(found, state.colour)), `the two directions shown hold ${(100 * places.share).toFixed(0)} % of the spread`);
      holder.dataset.points = kept.length;
    }
    let timer = null;
    function compare(id) {
      clearTimeout(timer);
      const first = shared.id; // on a touch screen pointing at a cell selects it as well
      if (!first || id === first) return;
      timer = setTimeout(async () => {
        asked = id;
        const value = await (await fetch(`run/compare.json?first=${encodeURIComponent(first)}&second=${encodeURIComponent(id)}`)).json();
        if (asked === id) pair.textContent = value.text || value.error || "";
      }, 120);
    }
    shared.tables.add(() => fetchPlaces());
    fetchPlaces();
  }

  // ---- hints of a drawn cell: which lines belong to a node, and what it is
  const tip = make("div", { class: "gk-tip-box gk-fixed", role: "status" });
  tip.hidden = true;
  function mark(node, on) {
    const cell = node.closest(".gk-cell"), name = node.dataset.node, read = new Set();
    for (const line of node.ownerSVGElement.querySelectorAll(".gk-line")) if (line.dataset.to === name) read.add(line.dataset.from);
    for (const line of cell.querySelectorAll(".gk-line")) {
      const { from, to } = line.dataset;
      line.classList.toggle("gk-on", on && (from === name || to === name));
      line.classList.toggle("gk-near", on && to == null && read.has(from));
    }
    cell.classList.toggle("gk-hovered", on);
    tip.hidden = !on;
    if (!on) return;
    const notes = JSON.parse(cell.dataset.notes)[name] || [];
    tip.replaceChildren(...notes.map(([head, text], n) => make("div", {}, make(n ? "span" : "b", {}, head + (n ? ": " : " ")), text)));
    if (!tip.isConnected) document.body.append(tip);
    const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(window.innerWidth - own.width - 6, box.left + box.width / 2 - own.width / 2)) + "px";
    tip.style.top = (box.top - own.height - 8 > 0 ? box.top - own.height - 8 : box.bottom + 8) + "px";
  }
  hints.add(() => { tip.hidden = true; for (const cell of document.querySelectorAll(".gk-hovered")) { cell.classList.remove("gk-hovered"); for (const line of cell.querySelectorAll(".gk-on, .gk-near")) line.classList.remove("gk-on", "gk-near"); } });
  const over = (on) => (event) => { const node = event.target.closest?.(".gk-node"); if (node) mark(node, on); };
  for (const [name, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) document.addEventListener(name, over(on));
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    try { await navigator.clipboard.writeText(button.dataset.copy); button.textContent = "copied"; }
    catch { button.textContent = button.dataset.copy; }
  });

  window.gemkit = { explore, map, select, shared, make, ms, look };
  for (const name of ["explore", "map"]) dispatchEvent(new Event("gemkit-" + name));
})();

// What the page's scripts share: the table of all networks, which one is selected, and a picture of
// points. Gradio carries a selection to the server; everything else works on one table of columns.
(() => {
  "use strict";
  const KINDS = ["tried briefly", "found", "known"];
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
    accuracy: { label: "share right", short: "right", text: percent },
    macs: { label: "multiply-accumulates (MACs)", short: "MACs", text: count, limit: "macs" },
    params: { label: "parameters", short: "params", text: count, limit: "params" },
    memory: { label: "activation memory", short: "memory", text: bytes, limit: "memory_bytes" },
    latency: { label: "latency", short: "latency", text: ms, limit: "latency_ms" },
    nodes: { label: "steps of the cell", short: "steps", text: plain },
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
  const shared = { id: null, table: null, listeners: new Set(), tables: new Set(), fire: null };
  function select(id, step = true) {
    if (!id || id === shared.id) return;
    shared.id = id;
    if (step) address.write({ id }, true);
    for (const listener of shared.listeners) listener(id);
    for (const one of hints) one(); // a hint of what is replaced would stay
    tellChosen();
    shared.fire?.picked({ id });
  }
  let asked = 0;
  async function tellChosen() {
    // What the server knows of the chosen one; the answer to an earlier question is left.
    const mine = ++asked, id = shared.id;
    while (id) {
      try {
        const answer = await fetch(`run/facts/${encodeURIComponent(id)}`, { cache: "no-store" });
        const value = await answer.json();
        if (mine !== asked) return;
        window.gemkit.tellFacts?.(value);
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
    shared.fire?.grown();
    tellChosen();
  }

  async function watch() {
    // A run that is being written grows under the visitor's eyes; one that is finished is left.
    if (shared.watched) return;
    shared.watched = true;
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
        if (found >= 0) { select(this.points.ids[found]); window.gemkit.raise?.(); }
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
      const accent = variable(this.holder, "--gk-accent", "#1f6fb8");
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
        const marks = log ? logTicks(10 ** x0, 10 ** x1) : ticks(x0, x1, width < 500 ? 4 : 7).filter((v) => !axes.whole || Number.isInteger(v));
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
        for (let i = 0; i < ids.length; i++) if (kind[i] === level) this.mark(g, i, level, small, colour[i] || [muted, accent, ink][level], paper);
      if (axes.line) this.best(g, accent);
      if (axes.names) this.label(g, width, ink, paper);
      for (const i of [this.hover, ids.indexOf(shared.id)]) {
        if (i < 0) continue;
        for (const [wide, style] of [[5, paper], [2.4, i === this.hover ? muted : red]]) {
          g.lineWidth = wide; g.strokeStyle = style;
          g.beginPath(); g.arc(this.px[i], this.py[i], kind[i] ? 11 : 8.5, 0, 7); g.stroke();
        }
      }
    }
    mark(g, i, level, small, colour, paper) {
      // Hollow: judged on validation pictures. Solid: trained in full, judged on test pictures.
      const x = this.px[i], y = this.py[i];
      g.beginPath();
      if (level === 2) { const r = 7; g.moveTo(x, y - r); g.lineTo(x + r, y); g.lineTo(x, y + r); g.lineTo(x - r, y); g.closePath(); }
      else g.arc(x, y, level ? 7 : small, 0, 7);
      g.fillStyle = g.strokeStyle = colour;
      if (level) { g.fill(); g.lineWidth = 1.5; g.strokeStyle = paper; } else g.lineWidth = small > 3 ? 1.6 : 1;
      g.stroke();
    }
    best(g, style) {
      // The best so far, for points in order.
      let best = -1;
      g.strokeStyle = style; g.lineWidth = 2; g.beginPath();
      for (let i = 0; i < this.px.length; i++) {
        if (best < 0) { best = i; g.moveTo(this.px[i], this.py[i]); continue; }
        g.lineTo(this.px[i], this.py[best]);
        if (this.points.y[i] > this.points.y[best]) best = i;
        g.lineTo(this.px[i], this.py[best]);
      }
      g.stroke();
    }
    label(g, width, ink, paper) {
      // Names of trained networks, each where it meets neither a name nor the edge.
      const taken = this.points.kind.flatMap((kind, i) => kind ? [[this.px[i] - 8, this.py[i] - 8, 16, 16]] : []);
      g.textBaseline = "middle"; g.lineJoin = "round"; g.textAlign = "left";
      this.points.kind.forEach((kind, i) => {
        if (!kind || taken.length > 40) return;
        const text = shared.table.columns.name[this.points.rows[i]], w = g.measureText(text).width, [x, y] = [this.px[i], this.py[i]];
        const free = ([a, b]) => a > 0 && a + w < width && b > 0 && taken.every(([l, t, m, h]) => a + w < l || a > l + m || b + 14 < t || b > t + h);
        const place = [[x + 12, y - 7], [x - w - 12, y - 7], [x - w / 2, y - 26], [x - w / 2, y + 12], [x + 12, y + 9], [x + 12, y - 23], [x - w - 12, y + 9], [x - w - 12, y - 23]].find(free);
        if (!place) return;
        taken.push([...place, w, 14]);
        g.lineWidth = 3; g.strokeStyle = paper; g.strokeText(text, place[0], place[1] + 7);
        g.fillStyle = ink; g.fillText(text, place[0], place[1] + 7);
      });
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
        this.tip.replaceChildren(...this.axes.describe(this.points.rows[i], this));
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
  function describe(row) {
    const c = shared.table.columns, pictures = c.kind[row] ? "test pictures" : "validation pictures";
    return [
      make("b", {}, `${c.name[row]} `, make("small", {}, KINDS[c.kind[row]])),
      make("div", {}, `${percent(c.accuracy[row])} of ${pictures}`),
      make("div", {}, `${count(c.macs[row])} MACs, ${count(c.params[row])} params`),
      make("div", {}, `${bytes(c.memory[row])}${c.latency[row] == null ? "" : ", " + ms(c.latency[row])}`),
      make("div", {}, c.nodes[row] == null ? "" : `${c.nodes[row]} steps, round ${plain(c.round[row])}`),
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

  window.gemkit = {
    KINDS, FIELDS, COSTS, Scatter, shared, hints, address, make, ms, count, percent, pause, select, look, load, loadInTime, watch,
    describe, short, colours, ramp, choice, variable, mix,
  };
})();

// The page's "How it was found": the course of the search, its designs as lines and as a map.
(() => {
  "use strict";
  const { FIELDS, Scatter, shared, make, pause, select, describe, short, colours, ramp, choice, variable } = window.gemkit;

  // ---- the course: share right, design after design
  function progress(element) {
    const root = element.querySelector(".gk-progress");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "yes";
    const holder = make("div", { class: "gk-plot" });
    root.replaceChildren(holder);
    const scatter = new Scatter(holder, "share right of each design in the order tried; arrow keys go from one to the next");
    progress.scatter = scatter;
    function plot() {
      const c = shared.table.columns, rows = [];
      for (let i = 0; i < shared.table.length; i++) if (c.kind[i] === 0 && c.accuracy[i] != null) rows.push(i);
      const found = colours(rows.map((i) => c.round[i]));
      scatter.show({ x: rows.map((_, n) => n + 1), y: rows.map((i) => c.accuracy[i]), colour: found.of, kind: rows.map(() => 0), ids: rows.map((i) => c.id[i]), rows },
        { line: true, whole: true, label: "design, in the order tried (colour: round)", text: (v) => "" + v, describe, empty: "no design yet" });
      holder.dataset.points = rows.length;
    }
    shared.tables.add(plot);
    if (shared.table) plot();
  }

  // ---- parallel coordinates: a line a design, an axis a figure
  const AXES = ["nodes", "width", "macs", "params", "memory", "latency", "accuracy"];
  function parallel(element) {
    const root = element.querySelector(".gk-parallel");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "yes";
    const holder = make("div", { class: "gk-plot" });
    const count = make("p", { class: "gk-note", "aria-live": "polite" });
    root.replaceChildren(holder, count);
    const canvas = make("canvas", { role: "img", "aria-label": "the designs as lines over their figures" });
    holder.append(canvas);
    const kept = new Map(); // by axis the part of it that a line must pass
    let rows = [], axes = [], lines = [], drag = null;
    function read() {
      const c = shared.table.columns;
      rows = [];
      for (let i = 0; i < shared.table.length; i++) if (c.kind[i] === 0 && c.accuracy[i] != null) rows.push(i);
      axes = AXES.map((field) => {
        let least = Infinity, most = -Infinity;
        for (const i of rows) if (c[field][i] != null) { least = Math.min(least, c[field][i]); most = Math.max(most, c[field][i]); }
        return { field, least, most };
      }).filter(({ least, most }) => most > least);
      holder.dataset.points = rows.length;
      draw();
    }
    const passes = (line) => axes.every(({ field }, n) => { const part = kept.get(field); return !part || (line[n] != null && line[n] >= part[0] && line[n] <= part[1]); });
    const room = () => ({ l: 34, r: 44, t: 38, b: 34, w: holder.clientWidth, h: holder.clientHeight });
    const across = (n, r) => r.l + (axes.length < 2 ? 0 : n / (axes.length - 1)) * (r.w - r.l - r.r);
    const down = (share, r) => r.t + (1 - share) * (r.h - r.t - r.b);
    function draw() {
      const r = room(), c = shared.table?.columns;
      if (!r.w || !c) return;
      const ratio = window.devicePixelRatio || 1, g = canvas.getContext("2d");
      canvas.width = r.w * ratio; canvas.height = r.h * ratio;
      canvas.style.width = r.w + "px"; canvas.style.height = r.h + "px";
      g.scale(ratio, ratio);
      const muted = variable(holder, "--gk-quiet", "#5b6672"), ink = variable(holder, "--body-text-color", "#22303c"), accent = variable(holder, "--gk-accent", "#1f6fb8");
      lines = rows.map((i) => axes.map(({ field, least, most }) => c[field][i] == null ? null : (c[field][i] - least) / (most - least)));
      const order = rows.map((_, n) => n).sort((a, b) => c.accuracy[rows[a]] - c.accuracy[rows[b]]), found = colours(rows.map((i) => c.accuracy[i]));
      let passing = 0;
      const trace = (n, style, wide, alpha) => {
        g.strokeStyle = style; g.lineWidth = wide; g.globalAlpha = alpha; g.beginPath();
        let on = false;
        lines[n].forEach((share, k) => { if (share == null) { on = false; return; } g[on ? "lineTo" : "moveTo"](across(k, r), down(share, r)); on = true; });
        g.stroke(); g.globalAlpha = 1;
      };
      for (const n of order) { const passed = passes(lines[n]); passing += passed; trace(n, passed ? found.of[n] : muted, 1.2, passed ? (rows.length > 500 ? 0.35 : 0.8) : 0.07); }
      const mine = rows.findIndex((i) => c.id[i] === shared.id);
      if (mine >= 0) trace(mine, accent, 3, 1);
      g.font = "12px " + variable(holder, "--font", "sans-serif"); g.textAlign = "center";
      axes.forEach(({ field, least, most }, n) => {
        const x = across(n, r);
        g.strokeStyle = muted; g.lineWidth = 1; g.beginPath(); g.moveTo(x, r.t); g.lineTo(x, r.h - r.b); g.stroke();
        const lift = n % 2 ? 22 : 8; // neighbours meet where the picture is narrow
        g.fillStyle = muted; g.fillText(FIELDS[field].text(most), x, r.t - lift); g.fillText(FIELDS[field].text(least), x, r.h - r.b + 14);
        g.fillStyle = ink; g.fillText(short(field), x, r.h - 4);
        const part = kept.get(field);
        if (part) { g.strokeStyle = accent; g.lineWidth = 7; g.beginPath(); g.moveTo(x, down(part[0], r)); g.lineTo(x, down(part[1], r)); g.stroke(); }
      });
      count.textContent = rows.length ? `${passing.toLocaleString("en")} of ${rows.length.toLocaleString("en")} designs pass${kept.size ? " the chosen parts" : ""}; the thick line is the selected one.` : "No design has been trained yet.";
      holder.dataset.passing = passing;
    }
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    const share = (y, r) => Math.max(0, Math.min(1, 1 - (y - r.t) / (r.h - r.t - r.b)));
    canvas.addEventListener("pointerdown", (event) => {
      const [x, y] = at(event), r = room(), axis = axes.findIndex((_, n) => Math.abs(across(n, r) - x) < 16);
      drag = axis < 0 ? null : { field: axes[axis].field, from: share(y, r), y };
      if (drag) { canvas.setPointerCapture(event.pointerId); event.preventDefault(); }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const y = at(event)[1], to = share(y, room());
      if (Math.abs(y - drag.y) < 4) kept.delete(drag.field); else kept.set(drag.field, [Math.min(drag.from, to), Math.max(drag.from, to)]);
      draw();
    });
    canvas.addEventListener("pointerup", (event) => {
      if (drag) { if (Math.abs(at(event)[1] - drag.y) < 4) kept.delete(drag.field); drag = null; draw(); return; }
      // Beside the axes a click selects the line that passes nearest.
      const [x, y] = at(event), r = room();
      let best = 12, chosen = -1;
      lines.forEach((line, n) => {
        if (!passes(line)) return;
        for (let k = 0; k + 1 < line.length; k++) {
          const [a, b] = [across(k, r), across(k + 1, r)];
          if (x < a || x > b || line[k] == null || line[k + 1] == null) continue;
          const d = Math.abs(down(line[k] + ((x - a) / (b - a)) * (line[k + 1] - line[k]), r) - y);
          if (d < best) { best = d; chosen = n; }
        }
      });
      if (chosen >= 0) select(shared.table.columns.id[rows[chosen]]);
    });
    new ResizeObserver(draw).observe(holder);
    new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    shared.listeners.add(draw);
    shared.tables.add(read);
    if (shared.table) read();
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
    const pair = make("p", { class: "gk-note gk-pair", "aria-live": "polite" }, "Select a cell, then point at another one: what sets the two apart is said here.");
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
        { bare: true, describe: (i, s) => { compare(c.id[i]); return describe(i); }, empty: "no cell yet" });
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

  Object.assign(window.gemkit, { progress, parallel, map });
  for (const name of ["progress", "parallel", "map"]) dispatchEvent(new Event("gemkit-" + name));
})();

// The page's "Result": points and rows to choose from, the facts of the chosen one, two side by side.
(() => {
  "use strict";
  const { KINDS, FIELDS, COSTS, Scatter, shared, hints, address, make, pause, select, loadInTime, watch, describe, short, colours, ramp, choice, variable } = window.gemkit;
  const COLUMNS = ["accuracy", "macs", "params", "memory", "latency", "nodes", "width", "round"];
  const CSV = { memory: "peak_memory_bytes", latency: "latency_ms" };
  const ON = ["validation", "test", "test"];

  function result(element, settings, fire) {
    const root = element.querySelector(".gk-result");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "yes";
    shared.fire = fire;
    shared.listeners.clear(); shared.tables.clear(); // of a page that Gradio built before
    const defaults = { x: "macs", colour: "none", log: false, low: false, what: "all", sort: "accuracy", down: true, columns: "accuracy,macs,params,latency" };
    const state = { ...defaults, most: 50, limits: {}, search: "" };
    function remember() {
      const values = {};
      for (const [name, value] of Object.entries(defaults)) values[name] = state[name] === value ? null : String(state[name]);
      for (const field of COSTS) values["max_" + field] = state.limits[field];
      address.write(values);
    }
    function recall(values) {
      const known = (name, more) => values[name] in FIELDS || more.includes(values[name]) ? values[name] : defaults[name];
      state.x = known("x", []); state.colour = known("colour", []); state.sort = known("sort", ["name"]);
      state.what = ["all", "final", "tried"].includes(values.what) ? values.what : defaults.what;
      state.log = values.log === "true"; state.low = values.low === "true"; state.down = values.down !== "false";
      state.columns = COLUMNS.filter((f) => (values.columns ?? defaults.columns).split(",").includes(f)).join(",");
      state.limits = {};
      for (const field of COSTS) if (+values["max_" + field] > 0) state.limits[field] = +values["max_" + field];
    }
    recall(address.read());
    const controls = make("div", { class: "gk-controls" });
    const options = make("div", { class: "gk-controls" });
    const holder = make("div", { class: "gk-plot" });
    const legend = make("p", { class: "gk-legend" });
    const missing = make("p", { class: "gk-note gk-missing", "aria-live": "polite" });
    const sliders = make("div", { class: "gk-sliders" });
    const count = make("p", { class: "gk-count", "aria-live": "polite" });
    const wide = make("div", { class: "gk-wide gk-rows" });
    const tools = make("div", { class: "gk-controls" });
    root.replaceChildren(
      make("h2", {}, "All networks: share right against cost"), controls, holder, legend, missing,
      make("details", { class: "gk-options" }, make("summary", {}, "Options and limits"), options, make("h3", {}, "What may it cost at most?"), sliders),
      make("div", { class: "gk-listing" }, tools, count, wide));
    const scatter = new Scatter(holder, "share right by cost; arrow keys go from point to point");
    result.scatter = scatter;
    const fields = (wanted) => wanted.filter((f) => shared.table.columns[f].some((v) => v != null)).map((f) => [f, FIELDS[f].label]);
    const check = (label, name, changed) => {
      const box = make("input", { type: "checkbox", "data-option": name, onchange: () => { state[name] = box.checked; remember(); changed(); } });
      box.checked = state[name];
      return make("label", { class: "gk-check" }, box, label);
    };

    function build(table) {
      const allowed = fields([...COSTS, "nodes", "width"]);
      if (!allowed.some(([f]) => f === state.x)) state.x = allowed.length ? allowed[0][0] : "macs";
      controls.replaceChildren(choice("against", allowed, state.x, (v) => { state.x = v; remember(); rows(); plot(); }));
      options.replaceChildren(
        choice("show", [["all", "everything"], ["final", "trained in full"], ["tried", "tried briefly"]], state.what, (v) => { state.what = v; remember(); rows(); plot(); }),
        choice("colour", [["none", "by kind"], ...fields(["round", "accuracy", "nodes", "width", ...COSTS])], state.colour, (v) => { state.colour = v; remember(); plot(); }),
        check("logarithmic scale", "log", plot), check("the lowest shares too", "low", plot));
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
      if (Object.values(state.limits).some((limit) => limit != null)) root.querySelector(".gk-options").open = true;
      buildTools();
      rows(); plot();
    }
    function buildTools() {
      const search = make("input", { class: "gk-number", type: "search", placeholder: "search a name", "aria-label": "search a name", oninput: () => { state.search = search.value.trim().toLowerCase(); rows(); } });
      search.value = state.search;
      const boxes = fields(COLUMNS).map(([field]) => {
        const box = make("input", { type: "checkbox", value: field, onchange: () => {
          state.columns = COLUMNS.filter((f) => f === field ? box.checked : state.columns.split(",").includes(f)).join(",");
          remember(); rows();
        } });
        box.checked = state.columns.split(",").includes(field);
        return make("label", { class: "gk-check" }, box, short(field));
      });
      tools.replaceChildren(make("h2", {}, "The same as a table"), search,
        make("details", { class: "gk-columns" }, make("summary", {}, "Columns"), make("div", { class: "gk-controls" }, ...boxes)),
        make("button", { class: "gk-button", "data-csv": "", onclick: save }, "Save as CSV"));
    }
    function save() {
      const c = shared.table.columns, quoted = (v) => v == null ? "" : /[",\n]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : String(v);
      const lines = [["id", "name", "kind", "accuracy_on", ...COLUMNS.map((f) => CSV[f] || f)]];
      for (const i of listed().flat()) lines.push([c.id[i], c.name[i], KINDS[c.kind[i]], ON[c.kind[i]], ...COLUMNS.map((f) => c[f][i])]);
      const href = URL.createObjectURL(new Blob([lines.map((line) => line.map(quoted).join(",")).join("\n") + "\n"], { type: "text/csv" }));
      make("a", { href, download: "networks.csv" }).click();
      setTimeout(() => URL.revokeObjectURL(href), 60000);
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
    function floor(kept, y) {
      // Designs far below the others would press these together at the top.
      if (state.low || kept.length < 8) return -Infinity;
      const sorted = kept.map((i) => y[i]).sort((a, b) => a - b);
      const best = sorted.at(-1), middle = sorted[sorted.length >> 1];
      return best - 3 * Math.max(best - middle, 0.005);
    }
    function plot() {
      const c = shared.table.columns, meant_ = [];
      let without = 0;
      for (let i = 0; i < shared.table.length; i++) if (inside(i) && !lacks(i).length && c.accuracy[i] != null) { if (c[state.x][i] == null) without++; else meant_.push(i); }
      const least = floor(meant_, c.accuracy), kept = meant_.filter((i) => c.kind[i] || c.accuracy[i] >= least), low = meant_.length - kept.length;
      const are = (n) => (n === 1 ? "is" : "are"), notes = [];
      if (low) notes.push(`${low.toLocaleString("en")} below ${(100 * least).toFixed(0)} % ${are(low)} not drawn (Options shows ${low === 1 ? "it" : "them"}).`);
      if (without) notes.push(`${without.toLocaleString("en")} without a known ${FIELDS[state.x].label} ${are(without)} not in this picture; the table has ${without === 1 ? "it" : "them"}.`);
      missing.textContent = notes.join(" ");
      const coloured = state.colour in FIELDS, found = coloured ? colours(kept.map((i) => c[state.colour][i])) : null;
      scatter.show(
        { x: kept.map((i) => c[state.x][i]), y: kept.map((i) => c.accuracy[i]), colour: found ? found.of : [], kind: kept.map((i) => c.kind[i]), ids: kept.map((i) => c.id[i]), rows: kept },
        { log: state.log, front: COSTS.includes(state.x), names: true, label: FIELDS[state.x].label, text: FIELDS[state.x].text, describe, limit: settings.budget[FIELDS[state.x].limit],
          empty: shared.table.length ? "nothing lies within these limits" : "no design yet: they appear here as they are trained" });
      const parts = [], drawn = new Set(kept.map((i) => c.kind[i]));
      if (drawn.has(1)) parts.push(make("span", {}, make("i", { class: "gk-dot gk-big" }), " found, trained in full (test pictures)"));
      if (drawn.has(2)) parts.push(make("span", {}, make("i", { class: "gk-dot gk-diamond" }), " known network, trained the same way (test pictures)"));
      if (drawn.has(0)) parts.push(make("span", {}, make("i", { class: "gk-dot gk-hollow" }), " tried briefly (validation pictures)"));
      for (const [kind, name] of [[1, "the found networks"], [0, "the designs tried"]])
        if (scatter.fronts[kind].length) parts.push(make("span", { "data-front": KINDS[kind] }, make("i", { class: `gk-front${kind ? "" : " gk-dashed"}` }), ` Pareto front: of ${name}, none gets more right for less`));
      if (found) parts.push(make("span", { class: "gk-scale" }, `${short(state.colour)}: `, ...ramp(found, state.colour)));
      legend.replaceChildren(...parts);
      holder.dataset.points = meant_.length;
      holder.dataset.low = low;
    }
    function listed() {
      // Three lists that are never mixed: trained in full, tried briefly, and what a limit says nothing of.
      const c = shared.table.columns, full = [], tried = [], unknown = [];
      for (let i = 0; i < shared.table.length; i++) {
        if (!inside(i) || (state.search && !`${c.name[i]} ${c.id[i]} ${KINDS[c.kind[i]]}`.toLowerCase().includes(state.search))) continue;
        (lacks(i).length ? unknown : c.kind[i] ? full : tried).push(i);
      }
      const by = state.sort, sign = state.down ? -1 : 1;
      const order = (a, b) => {
        const [p, q] = [c[by][a], c[by][b]];
        if (p == null || q == null) return (p == null) - (q == null);
        return sign * (by === "name" ? p.localeCompare(q, "en", { numeric: true }) : p - q);
      };
      return [full, tried, unknown].map((list) => list.sort(order));
    }
    function rows(sorted) {
      const c = shared.table.columns, [full, tried, unknown] = listed();
      let all = 0;
      for (let i = 0; i < shared.table.length; i++) all += meant(i);
      const kept = full.length + tried.length;
      count.textContent = `${kept.toLocaleString("en")} of ${all.toLocaleString("en")} shown` + (full.length ? `, ${full.length} of them trained in full` : "")
        + (unknown.length ? `; ${unknown.length.toLocaleString("en")} more, of which ${[...new Set(unknown.flatMap(lacks))].map((f) => "no " + FIELDS[f].label).join(" and ")} is known, stand at the end` : "")
        + (shared.table.states.queued || shared.table.states.running
          ? `; the search ${shared.table.writing ? "goes on" : "was interrupted"} (${Object.entries(shared.table.states).map(([s, n]) => `${n} ${s}`).join(", ")})` : "");
      const heads = ["name", ...COLUMNS.filter((f) => state.columns.split(",").includes(f))];
      const header = make("tr", {}, ...heads.map((field) => {
        const active = state.sort === field;
        return make("th", { "aria-sort": active ? (state.down ? "descending" : "ascending") : "none" },
          make("button", { "data-sort": field, onclick: () => { state.down = active ? !state.down : field === "accuracy"; state.sort = field; remember(); rows(field); } },
            field === "name" ? "network" : short(field), active ? (state.down ? " ▾" : " ▴") : ""));
      }));
      const body = make("tbody");
      let left = state.most;
      for (const [list, title, kind] of [[full, "Trained in full: right of the test pictures", ""], [tried, "Tried briefly: right of validation pictures", ""], [unknown, "Not known whether within the limits", "gk-unknown"]]) {
        if (!list.length || left <= 0) continue;
        body.append(make("tr", { class: "gk-group" }, make("th", { colspan: heads.length, scope: "rowgroup" }, title)));
        for (const i of list.slice(0, left)) {
          const row = make("tr", { tabindex: "0", "data-id": c.id[i], class: (c.id[i] === shared.id ? "gk-chosen " : "") + kind });
          for (const field of heads) row.append(make("td", {}, field === "name" ? c.name[i] : FIELDS[field].text(c[field][i])));
          body.append(row);
        }
        left -= list.length;
      }
      const more = left < 0 ? make("button", { class: "gk-button", onclick: () => { state.most += 200; rows(); } }, `show more (${(-left).toLocaleString("en")} left)`) : "";
      wide.replaceChildren(make("table", { class: "gk-table gk-list" }, make("thead", {}, header), body), more);
      if (sorted) wide.querySelector(`[data-sort=${sorted}]`).focus(); // whoever sorts by key goes on there
    }
    const chosen = (event) => { const row = event.target.closest("tr[data-id]"); if (row) { select(row.dataset.id); raise(); } return row; };
    wide.addEventListener("click", chosen);
    wide.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { if (event.target.matches("tr") && chosen(event)) event.preventDefault(); }
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !event.target.matches("tr[data-id]")) return;
      const all = [...wide.querySelectorAll("tr[data-id]")];
      all[all.indexOf(event.target) + step]?.focus();
      event.preventDefault();
    });
    shared.listeners.add((id) => { for (const row of wide.querySelectorAll("tr[data-id]")) row.classList.toggle("gk-chosen", row.dataset.id === id); });
    shared.tables.add(build);
    function wanted() {
      const { id } = address.read();
      const ids = shared.table.columns.id;
      return [id, settings.first].find((one) => ids.includes(one)) || ids[0];
    }
    shared.tables.add(() => { if (!shared.id && shared.watched) select(wanted(), false); });
    address.followers.add((values) => {
      if (!root.isConnected || !shared.table) return;
      recall(values); build(shared.table); select(wanted(), false);
    });
    loadInTime((error) => {
      root.querySelector(".gk-legend").textContent = `The networks could not be loaded (${error.message}); trying again.`;
    }).then(() => {
      shared.id = null;
      if (wanted()) select(wanted(), false);
      else selected_()?.replaceChildren(make("p", { class: "gk-empty" }, "Nothing has been found yet. Designs appear as they are trained."));
      watch();
    });
  }

  // ---- the facts of the chosen one: beside the points, on a phone a sheet that rises from below
  const selected_ = () => document.querySelector("#facts .gk-selected");
  const opened = new Map(); // folds stay as the visitor left them
  function tellFacts({ facts }) {
    const box = selected_();
    if (!box) return;
    box.innerHTML = facts;
    box.prepend(make("button", { class: "gk-button gk-close", "aria-label": "close", onclick: () => sink() }, "×"));
    for (const fold of box.querySelectorAll(".gk-fold")) {
      const name = fold.dataset.name;
      if (opened.has(name)) fold.open = opened.get(name);
      fold.addEventListener("toggle", () => { if (fold.isConnected) opened.set(name, fold.open); });
    }
    document.querySelector("#side")?.scrollTo(0, 0);
    reach();
  }
  const isNarrow = () => matchMedia("(max-width: 900px)").matches;
  const side = () => document.querySelector("#side");
  function raise() { if (isNarrow()) side()?.classList.add("gk-risen"); }
  function sink() { side()?.classList.remove("gk-risen"); }
  let sought = null;
  function reach() {
    // A fold that was asked for may belong to facts that are still on their way.
    const fold = sought && document.querySelector(`.gk-facts[data-id="${CSS.escape(sought.id)}"] .gk-fold[data-name="${sought.fold}"]`);
    if (!fold) return;
    sought = null;
    fold.open = true;
    requestAnimationFrame(() => fold.scrollIntoView({ block: isNarrow() ? "start" : "nearest", behavior: "smooth" }));
    fold.querySelector("summary").focus({ preventScroll: true });
  }
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") sink(); });
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("[role=tab]")) sink();
    const way = event.target.closest?.("[data-id]:is(a, button)");
    if (!way) return;
    event.preventDefault();
    sought = way.dataset.fold ? { id: way.dataset.id, fold: way.dataset.fold } : null;
    select(way.dataset.id);
    raise(); reach();
  });

  // ---- a dialog for what needs the whole width: a large drawing, two networks side by side
  const dialog = make("dialog", { class: "gk-dialog" });
  function show(title, ...content) {
    if (!dialog.isConnected) document.querySelector(".gradio-container").append(dialog);
    dialog.setAttribute("aria-label", title);
    dialog.replaceChildren(make("div", { class: "gk-dialog-head" }, make("h2", {}, title), make("button", { class: "gk-button", "aria-label": "close", onclick: () => dialog.close() }, "×")), ...content);
    if (!dialog.open) dialog.showModal();
  }
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  async function compare(first, second) {
    const c = shared.table.columns, kinds = new Map();
    const some = c.id.flatMap((id, i) => c.kind[i] || id === first || id === second ? [[id, c.name[i], c.kind[i]]] : []);
    for (const [id, name, kind] of some) if (!kinds.has(id) || kind) kinds.set(id, name);
    second ??= [...kinds.keys()].find((id) => id !== first);
    const known = [...kinds];
    const body = make("div", {}, make("p", { class: "gk-note" }, "comparing…"));
    show("Two networks side by side",
      make("div", { class: "gk-controls" }, choice("", known, first, (id) => compare(id, second)), choice("and", known, second, (id) => compare(first, id))), body);
    if (!second) { body.textContent = "There is no second network."; return; }
    const answer = await fetch(`run/pair.json?first=${encodeURIComponent(first)}&second=${encodeURIComponent(second)}`);
    const { html, text } = await answer.json();
    body.innerHTML = html;
    if (text) body.append(make("p", { class: "gk-note", "data-likeness": "" }, "The two cells: " + text));
  }

  // ---- what is copied, enlarged or compared by a click
  async function copy(button, text) {
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; }
    catch { getSelection().selectAllChildren(button.parentElement.querySelector("pre") || button); button.textContent = "Press Ctrl-C"; }
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button");
    if (!button) return;
    if (button.dataset.copy) copy(button, button.dataset.copy);
    if ("copyCode" in button.dataset) copy(button, button.parentElement.querySelector("pre").textContent);
    if (button.dataset.compare) compare(button.dataset.compare);
    if ("enlarge" in button.dataset) {
      const cell = button.closest("div").querySelector(".gk-cell").cloneNode(true);
      show("The cell", cell);
    }
  });

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
    (cell.closest("dialog") || document.body).append(tip); // a dialog lies above all else
    const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(window.innerWidth - own.width - 6, box.left + box.width / 2 - own.width / 2)) + "px";
    tip.style.top = (box.top - own.height - 8 > 0 ? box.top - own.height - 8 : box.bottom + 8) + "px";
  }
  hints.add(() => { tip.hidden = true; for (const cell of document.querySelectorAll(".gk-hovered")) { cell.classList.remove("gk-hovered"); for (const line of cell.querySelectorAll(".gk-on, .gk-near")) line.classList.remove("gk-on", "gk-near"); } });
  const over = (on) => (event) => { const node = event.target.closest?.(".gk-node"); if (node) mark(node, on); };
  for (const [name, on] of [["pointerover", true], ["pointerout", false], ["focusin", true], ["focusout", false]]) document.addEventListener(name, over(on));

  Object.assign(window.gemkit, { result, tellFacts, raise, compare });
  dispatchEvent(new Event("gemkit-result"));
})();

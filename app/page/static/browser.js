// Measures networks in the visitor's own browser with onnxruntime-web, as gemkit does elsewhere:
// all networks in turn, round by round, after warm-up; percentiles are medians over the rounds.
(() => {
  "use strict";
  const { make, ms } = window.gemkit;
  const PERCENTILES = [50, 90, 95, 99];
  const at = (times, p) => {
    const sorted = [...times].sort((a, b) => a - b), place = (p / 100) * (sorted.length - 1);
    const low = Math.floor(place), high = Math.ceil(place);
    return sorted[low] + (sorted[high] - sorted[low]) * (place - low);
  };
  const pause = () => new Promise((done) => setTimeout(done, 0));
  let loaded = {};
  async function runtime(provider) {
    if (loaded[provider]) return loaded[provider];
    const file = provider === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs";
    const ort = await import(new URL("onnxruntime/" + file, document.baseURI).href);
    ort.env.wasm.wasmPaths = new URL("onnxruntime/", document.baseURI).href;
    ort.env.wasm.numThreads = 1;
    ort.env.logLevel = "error";
    return (loaded[provider] = ort);
  }
  async function open(ort, provider, address, shape) {
    const answer = await fetch(address);
    if (!answer.ok) throw new Error(`${address}: answer ${answer.status}`);
    const content = new Uint8Array(await answer.arrayBuffer());
    const start = performance.now();
    const session = await ort.InferenceSession.create(content, { executionProviders: [provider] });
    const load = performance.now() - start;
    const digest = await crypto.subtle?.digest("SHA-256", content);
    const sha256 = digest ? [...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, "0")).join("") : null;
    const size = shape.reduce((a, b) => a * b, 1);
    const input = new ort.Tensor("float32", Float32Array.from({ length: size }, () => Math.random() - 0.5), shape);
    return { session, input, load, sha256, rounds: [] };
  }
  async function call(one, input = one.input) {
    const outputs = await one.session.run({ [one.session.inputNames[0]]: input });
    const output = outputs[one.session.outputNames[0]];
    const data = output.getData ? await output.getData() : output.data;
    return data;
  }
  async function measure(networks, seconds, rounds, progress, stop) {
    // Browsers round their clock, so a quick network is called several times between two looks.
    const fine = window.crossOriginIsolated ? 0.005 : 0.1;
    for (const one of networks) {
      for (let i = 0; i < 5; i++) await call(one);
      const start = performance.now();
      let n = 0;
      do { await call(one); n++; } while (performance.now() - start < 20);
      one.calls = Math.max(1, Math.ceil((20 * fine) / ((performance.now() - start) / n)));
    }
    for (let round = 0; round < rounds; round++)
      for (const [index, one] of networks.entries()) {
        if (stop.stopped) throw new Error("stopped");
        await call(one); await call(one);
        const times = [], end = performance.now() + 1000 * seconds;
        while (times.length < 4000 && (performance.now() < end || times.length < 10)) {
          const start = performance.now();
          for (let i = 0; i < one.calls; i++) await call(one);
          times.push((performance.now() - start) / one.calls);
        }
        one.rounds.push(times);
        progress((round * networks.length + index + 1) / (rounds * networks.length));
        await pause();
      }
    return networks.map((one) => {
      const latency = {};
      for (const p of PERCENTILES) latency["p" + p] = at(one.rounds.map((times) => at(times, p)), 50);
      const medians = one.rounds.map((times) => at(times, 50));
      return { latency_ms: latency, calm_ms: at(one.rounds.flat(), 10), load_ms: one.load,
        spread: (Math.max(...medians) - Math.min(...medians)) / at(medians, 50), calls: one.calls };
    });
  }
  const close = async (networks) => { for (const one of networks) await one.session.release?.(); };
  async function sameAnswer(ort, one, id) {
    const value = await (await fetch(`run/reference/${encodeURIComponent(id)}.json`)).json();
    const raw = Uint8Array.from(atob(value.input), (c) => c.charCodeAt(0));
    const found = await call(one, new ort.Tensor("float32", new Float32Array(raw.buffer), value.shape));
    return Math.max(...value.output.map((v, i) => Math.abs(v - found[i])));
  }
  async function providers() {
    const found = [["wasm", "WebAssembly (processor)"]];
    try { if (await navigator.gpu?.requestAdapter()) found.push(["webgpu", "WebGPU (graphics)"]); } catch { /* none */ }
    return found;
  }

  async function start(element) {
    const root = element.querySelector(".gk-browser");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "yes";
    let known = "";
    async function look() {
      // A measurement that goes on is not disturbed; the next change is seen again.
      if (!root.isConnected || root.dataset.state === "running") return;
      const text = await (await fetch("run/browser.json", { cache: "no-store" })).text();
      if (text !== known) { known = text; build(root, JSON.parse(text)); }
    }
    window.gemkit.shared.tables.add(() => { look().catch(() => {}); });
    for (;;) {
      try { return await look(); }
      catch { await new Promise((done) => setTimeout(done, 2000)); }
    }
  }
  function build(root, settings) {
    if (!settings.runtime) {
      root.replaceChildren(make("p", { class: "gk-empty" }, "onnxruntime-web is not here yet, so nothing can be measured in your browser. Whoever runs the page can fetch it once (about 50 MB, from npm's registry) with: ", make("code", {}, "gemkit app RUN --fetch-runtime")));
      return;
    }
    if (!settings.networks.length) {
      root.replaceChildren(make("p", { class: "gk-empty" }, "No network of this run has been exported yet: there is nothing to measure."));
      return;
    }
    const picker = make("select", { class: "gk-number", "aria-label": "where it runs" });
    const without = make("p", { class: "gk-note", id: "gk-no-webgpu" }, "This browser offers no WebGPU here, so the networks run on the processor alone (WebAssembly, one thread).");
    without.hidden = true;
    providers().then((found) => {
      picker.replaceChildren(...found.map(([value, text]) => make("option", { value }, text)));
      without.hidden = found.length > 1;
    });
    const boxes = settings.networks.map((network, n) => {
      const box = make("input", { type: "checkbox", value: network.id, ...(n < 3 || network.baseline ? { checked: "" } : {}) });
      return [network, box, make("label", { class: "gk-check" }, box, network.label)];
    });
    const status = make("p", { class: "gk-note", role: "status" }, "Nothing leaves your device: the networks are downloaded and run here.");
    const bar = make("progress", { max: 1, value: 0, style: "width:100%" });
    bar.hidden = true;
    const results = make("div", { class: "gk-wide" });
    const saved = make("p", { class: "gk-take" });
    const stop = { stopped: false };
    const halt = make("button", { class: "gk-button", onclick: () => { stop.stopped = true; } }, "Stop");
    halt.hidden = true;
    const begin = make("button", { class: "gk-button gk-primary", id: "gk-measure", onclick: () => guarded(chosen) }, "Measure the chosen networks here");
    const many = make("button", { class: "gk-button", id: "gk-kit", onclick: () => guarded(kit) }, "Measure this run's cells to predict this device");
    const amount = make("input", { class: "gk-number", type: "number", min: 10, max: settings.most, value: Math.min(30, settings.most), "aria-label": "number of cells", style: "width:5em" });
    root.replaceChildren(
      make("div", { class: "gk-controls" }, make("label", { class: "gk-choice" }, make("span", {}, "run on"), picker), ...boxes.map(([, , label]) => label)),
      make("p", { class: "gk-take" }, begin, halt), without, status, bar, results,
      make("h3", {}, "Teach gemkit this device"),
      make("p", { class: "gk-note" }, "A search can keep a latency limit on a device that it has never run on, if enough cells were measured there. Measure some of this run's cells, save the file, and give it to ", make("code", {}, "gemkit latency fit measurements.json --name NAME"), "."),
      make("p", { class: "gk-take" }, amount, many), saved);
    async function guarded(work) {
      begin.disabled = many.disabled = true; stop.stopped = false; halt.hidden = false; bar.hidden = false; bar.value = 0;
      try { await work(await runtime(picker.value || "wasm"), picker.value || "wasm"); }
      catch (error) { status.textContent = error.message === "stopped" ? "Stopped." : `This did not work in your browser: ${error.message}`; root.dataset.state = "failed"; }
      finally { begin.disabled = many.disabled = false; halt.hidden = true; bar.hidden = true; }
    }
    async function chosen(ort, provider) {
      root.dataset.state = "running";
      const wanted = boxes.filter(([, box]) => box.checked).map(([network]) => network);
      if (!wanted.length) { status.textContent = "Choose at least one network."; return; }
      status.textContent = "loading the networks…";
      const open_ = [];
      try {
        for (const network of wanted) open_.push(await open(ort, provider, `run/files/${encodeURIComponent(network.id)}/model.onnx`, settings.shape));
        const differences = [];
        for (const [n, one] of open_.entries()) differences.push(await sameAnswer(ort, one, wanted[n].id));
        status.textContent = "measuring, in turn and in rounds…";
        const found = await measure(open_, 0.3, 5, (share) => { bar.value = share; }, stop);
        const rows = found.map((one, n) => make("tr", { "data-id": wanted[n].id, "data-difference": differences[n] },
          make("td", {}, wanted[n].id), ...["p50", "p90", "p95", "p99"].map((p) => make("td", {}, ms(one.latency_ms[p]))),
          make("td", {}, ms(wanted[n].p50)), make("td", {}, differences[n].toExponential(1))));
        results.replaceChildren(make("table", { class: "gk-table" }, make("thead", {}, make("tr", {}, ...["network", "p50 here", "p90", "p95", "p99", "p50 by gemkit bench", "largest difference"].map((t) => make("th", {}, t)))), make("tbody", {}, ...rows)));
        const worst = Math.max(...differences), noisy = Math.max(...found.map((one) => one.spread));
        status.textContent = (worst <= 1e-4 ? "The answers here are onnxruntime's. " : "Mind: the answers here differ from onnxruntime's. ")
          + (noisy > 0.1 ? `This device was busy: the rounds differ by ${(100 * noisy).toFixed(0)} %.` : "The rounds agree within 10 %.");
        root.dataset.state = "done";
      } finally { await close(open_); }
    }
    async function kit(ort, provider) {
      status.textContent = "preparing cells…";
      const answer = await fetch(`run/kit.json?count=${Math.trunc(+amount.value) || 0}`), manifest = await answer.json();
      if (manifest.error) { status.textContent = manifest.error; return; }
      const device = {
        machine: { processor: `${navigator.platform || "unknown"} in a browser`, cores: navigator.hardwareConcurrency || null, system: navigator.userAgent },
        versions: { "onnxruntime-web": settings.version }, provider };
      const measured = [];
      for (let from = 0; from < manifest.files.length; from += 10) {
        const part = manifest.files.slice(from, from + 10), open_ = [];
        try {
          for (const entry of part) open_.push(await open(ort, provider, `run/drafts/${entry.file}`, settings.shape));
          const found = await measure(open_, settings.seconds, 3, (share) => { bar.value = (from + share * part.length) / manifest.files.length; }, stop);
          found.forEach(({ calls, ...one }, n) => measured.push({ file: part[n].file, sha256: open_[n].sha256 || part[n].sha256, ...one }));
        } finally { await close(open_); }
        status.textContent = `${measured.length} of ${manifest.files.length} cells measured`;
      }
      const value = { kind: "gemkit measurements", format: 1, manifest, device, measured };
      const link = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
      saved.replaceChildren(make("a", { class: "gk-button gk-primary", id: "gk-save", download: "measurements.json", href: link }, "Save measurements.json"));
      status.textContent = `${measured.length} cells measured.`;
    }
  }
  window.gemkit.browser = start;
  dispatchEvent(new Event("gemkit-browser"));
})();

// What is shown stands in the address, as `#id=...&tab=...&x=...`: a link leads to the same view, and
// the browser's Back to the view before. `#ID` alone, as older links have it, is an id.
(() => {
  "use strict";
  const followers = new Set();
  const parse = () => {
    const text = location.hash.slice(1);
    return new URLSearchParams(text && !text.includes("=") ? "id=" + text : text);
  };
  // Unlike decodeURIComponent, URLSearchParams reads anything.
  const read = () => Object.fromEntries(parse());
  function write(values, step = false) {
    const wanted = parse();
    for (const [name, value] of Object.entries(values))
      if (value == null || value === "") wanted.delete(name); else wanted.set(name, value);
    const hash = "#" + wanted;
    if (hash === location.hash || (hash === "#" && !location.hash)) return;
    history[step ? "pushState" : "replaceState"](history.state, "", hash);
  }
  addEventListener("popstate", () => { for (const follow of followers) follow(read()); });

  // ---- tabs: Gradio's own, by their names
  const button = (name) => document.getElementById(`tab-${name}-button`);
  const chosen = () => document.querySelector('[role=tab][aria-selected=true][id^="tab-"]')?.id.slice(4, -7);
  let first = null;
  function show(name) {
    if (chosen() === (name || first)) return;
    button(name || first)?.click();
  }
  function watchTabs() {
    const bar = document.querySelector("[role=tablist]");
    if (!bar || !chosen()) { setTimeout(watchTabs, 100); return; }
    first = document.querySelector('[role=tab][id^="tab-"]').id.slice(4, -7);
    show(read().tab);
    followers.add((values) => show(values.tab));
    let last = chosen();
    new MutationObserver(() => {
      const now = chosen();
      if (!now || now === last) return;
      last = now;
      if ((read().tab || first) !== now) write({ tab: now === first ? null : now }, true);
    }).observe(document.body, { subtree: true, attributes: true, attributeFilter: ["aria-selected"] });
  }
  watchTabs();
  document.addEventListener("keydown", (event) => {
    const here = event.target.closest?.("[role=tab]");
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    if (!here || !step) return;
    const all = [...here.closest("[role=tablist]").querySelectorAll("[role=tab]")];
    const next = all[Math.max(0, Math.min(all.length - 1, all.indexOf(here) + step))];
    event.preventDefault();
    next.focus(); next.click();
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
  });

  window.gemkitAddress = { read, write, followers };
})();

// The page's "Try it": a pad to draw a digit on, whose drawing goes the way of an upload and is checked
// like one; and names for what Gradio leaves without.
(() => {
  "use strict";
  const { make, pause } = window.gemkit;
  const SIDE = 224;
  function pad(element) {
    const root = element.querySelector(".gk-pad");
    if (!root || root.dataset.ready) return;
    root.dataset.ready = "yes";
    const canvas = make("canvas", { width: SIDE, height: SIDE, role: "img", "aria-label": "a pad to draw a digit on, with a mouse or a finger" });
    const g = canvas.getContext("2d");
    const clear = () => { g.fillStyle = "#000"; g.fillRect(0, 0, SIDE, SIDE); };
    clear();
    let last = null, number = 0;
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [(event.clientX - box.left) * SIDE / box.width, (event.clientY - box.top) * SIDE / box.height]; };
    function stroke(event) {
      const [x, y] = at(event);
      // As thick as the lines of the digits it was trained on, on 8 pixels.
      g.strokeStyle = "#fff"; g.lineWidth = SIDE / 7; g.lineCap = g.lineJoin = "round";
      g.beginPath(); g.moveTo(...last); g.lineTo(x, y); g.stroke();
      last = [x, y];
    }
    canvas.addEventListener("pointerdown", (event) => { event.preventDefault(); canvas.setPointerCapture(event.pointerId); last = at(event); stroke(event); });
    canvas.addEventListener("pointermove", (event) => { if (last) stroke(event); });
    canvas.addEventListener("pointerup", () => { if (last) send(); last = null; });
    async function send() {
      const mine = ++number;
      await pause(400); // the next stroke may follow
      if (mine !== number || last) return;
      const blob = await new Promise((done) => canvas.toBlob(done, "image/png"));
      document.querySelector("#image button[aria-label='Remove Image']")?.click();
      for (let tries = 0; tries < 50; tries++) {
        const input = document.querySelector("#image input[type=file]");
        if (input) {
          const files = new DataTransfer();
          files.items.add(new File([blob], "drawing.png", { type: "image/png" }));
          input.files = files.files;
          input.dispatchEvent(new Event("change", { bubbles: true }));
          return;
        }
        await pause(50);
      }
    }
    root.replaceChildren(make("p", {}, "Draw a digit:"), canvas, make("button", { class: "gk-button", onclick: clear }, "Clear"));
  }
  function name() {
    for (const one of document.querySelectorAll("#examples button:not([aria-label])")) {
      const file = decodeURIComponent(one.querySelector("img")?.src || "");
      one.setAttribute("aria-label", `example: ${/-([^/]*)\.png/.exec(file)?.[1] || "an image"}`);
    }
    for (const one of document.querySelectorAll(".empty[aria-label]:not([role])")) one.setAttribute("role", "img");
  }
  let waiting = null;
  new MutationObserver(() => { waiting ??= setTimeout(() => { waiting = null; name(); }, 100); }).observe(document.documentElement, { childList: true, subtree: true });

  window.gemkit.pad = pad;
  dispatchEvent(new Event("gemkit-pad"));
})();

"""How quick the page is: ten thousand candidates in one browser, and fifty visitors at once.

    python experiments/page.py [--minutes 10] [--trials 10000]

Needs Playwright and Chromium. Writes results/page.json. Measures
- opening: from the request to all points drawn and the table filled, in a fresh browser context;
- a selection: from the click on a point to the details of that network, median of fifty;
- fifty visitors of a read-only page, ten of whom classify images while all select networks, over
  the given minutes: errors, p95 of a selection, largest memory of the server.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "page.json"
_SERVE = (
    "import sys; from pathlib import Path; from gemkit.app.page import page; "
    "server = page.launch(Path(sys.argv[1]), '127.0.0.1', 0, read_only=True); "
    "print(server.address, flush=True); server.wait()"
)


def many_trials(folder: Path, count: int, seed: int = 0) -> None:
    """A small run on the digits, with its networks, and candidates of up to thirty nodes."""
    from gemkit.app.steps import pipeline
    from gemkit.architecture import Skeleton
    from gemkit.cost import costs
    from gemkit.records import Trial
    from gemkit.search.sampling import random_cells
    from gemkit.store import Run

    pipeline.run("digits", out=folder, trials=4, epochs=1, top=2).close()
    rng = np.random.default_rng(seed)
    cells = random_cells(rng, int(1.2 * count), 30, "concat").pruned()
    with Run.open(folder, write=True) as run:
        price = costs(cells, run.setting("skeleton", Skeleton), 8)
        known = {trial.key for trial in run.trials()}
        trials = []
        for index in range(len(cells)):
            cell = cells.cell(index)
            if cell.key in known or len(known) >= count:
                continue
            known.add(cell.key)
            trials.append(
                Trial(
                    index=len(known) - 1,
                    round=len(known) // 500,
                    key=cell.key,
                    cell=cell,
                    width=8,
                    macs=int(price.macs[index]),
                    params=int(price.params[index]),
                    peak_memory_bytes=int(price.peak_memory_bytes[index]),
                    seed=index,
                    epochs=1,
                    state="done",
                    accuracy=float(rng.uniform(0.4, 0.99)),
                )
            )
        run.add_trials(trials)


def serve(folder: Path) -> "tuple[subprocess.Popen[str], str]":
    """Start a page in a process of its own; returns it and its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def memory_of(process: "subprocess.Popen[str]") -> int:
    """Resident bytes of a process."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(text.partition("VmRSS:")[2].split()[0])


def processor_seconds(process: "subprocess.Popen[str]") -> float:
    """What a process has spent on its processors."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def one_visitor(
    address: str, server: "subprocess.Popen[str]", selections: int = 50, openings: int = 5
) -> dict[str, Any]:
    """Times of opening and of selecting, in seconds: by the clock, and of server and browser's main
    thread together on their processors, which other programs on the machine hardly change."""
    from playwright.sync_api import sync_playwright

    opened, selected, opened_on, selected_on = [], [], [], 0.0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for _ in range(openings):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            metrics = context.new_cdp_session(tab)
            metrics.send("Performance.enable")

            def spent(metrics: Any = metrics) -> float:
                found = metrics.send("Performance.getMetrics")["metrics"]
                own = next(one["value"] for one in found if one["name"] == "ThreadTime")
                return float(own) + processor_seconds(server)

            before, start = spent(), time.perf_counter()
            tab.goto(address)
            tab.wait_for_selector(".gk-list tr[data-id]")
            opened.append(time.perf_counter() - start)
            opened_on.append(spent() - before)
            if len(opened) < openings:
                context.close()
        points = int(tab.locator("#points .gk-plot").get_attribute("data-points") or 0)
        ids = tab.evaluate("gemkit.shared.table.columns.id")
        rng = np.random.default_rng(0)
        # The time runs in the browser, from the choice to the details of that network.
        script = """(id) => new Promise((done) => {
            const facts = document.querySelector('#facts'), start = performance.now();
            const look = () => { if (facts.querySelector('.gk-facts')?.dataset.id === id) {
                watcher.disconnect(); done(performance.now() - start); } };
            const watcher = new MutationObserver(look);
            watcher.observe(facts, {childList: true, subtree: true, characterData: true});
            gemkit.select(id); look(); })"""
        before = spent()
        for id in rng.choice(ids, selections, replace=False):
            selected.append(tab.evaluate(script, str(id)) / 1000)
        selected_on = (spent() - before) / selections
        browser.close()
    return {
        "points": points,
        "opening_seconds_first": opened[0],
        "opening_seconds_median": float(np.median(opened)),
        "opening_processor_seconds_median": float(np.median(opened_on)),
        "selection_seconds_median": float(np.median(selected)),
        "selection_seconds_p95": float(np.percentile(selected, 95)),
        "selection_processor_seconds": selected_on,
    }


async def _visitor(
    address: str, number: int, ids: list[str], calls: dict[str, int], end: float, found: Any
) -> None:
    """One visitor: opens, then selects and (one of five) classifies as the page does."""
    import httpx

    rng = np.random.default_rng(number)
    session = f"visitor{number}"
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        for path in ("/", "/run/table.json", "/page/page.js", "/run/map.json"):
            if (await client.get(path)).status_code != 200:
                found["errors"].append(f"{path} failed")
        while time.monotonic() < end:
            id = str(rng.choice(ids))
            start = time.perf_counter()
            answer = await client.get(f"/run/facts/{id}")
            found["selections"].append(time.perf_counter() - start)
            if answer.status_code != 200 or id not in answer.text:
                found["errors"].append(f"selection: {answer.status_code} {answer.text[:80]}")
            if number % 5 == 0:
                await _classify(client, session, calls, ids, rng, found)
            await asyncio.sleep(float(rng.uniform(0.5, 3.0)))


async def _classify(
    client: Any, session: str, calls: dict[str, int], ids: list[str], rng: Any, found: Any
) -> None:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
    start = time.perf_counter()
    answer = await client.post(
        "/gradio_api/upload", files={"files": ("a.png", buffer.getvalue(), "image/png")}
    )
    image = {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}
    body = {
        "data": [image, calls["network"], calls["network"]],
        "fn_index": calls["try_it"], "session_hash": session,
    }  # fmt: skip
    joined = await client.post("/gradio_api/queue/join", json=body)
    if joined.status_code == 503:
        found["turned_away"] += 1
        return
    if joined.status_code != 200:
        found["errors"].append(f"join: {joined.status_code} {joined.text[:80]}")
        return
    async with client.stream(
        "GET", "/gradio_api/queue/data", params={"session_hash": session}
    ) as stream:
        async for line in stream.aiter_lines():
            if "process_completed" in line:
                if '"success":false' in line.replace(" ", ""):
                    found["errors"].append(f"classify: {line[:120]}")
                break
    found["predictions"].append(time.perf_counter() - start)


async def _many(address: str, process: Any, visitors: int, seconds: float) -> dict[str, Any]:
    import httpx

    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        config = (await client.get("/config")).json()
        table = (await client.get("/run/table.json")).json()["columns"]
    calls: dict[str, Any] = {
        one["api_name"]: one["id"]
        for one in config["dependencies"]
        if one.get("api_name") == "try_it"
    }
    calls["network"] = table["id"][0]
    found: dict[str, Any] = {"selections": [], "predictions": [], "errors": [], "turned_away": 0}
    memory = [memory_of(process)]
    end = time.monotonic() + seconds
    tasks = [
        asyncio.create_task(_visitor(address, number, table["id"], calls, end, found))
        for number in range(visitors)
    ]
    while not all(task.done() for task in tasks):
        await asyncio.sleep(2)
        memory.append(memory_of(process))
    for task in tasks:
        if task.exception() is not None:
            found["errors"].append(repr(task.exception()))
    half = len(memory) // 2
    return {
        "visitors": visitors,
        "seconds": seconds,
        "selections": len(found["selections"]),
        "selection_seconds_median": float(np.median(found["selections"])),
        "selection_seconds_p95": float(np.percentile(found["selections"], 95)),
        "predictions": len(found["predictions"]),
        "prediction_seconds_p95": float(np.percentile(found["predictions"] or [0], 95)),
        "turned_away": found["turned_away"],
        "errors": len(found["errors"]),
        "first_errors": found["errors"][:3],
        "memory_bytes_start": memory[0],
        "memory_bytes_half": max(memory[:half] or memory),
        "memory_bytes_end": max(memory[half:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--visitors", type=int, default=50)
    options = parser.parse_args()
    from gemkit.files import write_json
    from gemkit.machine import describe_machine, versions

    if shutil.which("chromium") is None:
        print("page: skipped, Chromium is not installed (apt install chromium)")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "many"
        many_trials(folder, options.trials)
        process, address = serve(folder)
        try:
            time.sleep(5)
            one = one_visitor(address, process)
            print(json.dumps(one, indent=1), flush=True)
            many = asyncio.run(_many(address, process, options.visitors, 60 * options.minutes))
            print(json.dumps(many, indent=1))
        finally:
            process.terminate()
            process.wait(20)
    value = {
        "machine": describe_machine(),
        "versions": versions(),
        "load": os.getloadavg()[0],
        "one_visitor": one,
        "many_visitors": many,
    }
    write_json(RESULTS, value)
    print(f"written: {RESULTS.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

"""How well latency is measured and predicted on a noisy machine: experiments/latency.py.

    python experiments/latency.py [--learned 100] [--unseen 100] [--measurements 2] [--quiet]

Networks for images of 32x32x3 and of 8x8x1, of both aggregations and of widths 4 to 64, are
measured as `gemkit` measures them, in a random order, beside two neighbours that are started and
stopped at random: one copies memory, one multiplies matrices. Then all are measured again. From the
first measurement the predictor learns `learned` networks (chosen as `gemkit` chooses them) and
predicts the `unseen` random ones. Reported of the unseen: how many of them are measured again
within 5 and 10 %, as they are and once the machine's common factor is taken out; and how many are
predicted so, against the first measurement and against the others. Resumable by measurement: what
was measured stays in build/latency.json, the summary goes to results/latency.json. About two
minutes of processor time a measurement and size, more where noise makes it go on.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gemkit.architecture import Architecture, Skeleton, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.export import timing
from gemkit.export.latency import (
    LEARNED_ROUNDS,
    LEARNED_SECONDS,
    LatencyModel,
    Measured,
    levelled,
    plan,
    this_device,
    write_drafts,
)
from gemkit.files import write_json
from gemkit.search.sampling import random_cells

ROOT = Path(__file__).resolve().parents[1]
RESULTS, KEPT = ROOT / "results" / "latency.json", ROOT / "build" / "latency.json"
SIZES = {"32x32x3": ((3, 32, 32), 20_000_000), "8x8x1": ((1, 8, 8), 3_000_000)}


def copy_memory(runs: Event) -> None:
    """Copy 32 MB again and again while the event is set."""
    source, target = np.ones(1 << 25, np.uint8), np.zeros(1 << 25, np.uint8)
    while runs.wait():
        np.copyto(target, source)


def multiply(runs: Event) -> None:
    """Multiply small matrices again and again while the event is set."""
    matrix = np.ones((64, 64), np.float32)
    while runs.wait():
        for _ in range(100):
            matrix @ matrix


@contextlib.contextmanager
def neighbours(seed: int) -> Iterator[None]:
    """Two other programs, each started or stopped every 0.1 to 4 seconds."""
    context = multiprocessing.get_context("spawn")
    events = [context.Event(), context.Event()]
    processes = [
        context.Process(target=work, args=(event,), daemon=True)
        for work, event in zip((copy_memory, multiply), events, strict=True)
    ]
    for process in processes:
        process.start()
    ended = threading.Event()

    def change() -> None:
        rng = random.Random(seed)
        while not ended.wait(rng.uniform(0.1, 4)):
            event = rng.choice(events)
            (event.clear if event.is_set() else event.set)()

    changing = threading.Thread(target=change)
    changing.start()
    try:
        yield
    finally:
        ended.set()
        changing.join()
        for process in processes:
            process.kill()
            process.join()


def networks(
    skeleton: Skeleton, macs: int, learned: int, unseen: int, seed: int
) -> list[Architecture]:
    """First those to learn from, then random ones."""
    rng = np.random.default_rng(seed)

    def pools(count: int) -> list[Any]:
        return [random_cells(rng, 4 * count, 30, kind).pruned() for kind in ("concat", "sum")]

    budget = Budget(macs=macs)
    chosen = plan(skeleton, pools(learned), budget=budget, samples=learned, seed=seed)
    # The first half of a plan, but for its first, is a random sample.
    rest = plan(skeleton, pools(2 * unseen), budget=budget, samples=2 * unseen + 2, seed=seed + 1)
    return [*chosen, *rest[1 : unseen + 1]]


def measured(paths: list[Path], number: int, noisy: bool) -> dict[str, Any]:
    """One measurement in a random order of its own, figures in the order of `paths`."""
    order = np.random.default_rng(number).permutation(len(paths))
    start, busy = time.monotonic(), time.process_time()
    with neighbours(number) if noisy else contextlib.nullcontext():
        found = timing.measure(
            [str(paths[index]) for index in order], rounds=LEARNED_ROUNDS, seconds=LEARNED_SECONDS
        )
    back = [found[index] for index in np.argsort(order)]
    latencies = [one["latency_ms"] for one in back]
    return {
        "calm_ms": [one["calm_ms"] for one in back],
        "p50_ms": [one["p50"] for one in latencies],
        "wall_ms": [one["p50_wall"] for one in back],
        "width": [(one["p50_high"] - one["p50_low"]) / one["p50"] for one in latencies],
        "rounds": [one["rounds"] for one in back],
        "seconds": time.monotonic() - start,
        "processor_seconds": time.process_time() - busy,
        "load": os.getloadavg()[0],
    }


def agreement(found: np.ndarray, truth: np.ndarray, level: bool = False) -> dict[str, float]:
    """Shares within 5 and 10 %, median error, ranks; `level` takes out a common factor."""
    if level:
        found = found * np.median(truth / found)
    error = np.abs(found / truth - 1)
    return {
        "within_5_percent": float((error <= 0.05).mean()),
        "within_10_percent": float((error <= 0.1).mean()),
        "median_error": float(np.median(error)),
        "spearman": float(spearmanr(found, truth).statistic),
    }


def report(
    skeleton: Skeleton, chosen: list[Architecture], found: list[dict[str, Any]], learned: int
) -> dict[str, Any]:
    """Predictions beside repetitions."""
    times = [levelled(one["calm_ms"], one["p50_ms"]) for one in found]
    known = [
        Measured(one.cells[0], one.width, float(ms))
        for one, ms in zip(chosen[:learned], times[0][:learned], strict=True)
    ]
    model = LatencyModel.fit(skeleton, known, this_device())
    mean, std = np.array([model.of(one) for one in chosen[learned:]]).T
    first = times[0][learned:]
    value: dict[str, Any] = {
        "predicted": agreement(mean, first),
        "measured_above_mean_plus_1.5_std": float((first > mean + 1.5 * std).mean()),
        "width_of_the_interval": float(np.median([one["width"] for one in found])),
        "rounds": float(np.mean([one["rounds"] for one in found])),
        "seconds": [round(one["seconds"]) for one in found],
        "processor_seconds": [round(one["processor_seconds"]) for one in found],
        "load": [one["load"] for one in found],
    }
    if len(found) > 1:
        others = np.median(times[1:], axis=0)[learned:]
        value["predicted_of_others"] = agreement(mean, others)
        value["predicted_of_others_levelled"] = agreement(mean, others, level=True)
        for name, level in (("repeated", False), ("repeated_levelled", True)):
            value[name] = agreement(first, others, level)
            for figure in ("p50_ms", "calm_ms", "wall_ms"):
                one, two = (np.array(one[figure]) for one in found[:2])
                value[f"{name}_{figure}"] = agreement(one, two, level)
    return value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--learned", type=int, default=100)
    parser.add_argument("--unseen", type=int, default=100)
    parser.add_argument("--measurements", type=int, default=2)
    parser.add_argument("--quiet", action="store_true", help="without the neighbours")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--kept", type=Path, default=KEPT)
    options = parser.parse_args()
    setting = {name: getattr(options, name) for name in ("learned", "unseen", "seed", "quiet")}
    value: dict[str, Any] = {"setting": setting, "device": this_device(), "sizes": {}}
    if options.kept.exists():
        before = json.loads(options.kept.read_text())
        if before["setting"] == setting and before["device"] == value["device"]:
            value = before
    options.kept.parent.mkdir(exist_ok=True)
    for size in options.sizes.split(","):
        shape, macs = SIZES[size]
        skeleton = skeleton_for(shape, 10)
        entry = value["sizes"].setdefault(size, {"measurements": []})
        if "networks" not in entry:  # kept, since the choice follows the predictor's features
            drawn = networks(skeleton, macs, options.learned, options.unseen, options.seed)
            entry["networks"] = [[one.cells[0].to_json(), one.width] for one in drawn]
        chosen = [
            Architecture((Cell.from_json(cell),), skeleton, width)
            for cell, width in entry["networks"]
        ]
        with tempfile.TemporaryDirectory() as folder:
            paths = write_drafts(chosen, Path(folder))
            while len(entry["measurements"]) < options.measurements:
                number = len(entry["measurements"])
                entry["measurements"].append(measured(paths, number, not options.quiet))
                write_json(options.kept, value)
                last = entry["measurements"][-1]
                print(f"{size}: measured in {last['seconds']:.0f} s", flush=True)
        entry["report"] = report(skeleton, chosen, entry["measurements"], options.learned)
        summary = {name: one["report"] for name, one in value["sizes"].items() if "report" in one}
        write_json(options.out, {**value, "sizes": summary})
        print(size, json.dumps(entry["report"], indent=1), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

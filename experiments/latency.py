"""How well latency is predicted, and how well it can be known: experiments/latency.py.

    python experiments/latency.py [--learned 100] [--unseen 100] [--measurements 2] [--seed 0]

For images of 32x32x3 and of 8x8x1, networks of both aggregations and of widths 4 to 64 are measured
as `gemkit` measures them, in three passes, all of them in random order in each. From the first
measurement the predictor learns `learned` networks (chosen as `gemkit` chooses them) and predicts
the `unseen` random ones. Reported: the share of these within 10 % and the rank correlation, against
their values in the same measurement and in the others; beside it how well one measurement repeats
the others, which no predictor can exceed; and the same by one pass, and by plain medians.
Resumable by pass; results in results/latency.json. About 1 minute a pass and size: 12 minutes in
all on a quiet machine. One thread; let nothing else run.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from gemkit.architecture import Architecture, Skeleton, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import Cell
from gemkit.export.latency import (
    PASSES,
    LatencyModel,
    Measured,
    combined,
    levelled,
    measure_pass,
    plan,
    this_device,
    write_drafts,
)
from gemkit.files import write_json
from gemkit.search.sampling import random_cells

RESULTS = Path(__file__).resolve().parents[1] / "results" / "latency.json"
SIZES = {"32x32x3": ((3, 32, 32), 20_000_000), "8x8x1": ((1, 8, 8), 3_000_000)}


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


def measured(paths: list[Path], number: int) -> dict[str, Any]:
    """One pass in a random order of its own."""
    order = np.random.default_rng(number).permutation(len(paths))
    start, load = time.time(), os.getloadavg()[0]
    calm, middle = measure_pass([paths[index] for index in order])
    back = np.argsort(order)
    return {
        "calm_ms": np.array(calm)[back].tolist(),
        "p50_ms": np.array(middle)[back].tolist(),
        "seconds": time.time() - start,
        "load": load,
    }


def agreement(found: np.ndarray, truth: np.ndarray, level: bool = False) -> dict[str, float]:
    """Share within 10 %, median error, rank correlation; `level` takes out a common factor."""
    if level:
        found = found * np.median(truth / found)
    error = np.abs(found / truth - 1)
    return {
        "within_10_percent": float((error <= 0.1).mean()),
        "median_error": float(np.median(error)),
        "spearman": float(spearmanr(found, truth).statistic),
    }


def report(
    skeleton: Skeleton, chosen: list[Architecture], passes: list[dict[str, Any]], learned: int
) -> dict[str, Any]:
    """Predictions beside repetitions, by three ways to sum up a network's calls."""
    calm = [levelled(one["calm_ms"], one["p50_ms"]) for one in passes]
    middle = [one["p50_ms"] for one in passes]
    starts = range(0, len(passes) - PASSES + 1, PASSES)
    ways = {
        "combined": [combined(calm[start : start + PASSES]) for start in starts],
        "one_pass": [calm[start] for start in starts],
        "p50": [combined(middle[start : start + PASSES]) for start in starts],
    }
    found: dict[str, Any] = {}
    for name, times in ways.items() if starts else ():
        known = [
            Measured(one.cells[0], one.width, float(ms))
            for one, ms in zip(chosen[:learned], times[0][:learned], strict=True)
        ]
        model = LatencyModel.fit(skeleton, known, this_device())
        rows = [model.of(one) for one in chosen[learned:]]
        mean, std = np.array(rows).T
        first = times[0][learned:]
        entry: dict[str, Any] = {"same": agreement(mean, first)}
        entry["same"]["measured_above_mean_plus_1.5_std"] = float((first > mean + 1.5 * std).mean())
        if len(times) > 1:
            others = np.median(times[1:], axis=0)[learned:]
            entry["others"] = agreement(mean, others)
            entry["others_levelled"] = agreement(mean, others, level=True)
            entry["repetition"] = agreement(first, others)
            entry["repetition_levelled"] = agreement(first, others, level=True)
        found[name] = entry
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--learned", type=int, default=100)
    parser.add_argument("--unseen", type=int, default=100)
    parser.add_argument("--measurements", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    setting = {name: getattr(options, name) for name in ("learned", "unseen", "seed")}
    value: dict[str, Any] = {"setting": setting, "device": this_device(), "sizes": {}}
    if options.out.exists():
        before = json.loads(options.out.read_text())
        if before["setting"] == setting and before["device"] == value["device"]:
            value = before
    for size in options.sizes.split(","):
        shape, macs = SIZES[size]
        skeleton = skeleton_for(shape, 10)
        entry = value["sizes"].setdefault(size, {"passes": []})
        if "networks" not in entry:  # kept, since the choice follows the predictor's features
            drawn = networks(skeleton, macs, options.learned, options.unseen, options.seed)
            entry["networks"] = [[one.cells[0].to_json(), one.width] for one in drawn]
        chosen = [
            Architecture((Cell.from_json(cell),), skeleton, width)
            for cell, width in entry["networks"]
        ]
        with tempfile.TemporaryDirectory() as folder:
            paths = write_drafts(chosen, Path(folder))
            while len(entry["passes"]) < PASSES * options.measurements:
                entry["passes"].append(measured(paths, len(entry["passes"])))
                entry["report"] = report(skeleton, chosen, entry["passes"], options.learned)
                write_json(options.out, value)
                last = entry["passes"][-1]
                print(
                    f"{size}: pass {len(entry['passes'])} in {last['seconds']:.0f} s at load "
                    f"{last['load']:.1f}",
                    flush=True,
                )
        print(size, json.dumps(entry["report"], indent=1), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

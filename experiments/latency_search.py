"""Search by latency against search by MACs, same trials: experiments/latency_search.py.

    python experiments/latency_search.py [--seeds 5] [--trials 24]

On the digits, for each seed one search under a latency budget and one under a budget of MACs, which
is the median of what the first search's networks spend. The latency of every trial is then measured
(untrained: weights do not matter), those of both searches in the same rounds. Reported: the best
validation accuracy among the networks of at most so many milliseconds, at several limits, and its
mean over the seeds that have one. Resumable by search: every trial stays in
build/latency_search.json, the summary goes to results/latency_search.json; the runs are under
runs/latency_search. About 4 minutes a seed: 20 minutes in all on 2 cores. Let nothing
else run.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gemkit.app.steps.search import search
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.export.latency import measure_here, this_device
from gemkit.files import write_json

ROOT = Path(__file__).resolve().parents[1]
RESULTS, KEPT = ROOT / "results" / "latency_search.json", ROOT / "build" / "latency_search.json"
SKELETON = skeleton_for((1, 8, 8), 10)
SHARES = (0.4, 0.6, 0.8, 1.0)
"""Limits reported, as shares of the latency budget."""


def searched(folder: Path, budget: Budget, seed: int, trials: int) -> list[dict[str, Any]]:
    """The trials of a search that is run or continued."""
    with search("digits", budget, out=folder, trials=trials, seed=seed, resume=True) as run:
        return [
            {"cell": one.cell, "width": one.width, "macs": one.macs, "accuracy": one.accuracy}
            for one in run.trials()
            if one.accuracy is not None
        ]


def compared(seed: int, trials: int, limit: float, folder: Path) -> dict[str, Any]:
    """Both searches of one seed, their trials measured together."""
    by_latency = searched(folder / f"latency-{seed}", Budget(latency_ms=limit), seed, trials)
    macs = int(np.median([one["macs"] for one in by_latency]))
    by_macs = searched(folder / f"macs-{seed}", Budget(macs=macs), seed, trials)
    both = [*by_latency, *by_macs]
    times = measure_here([Architecture((one["cell"],), SKELETON, one["width"]) for one in both])
    for one, ms in zip(both, times, strict=True):
        one["latency_ms"] = ms
        one["cell"] = one["cell"].to_json()
    return {"macs": macs, "latency": by_latency, "by_macs": by_macs}


def summary(seeds: dict[str, Any], limit: float) -> dict[str, Any]:
    """The best accuracy of each seed within each limit (None: no network so fast), and their mean.

    The mean is over the seeds in which both searches have such a network.
    """
    found: dict[str, Any] = {}
    for share in SHARES:
        best = {
            kind: [
                max(
                    (row["accuracy"] for row in one[kind] if row["latency_ms"] <= share * limit),
                    default=None,
                )
                for one in seeds.values()
            ]
            for kind in ("latency", "by_macs")
        }
        both = [
            pair for pair in zip(best["latency"], best["by_macs"], strict=True) if None not in pair
        ]
        found[f"{share * limit:.3g} ms"] = {
            "best": best,
            "mean": np.mean(both, axis=0).tolist() if both else None,
            "seeds_in_mean": len(both),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--limit-ms", type=float, default=0.3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--kept", type=Path, default=KEPT)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "latency_search")
    options = parser.parse_args()
    setting = {"trials": options.trials, "limit_ms": options.limit_ms}
    value: dict[str, Any] = {"setting": setting, "device": this_device(), "seeds": {}}
    if options.kept.exists():
        before = json.loads(options.kept.read_text())
        if (before["setting"], before["device"]) == (setting, value["device"]):
            value = before
    for seed in range(options.seeds):
        if str(seed) not in value["seeds"]:
            value["seeds"][str(seed)] = compared(
                seed, options.trials, options.limit_ms, options.runs
            )
            write_json(options.kept, value)
            print(f"seed {seed} done", flush=True)
    found = summary(value["seeds"], options.limit_ms)
    about = {name: value[name] for name in ("setting", "device")}
    write_json(options.out, {**about, "summary": found})
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

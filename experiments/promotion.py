"""Short trials first (`gemkit search --promote N`): what is saved, and what is lost.

    OMP_NUM_THREADS=1 python experiments/promotion.py [--cells 24]

Random cells of `experiments/pool.py`, whose trials are 2 epochs, are trained for three times as
long, which is what `--promote` does with the best. Writes `results/promotion.json` after every
training; a stopped run goes on. Reported: the rank correlation of short and long accuracies;
and for N promoted out of `DRAWN` cells how far the best of them (by its long accuracy) is below the
best of all, as a mean over draws, beside the epochs spent as a share of training all for long.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pool
from scipy.stats import kendalltau, spearmanr

from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions

RESULTS = pool.ROOT / "results" / "promotion.json"
LONGER, DRAWN, DRAWS = 3, 16, 2000


def lost(short: np.ndarray, long: np.ndarray, promoted: int) -> tuple[float, float]:
    """Mean loss, and share of draws in which the best cell was among those promoted."""
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(DRAWS):
        drawn = rng.choice(len(short), size=min(DRAWN, len(short)), replace=False)
        best = drawn[np.argsort(-short[drawn], kind="stable")[:promoted]]
        losses.append(long[drawn].max() - long[best].max())
    return float(np.mean(losses)), float((np.array(losses) == 0).mean())


def report(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all cells trained so far."""
    short, long = (np.array([cell[name] for cell in cells]) for name in ("short", "long"))
    found: dict[str, Any] = {
        "cells": len(cells),
        "spearman": float(spearmanr(short, long)[0]),
        "kendall_tau": float(kendalltau(short, long)[0]),
        "promoted": {},
    }
    for promoted in (1, 2, 4):
        loss, hit = lost(short, long, promoted)
        found["promoted"][str(promoted)] = {
            "lost": loss,
            "best_was_promoted": hit,
            "share_of_epochs": 1 / LONGER + promoted / DRAWN,
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--images", type=Path, default=pool.IMAGES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not (options.images.exists() and pool.RESULTS.exists()):
        print(f"skipped: it needs {options.images} and {pool.RESULTS}")
        return
    value = read_json(options.out) if options.out.exists() else {"cells": []}
    value |= {"machine": describe_machine(), "versions": versions()}
    done = {cell["number"] for cell in value["cells"]}
    drawn = [entry for entry in pool.trained(pool.RESULTS) if entry["parent"] is None]
    print(f"{options.cells} trainings of about 45 s each", flush=True)
    for entry in drawn[: options.cells]:
        if entry["number"] in done:
            continue
        network = pool.network_of(entry)
        seed, epochs = 3_000_000 + entry["number"], LONGER * pool.RECIPE.epochs
        accuracy, seconds = pool.accuracy_of(network, seed, options.images, epochs)
        value["cells"].append(
            {
                "number": entry["number"],
                "short": entry["accuracy"],
                "long": accuracy,
                "seconds": round(seconds, 2),
            }
        )
        if len(value["cells"]) > 4:
            value["report"] = report(value["cells"])
        write_json(options.out, value)
        print(f"cell {entry['number']}: {entry['accuracy']:.4f}, then {accuracy:.4f}", flush=True)
    print(value.get("report"))


if __name__ == "__main__":
    main()

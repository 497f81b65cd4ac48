"""Short trainings against long ones: rank correlation, and what `--promote` saves.

    OMP_NUM_THREADS=1 python experiments/fidelity.py [--cells 24] [--workers 2]

Writes `results/fidelity.json` after every training and docs/results.md at the end; a run that was
stopped goes on. Random thirty-node cells (digits, default budget) are trained for 1, 3 and 9 epochs
of the proxy recipe, and once more for 9 epochs from another seed: by that a chosen cell is judged.
Many searches of 16 cells are then drawn from them: all for 9 epochs, or all for 1 or 3 and the best
few for 9. The time it takes is said when the first cell is done.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import compare
import numpy as np

from gemkit.app.searching import default_budget
from gemkit.architecture import Architecture, skeleton_for
from gemkit.data import load
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.search.cell_space import CellSpace
from gemkit.search.trials import ProxyTask, run_trial
from gemkit.train import RECIPES

RESULTS = Path(__file__).resolve().parents[1] / "results" / "fidelity.json"
DATA = "digits"
LENGTHS = (1, 3, 9)
LONG, TRIALS, DRAWS = LENGTHS[-1], 16, 4000


def trained(network: Architecture, place: int) -> dict[str, Any]:
    """Accuracies and seconds by length; "judge" is the second long training."""
    task = ProxyTask(DATA, RECIPES["proxy"], device="cpu")
    found: dict[str, Any] = {
        "place": place,
        "cell": network.cells[0].to_json(),
        "width": network.width,
    }
    for name, epochs, seed in (*((str(n), n, place) for n in LENGTHS), ("judge", LONG, 10**6)):
        outcome = run_trial(task, network, seed + place, epochs)
        found[name] = outcome.accuracy
        found[f"seconds_{name}"] = outcome.seconds
    return found


def compared(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each way to spend the time: cost against long trials for all, and what is found."""
    rng = np.random.default_rng(0)
    usable = [one for one in entries if all(one[k] is not None for k in ("1", "3", "9", "judge"))]
    values = {k: np.array([one[k] for one in usable]) for k in ("1", "3", "9", "judge")}
    seconds = {n: np.array([one[f"seconds_{n}"] for one in usable]) for n in LENGTHS}
    draws = [rng.permutation(len(usable))[:TRIALS] for _ in range(DRAWS)]
    rows = []
    for short, kept in ((LONG, TRIALS), (3, 1), (3, 2), (3, 4), (1, 1), (1, 2), (1, 4)):
        reached, spent = [], []
        for draw in draws:
            first = values[str(short)][draw]
            best = draw[np.argsort(-first, kind="stable")[:kept]]
            chosen = best[np.argmax(values[str(LONG)][best])]
            reached.append(values["judge"][chosen])
            longer = 0.0 if short == LONG else seconds[LONG][best].sum()
            spent.append((seconds[short][draw].sum() + longer) / seconds[LONG][draw].sum())
        rows.append(
            {
                "epochs": short,
                "promoted": None if short == LONG else kept,
                "cost": float(np.mean(spent)),
                "accuracy": float(np.mean(reached)),
                "accuracy_sd": float(np.std(reached)),
            }
        )
    return rows


def correlation(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlation of each length with the second long training, which knows none of them."""
    from scipy.stats import kendalltau, spearmanr

    keys = [str(length) for length in LENGTHS]
    usable = [one for one in entries if all(one[k] is not None for k in (*keys, "judge"))]
    judge = [one["judge"] for one in usable]
    rows = []
    for key in keys:
        own = [one[key] for one in usable]
        rows.append(
            {
                "epochs": int(key),
                "spearman": float(spearmanr(own, judge)[0]),
                "kendall_tau": float(kendalltau(own, judge)[0]),
            }
        )
    return {"cells": len(usable), "data": DATA, "long": LONG, "rows": rows}


def main() -> None:
    """Train what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    report = read_json(RESULTS) if RESULTS.exists() else {"cells": []}
    skeleton = skeleton_for(load(DATA).input_shape, 10)
    space = CellSpace(skeleton, default_budget(skeleton))
    cells = space.sample(np.random.default_rng(0), options.cells)
    done = {entry["place"] for entry in report["cells"]}
    missing = [place for place in range(options.cells) if place not in done]
    began = time.perf_counter()
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as workers:
        futures = [workers.submit(trained, space.architecture(cells, p), p) for p in missing]
        for count, future in enumerate(as_completed(futures), start=1):
            report["cells"].append(future.result())
            report["cells"].sort(key=lambda entry: entry["place"])
            report |= {"machine": describe_machine(), "versions": versions()}
            write_json(RESULTS, report)
            print({k: v for k, v in future.result().items() if k != "cell"}, flush=True)
            left = (time.perf_counter() - began) / count * (len(missing) - count)
            print(f"{count} of {len(missing)}, about {left / 60:.0f} minutes left", flush=True)
    report["compared"] = compared(report["cells"])
    report["correlation"] = correlation(report["cells"])
    write_json(RESULTS, report)
    compare.write_page()
    for row in report["compared"]:
        promoted = "" if row["promoted"] is None else f", best {row['promoted']} for {LONG}"
        print(
            f"{row['epochs']} epochs{promoted}: {row['cost']:.0%} of the time, "
            f"{row['accuracy']:.4f} (sd {row['accuracy_sd']:.4f})"
        )
    for row in report["correlation"]["rows"]:
        print(f"{row['epochs']} epochs: Spearman {row['spearman']:.2f}")


if __name__ == "__main__":
    main()

"""What `--promote` saves: short trials for all and long ones for the best, or long ones for all.

    OMP_NUM_THREADS=1 python experiments/fidelity.py [--cells 24]

Writes `results/fidelity.json` after every training; a run that was stopped goes on. Random
thirty-node cells (digits, default budget) are trained for 1, 3 and 9 epochs of the proxy recipe,
and once more for 9 epochs from another seed: by that a chosen cell is judged. Many searches of 16
cells are then drawn from them: all for 9 epochs, or all for 1 or 3 and the best few for 9.
"""

import argparse
from pathlib import Path
from typing import Any

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
LENGTHS = (1, 3, 9)
LONG, TRIALS, DRAWS = LENGTHS[-1], 16, 4000


def trained(network: Architecture, place: int) -> dict[str, Any]:
    """Accuracies and seconds by length; "judge" is the second long training."""
    task = ProxyTask("digits", RECIPES["proxy"], device="cpu")
    found: dict[str, Any] = {"cell": network.cells[0].to_json(), "width": network.width}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=24)
    options = parser.parse_args()
    report = read_json(RESULTS) if RESULTS.exists() else {"cells": []}
    skeleton = skeleton_for(load("digits").input_shape, 10)
    space = CellSpace(skeleton, default_budget(skeleton))
    cells = space.sample(np.random.default_rng(0), options.cells)
    for place in range(len(report["cells"]), options.cells):
        report["cells"].append(trained(space.architecture(cells, place), place))
        report |= {"machine": describe_machine(), "versions": versions()}
        write_json(RESULTS, report)
        print({k: v for k, v in report["cells"][-1].items() if k != "cell"}, flush=True)
    report["compared"] = compared(report["cells"])
    write_json(RESULTS, report)
    for row in report["compared"]:
        promoted = "" if row["promoted"] is None else f", best {row['promoted']} for {LONG}"
        print(
            f"{row['epochs']} epochs{promoted}: {row['cost']:.0%} of the time, "
            f"{row['accuracy']:.4f} (sd {row['accuracy_sd']:.4f})"
        )


if __name__ == "__main__":
    main()

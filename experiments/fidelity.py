"""Short trainings against full ones: rank correlation, and what `--promote` saves.

    OMP_NUM_THREADS=1 python experiments/fidelity.py [--cells 20] [--workers 2] [--data SPEC]

Random cells within 3 M MACs are trained as a search tries them (a tenth of the 50,000 training
images of the CIFAR-10 JPEG copy, judged on a quarter of these) for 1, 3 and 9 epochs, and in full
as `experiments/compare.py` trains (10,000 images, judged on the test images, another seed); the
full training is then repeated from one more seed, which says how far full trainings themselves
agree. Many searches of 16 cells are drawn from them: all tried for 9 epochs, or all for 1 or 3 and
the best few for 9; the chosen cell counts with its full accuracy.

About half an hour on two free cores with AVX-512 (49 minutes of processor time were measured), a
quarter of an hour more for the repetitions, which come last; the time left is said at the start.
After every training `results/fidelity.json` and docs/results.md are written; stopped at any moment
it goes on.
"""

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import compare
import numpy as np
import results_page

from gemkit.app import formatting
from gemkit.app.steps.estimate import seconds_per_image
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.data import Dataset, limited, load, proxy_split
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.recipe import RECIPES
from gemkit.search.cell_space import CellSpace
from gemkit.search.trials import ProxyTask, run_trial
from gemkit.train import TrainingFailed
from gemkit.workers import end_with_parent

SHORT = (1, 3, 9)
LONG, TRIALS, DRAWS = SHORT[-1], 16, 4000
FULL, AGAIN = "full", "again"
KINDS = (*map(str, SHORT), FULL, AGAIN)
RESULTS = Path(__file__).resolve().parents[1] / "results" / "fidelity.json"
RECIPE = RECIPES["standard"].changed(compare.EPOCHS, compare.BATCH)


@lru_cache(maxsize=1)
def images(spec: str) -> Dataset:
    """What a full training sees, read once in every process; all of a small data set."""
    dataset = load(spec)
    return limited(dataset, compare.IMAGES if len(dataset.y_train) > compare.IMAGES else None)


def trained(spec: str, network: Architecture, place: int, kind: str) -> dict[str, Any]:
    """One training of a cell: `accuracy` (None if it failed) and `seconds`."""
    import torch

    from gemkit.network import build
    from gemkit.train import train

    if kind not in (FULL, AGAIN):
        task = ProxyTask(spec, RECIPES["proxy"], device="cpu")
        outcome = run_trial(task, network, place, int(kind))
        return {"accuracy": outcome.accuracy, "seconds": outcome.seconds}
    dataset, began = images(spec), time.perf_counter()
    seed = 10**6 * (1 + (kind == AGAIN)) + place
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    try:
        accuracy = train(
            build(network),
            dataset.x_train,
            dataset.y_train,
            dataset.x_test,
            dataset.y_test,
            recipe=RECIPE,
            mean=dataset.mean,
            std=dataset.std,
            seed=seed,
            device="cpu",
        ).accuracy
    except TrainingFailed:
        return {"accuracy": None, "seconds": time.perf_counter() - began}
    return {"accuracy": accuracy, "seconds": time.perf_counter() - began}


def usable(entries: list[dict[str, Any]], kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """The cells that have an accuracy of each of these trainings."""
    return [
        entry
        for entry in entries
        if all(entry["trainings"].get(kind, {}).get("accuracy") is not None for kind in kinds)
    ]


def column(entries: list[dict[str, Any]], kind: str, name: str = "accuracy") -> Any:
    """One figure of a training for all cells."""
    return np.array([entry["trainings"][kind][name] for entry in entries])


def compared(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each way to spend the time: cost against long trials for all, and what is found."""
    known = usable(entries, KINDS[:-1])
    if len(known) < TRIALS:
        return []
    rng = np.random.default_rng(0)
    values = {kind: column(known, kind) for kind in KINDS[:-1]}
    seconds = {length: column(known, str(length), "seconds") for length in SHORT}
    draws = [rng.permutation(len(known))[:TRIALS] for _ in range(DRAWS)]
    rows = []
    for short, kept in ((LONG, TRIALS), (3, 1), (3, 2), (3, 4), (1, 1), (1, 2), (1, 4)):
        reached, spent = [], []
        for draw in draws:
            first = values[str(short)][draw]
            best = draw[np.argsort(-first, kind="stable")[:kept]]
            chosen = best[np.argmax(values[str(LONG)][best])]
            reached.append(values[FULL][chosen])
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


def correlation(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlation of every kind of training with the first full one, which none of them saw.

    The interval is that of the bootstrap over cells (95 %).
    """
    from scipy.stats import kendalltau, spearmanr

    rows = []
    for kind in (*map(str, SHORT), AGAIN):
        known = usable(entries, (kind, FULL))
        own, full = column(known, kind), column(known, FULL)
        if len(known) < 3 or not np.ptp(own) or not np.ptp(full):
            continue  # no ranks yet
        rng = np.random.default_rng(0)
        drawn = [rng.integers(len(known), size=len(known)) for _ in range(2000)]
        again = [spearmanr(own[d], full[d])[0] for d in drawn if np.ptp(own[d]) and np.ptp(full[d])]
        rows.append(
            {
                "training": kind,
                "cells": len(known),
                "spearman": float(spearmanr(own, full)[0]),
                "interval": [float(end) for end in np.quantile(again, (0.025, 0.975))],
                "kendall_tau": float(kendalltau(own, full)[0]),
            }
        )
    return rows


def main() -> int:
    """Train what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--data", default=f"npz:{compare.JPEG_COPY}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.data == f"npz:{compare.JPEG_COPY}" and not compare.JPEG_COPY.is_file():
        print(f"skipped: there is no {compare.JPEG_COPY} (CIFAR-10 as JPEG files)")
        return 0
    dataset, budget = images(given.data), Budget(macs=compare.MAX_MACS)
    report = begun(dataset, budget, given.results)
    networks = drawn(dataset, budget, given.cells)
    entries = {entry["place"]: entry for entry in report["cells"]}
    for place, network in networks.items():
        cell = network.cells[0].to_json()
        new = {"place": place, "cell": cell, "width": network.width, "trainings": {}}
        if entries.setdefault(place, new)["cell"] != cell:
            print(f"{given.results} holds other cells than are drawn now: remove it to begin anew")
            return 2
    report["cells"] = list(entries.values())
    # All cells once before any is trained in full again.
    todo = [
        (place, kind)
        for kinds in (KINDS[:-1], KINDS[-1:])
        for place in networks
        for kind in kinds
        if kind not in entries[place]["trainings"]
    ]
    if todo:
        announce(todo, networks[todo[0][0]], given.data, dataset, given.workers)
    began = time.perf_counter()
    with ProcessPoolExecutor(
        given.workers, get_context("spawn"), initializer=end_with_parent
    ) as workers:
        waiting = {
            workers.submit(trained, given.data, networks[place], place, kind): (place, kind)
            for place, kind in todo
        }
        for count, future in enumerate(as_completed(waiting), start=1):
            place, kind = waiting[future]
            entries[place]["trainings"][kind] = future.result()
            report |= {"machine": describe_machine(), "versions": versions()}
            finish(report, given.results)
            spent = time.perf_counter() - began
            print(
                f"cell {place}, {kind}: {formatting.percent(future.result()['accuracy'])}; "
                f"{count} of {len(todo)} in {formatting.duration(spent)}",
                flush=True,
            )
    finish(report, given.results)
    describe(report)
    return 0


def begun(dataset: Dataset, budget: Budget, path: Path) -> dict[str, Any]:
    """The report to go on with; an empty one where its trainings were of another kind."""
    settings = {
        "data": dataset.name,
        "images": len(dataset.y_train),
        "test_images": len(dataset.y_test),
        "budget": budget.to_json(),
        "proxy": RECIPES["proxy"].to_json(),
        "full": RECIPE.to_json(),
    }
    report: dict[str, Any] = read_json(path) if path.is_file() else {}
    if report.get("settings") == settings:
        return report
    if report:
        print(f"{path.name} holds trainings of another kind: begun anew")
    return {"settings": settings, "cells": []}


def drawn(dataset: Dataset, budget: Budget, cells: int) -> dict[int, Architecture]:
    """Random cells by place. A cell depends on its place alone: more can be asked for later."""
    space = CellSpace(skeleton_for(dataset.input_shape, dataset.classes), budget)
    return {
        place: space.architecture(space.sample(np.random.default_rng((0, place)), 1), 0)
        for place in range(cells)
    }


def describe(report: dict[str, Any]) -> None:
    """Print what came out."""
    for row in report["compared"]:
        promoted = "" if row["promoted"] is None else f", best {row['promoted']} for {LONG}"
        print(
            f"{row['epochs']} epochs{promoted}: {row['cost']:.0%} of the time, "
            f"{row['accuracy']:.4f} (sd {row['accuracy_sd']:.4f})"
        )
    for row in report["correlation"]:
        print(f"{row['training']}: Spearman {row['spearman']:.2f} over {row['cells']} cells")


def announce(
    todo: list[tuple[int, str]],
    network: Architecture,
    spec: str,
    dataset: Dataset,
    workers: int,
) -> None:
    """Say how long the trainings are going to take, from a few steps of one network."""
    from gemkit.network import build

    proxy = len(proxy_split(load(spec), 0).y_train)
    full = len(dataset.y_train) * RECIPE.epochs
    total = sum(full if kind in (FULL, AGAIN) else proxy * int(kind) for _, kind in todo)
    each = seconds_per_image(build(network), dataset, RECIPE, "cpu")
    print(
        f"{len(todo)} trainings on {workers} workers: about "
        f"{formatting.duration(total * each / workers)}",
        flush=True,
    )


def finish(report: dict[str, Any], path: Path) -> None:
    """Write the results, and the page if they are the ones it shows."""
    report["compared"] = compared(report["cells"])
    report["correlation"] = correlation(report["cells"])
    write_json(path, report)
    if path == RESULTS:
        results_page.write()


if __name__ == "__main__":
    sys.exit(main())

"""A pool of thirty-node cells, each trained once: a table on which searches can be compared.

Writes `results/pool.json` after every cell; a run that was stopped goes on where it was, and a
larger `--cells` continues a smaller pool (cell k depends on the seed and on the cells before it,
not on their accuracies).

    python experiments/pool.py [--cells 400] [--workers 2] [--again 20]
    python experiments/pool.py --noise          # what the file says about signal and noise

A third of the cells are drawn by the search's own sampler, all others are mutants (1 to 4 edits) of
an earlier cell whatever its accuracy: so the pool has neighbours for searches that mutate. Every
cell is scaled to the largest width within 5 M MACs at 16x16 pixels. Images: CIFAR-10 (JPEG q75
copy), training part alone, 2,000 to train on and 3,000 others to judge by, shrunk to 16x16.

The first `--again` cells are trained once more from another seed: the difference is the noise.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gemkit import data, train
from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import OPERATIONS, Cell
from gemkit.cost import cost
from gemkit.files import read_json, write_json
from gemkit.machine import describe_machine, versions
from gemkit.network import build
from gemkit.recipe import RECIPES
from gemkit.search.cell_space import CellSpace

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT.parent / "shared" / "data" / "cifar10_jpeg.npz"
RESULTS = ROOT / "results" / "pool.json"
SPACE = CellSpace(skeleton_for((3, 16, 16), 10), Budget(macs=5_000_000))
RECIPE = RECIPES["proxy"].changed(2)
TRAINED, JUDGED = 2000, 3000
DRAWN = 0.35
"""Share of the cells that are drawn anew instead of mutated."""


def packed(cell: Cell) -> dict[str, str]:
    """A cell in two short strings: codes of its operations, upper triangle as bits in hex."""
    places = len(cell.operations)
    adjacency = np.zeros((places, places), dtype=bool)
    adjacency[tuple(np.array(cell.edges).T)] = True
    bits = np.packbits(adjacency[np.triu_indices(places, 1)])
    return {
        "operations": "".join(str(OPERATIONS.index(one)) for one in cell.operations),
        "edges": bits.tobytes().hex(),
    }


def unpacked(entry: dict[str, Any]) -> Cell:
    """The cell of a pool's entry."""
    codes = [int(code) for code in entry["operations"]]
    sources, targets = np.triu_indices(len(codes), 1)
    octets = np.frombuffer(bytes.fromhex(entry["edges"]), dtype=np.uint8)
    there = np.unpackbits(octets, count=len(sources)).astype(bool)
    edges = zip(sources[there].tolist(), targets[there].tolist(), strict=True)
    return Cell(tuple(OPERATIONS[code] for code in codes), tuple(edges))


def network_of(entry: dict[str, Any]) -> Architecture:
    """The network of a pool's entry, or of one in the same form."""
    return Architecture((unpacked(entry),), SPACE.skeleton, entry["width"])


def next_cell(cells: list[Architecture], seed: int = 1) -> tuple[Architecture, int | None]:
    """The pool's next cell with its width, and the number of its parent (None: drawn anew)."""
    rng = np.random.default_rng([seed, len(cells)])
    known = {architecture.cells[0].key for architecture in cells}
    while True:
        parent = None
        if not cells or rng.random() < DRAWN:
            found = SPACE.sample(rng, 1)
        else:
            parent = int(rng.integers(len(cells)))
            origin = SPACE.restored([cells[parent].cells[0]], [cells[parent].width])
            found = SPACE.mutate(rng, origin, 1)
        if len(found) and found.keys[0].decode() not in known:
            return SPACE.architecture(found, 0), parent


def trained(path: Path) -> list[dict[str, Any]]:
    """The pool's cells up to the first that is not trained yet: parents are places in this list."""
    entries: list[dict[str, Any]] = read_json(path)["cells"]
    return [entry for place, entry in enumerate(entries) if entry["number"] == place]


def planned(count: int, entries: list[dict[str, Any]]) -> list[tuple[Architecture, int | None]]:
    """The first `count` cells of the pool and their parents; those trained are read, not drawn."""
    trained = {entry["number"]: entry for entry in entries}
    cells: list[tuple[Architecture, int | None]] = []
    for number in range(count):
        if number in trained:
            entry = trained[number]
            cells.append((network_of(entry), entry["parent"]))
        else:
            cells.append(next_cell([architecture for architecture, _ in cells]))
    return cells


def shrunk(path: Path, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64], Any]:
    """Training and judging images at 16x16 (in this order), labels, and the data set."""
    dataset = data.load(f"npz:{path}")
    order = np.random.default_rng(seed).permutation(len(dataset.y_train))[: TRAINED + JUDGED]
    images = dataset.x_train[order].reshape(-1, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    return images.round().astype(np.uint8), dataset.y_train[order], dataset


def accuracy_of(
    architecture: Architecture, seed: int, path: Path, epochs: int = RECIPE.epochs
) -> tuple[float, float]:
    """Accuracy on the judging images after a training, and the processor time it took."""
    x, y, dataset = _images(path)
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    started = time.process_time()
    trained = train.train(
        build(architecture),
        x[:TRAINED],
        y[:TRAINED],
        x[TRAINED:],
        y[TRAINED:],
        recipe=RECIPE.changed(epochs),
        mean=dataset.mean,
        std=dataset.std,
        seed=seed,
        device="cpu",
    )
    return trained.accuracy, time.process_time() - started


_images = lru_cache(maxsize=1)(shrunk)


def noise(entries: list[dict[str, Any]]) -> dict[str, float]:
    """Deviation of one training's accuracy around its cell's, and of cells around their mean."""
    pairs = np.array([[e["accuracy"], e["again"]] for e in entries if "again" in e])
    seeds = float(np.sqrt((np.diff(pairs, axis=1) ** 2).mean() / 2))
    both = float(np.std([entry["accuracy"] for entry in entries], ddof=1))
    cells = float(np.sqrt(max(both**2 - seeds**2, 0.0)))
    return {
        "cells": len(entries),
        "trained_twice": len(pairs),
        "sd_of_accuracies": both,
        "sd_between_seeds": seeds,
        "sd_between_cells": cells,
        "reliability": cells**2 / both**2,
        "correlation_of_two_seeds": float(np.corrcoef(pairs.T)[0, 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--again", type=int, default=20, help="cells trained from a second seed")
    parser.add_argument("--noise", action="store_true", help="only print signal and noise")
    parser.add_argument("--images", type=Path, default=IMAGES)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    pool = read_json(options.out) if options.out.exists() else {"cells": []}
    entries = pool["cells"]
    if options.noise:
        for name, value in noise(entries).items():
            print(f"{name:26} {value:.4g}")
        return
    if not options.images.exists():
        print(f"skipped: {options.images} is not there")
        return
    pool |= {
        "task": f"{data.load(f'npz:{options.images}').name}, 16x16 pixels",
        "trained_on": TRAINED,
        "judged_on": JUDGED,
        "recipe": RECIPE.to_json(),
        "skeleton": SPACE.skeleton.to_json(),
        "budget": SPACE.budget.to_json(),
        "threads": 1,
        "machine": describe_machine(),
        "versions": versions(),
    }
    cells = planned(options.cells, entries)
    known = {entry["number"]: entry for entry in entries}
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as workers:
        todo = {}
        for number, (architecture, _) in enumerate(cells):
            if number not in known:
                seeded = (architecture, number, options.images)
                todo[workers.submit(accuracy_of, *seeded)] = (number, "accuracy")
            if number < options.again and "again" not in known.get(number, {}):
                seeded = (architecture, 1_000_000 + number, options.images)
                todo[workers.submit(accuracy_of, *seeded)] = (number, "again")
        for future in as_completed(todo):
            number, what = todo[future]
            accuracy, seconds = future.result()
            if number not in known:
                known[number] = entry_of(number, *cells[number])
            known[number][what] = accuracy
            if what == "accuracy":
                known[number]["seconds"] = round(seconds, 2)
            pool["cells"] = [known[n] for n in sorted(known) if "accuracy" in known[n]]
            write_json(options.out, pool)
            nodes, width = len(cells[number][0].cells[0].operations) - 1, cells[number][0].width
            print(
                f"{len(pool['cells'])}/{len(cells)} cell {number}: {nodes} nodes, width {width}, "
                f"{what} {accuracy:.4f}, {seconds:.1f} s",
                flush=True,
            )


def entry_of(number: int, architecture: Architecture, parent: int | None) -> dict[str, Any]:
    """What the file says of a cell before its accuracy."""
    costs = cost(architecture)
    return {
        "number": number,
        **packed(architecture.cells[0]),
        "key": architecture.cells[0].key,
        "parent": parent,
        "width": architecture.width,
        "macs": costs.macs,
        "params": costs.params,
    }


if __name__ == "__main__":
    main()

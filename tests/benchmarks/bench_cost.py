"""The cost model beside fvcore, and the time for a million cells."""

import statistics
import time

import numpy as np
import torch
from row import Row

from gemkit.architecture import Architecture, skeleton_for
from gemkit.budget import Budget
from gemkit.cell import CellArrays
from gemkit.cost import CostModel, cost, count_with_fvcore
from gemkit.network import build

ROUNDS = 5
NETWORKS = 4
CELLS = 20_000
MILLION = 1_000_000


def _cells(rng: np.random.Generator, count: int, aggregation: str) -> CellArrays:
    """Thirty-node cells of all densities, every node reached."""
    adjacency = rng.random((count, 31, 31), dtype=np.float32) < rng.random((count, 1, 1))
    adjacency = np.triu(adjacency, 1)
    adjacency[:, 0, 1:] |= ~adjacency[:, :, 1:].any(axis=1)
    operations = np.zeros((count, 31), dtype=np.int8)
    operations[:, 1:] = rng.integers(1, 3, (count, 30))
    return CellArrays(operations, adjacency, aggregation)


def _beside_fvcore(rng: np.random.Generator, aggregation: str) -> Row:
    skeleton = skeleton_for((3, 32, 32), 10)
    cells = _cells(rng, CELLS, aggregation)
    widths = rng.integers(4, 20, CELLS)
    architectures = [
        Architecture((cells.cell(row),), skeleton, int(widths[row])) for row in range(NETWORKS)
    ]
    networks = [build(architecture) for architecture in architectures]
    ours, theirs = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        found = CostModel.of(cells, skeleton).costs(widths)
        ours.append((time.perf_counter() - started) / CELLS)
        started = time.perf_counter()
        counted = [count_with_fvcore(network, (3, 32, 32)) for network in networks]
        theirs.append((time.perf_counter() - started) / NETWORKS)
    for row, (counts, single) in enumerate(zip(counted, map(cost, architectures), strict=True)):
        if not counts == (found.macs[row], found.params[row]) == (single.macs, single.params):
            raise RuntimeError(f"{counts} counted, {single} from the closed form")
    return Row(
        f"cost of a 30-node cell beside fvcore, {aggregation}",
        statistics.median(ours) * 1e6,
        statistics.median(theirs) * 1e6,
        "us",
        10_000,
        note=f"{CELLS:,} cells at once; {NETWORKS} built networks; {ROUNDS} rounds; same counts",
    )


def _million(rng: np.random.Generator) -> Row:
    """Costs and largest widths, from arrays already in memory, a tenth at a time."""
    skeleton = skeleton_for((3, 32, 32), 10)
    budget = Budget(macs=20_000_000, params=500_000, memory_bytes=256_000)
    cells = _cells(rng, MILLION // 10, "concat")
    started = time.perf_counter()
    for _ in range(10):
        model = CostModel.of(cells, skeleton)
        model.costs(model.largest_widths(budget))
    return Row(
        "largest widths and costs of 1,000,000 30-node cells",
        time.perf_counter() - started,
        None,
        "s",
        10,
        note="one thread",
    )


def rows() -> list[Row]:
    """Measure with one thread, as our arrays use no more."""
    rng = np.random.default_rng()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_beside_fvcore(rng, "concat"), _beside_fvcore(rng, "sum"), _million(rng)]
    finally:
        torch.set_num_threads(threads)
